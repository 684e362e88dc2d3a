//! Diffs lead from one document to another, byte by byte, or nowhere. (spec: DOC-14)

use super::super::diff::{Change, Diff, Place};
use super::*;

/// The document after [`consensus`]: a new weight, a key period later, one relay gone, one come, one moved.
fn next() -> Consensus {
    let before = consensus();
    let mut next = Consensus {
        epoch: Epoch(4),
        previous: Some(Signed::new(&before).hash()),
        valid_after: before.fresh_until,
        fresh_until: before.fresh_until + before.parameters.epoch,
        valid_until: before.fresh_until + before.parameters.epoch * 3,
        pool: None,
        later: BTreeMap::from([(1_001, vec![5])]),
        ..before
    };
    next.relays[0].weight += 1;
    for at in &mut next.relays[1].periods {
        at.period = Period(at.period.0 + 1);
    }
    let shifted: Vec<_> = next.relays[2].periods.drain(1..).collect();
    next.relays[2].periods = shifted;
    next.relays[3].addresses.pop();
    next.relays.remove(4);
    next.relays.push(listed(9, Role::Exit));
    next.not_running = vec![
        NotRunning { id: RelayId([5; 32]), reason: "it rests".into() },
        NotRunning { id: RelayId([6; 32]), reason: "no answer yet".into() },
    ];
    next
}

fn hash(document: &Consensus) -> DocumentHash {
    Signed::new(document).hash()
}

fn between(old: &Consensus, new: &Consensus) -> Diff {
    let authority = Authority::new(1);
    let diff = Diff::between(old, hash(old), new, &signed(new, &[&authority]));
    assert_eq!(Diff::from_bytes(&diff.to_bytes()).as_ref(), Ok(&diff));
    diff
}

#[test]
fn a_diff_leads_to_the_very_bytes_of_the_next_document_and_its_signatures() {
    let authority = Authority::new(1);
    let (old, new) = (consensus(), next());
    let applied = between(&old, &new).apply(&old, hash(&old)).unwrap();
    assert_eq!(applied, signed(&new, &[&authority]));
    let now = new.valid_after.instant();
    assert_eq!(take(&applied.to_bytes(), &[&authority], 1, now), Ok(new));
}

#[test]
fn what_changes_at_every_epoch_takes_some_bytes_for_each_relay() {
    let old = Consensus { relays: (0..200).map(|id| listed(id, Role::Mix(1))).collect(), ..consensus() };
    let mut new = old.clone();
    let same = between(&old, &new).to_bytes().len();
    new.relays.iter_mut().for_each(|relay| relay.weight += 1);
    let weights = between(&old, &new).to_bytes().len() - same;
    assert!(weights <= 200 * 9, "{weights}");
    // A period goes, one comes: its key and little else.
    for relay in &mut new.relays {
        relay.periods.remove(0);
        relay.periods.push(RelayPeriod { period: Period(3), ..relay.periods[0].clone() });
    }
    let periods = between(&old, &new).to_bytes().len() - same;
    assert!(periods <= 200 * 55, "{periods}");
    assert!(periods < Signed::new(&new).to_bytes().len() / 3);
}

#[test]
fn a_diff_from_another_document_or_with_a_false_promise_leads_nowhere() {
    let (old, new) = (consensus(), next());
    let diff = between(&old, &new);
    let wrong = |result: Result<Signed>| {
        assert_eq!(result.unwrap_err().fault(), Some(DocumentFault::WrongDiff));
    };
    wrong(diff.apply(&new, hash(&new)));
    // The hash of the right one, and the content of another.
    wrong(diff.apply(&new, hash(&old)));
    let other = Diff { to: DocumentHash([1; 32]), ..diff.clone() };
    wrong(other.apply(&old, hash(&old)));
    for place in [4, 5, MAX_RELAYS - 1] {
        let mut beyond = diff.clone();
        beyond.relays_gone = vec![Place(place)];
        if place > 4 {
            wrong(beyond.apply(&old, hash(&old)));
        }
        let mut change = diff.clone();
        change.relays_changed.push(Change { place: Place(place), weight: Some(1), periods: None });
        wrong(change.apply(&old, hash(&old)));
    }
}

#[test]
fn a_diff_that_would_grow_the_list_beyond_all_bounds_leads_nowhere() {
    let old = consensus();
    let id = |number: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        RelayId(id)
    };
    // With as many as a diff may tell whole beside the one that stays, and with one less.
    for (more, leads) in [(MAX_RELAYS, false), (MAX_RELAYS - 1, true)] {
        let mut grown = next();
        let whole = (0..more).map(|number| NotRunning { id: id(number), reason: String::new() });
        grown.not_running = whole.chain(old.not_running.clone()).collect();
        let applied = between(&old, &grown).apply(&old, hash(&old));
        assert_eq!(
            applied.map_err(|error| error.fault()).err(),
            (!leads).then_some(Some(DocumentFault::WrongDiff))
        );
    }
}

