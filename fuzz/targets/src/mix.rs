//! A relay's whole processing of a packet.

use crate::bytes::{Choices, Seed, seed};
use crate::network::{ENTRY, EXIT, Memory, NETWORK, PERIOD, RELAYS, START, geometry, id};
use crate::oracle::forge::with_routing;
use crate::sphinx::xor;
use mizzle_protocol::id::{AuthorityId, RelayId, ReplyId};
use mizzle_protocol::mix::{Action, DropReason, LivePeriod, Mix, Neighbours, Role, Source};
use mizzle_protocol::sphinx::{Hop, build};
use mizzle_protocol::wire::payload::Payload;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::sync::LazyLock;
use std::time::Duration;

/// Any packet at a relay of any role, from any neighbour, under any hint.
///
/// The bytes: role, source, hint (its distance from the live period's), kind, then what the kind says: a packet
/// as it is, a valid one altered, one with any routing information under a MAC that fits, a message for the
/// services of an exit. (spec: MIX-1 to MIX-4)
pub fn mix(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let place = usize::from(choices.u8()) % RELAYS;
    let Relay { mix, packet } = &RELAYS_OF_ALL_ROLES[place];
    let source = match usize::from(choices.u8()) % (RELAYS + 3) {
        RELAYS => Source::Service,
        index if index == RELAYS + 2 => Source::Authority(AuthorityId(id(EXIT).0)),
        index => Source::Relay(id(index)), // one of them is a stranger
    };
    let hint = PERIOD.hint().wrapping_add(choices.u8());
    let kind = choices.u8() % 4;
    let made = made(kind, place, packet, &mut choices);

    let memory = Memory::default();
    let mut taken = made.clone();
    let first = mix.process(START, source, hint, &mut taken, &memory);
    let edges = &mix.period(PERIOD.hint()).unwrap().neighbours;
    let remembered = memory.tags.borrow().len();
    match &first {
        Ok(action) => {
            assert!(remembered == 1 && hint == PERIOD.hint() && edges.accepts_from(source));
            sound(action, source, edges, mix, &taken);
        }
        Err(reason) => {
            // Payload and zero after blinding are found late; all else leaves the packet alone.
            if *reason != DropReason::BadPayload && remembered == 0 {
                assert!(taken == made, "a refused packet was changed");
            }
            assert!(*reason != DropReason::Replayed, "a packet was seen before it came");
        }
    }
    let mut again = made;
    let second = mix.process(START, source, hint, &mut again, &memory);
    match remembered {
        1 => assert!(matches!(second, Err(DropReason::Replayed)), "a packet is taken twice"),
        _ => assert!(second.err() == first.err()),
    }
    let next = RelayId(choices.array());
    if mix.admit(hint, next, &again).is_ok() {
        assert!(edges.role == Some(Role::Entry) && next == id(0), "a client picks its first hop freely");
    }
}

fn made(kind: u8, place: usize, packet: &[u8], choices: &mut Choices<'_>) -> Vec<u8> {
    let mut made = packet.to_vec();
    match kind {
        0 => made = choices.rest().to_vec(),
        1 => {
            let at = usize::from(choices.u16()) % made.len();
            xor(&mut made[at..], choices.counted());
        }
        2 => {
            let change = choices.counted();
            made = with_routing(&NETWORK.peers[place], &made, |plain| xor(plain, change));
        }
        _ => {
            let message = choices.counted();
            let mut rng = ChaCha20Rng::seed_from_u64(6);
            let message = &message[..message.len().min(geometry().message())];
            build(geometry(), &[hop(place)], ReplyId([0; 16]), message, &mut rng, &mut made).unwrap();
        }
    }
    made
}

