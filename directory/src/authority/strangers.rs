//! What strangers who may post descriptors can do to those who were there before: nothing; and what a family's
//! own newcomers can do to its other relays: nothing either. (spec: DIR-12, DIR-13, DIR-16)

use super::tests::{NO_ROUTE, NOBODY, Relay, answer, at, certify, found, restore, run, settings};
use super::*;
use mizzle_protocol::consensus::FamilyCertificate;
use mizzle_protocol::mix::Role;

/// Nine mixes in nine subnets, each with a family; two entries and two exits, each with a family.
fn network() -> (Authority, Vec<Relay>) {
    let mixes = (1..=9).map(|number| Relay::new(number, RelayKind::Mix));
    let entries = (21..=22).map(|number| Relay::new(number, RelayKind::Entry));
    let exits = (31..=32).map(|number| Relay::new(number, RelayKind::Exit));
    let mut relays: Vec<_> = mixes.chain(entries).chain(exits).collect();
    let mut authority = found(relays.len());
    for (number, relay) in (1..).zip(&mut relays) {
        relay.family = Some(number);
        relay.post(&mut authority, at(1), 0).unwrap();
    }
    assert_eq!(answer(&mut authority, at(1), &[]).len(), 1);
    (authority, relays)
}

/// What the newest document says of each of these, in each period.
fn roles(authority: &Authority, relays: &[Relay]) -> Vec<Option<Vec<(Period, Role)>>> {
    let consensus = &authority.document().unwrap().consensus;
    let periods = |listed: &mizzle_protocol::consensus::ListedRelay| {
        listed.periods.iter().map(|at| (at.period, at.role)).collect()
    };
    relays.iter().map(|relay| consensus.relay(relay.id()).map(periods)).collect()
}

fn why_not<'a>(authority: &'a Authority, relay: &Relay) -> Option<&'a str> {
    authority.document().unwrap().consensus.why_not_running(relay.id())
}

/// All are listed in all periods as before, also in those dealt after the strangers came.
fn assert_nobody_moved(authority: &mut Authority, relays: &[Relay], dead: &[RelayId]) {
    let before = roles(authority, relays);
    assert!(before.iter().all(Option::is_some));
    run(authority, at(21), dead);
    assert_eq!(roles(authority, relays), before);
    run(authority, at(601), dead);
    for relay in relays {
        relay.post(authority, at(602), 1).unwrap();
    }
    answer(authority, at(602), dead);
    run(authority, at(661), dead);
    for (before, after) in before.into_iter().zip(roles(authority, relays)) {
        let (before, after) = (before.unwrap(), after.unwrap());
        assert_eq!(after.len(), 4);
        assert_eq!(after[..3], before);
        assert_eq!(after[3].1, before[2].1);
    }
}

#[test]
fn a_stranger_is_in_no_family_that_has_not_certified_it_and_is_told() {
    let (mut authority, relays) = network();
    let exit = relays.iter().find(|relay| relay.kind == RelayKind::Exit).unwrap();
    let stolen = exit.describe(at(1), 0).family;
    let stranger = Relay::new(99, RelayKind::Entry);
    let post = |authority: &mut Authority, now, relay: &Relay, family| {
        let descriptor = Descriptor { family, ..relay.describe(now, 0) };
        let taken = authority.handle_descriptor(now, &relay.sign(&descriptor));
        taken.map_err(|error| (error.kind(), error.to_string()))
    };
    // The certificate is in the exit's descriptor, which anyone may have read; and one of the stranger's own
    // making under the family's name.
    let own = certify(200, stranger.id(), at(2));
    let renamed = FamilyCertificate { family: stolen.unwrap().family, ..own };
    for certificate in [stolen, Some(renamed)] {
        let (kind, reason) = post(&mut authority, at(2), &stranger, certificate).unwrap_err();
        assert_eq!(kind, ErrorKind::Forged);
        assert!(reason.contains("was not made with that family's key for this relay"), "{reason}");
    }
    assert!(authority.status(at(2)).all(|status| status.id != stranger.id()));
    // A family of its own is no trouble, and the exit is where it was.
    assert!(post(&mut authority, at(2), &stranger, Some(own)).is_ok());
    answer(&mut authority, at(2), &[]);
    assert_nobody_moved(&mut authority, &relays, &[]);
    let listed = |relay: &Relay| authority.document().unwrap().consensus.relay(relay.id()).cloned();
    assert_eq!(listed(&stranger).unwrap().family, Some(own.family));
    assert_eq!(listed(exit).unwrap().family, stolen.map(|certificate| certificate.family));
}

