//! Which mix stands in which layer.
//!
//! A family or subnet is always in one layer, so that no path of a client can meet it twice and clients need
//! no exclusions, which would betray their entry. Within a key period nobody moves. From one period to the
//! next mixes keep their layers, except that whole groups move when the layers are out of balance.
//!
//! Who comes later never changes what becomes of those before: a newcomer joins the group that it is tied to,
//! or is left out. One that is tied to several groups ties them to nothing: it is listed while they happen
//! to stand in one layer. (spec: DIR-12, DIR-13)

use crate::beacon::Beacon;
use mizzle_protocol::ErrorKind;
use mizzle_protocol::id::{FamilyId, RelayId, from_hex, to_hex};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Number of layers.
const LAYERS: usize = mizzle_protocol::geometry::LAYERS;

/// The layer, 1 to 3, of each mix in one key period.
pub type Layers = BTreeMap<RelayId, u8>;

/// A mix that runs and wants a layer.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its identity.
    pub id: RelayId,
    /// What must not stand in two layers.
    pub ties: Vec<Tie>,
}

/// How the layers of one key period are dealt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dealing<'a> {
    /// The layers of the period before.
    pub before: Option<&'a Layers>,
    /// The lots that decide where nothing else does.
    pub beacon: Option<&'a Beacon>,
    /// Most mixes in a layer.
    pub width: Option<usize>,
}

/// Why a mix cannot be listed in a period although it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Its group has another layer than it was dealt.
    OtherLayer,
    /// It is tied to groups of others that stand in different layers.
    Bridge,
    /// The layer has as many mixes as the network's traffic fills.
    Width,
}

/// Something that relays of one operator have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tie {
    /// They say so themselves.
    Family(FamilyId),
    /// An IPv4 /16.
    Net4([u8; 2]),
    /// An IPv6 /32.
    Net6([u8; 4]),
}

impl Tie {
    /// All ties of a relay.
    pub fn all(family: Option<FamilyId>, addresses: &[SocketAddr]) -> Vec<Self> {
        let nets = addresses.iter().map(|address| match address.ip() {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                Self::Net4([a, b])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.octets();
                Self::Net6([a, b, c, d])
            }
        });
        family.map(Self::Family).into_iter().chain(nets).collect()
    }
}

impl fmt::Display for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Family(family) => write!(f, "family:{}", to_hex(&family.0)),
            Self::Net4(net) => write!(f, "ipv4:{}", to_hex(net)),
            Self::Net6(net) => write!(f, "ipv6:{}", to_hex(net)),
        }
    }
}

impl FromStr for Tie {
    type Err = mizzle_protocol::Error;

    fn from_str(text: &str) -> mizzle_protocol::Result<Self> {
        match text.split_once(':') {
            Some(("family", digits)) => Ok(Self::Family(FamilyId(from_hex(digits)?))),
            Some(("ipv4", digits)) => Ok(Self::Net4(from_hex(digits)?)),
            Some(("ipv6", digits)) => Ok(Self::Net6(from_hex(digits)?)),
            _ => Err(mizzle_protocol::Error::new(ErrorKind::Malformed, "neither a family nor a subnet")),
        }
    }
}

