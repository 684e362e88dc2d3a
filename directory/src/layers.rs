//! Which mix stands in which layer.
//!
//! A family or subnet is always in one layer, so that no path of a client can meet it twice and clients need
//! no exclusions, which would betray their entry. Within a key period nobody moves. From one period to the
//! next mixes keep their layers, except that whole groups move when the layers are out of balance.

use mizzle_protocol::id::{FamilyId, RelayId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Number of layers.
const LAYERS: usize = mizzle_protocol::geometry::LAYERS;

/// The layer, 1 to 3, of each mix in one key period.
pub(crate) type Layers = BTreeMap<RelayId, u8>;

/// A mix that wants a layer.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Its identity.
    pub(crate) id: RelayId,
    /// What must not stand in two layers.
    pub(crate) ties: Vec<Tie>,
    /// Only these count for the balance.
    pub(crate) running: bool,
}

/// Something that relays of one operator have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tie {
    /// They say so themselves.
    Family(FamilyId),
    /// An IPv4 /16.
    Net4([u8; 2]),
    /// An IPv6 /32.
    Net6([u8; 4]),
}

impl Tie {
    /// All ties of a relay.
    pub(crate) fn all(family: Option<FamilyId>, addresses: &[SocketAddr]) -> Vec<Self> {
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

/// Deals the layers of one key period: everyone in `layers` stays, newcomers join.
///
/// `before` are the layers of the period before. Returns the mixes that stand in another layer than others
/// of their group, which became one after the deal: they cannot be listed in this period.
pub(crate) fn deal(
    candidates: &[Candidate],
    layers: &mut Layers,
    before: Option<&Layers>,
) -> BTreeSet<RelayId> {
    let fresh = layers.is_empty();
    let mut groups: Vec<Group> =
        groups(candidates).into_iter().map(|members| Group { members, layer: None }).collect();
    let mut excluded = BTreeSet::new();
    for group in &mut groups {
        group.layer = group.most_common(layers).or_else(|| group.most_common(before?));
    }
    // The largest first: small ones then even out what they leave.
    groups.sort_by_key(|group| std::cmp::Reverse((group.running(), group.members.len())));
    for index in 0..groups.len() {
        let sizes = sizes(&groups);
        // Who does not run gets a layer when it does: now it would not weigh, and all would get the same.
        if let Some(group) = groups.get_mut(index).filter(|group| group.running() > 0) {
            group.layer.get_or_insert_with(|| extreme(&sizes, false));
        }
    }
    if fresh {
        balance(&mut groups);
    }
    for group in &groups {
        for member in &group.members {
            let Some(layer) = group.layer else { continue };
            if *layers.entry(member.id).or_insert(layer) != layer {
                excluded.insert(member.id);
            }
        }
    }
    excluded
}

/// Mixes that are tied to each other, directly or through others.
struct Group<'a> {
    members: Vec<&'a Candidate>,
    layer: Option<u8>,
}

impl Group<'_> {
    fn running(&self) -> usize {
        self.members.iter().filter(|member| member.running).count()
    }

    /// The layer that most of the members have in `layers`.
    fn most_common(&self, layers: &Layers) -> Option<u8> {
        let mut counts = [0usize; LAYERS];
        for layer in self.members.iter().filter_map(|member| layers.get(&member.id)) {
            if let Some(count) = counts.get_mut(usize::from(*layer).wrapping_sub(1)) {
                *count += 1;
            }
        }
        counts.iter().any(|&count| count > 0).then(|| extreme(&counts, true))
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
            .filter(|group| group.layer == Some(from) && group.running() > 0)
            .filter(|group| group.running() < difference)
            .max_by_key(|group| group.running().min(difference / 2));
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
            *size += group.running();
        }
    }
    sizes
}

/// The layer with the most or the least; of equals the first.
fn extreme(counts: &[usize; LAYERS], most: bool) -> u8 {
    let layers = (1..).zip(counts.iter().map(|&count| if most { usize::MAX - count } else { count }));
    layers.min_by_key(|&(_, count)| count).map_or(1, |(layer, _)| layer)
}

