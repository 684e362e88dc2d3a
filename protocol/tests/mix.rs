//! What a mix refuses, it has not touched: the costly steps come last. (spec: MIX-1, MEASURE-1)

#![allow(clippy::unwrap_used)]

use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::{AuthorityId, Period, RelayId, ReplayTag, ReplyId};
use mizzle_protocol::mix::{DropReason, LivePeriod, Mix, Neighbours, ReplayFilter, Source};
use mizzle_protocol::path::{MixNode, Parameters, Topology};
use mizzle_protocol::sphinx::{Hop, SecretKey, build};
use mizzle_protocol::{Error, ErrorKind, Result};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::cell::Cell;
use std::time::Duration;

const HERE: RelayId = RelayId([1; 32]);
const NEXT: RelayId = RelayId([2; 32]);
const ENTRY: RelayId = RelayId([4; 32]);

/// Says of every tag that it is known, or of none, and counts how often it was asked.
struct Filter {
    knows: bool,
    asked: Cell<usize>,
}

impl ReplayFilter for Filter {
    fn insert(&self, _: Period, _: ReplayTag) -> Result<()> {
        self.asked.set(self.asked.get() + 1);
        if self.knows { Err(Error::new(ErrorKind::Replayed, "seen")) } else { Ok(()) }
    }
}

#[test]
fn a_refused_packet_is_as_it_came_and_leaves_no_tag() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let key = SecretKey::generate(&mut rng);
    let node = |id| MixNode { id, key: key.public() };
    let topology = Topology {
        parameters: Parameters::local(),
        period: Period(0),
        layers: [vec![node(HERE)], vec![node(NEXT)], vec![node(RelayId([3; 32]))]],
        entries: vec![node(ENTRY)],
        exits: Vec::new(),
    };
    let (geometry, longest) = (Geometry::default(), topology.parameters.max_delay);
    let live = LivePeriod { key: key.clone(), neighbours: Neighbours::new(&topology, HERE) };
    let mix = Mix::new(geometry, longest, vec![live]);
    let mut packet = |next: RelayId, delay| {
        let mut packet = Vec::new();
        let hop = |id: RelayId, delay| Hop { address: id.0, key: key.public(), delay };
        let hops = [hop(HERE, delay), hop(next, Duration::ZERO)];
        build(geometry, &hops, ReplyId([0; 16]), b"x", &mut rng, &mut packet).unwrap();
        packet
    };
    let good = packet(NEXT, longest);
    let mut forged = good.clone();
    forged[60] ^= 1;
    let late = packet(NEXT, longest + Duration::from_micros(1));
    let (entry, next) = (Source::Relay(ENTRY), Source::Relay(NEXT));
    let authority = Source::Authority(AuthorityId([9; 32]));
    let home = packet(RelayId([9; 32]), longest);
    // Cases: the packet, where it comes from, whether its tag is known; what becomes of it, and how often the filter
    // is asked.
    let cases = [
        (&good, entry, false, None, 1),
        (&good, entry, true, Some(DropReason::Replayed), 1),
        (&good, next, false, Some(DropReason::WrongEdge), 0),
        (&forged, entry, false, Some(DropReason::Forged), 0),
        (&late, entry, false, Some(DropReason::ExcessiveDelay), 0),
        (&packet(RelayId([3; 32]), longest), entry, false, Some(DropReason::WrongEdge), 0),
        // An authority's goes home to it and nowhere else, and nobody else's goes to an authority.
        (&home, authority, false, None, 1),
        (&home, authority, true, Some(DropReason::Replayed), 1),
        (&home, entry, false, Some(DropReason::WrongEdge), 0),
        (&home, Source::Authority(AuthorityId([8; 32])), false, Some(DropReason::WrongEdge), 0),
        (&good, authority, false, Some(DropReason::WrongEdge), 0),
        (&packet(RelayId([9; 32]), longest * 2), authority, false, Some(DropReason::ExcessiveDelay), 0),
    ];
    for (number, (original, from, knows, verdict, asked)) in cases.into_iter().enumerate() {
        let filter = Filter { knows, asked: Cell::new(0) };
        let mut buffer = original.clone();
        let result = mix.accept(from, 0, &mut buffer, &filter).err();
        assert_eq!((result, filter.asked.get()), (verdict, asked), "case {number}");
        assert_eq!(buffer == *original, verdict.is_some(), "case {number}");
    }
}