/// Deals the layers of one key period: everyone in `layers` stays, newcomers join.
///
/// The candidates come in order of their standing, the oldest first, and each is judged by those before it.
/// Returns who cannot be listed in this period, and why.
pub fn deal(
    candidates: &[Candidate],
    layers: &mut Layers,
    dealing: Dealing<'_>,
) -> BTreeMap<RelayId, Exclusion> {
    let Dealing { before, beacon, width } = dealing;
    let fresh = layers.is_empty();
    let mut excluded = BTreeMap::new();
    // Who has a layer in this period was promised it in a document.
    let (dealt, newcomers): (Vec<_>, Vec<_>) =
        candidates.iter().partition(|mix| layers.contains_key(&mix.id));
    let mut groups = Groups::default();
    let mut waiting: Vec<&Candidate> = Vec::new();
    let mut ties_of_waiting: BTreeSet<Tie> = BTreeSet::new();
    for mix in dealt.into_iter().chain(newcomers) {
        let layer = layers.get(&mix.id).or_else(|| before?.get(&mix.id)).copied();
        let moved = |group: Option<u8>| layers.contains_key(&mix.id) && group.is_some() && group != layer;
        let touched = groups.touched(mix);
        if touched.len() > 1 || mix.ties.iter().any(|tie| ties_of_waiting.contains(tie)) {
            // Judged when all groups have a layer; until then it keeps what is its own from later ones.
            ties_of_waiting.extend(mix.ties.iter().filter(|tie| !groups.of_tie.contains_key(tie)));
            waiting.push(mix);
            continue;
        }
        match touched.first() {
            None => groups.found(mix, layer),
            Some(&group) if moved(groups.layer(group)) => {
                excluded.insert(mix.id, Exclusion::OtherLayer);
            }
            Some(&group) => groups.join(group, mix, layer),
        }
    }
    groups.place(beacon);
    if fresh {
        balance(&mut groups.all);
    }
    for mix in waiting {
        let touched = groups.touched(mix);
        let dealt = layers.get(&mix.id).copied();
        let mut standing = touched.iter().filter_map(|&group| groups.layer(group));
        let first = standing.next();
        if standing.any(|layer| Some(layer) != first) {
            excluded.insert(mix.id, Exclusion::Bridge);
        } else if dealt.is_some() && first.is_some() && dealt != first {
            excluded.insert(mix.id, Exclusion::OtherLayer);
        } else {
            // A group of its own: it ties those that it touches to nothing.
            let layer = first.or(dealt).unwrap_or_else(|| extreme(&sizes(&groups.all), false));
            groups.found(mix, Some(layer));
        }
    }
    let members = groups
        .all
        .iter()
        .flat_map(|group| group.members.iter().filter_map(move |member| Some((group.layer?, member.id))));
    seat(members.collect(), layers, before, beacon, width.unwrap_or(usize::MAX), &mut excluded);
    excluded
}

/// Gives those that have none their layer, as long as there is room in it: who stood there a period ago comes
/// first, the others in the order of the lots. (spec: DIR-22)
fn seat(
    mut members: Vec<(u8, RelayId)>,
    layers: &mut Layers,
    before: Option<&Layers>,
    beacon: Option<&Beacon>,
    width: usize,
    excluded: &mut BTreeMap<RelayId, Exclusion>,
) {
    let stood = |id: &RelayId| before.is_some_and(|before| before.contains_key(id));
    members.sort_by_cached_key(|(layer, id)| {
        let rank = beacon.map(|beacon| beacon.rank(&id.0)).unwrap_or(id.0);
        (!layers.contains_key(id), !stood(id), rank, *layer)
    });
    let mut counts = [0_usize; LAYERS];
    for (layer, id) in members {
        let Some(count) = counts.get_mut(usize::from(layer).wrapping_sub(1)) else { continue };
        if !layers.contains_key(&id) && *count >= width {
            excluded.insert(id, Exclusion::Width);
            continue;
        }
        layers.entry(id).or_insert(layer);
        *count += 1;
    }
}

/// Mixes that are tied to each other, directly or through others.
struct Group<'a> {
    members: Vec<&'a Candidate>,
    layer: Option<u8>,
}

#[derive(Default)]
struct Groups<'a> {
    all: Vec<Group<'a>>,
    /// Index of the group that has it. Where a bridge has it too, that stands in the same layer.
    of_tie: BTreeMap<Tie, usize>,
}

impl<'a> Groups<'a> {
    /// The groups that this mix is tied to.
    fn touched(&self, mix: &Candidate) -> Vec<usize> {
        let touched: BTreeSet<_> = mix.ties.iter().filter_map(|tie| self.of_tie.get(tie)).copied().collect();
        touched.into_iter().collect()
    }

    fn layer(&self, group: usize) -> Option<u8> {
        self.all.get(group)?.layer
    }

    fn found(&mut self, mix: &'a Candidate, layer: Option<u8>) {
        self.all.push(Group { members: Vec::new(), layer });
        self.join(self.all.len() - 1, mix, layer);
    }