fn sound(action: &Action, source: Source, edges: &Neighbours, mix: &Mix, packet: &[u8]) {
    let longest = START + NETWORK.topology.parameters.max_delay;
    match action {
        Action::Forward { next, due } if matches!(source, Source::Authority(_)) => {
            assert!(source == Source::Authority(AuthorityId(next.0)) && (START..=longest).contains(due));
        }
        _ if matches!(source, Source::Authority(_)) => panic!("an authority's packet goes on, or ends here"),
        Action::Forward { next, due } => {
            assert!(edges.sends_to(*next) && (START..=longest).contains(due), "along no edge, or too late");
        }
        Action::ToClient { due, .. } => {
            assert!(edges.role == Some(Role::Entry) && (START..=longest).contains(due));
        }
        Action::Deliver { message, .. } => {
            assert!(edges.role == Some(Role::Exit), "a packet ends at a relay without services");
            assert!(message.len() <= mix.geometry().message());
            let message =
                packet.get(message.clone()).unwrap_or_else(|| panic!("a message outside its packet"));
            let _ = Payload::parse(message);
        }
    }
}

pub(crate) fn mix_seeds() -> Vec<Seed> {
    let valid = [0, 1, 0, 0, 0, 0];
    vec![
        seed("layer_1_from_entry", &[&[0, 3], &valid[2..3], &valid[1..]]),
        seed("layer_2", &[&[1, 0], &valid[2..3], &valid[1..]]),
        seed("layer_3", &[&[2, 1], &valid[2..3], &valid[1..]]),
        seed("entry", &[&[3, 2], &valid[2..3], &valid[1..]]),
        seed("exit", &[&[4, 2], &valid[2..3], &valid[1..]]),
        seed("by_a_service", &[&[0, 5, 0, 1, 0, 0, 0, 0]]),
        seed("from_a_stranger", &[&[0, 6, 0, 1, 0, 0, 0, 0]]),
        seed("by_an_authority", &[&[2, 7, 0, 1, 0, 0, 0, 0]]),
        seed("another_period", &[&[0, 3, 1, 1, 0, 0, 0, 0]]),
        seed("altered", &[&[1, 0, 0, 1, 0, 40, 0, 1, 7]]),
        seed("routed_elsewhere", &[&[1, 0, 0, 2, 0, 6, 0, 0, 0, 0, 1, 1]]),
        seed("excessive_delay", &[&[1, 0, 0, 2, 0, 37], &[0; 36], &[0xff]]),
        seed("ends_at_a_mix", &[&[1, 0, 0, 2, 0, 1, 3]]),
        seed("ends_at_the_exit", &[&[4, 2, 0, 3, 0, 1, 0]]),
        seed("message_too_odd", &[&[4, 2, 0, 3, 0, 4, 9, 1, 1, 0]]),
        seed("short", &[&[0, 3, 0, 0, 1, 2, 3]]),
        seed("admitted", &[&[3, 2, 0, 1, 0, 0, 0, 0], &[1; 32]]),
    ]
}

/// A relay, and a valid packet for it.
struct Relay {
    mix: Mix,
    packet: Vec<u8>,
}

static RELAYS_OF_ALL_ROLES: LazyLock<Vec<Relay>> = LazyLock::new(|| {
    let network = &*NETWORK;
    let mut rng = ChaCha20Rng::seed_from_u64(8);
    let relay = |place: usize| {
        let neighbours = Neighbours::new(&network.topology, id(place));
        let period = LivePeriod { key: network.peers[place].key.clone(), neighbours };
        let mix = Mix::new(geometry(), network.topology.parameters.max_delay, vec![period]);
        let hops = match place {
            EXIT => vec![hop(place)],
            ENTRY => vec![hop(place), Hop { address: [0xcc; 32], ..hop(0) }],
            2 => vec![hop(place), hop(EXIT)],
            _ => vec![hop(place), hop(place + 1)],
        };
        let mut packet = Vec::new();
        build(geometry(), &hops, ReplyId([0; 16]), &[0], &mut rng, &mut packet).unwrap();
        Relay { mix, packet }
    };
    (0..RELAYS).map(relay).collect()
});

fn hop(place: usize) -> Hop {
    let key = NETWORK.peers[place].key.public();
    Hop { address: id(place).0, key, delay: Duration::from_millis(if place < ENTRY { 20 } else { 0 }) }
}