#[test]
fn a_certificate_counts_while_it_is_in_force_and_the_relay_is_told() {
    let (mut authority, relays) = network();
    let day = 86_400;
    // Made where the clock is ahead: by less than the grace, and by more.
    let grace = authority.schedule().grace().as_secs();
    let post = |authority: &mut Authority, relay: &Relay, now: u64, certified: u64| {
        let family = Some(certify(1, relay.id(), at(certified)));
        let period = authority.schedule().period(at(now)).0;
        let descriptor = Descriptor { family, ..relay.describe(at(now), period) };
        let taken = authority.handle_descriptor(at(now), &relay.sign(&descriptor));
        taken.map(drop).map_err(|error| (error.kind(), error.to_string()))
    };
    let (early, in_time) = (2 + grace + 1, 2 + grace);
    let (kind, reason) = post(&mut authority, &relays[0], 2, early).unwrap_err();
    assert_eq!(kind, ErrorKind::Expired);
    assert!(reason.contains("the family certificate is from the future"), "{reason}");
    assert_eq!(post(&mut authority, &relays[0], 2, in_time), Ok(()));
    // It ends a day later, while the descriptor that carries it is held: the next document is without it.
    let end = in_time + day;
    for relay in &relays {
        post(&mut authority, relay, end - 30, if relay.id() == relays[0].id() { in_time } else { end - 40 })
            .unwrap();
    }
    answer(&mut authority, at(end - 30), &[]);
    run(&mut authority, at(end - 1), &[]);
    assert!(authority.document().unwrap().consensus.relay(relays[0].id()).is_some());
    run(&mut authority, at(end + 21), &[]);
    assert!(why_not(&authority, &relays[0]).unwrap().contains("the family certificate has expired"));
    assert!(authority.document().unwrap().consensus.relay(relays[1].id()).is_some());
    let (kind, reason) = post(&mut authority, &relays[0], end + 21, in_time).unwrap_err();
    assert_eq!(kind, ErrorKind::Expired);
    assert!(reason.contains("make a new one with mizzle-relay key certify"), "{reason}");
    // Renewed, it is back.
    assert_eq!(post(&mut authority, &relays[0], end + 22, end + 22), Ok(()));
    answer(&mut authority, at(end + 22), &[]);
    run(&mut authority, at(end + 42), &[]);
    assert!(authority.document().unwrap().consensus.relay(relays[0].id()).is_some());
}

#[test]
fn a_stranger_that_is_reached_nowhere_and_announces_the_subnets_of_all_unlists_nobody() {
    let (mut authority, relays) = network();
    let mut stranger = Relay::new(99, RelayKind::Mix);
    stranger.address = SocketAddr::from(([127, 1, 9, 9], NOBODY));
    stranger.others = (2..=8).map(|net| SocketAddr::from(([127, net, 9, 9], NOBODY))).collect();
    stranger.post(&mut authority, at(2), 0).unwrap();
    answer(&mut authority, at(2), &[]);
    assert_nobody_moved(&mut authority, &relays, &[]);
    assert_eq!(why_not(&authority, &stranger), Some("connection refused"));
}

#[test]
fn a_stranger_that_runs_is_tied_only_by_the_address_where_it_was_reached() {
    let (mut authority, relays) = network();
    let mut stranger = Relay::new(99, RelayKind::Mix);
    stranger.others = relays[..7].iter().map(|relay| relay.address).collect();
    stranger.others.iter_mut().for_each(|address| address.set_port(NO_ROUTE));
    stranger.post(&mut authority, at(2), 0).unwrap();
    answer(&mut authority, at(2), &[]);
    assert_nobody_moved(&mut authority, &relays, &[]);
    let listed = authority.document().unwrap().consensus.relay(stranger.id()).unwrap();
    assert_eq!(listed.addresses, [stranger.address]);
}

#[test]
fn who_is_reached_in_many_subnets_is_listed_in_the_first_of_each_kind() {
    let (mut authority, relays) = network();
    let mut stranger = Relay::new(99, RelayKind::Mix);
    stranger.others = (1..=4).map(|net| SocketAddr::from(([127, net, 9, 9], 7000))).collect();
    let same: SocketAddr = "127.99.7.7:7000".parse().unwrap();
    let ipv6: [SocketAddr; 3] =
        ["[2001:db8::1]:1", "[2001:db9::1]:1", "[2001:db8::2]:1"].map(|address| address.parse().unwrap());
    stranger.others.insert(0, same);
    stranger.others.splice(0..0, [ipv6[0]]);
    stranger.others.truncate(5);
    stranger.others.extend([ipv6[1], ipv6[2]]);
    stranger.post(&mut authority, at(2), 0).unwrap();
    answer(&mut authority, at(2), &[]);
    assert_nobody_moved(&mut authority, &relays, &[]);
    let listed = authority.document().unwrap().consensus.relay(stranger.id()).unwrap();
    assert_eq!(listed.addresses, [stranger.address, ipv6[0], same, ipv6[2]]);
}