#[test]
fn every_altered_bit_of_a_diff_is_refused_or_leads_nowhere_or_to_the_same_document() {
    let authority = Authority::new(1);
    let (old, new) = (consensus(), next());
    let (good, bytes) = (signed(&new, &[&authority]), between(&old, &new).to_bytes());
    let mut reasons = BTreeMap::<_, u32>::new();
    for position in 0..bytes.len() * 8 {
        let mut altered = bytes.clone();
        altered[position / 8] ^= 1 << (position % 8);
        let applied = Diff::from_bytes(&altered).and_then(|diff| diff.apply(&old, hash(&old)));
        match applied {
            Err(error) => *reasons.entry(error.fault()).or_default() += 1,
            Ok(signed) => {
                assert_eq!(signed.hash(), good.hash(), "bit {position}");
                // Another signature is none.
                let taken = take(&signed.to_bytes(), &[&authority], 1, new.valid_after.instant());
                assert_eq!(taken.is_ok(), signed == good, "bit {position}");
            }
        }
    }
    assert!(reasons[&Some(DocumentFault::WrongDiff)] > 1_000, "{reasons:?}");
}

#[test]
fn a_diff_with_relays_in_its_head_or_of_another_format_is_none() {
    let diff = between(&consensus(), &next());
    let full = Diff { head: consensus(), ..diff.clone() };
    assert_eq!(Diff::from_bytes(&full.to_bytes()).unwrap_err().kind(), ErrorKind::Malformed);
    let mut bytes = diff.to_bytes();
    bytes[2] = 2;
    assert_eq!(Diff::from_bytes(&bytes).unwrap_err().fault(), Some(DocumentFault::OtherFormat));
}

prop_compose! {
    fn any_lists()(
        relays in prop::collection::btree_map(0u8..12, any_relay(), 0..8),
        reasons in prop::collection::btree_map(0u8..12, "[a-z]{0,3}", 0..8),
    ) -> (Vec<ListedRelay>, Vec<NotRunning>) {
        let id = |number: u8| RelayId([number; 32]);
        (
            relays.into_iter().map(|(number, relay)| ListedRelay { id: id(number), ..relay }).collect(),
            reasons.into_iter().map(|(number, reason)| NotRunning { id: id(number), reason }).collect(),
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_diff_between_any_two_documents_leads_from_one_to_the_other(
        (old, new, mixed) in (any_lists(), any_lists(), any::<u16>()),
        (weight, parameters) in (any::<u32>(), any_parameters()),
    ) {
        let of = |(relays, not_running): (Vec<_>, Vec<_>)| Consensus { relays, not_running, ..consensus() };
        let old = of(old);
        let mut new = of(new);
        // Half of the relays stay, some with another weight or fewer periods: what happens most.
        new.relays.retain(|relay| !old.relays.iter().any(|known| known.id == relay.id));
        for (index, relay) in old.relays.iter().enumerate().filter(|(index, _)| mixed >> index & 1 == 1) {
            let mut relay = relay.clone();
            if mixed >> (index + 8) & 1 == 1 {
                relay.weight = weight;
                let last = relay.periods.len().max(2) - 1;
                relay.periods.truncate(last);
            }
            new.relays.push(relay);
        }
        new.relays.sort_by_key(|relay| relay.id);
        new.fresh_until = new.valid_after + parameters.epoch;
        new.valid_until = new.valid_after + parameters.epoch * 3;
        new.parameters = parameters;
        let authority = Authority::new(1);
        let applied = between(&old, &new).apply(&old, hash(&old)).unwrap();
        prop_assert_eq!(applied, signed(&new, &[&authority]));
    }

    #[test]
    fn no_bytes_make_a_diff_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Diff::from_bytes(&bytes).is_err());
    }

    #[test]
    fn altered_diffs_never_lead_elsewhere(changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4)) {
        let (old, new) = (consensus(), next());
        let mut bytes = between(&old, &new).to_bytes();
        for (position, byte) in changes {
            let index = position.index(bytes.len());
            bytes[index] = byte;
        }
        if let Ok(signed) = Diff::from_bytes(&bytes).and_then(|diff| diff.apply(&old, hash(&old))) {
            prop_assert_eq!(signed.hash(), hash(&new));
        }
    }
}
