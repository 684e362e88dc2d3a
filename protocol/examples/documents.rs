//! What documents of made-up networks weigh and cost: one line of JSON for each size.
//!
//! ```text
//! cargo run --release -p mizzle-protocol --example documents [-- RELAYS...]
//! ```
//!
//! Without numbers: 100, 1 000 and 10 000 relays, three of five mixes, a fifth entries, a fifth exits; one IPv4 address
//! each, every other an IPv6 address and a family, too. Four authorities, of whom three must sign. A `diff` is that from
//! one epoch to the next in which a tenth of the relays is replaced by others and each of the rest has another weight; the
//! `period_diff` is the same at the edge of a key period, where also each relay's oldest key goes and a new one comes.
//! Times are the median of several runs, in milliseconds of the clock.

// An example may.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use ed25519_dalek::{Signer, SigningKey};
use mizzle_protocol::consensus::{
    Consensus, Diff, ListedRelay, NotRunning, ProtocolNumber, RelayPeriod, Signed, coarse,
};
use mizzle_protocol::id::{AuthorityId, Epoch, FamilyId, Period, RelayId};
use mizzle_protocol::mix::Role;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::sphinx::SecretKey;
use mizzle_protocol::time::UnixTime;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

fn main() {
    let told: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    for relays in if told.is_empty() { vec![100, 1_000, 10_000] } else { told } {
        println!("{}", measure(relays));
    }
}

fn measure(count: usize) -> String {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let authorities: Vec<_> = (1..=4u8).map(|seed| SigningKey::from_bytes(&[seed; 32])).collect();
    let ids: Vec<_> = authorities.iter().map(|key| AuthorityId(key.verifying_key().to_bytes())).collect();
    let threshold = ids.len() * 2 / 3 + 1;
    let before = network(count, &mut rng);
    let sign = |consensus: &Consensus| {
        let mut signed = Signed::new(consensus);
        for (key, id) in authorities.iter().zip(&ids).take(threshold) {
            signed.sign(*id, |bytes| key.sign(bytes).to_bytes());
        }
        signed
    };
    let held = sign(&before);
    let now = before.valid_after.instant();
    let verify = |bytes: &[u8]| {
        Signed::from_bytes(bytes).unwrap().verify(&ids, threshold, now, &before.network).unwrap()
    };
    let runs = if count > 2_000 { 3 } else { 11 };
    let encode = median(runs, || Signed::new(&before));
    let sign_only = median(runs, || {
        let mut signed = held.clone();
        for (key, id) in authorities.iter().zip(&ids).take(threshold) {
            signed.sign(*id, |bytes| key.sign(bytes).to_bytes());
        }
        signed
    });
    let bytes = held.to_bytes();
    let check = median(runs, || verify(&bytes));

    let after = next_epoch(&before, held.hash(), &mut rng);
    let (signed, diff) = (sign(&after), |new: &Consensus, signed: &Signed| {
        Diff::between(&before, held.hash(), new, signed).to_bytes()
    });
    let make = median(runs, || diff(&after, &signed));
    let by_diff = diff(&after, &signed);
    let apply = median(runs, || {
        let signed = Diff::from_bytes(&by_diff).unwrap().apply(&before, held.hash()).unwrap();
        signed.verify(&ids, threshold, now, &before.network).unwrap()
    });
    let mut turned = after.clone();
    turn_period(&mut turned, &mut rng);
    let period_diff = diff(&turned, &sign(&turned)).len();
    format!(
        "{{\"relays\": {count}, \"bytes\": {}, \"diff_bytes\": {}, \"period_diff_bytes\": {period_diff}, \
         \"encode_ms\": {encode:.2}, \"sign_ms\": {sign_only:.2}, \"verify_ms\": {check:.2}, \
         \"make_diff_ms\": {make:.2}, \"apply_and_verify_ms\": {apply:.2}}}",
        bytes.len(),
        by_diff.len(),
    )
}

fn network(count: usize, rng: &mut ChaCha20Rng) -> Consensus {
    let parameters = Parameters::default();
    let start = UnixTime(1_800_000_000);
    let mut relays: Vec<_> = (0..count).map(|number| relay(number, rng)).collect();
    relays.sort_by_key(|relay| relay.id);
    let missing = (0..count / 50)
        .map(|_| NotRunning { id: RelayId(random(rng)), reason: "no answer at any of its addresses".into() });
    let mut not_running: Vec<_> = missing.collect();
    not_running.sort_by_key(|relay| relay.id);
    Consensus {
        method: 1,
        network: "public".into(),
        epoch: Epoch(1_000),
        valid_after: start,
        fresh_until: start + parameters.epoch,
        valid_until: start + parameters.epoch * Consensus::LIFE_EPOCHS,
        previous: None,
        origin: UnixTime(start.0 - 7 * 86_400),
        parameters,
        required: ProtocolNumber::SUPPORTED.to_vec(),
        recommended: ProtocolNumber::SUPPORTED.to_vec(),
        relays,
        not_running,
        made: None,
        pool: Some(coarse(30)),
        later: Default::default(),
    }
}

fn relay(number: usize, rng: &mut ChaCha20Rng) -> ListedRelay {
    let role = match number % 5 {
        layer @ 0..3 => Role::Mix(layer as u8 + 1),
        3 => Role::Entry,
        _ => Role::Exit,
    };
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::from(rng.next_u32() | 1))];
    if number.is_multiple_of(2) {
        addresses.push(IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(rng.next_u64()))));
    }
    ListedRelay {
        id: RelayId(random(rng)),
        addresses: addresses.into_iter().map(|ip| (ip, 443).into()).collect(),
        periods: (7..10).map(|period| keys(Period(period), role, rng)).collect(),
        family: number.is_multiple_of(2).then_some(FamilyId([(number / 20) as u8; 32])),
        weight: weight(rng),
        country: (role == Role::Exit).then(|| "DE".parse().unwrap()),
    }
}

fn keys(period: Period, role: Role, rng: &mut ChaCha20Rng) -> RelayPeriod {
    let service_key = (role == Role::Exit).then(|| random(rng));
    RelayPeriod { period, role, mix_key: SecretKey::generate(rng).public(), service_key }
}

fn next_epoch(
    before: &Consensus,
    hash: mizzle_protocol::consensus::DocumentHash,
    rng: &mut ChaCha20Rng,
) -> Consensus {
    let mut after = Consensus { epoch: Epoch(before.epoch.0 + 1), previous: Some(hash), ..before.clone() };
    for (number, listed) in after.relays.iter_mut().enumerate() {
        match number % 10 {
            // The same number, so the same kinds; another identity and other keys.
            0 => *listed = relay(number, rng),
            _ => listed.weight = weight(rng),
        }
    }
    after.relays.sort_by_key(|relay| relay.id);
    after
}

fn turn_period(consensus: &mut Consensus, rng: &mut ChaCha20Rng) {
    for relay in &mut consensus.relays {
        let role = relay.periods[0].role;
        relay.periods.remove(0);
        relay.periods.push(keys(Period(10), role, rng));
    }
}

fn weight(rng: &mut ChaCha20Rng) -> u32 {
    1_000 + rng.next_u32() % 60_000
}

fn random(rng: &mut ChaCha20Rng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn median<T>(runs: usize, mut work: impl FnMut() -> T) -> f64 {
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let begun = Instant::now();
            std::hint::black_box(work());
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