fn groups(candidates: &[Candidate]) -> Vec<Vec<&Candidate>> {
    let mut groups: Vec<(BTreeSet<Tie>, Vec<&Candidate>)> = Vec::new();
    for candidate in candidates {
        let mut ties: BTreeSet<Tie> = candidate.ties.iter().copied().collect();
        let mut members = vec![candidate];
        // All groups that this candidate touches become one with it.
        groups.retain_mut(|(others, group)| {
            let touches = candidate.ties.iter().any(|tie| others.contains(tie));
            if touches {
                ties.append(others);
                members.append(group);
            }
            !touches
        });
        groups.push((ties, members));
    }
    groups.into_iter().map(|(_, members)| members).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(id: u8, net: u8, family: Option<u8>) -> Candidate {
        let address = SocketAddr::from(([10, net, 0, 1], 7000));
        let family = family.map(|family| FamilyId([family; 32]));
        Candidate { id: RelayId([id; 32]), ties: Tie::all(family, &[address]), running: true }
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
        assert!(deal(&mixes, &mut layers, None).is_empty());
        assert_eq!(counts(&layers), [3, 3, 3]);
    }

    #[test]
    fn a_family_or_subnet_stands_in_one_layer_even_when_tied_through_others() {
        // 1 and 2 share a family, 2 and 3 a subnet, 3 and 4 a family; the others are alone.
        let mut mixes = vec![mix(1, 1, Some(1)), mix(2, 2, Some(1)), mix(3, 2, Some(3)), mix(4, 4, Some(3))];
        mixes.extend((5..=12).map(|id| mix(id, id, None)));
        let mut layers = Layers::new();
        deal(&mixes, &mut layers, None);
        let layer = |id: u8| layers[&RelayId([id; 32])];
        assert!((2..=4).all(|id| layer(id) == layer(1)));
        assert_eq!(counts(&layers), [4, 4, 4]);
    }

    #[test]
    fn within_a_period_nobody_moves_and_newcomers_go_where_fewest_run() {
        let mut mixes: Vec<_> = (1..=6).map(|id| mix(id, id, None)).collect();
        let mut layers = Layers::new();
        deal(&mixes, &mut layers, None);
        let dealt = layers.clone();
        // All of layer 2 dies.
        for mix in &mut mixes {
            mix.running = dealt[&mix.id] != 2;
        }
        mixes.push(mix(7, 7, None));
        deal(&mixes, &mut layers, None);
        assert_eq!(layers[&RelayId([7; 32])], 2);
        assert!(dealt.iter().all(|(id, layer)| layers[id] == *layer));
    }

    #[test]
    fn a_new_period_keeps_layers_and_moves_only_what_balance_needs() {
        let mixes: Vec<_> = (1..=9).map(|id| mix(id, id, None)).collect();
        let mut first = Layers::new();
        deal(&mixes, &mut first, None);
        let mut same = Layers::new();
        deal(&mixes, &mut same, Some(&first));
        assert_eq!(same, first);

        // Layer 1 lost two of its three: 1, 3, 3 becomes 2, 2, 3 with one move.
        let dead: Vec<_> =
            first.iter().filter(|(_, layer)| **layer == 1).map(|(id, _)| *id).take(2).collect();
        let rest: Vec<_> = mixes.into_iter().filter(|mix| !dead.contains(&mix.id)).collect();
        let mut second = Layers::new();
        deal(&rest, &mut second, Some(&first));
        let mut sizes = counts(&second);
        sizes.sort();
        assert_eq!(sizes, [2, 2, 3]);
        assert_eq!(second.iter().filter(|(id, layer)| first[id] != **layer).count(), 1);
    }

    #[test]
    fn who_joins_the_family_of_another_layer_waits_for_the_next_deal() {
        let mut mixes = vec![mix(1, 1, None), mix(2, 2, None), mix(3, 3, None)];
        let mut layers = Layers::new();
        deal(&mixes, &mut layers, None);
        mixes[0] = mix(1, 1, Some(9));
        mixes[1] = mix(2, 2, Some(9));
        let excluded = deal(&mixes, &mut layers, None);
        assert_eq!(excluded.len(), 1);
        let mut next = Layers::new();
        assert!(deal(&mixes, &mut next, Some(&layers)).is_empty());
        assert_eq!(next[&RelayId([1; 32])], next[&RelayId([2; 32])]);
    }

    #[test]
    fn ipv6_relays_are_tied_by_their_32_bit_prefix() {
        let ties = |text: &str| Tie::all(None, &[text.parse().unwrap()]);
        assert_eq!(ties("[2001:db8::1]:1"), ties("[2001:db8:ffff::1]:2"));
        assert_ne!(ties("[2001:db8::1]:1"), ties("[2001:db9::1]:1"));
    }
}