#[test]
fn newcomers_of_the_families_that_stand_in_the_subnets_of_others_tie_nobody_together() {
    let (mut authority, relays) = network();
    let layer = |authority: &Authority, relay: &Relay| authority.layers[&Period(0)].get(&relay.id()).copied();
    let mut strangers = Vec::new();
    let pairs: [(u8, u8); 8] = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (0, 3)];
    for (number, (one, other)) in (100..).zip(pairs) {
        let mut stranger = Relay::new(number, RelayKind::Mix);
        stranger.address = SocketAddr::from(([127, one + 1, 9, 9], 7000));
        stranger.family = relays[usize::from(other)].family;
        stranger.post(&mut authority, at(2), 0).unwrap();
        strangers.push((stranger, &relays[usize::from(one)], &relays[usize::from(other)]));
    }
    answer(&mut authority, at(2), &[]);
    assert_nobody_moved(&mut authority, &relays, &[]);
    let mut excluded = 0;
    for (stranger, one, other) in &strangers {
        if layer(&authority, one) == layer(&authority, other) {
            assert_eq!(layer(&authority, stranger), layer(&authority, one));
            continue;
        }
        excluded += 1;
        assert!(why_not(&authority, stranger).unwrap().contains("must not tie together"));
        let status = authority.status(at(662)).find(|status| status.id == stranger.id()).unwrap();
        assert!(!status.listed && status.reason.unwrap().contains("must not tie together"));
    }
    assert!(excluded >= 7);
}

#[test]
fn a_relay_that_moves_every_epoch_and_is_of_another_family_each_time_moves_nobody_else() {
    let (mut authority, relays) = network();
    let before = roles(&authority, &relays);
    let mut stranger = Relay::new(99, RelayKind::Mix);
    for step in 0..20_u8 {
        let now = at(2 + 20 * u64::from(step));
        stranger.address = SocketAddr::from(([127, step % 9 + 1, 9, 9], 7000));
        stranger.family = relays[usize::from(step * 5 % 9)].family;
        stranger.post(&mut authority, now, 0).unwrap();
        answer(&mut authority, now, &[]);
        assert_eq!(run(&mut authority, now + Duration::from_secs(19), &[]).len(), 1);
        assert_eq!(roles(&authority, &relays), before);
    }
}

#[test]
fn an_entry_in_the_family_of_an_exit_is_left_out_and_the_exit_stays() {
    let (mut authority, relays) = network();
    let exit = relays.iter().find(|relay| relay.kind == RelayKind::Exit).unwrap();
    let mut dead = Relay::new(98, RelayKind::Entry);
    dead.address.set_port(NOBODY);
    dead.family = exit.family;
    // The smallest identity of all is no standing either.
    let mut living: Vec<_> = (100..110).map(|number| Relay::new(number, RelayKind::Entry)).collect();
    for stranger in living.iter_mut().chain([&mut dead]) {
        stranger.family = exit.family;
        stranger.post(&mut authority, at(2), 0).unwrap();
    }
    answer(&mut authority, at(2), &[]);
    assert_nobody_moved(&mut authority, &relays, &[]);
    assert_eq!(why_not(&authority, &dead), Some("connection refused"));
    for stranger in &living {
        assert!(why_not(&authority, stranger).unwrap().contains("its family has exits"));
    }
}

#[test]
fn who_was_away_has_its_family_again_when_it_returns_also_after_a_restart() {
    let (mut authority, relays) = network();
    let exit = relays.iter().find(|relay| relay.kind == RelayKind::Exit).unwrap();
    let mut stranger = Relay::new(99, RelayKind::Entry);
    stranger.family = exit.family;
    stranger.post(&mut authority, at(2), 0).unwrap();
    answer(&mut authority, at(2), &[]);
    run(&mut authority, at(21), &[exit.id()]);
    assert!(roles(&authority, std::slice::from_ref(&stranger))[0].is_some());
    let mut all = relays.clone();
    all.push(stranger.clone());
    let mut again = Authority::new(settings(13), at(25), restore(&authority, &all, at(2))).unwrap();
    answer(&mut again, at(25), &[]);
    run(&mut again, at(41), &[]);
    assert!(roles(&again, std::slice::from_ref(exit))[0].is_some());
    assert!(why_not(&again, &stranger).unwrap().contains("its family has exits"));
}

#[test]
fn a_network_without_stored_standings_knows_its_members_from_its_last_document() {
    let (authority, relays) = network();
    let exit = relays.iter().find(|relay| relay.kind == RelayKind::Exit).unwrap();
    let mut restored = restore(&authority, &relays, at(1));
    restored.standings.clear();
    // Its identity comes before that of the exit.
    let mut stranger = (100..=255)
        .map(|number| Relay::new(number, RelayKind::Entry))
        .find(|relay| relay.id() < exit.id())
        .unwrap();
    stranger.family = exit.family;
    restored.descriptors.push(stranger.describe(at(2), 0));
    restored.descriptors.sort_by_key(|descriptor| descriptor.relay);
    let mut again = Authority::new(settings(13), at(5), restored).unwrap();
    answer(&mut again, at(5), &[]);
    run(&mut again, at(21), &[]);
    assert!(roles(&again, std::slice::from_ref(exit))[0].is_some());
    assert!(why_not(&again, &stranger).unwrap().contains("its family has exits"));
}