    /// The layer of the first that has one is the layer of all.
    fn join(&mut self, index: usize, mix: &'a Candidate, layer: Option<u8>) {
        let Some(group) = self.all.get_mut(index) else { return };
        group.members.push(mix);
        group.layer = group.layer.or(layer);
        for tie in &mix.ties {
            self.of_tie.entry(*tie).or_insert(index);
        }
    }

    /// Gives a layer to each group that has none; the largest first: small ones then even out what they leave.
    /// Lots decide among layers that are equally small, or nearly, so that nobody can choose its layer by the
    /// moment in which it comes.
    fn place(&mut self, beacon: Option<&Beacon>) {
        let mut order: Vec<_> = (0..self.all.len()).filter(|&group| self.layer(group).is_none()).collect();
        let first =
            |group: usize| self.all.get(group).and_then(|group| group.members.first()).map(|mix| mix.id);
        order.sort_by_cached_key(|&group| {
            let size = self.all.get(group).map(|group| group.members.len());
            let lot = beacon.and_then(|beacon| Some(beacon.rank(&first(group)?.0)));
            (std::cmp::Reverse(size), lot)
        });
        for group in order {
            let sizes = sizes(&self.all);
            let smallest = sizes.iter().copied().min().unwrap_or(0);
            // A layer that has three mixes can wait for its fourth.
            let tolerated = if smallest >= 3 { smallest + 1 } else { smallest };
            let id = self.all.get(group).and_then(|group| group.members.first()).map(|mix| mix.id);
            let layer = (1_u8..)
                .zip(sizes)
                .filter(|(_, size)| *size <= if beacon.is_some() { tolerated } else { smallest })
                .min_by_key(|(layer, _)| {
                    let what = id.map(|id| [id.0.as_slice(), &[*layer]].concat());
                    beacon.and_then(|beacon| Some(beacon.rank(&what?)))
                });
            if let (Some(group), Some((layer, _))) = (self.all.get_mut(group), layer) {
                group.layer = Some(layer);
            }
        }
    }
}

