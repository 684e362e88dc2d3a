//! Nothing on a packet's way allocates, as a counting allocator sees it.

#![allow(clippy::unwrap_used, clippy::panic)]

use allocation_counter::measure;
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::ReplyId;
use mizzle_protocol::sphinx::x25519::Backend;
use mizzle_protocol::sphinx::{
    Advanced, Hop, Routing, SecretKey, Unwrapped, build, build_surb, inspect, open_message, open_reply,
    unwrap, use_surb,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::time::Duration;

#[test]
fn neither_building_nor_unwrapping_a_packet_allocates() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for backend in Backend::available() {
        backend.force();
        for payload in [2048, 4096, 8192] {
            let geometry = Geometry::new(payload).unwrap();
            let keys: Vec<_> = (0..5).map(|_| SecretKey::generate(&mut rng)).collect();
            let hops: Vec<_> = keys
                .iter()
                .map(|key| Hop { address: [3; 32], key: key.public(), delay: Duration::from_millis(5) })
                .collect();
            let message = vec![7; geometry.message()];
            let mut packet = Vec::with_capacity(geometry.packet());

            none("build", || {
                build(geometry, &hops, ReplyId([0; 16]), &message, &mut rng, &mut packet).unwrap();
            });
            for key in &keys {
                none("unwrap", || match unwrap(geometry, key, &mut packet).unwrap() {
                    Unwrapped::Forward { .. } => {}
                    Unwrapped::Final { payload, .. } => assert!(open_message(payload).unwrap() == message),
                });
            }

            let mut made = None;
            none("build_surb", || made = Some(build_surb(&hops, ReplyId([1; 16]), &mut rng).unwrap()));
            let (surb, reply_keys) = made.unwrap();
            none("use_surb", || {
                use_surb(geometry, &surb, &message, &mut packet).unwrap();
            });
            for key in &keys {
                none("inspect, advance and open", || {
                    let inspected = inspect(geometry, key, &mut packet).unwrap();
                    let last = matches!(inspected.routing(), Routing::Final { .. });
                    let advanced = inspected.advance().unwrap();
                    if let Unwrapped::Final { payload, .. } = advanced.open_payload(&mut packet) {
                        assert!(last && open_reply(&reply_keys, payload).unwrap() == message);
                    }
                });
            }

            // As a busy relay does it, which opens the payloads of four together.
            let mut four = Vec::new();
            for _ in 0..4 {
                build(geometry, &hops, ReplyId([0; 16]), &message, &mut rng, &mut packet).unwrap();
                four.push(packet.clone());
            }
            let mut advanced = Vec::with_capacity(4);
            none("four together", || {
                for packet in &mut four {
                    advanced.push(inspect(geometry, &keys[0], packet).unwrap().advance().unwrap());
                }
                let packets = four.iter_mut().map(Vec::as_mut_slice);
                Advanced::open_payloads(advanced.iter().zip(packets));
            });

            // A packet that is refused costs none either.
            packet[40] ^= 1;
            none("refusal", || assert!(unwrap(geometry, &keys[0], &mut packet).is_err()));
        }
    }
}

#[test]
fn the_counter_counts() {
    assert!(measure(|| drop(std::hint::black_box(vec![1_u8; 100]))).count_total > 0);
}

fn none(what: &str, work: impl FnOnce()) {
    let counted = measure(work);
    assert_eq!(counted.count_total, 0, "{what} allocated {} bytes", counted.bytes_total);
}