/// Moves whole groups from the largest layer to the smallest while that evens them out.
fn balance(groups: &mut [Group<'_>]) {
    // Each move makes the difference smaller, so this ends; the bound is for the reader.
    for _ in 0..groups.len() {
        let sizes = sizes(groups);
        let (from, to) = (extreme(&sizes, true), extreme(&sizes, false));
        let size = |layer: u8| sizes.get(usize::from(layer) - 1).copied().unwrap_or(0);
        let difference = size(from) - size(to);
        let movable = groups
            .iter_mut()
            .filter(|group| group.layer == Some(from) && group.members.len() < difference)
            .max_by_key(|group| group.members.len().min(difference / 2));
        match movable {
            Some(group) => group.layer = Some(to),
            None => break,
        }
    }
}

fn sizes(groups: &[Group<'_>]) -> [usize; LAYERS] {
    let mut sizes = [0; LAYERS];
    for group in groups {
        let layer = group.layer.map(|layer| usize::from(layer).wrapping_sub(1));
        if let Some(size) = layer.and_then(|index| sizes.get_mut(index)) {
            *size += group.members.len();
        }
    }
    sizes
}

/// The layer with the most or the least; of equals the first.
fn extreme(counts: &[usize; LAYERS], most: bool) -> u8 {
    let layers = (1..).zip(counts.iter().map(|&count| if most { usize::MAX - count } else { count }));
    layers.min_by_key(|&(_, count)| count).map_or(1, |(layer, _)| layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(id: u8, net: u8, family: Option<u8>) -> Candidate {
        let address = SocketAddr::from(([10, net, 0, 1], 7000));
        let family = family.map(|family| FamilyId([family; 32]));
        Candidate { id: RelayId([id; 32]), ties: Tie::all(family, &[address]) }
    }

    fn count(layers: &Layers, layer: u8) -> usize {
        layers.values().filter(|&&other| other == layer).count()
    }

    fn counts(layers: &Layers) -> [usize; 3] {
        [1, 2, 3].map(|layer| count(layers, layer))
    }

    #[test]
    fn nine_mixes_of_nine_operators_are_three_in_each_layer() {
        let mixes: Vec<_> = (1..=9).map(|id| mix(id, id, None)).collect();
        let mut layers = Layers::new();
        assert!(deal(&mixes, &mut layers, Dealing::default()).is_empty());
        assert_eq!(counts(&layers), [3, 3, 3]);
    }

    #[test]
    fn a_family_or_subnet_stands_in_one_layer_even_when_tied_through_others() {
        // 1 and 2 share a family, 2 and 3 a subnet, 3 and 4 a family; the others are alone.
        let mut mixes = vec![mix(1, 1, Some(1)), mix(2, 2, Some(1)), mix(3, 2, Some(3)), mix(4, 4, Some(3))];
        mixes.extend((5..=12).map(|id| mix(id, id, None)));
        let mut layers = Layers::new();
        deal(&mixes, &mut layers, Dealing::default());
        let layer = |id: u8| layers[&RelayId([id; 32])];
        assert!((2..=4).all(|id| layer(id) == layer(1)));
        assert_eq!(counts(&layers), [4, 4, 4]);
    }

    #[test]
    fn within_a_period_nobody_moves_and_newcomers_go_where_fewest_run() {
        let mut mixes: Vec<_> = (1..=6).map(|id| mix(id, id, None)).collect();
        let mut layers = Layers::new();
        deal(&mixes, &mut layers, Dealing::default());
        let dealt = layers.clone();
        // All of layer 2 dies.
        mixes.retain(|mix| dealt[&mix.id] != 2);
        mixes.push(mix(7, 7, None));
        deal(&mixes, &mut layers, Dealing::default());
        assert_eq!(layers[&RelayId([7; 32])], 2);
        assert!(dealt.iter().all(|(id, layer)| layers[id] == *layer));
    }

    #[test]
    fn a_new_period_keeps_layers_and_moves_only_what_balance_needs() {
        let mixes: Vec<_> = (1..=9).map(|id| mix(id, id, None)).collect();
        let mut first = Layers::new();
        deal(&mixes, &mut first, Dealing::default());
        let mut same = Layers::new();
        deal(&mixes, &mut same, Dealing { before: Some(&first), ..Dealing::default() });
        assert_eq!(same, first);

        // Layer 1 lost two of its three: 1, 3, 3 becomes 2, 2, 3 with one move.
        let dead: Vec<_> =
            first.iter().filter(|(_, layer)| **layer == 1).map(|(id, _)| *id).take(2).collect();
        let rest: Vec<_> = mixes.into_iter().filter(|mix| !dead.contains(&mix.id)).collect();
        let mut second = Layers::new();
        deal(&rest, &mut second, Dealing { before: Some(&first), ..Dealing::default() });
        let mut sizes = counts(&second);
        sizes.sort();
        assert_eq!(sizes, [2, 2, 3]);
        assert_eq!(second.iter().filter(|(id, layer)| first[id] != **layer).count(), 1);
    }

    #[test]
    fn who_joins_the_family_of_another_layer_waits_for_the_next_deal() {
        let mut mixes = vec![mix(1, 1, None), mix(2, 2, None), mix(3, 3, None)];
        let mut layers = Layers::new();
        deal(&mixes, &mut layers, Dealing::default());
        mixes[0] = mix(1, 1, Some(9));
        mixes[1] = mix(2, 2, Some(9));
        let excluded = deal(&mixes, &mut layers, Dealing::default());
        assert_eq!(excluded, [(RelayId([2; 32]), Exclusion::OtherLayer)].into());
        let mut next = Layers::new();
        assert!(deal(&mixes, &mut next, Dealing { before: Some(&layers), ..Dealing::default() }).is_empty());
        assert_eq!(next[&RelayId([1; 32])], next[&RelayId([2; 32])]);
    }

    #[test]
    fn ipv6_relays_are_tied_by_their_32_bit_prefix() {
        let ties = |text: &str| Tie::all(None, &[text.parse().unwrap()]);
        assert_eq!(ties("[2001:db8::1]:1"), ties("[2001:db8:ffff::1]:2"));
        assert_ne!(ties("[2001:db8::1]:1"), ties("[2001:db9::1]:1"));
    }

    /// A mix that is tied as these ones are, together.
    fn tied_to(id: u8, others: &[&Candidate]) -> Candidate {
        let ties = others.iter().flat_map(|other| other.ties.clone()).collect();
        Candidate { id: RelayId([id; 32]), ties }
    }

    #[test]
    fn a_newcomer_that_is_tied_to_several_layers_is_left_out_and_moves_nobody() {
        let mut mixes: Vec<_> = (1..=9).map(|id| mix(id, id, None)).collect();
        let mut first = Layers::new();
        deal(&mixes, &mut first, Dealing::default());
        let bridge = tied_to(99, &mixes.iter().collect::<Vec<_>>());
        mixes.push(bridge.clone());
        for before in [None, Some(&first)] {
            let mut layers = if before.is_some() { Layers::new() } else { first.clone() };
            let excluded = deal(&mixes, &mut layers, Dealing { before, ..Dealing::default() });
            assert_eq!(excluded, [(bridge.id, Exclusion::Bridge)].into());
            assert_eq!(layers, first);
        }
    }

    #[test]
    fn a_bridge_between_groups_of_one_layer_stands_there_as_long_as_they_do() {
        let mut mixes: Vec<_> = (1..=9).map(|id| mix(id, id, None)).collect();
        let mut first = Layers::new();
        deal(&mixes, &mut first, Dealing::default());
        let same: Vec<_> = mixes.iter().filter(|mix| first[&mix.id] == 2).take(2).collect();
        let bridge = tied_to(99, &same);
        let apart = same[0].id;
        mixes.push(bridge.clone());
        let mut layers = first.clone();
        assert!(deal(&mixes, &mut layers, Dealing::default()).is_empty());
        assert_eq!(layers.remove(&bridge.id), Some(2));
        assert_eq!(layers, first);
        // In the next period those two are no longer in one layer.
        let mut moved = first.clone();
        moved.insert(apart, 1);
        let mut next = Layers::new();
        assert_eq!(
            deal(&mixes, &mut next, Dealing { before: Some(&moved), ..Dealing::default() }),
            [(bridge.id, Exclusion::Bridge)].into()
        );
        assert!(!next.contains_key(&bridge.id));
    }

    #[test]
    fn who_comes_after_a_bridge_and_is_tied_to_it_never_stands_in_another_layer_nor_ousts_it() {
        let mut mixes: Vec<_> = (1..=9).map(|id| mix(id, id, None)).collect();
        let mut layers = Layers::new();
        deal(&mixes, &mut layers, Dealing::default());
        let same: Vec<_> = mixes.iter().filter(|mix| layers[&mix.id] == 3).take(2).collect();
        let mut bridge = tied_to(98, &same);
        bridge.ties.push(Tie::Family(FamilyId([5; 32])));
        mixes.push(bridge);
        mixes.push(mix(99, 99, Some(5)));
        assert!(deal(&mixes, &mut layers, Dealing::default()).is_empty());
        assert_eq!([98, 99].map(|id| layers[&RelayId([id; 32])]), [3, 3]);
    }

    #[test]
    fn who_was_dealt_a_layer_in_a_period_comes_before_who_returns_without_one() {
        // 2 links 1 and 3; while it was away they were dealt different layers.
        let mixes = [mix(1, 1, Some(1)), mix(2, 3, Some(1)), mix(3, 3, None)];
        let mut layers = Layers::from([(mixes[0].id, 1), (mixes[2].id, 2)]);
        let excluded = deal(&mixes, &mut layers, Dealing::default());
        assert_eq!(excluded, [(mixes[1].id, Exclusion::Bridge)].into());
        assert_eq!(layers.len(), 2);
    }

    #[test]
    fn ties_are_written_and_read() {
        let ties = [Tie::Family(FamilyId([7; 32])), Tie::Net4([10, 1]), Tie::Net6([32, 1, 13, 184])];
        for tie in ties {
            assert_eq!(tie.to_string().parse::<Tie>().unwrap(), tie);
        }
        assert!("ipv4:0a".parse::<Tie>().is_err() && "10.1".parse::<Tie>().is_err());
    }
}
