//! Each fault of a document is told apart from the others. (spec: DOC-12, DOC-13)

use super::*;

fn fault(result: Result<Consensus>) -> Option<DocumentFault> {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), error.fault().map_or(ErrorKind::Malformed, DocumentFault::kind));
    error.fault()
}

/// A body that this authority has signed, whatever it is.
fn signed_body(authority: &Authority, body: Vec<u8>) -> Result<Consensus> {
    let envelope =
        Signed::with_body_for_tests(body, authority.id(), |message| authority.0.sign(message).to_bytes());
    take(&envelope.to_bytes(), &[authority], 1, now())
}

#[test]
fn each_fault_has_an_error_of_its_own_and_a_sentence_of_its_own() {
    let (one, two, stranger) = (Authority::new(1), Authority::new(2), Authority::new(9));
    let document = consensus();
    let check = |document: &Consensus, now| {
        fault(take(&signed(document, &[&one]).to_bytes(), &[&one], 1, now)).unwrap()
    };
    let body = super::super::cbor::encode(&document);
    let with_field = |key: &[u8], value: &[u8]| [&[0xb1], &body[1..], key, value].concat();
    let future = ProtocolNumber { protocol: 2, version: 9 };
    let next = Consensus { epoch: Epoch(4), previous: None, ..consensus() };
    let held_hash = Signed::new(&document).hash();
    let follows = |other: &Consensus| {
        let error = other.check_follows(Signed::new(other).hash(), &document, held_hash).unwrap_err();
        error.fault().unwrap()
    };
    let mut twice = signed(&document, &[&one]).to_bytes();
    let signature = twice.split_off(twice.len() - 101);
    *twice.last_mut().unwrap() = 0x82;
    let twice = [twice, signature.clone(), signature].concat();
    let mut wrong = signed(&document, &[&one]);
    wrong.sign(two.id(), |_| [0; 64]);
    let long_method = [&body[..4], &[0x18, 0x01], &body[5..]].concat();
    let mut other_format = body.clone();
    other_format[2] = 2;
    let found = [
        ("rollback", follows(&Consensus { epoch: Epoch(2), ..consensus() })),
        ("fork", follows(&Consensus { method: 2, ..consensus() })),
        ("broken-chain", follows(&next)),
        ("future", check(&document, document.valid_after.instant() - Duration::from_secs(3_600))),
        ("expired", check(&document, document.valid_until.instant())),
        (
            "too-few-signers",
            fault(take(&signed(&document, &[&one, &stranger]).to_bytes(), &[&one, &two], 2, now())).unwrap(),
        ),
        ("duplicate-signer", fault(take(&twice, &[&one], 1, now())).unwrap()),
        ("wrong-signature", fault(take(&wrong.to_bytes(), &[&one, &two], 1, now())).unwrap()),
        ("unknown-field", fault(signed_body(&one, with_field(&[0x10], &[0x00]))).unwrap()),
        ("not-canonical", fault(signed_body(&one, long_method)).unwrap()),
        ("other-network", check(&Consensus { network: "public".into(), ..consensus() }, now())),
        ("other-format", fault(signed_body(&one, other_format)).unwrap()),
        ("not-spoken", check(&Consensus { required: vec![future], ..consensus() }, now())),
    ];
    let mut sentences = BTreeSet::new();
    for (label, fault) in found {
        assert_eq!(fault.label(), label);
        assert!(sentences.insert(crate::Error::from(fault).to_string()), "{label} says what another says");
    }
    assert!(crate::Error::from(DocumentFault::NotSpoken(future)).to_string().contains("packet/9"));
}

#[test]
fn what_does_not_hold_demands_nothing() {
    let authority = Authority::new(1);
    let future = ProtocolNumber { protocol: 2, version: 9 };
    let document = Consensus { required: vec![future], ..consensus() };
    let bytes = signed(&document, &[&authority]).to_bytes();
    let ended = take(&bytes, &[&authority], 1, document.valid_until.instant());
    assert_eq!(fault(ended), Some(DocumentFault::Expired));
}

#[test]
fn fields_of_later_versions_are_passed_over_and_kept_as_they_came() {
    let authority = Authority::new(1);
    let later = BTreeMap::from([(1_000, vec![1, 2, 3]), (70_000, Vec::new())]);
    let document = Consensus { later, ..consensus() };
    let bytes = signed(&document, &[&authority]).to_bytes();
    assert_eq!(take(&bytes, &[&authority], 1, now()), Ok(document.clone()));
    // Fewer bytes than a build that knows neither would need to tell documents apart: they are part of the hash.
    assert_ne!(Signed::new(&document).hash(), Signed::new(&consensus()).hash());
}

#[test]
fn only_so_many_later_fields_are_passed_over_each_of_bytes_and_of_a_bounded_size() {
    let authority = Authority::new(1);
    let with = |later: BTreeMap<u64, Vec<u8>>| {
        let document = Consensus { later, ..consensus() };
        take(&signed(&document, &[&authority]).to_bytes(), &[&authority], 1, now()).map(|_| ())
    };
    let fields = |count: u64| (1_000..1_000 + count).map(|key| (key, vec![7])).collect();
    assert_eq!(with(fields(Consensus::LATER_FIELDS as u64)), Ok(()));
    assert!(with(fields(Consensus::LATER_FIELDS as u64 + 1)).is_err());
    let of_size = |size| BTreeMap::from([(1_000, vec![0; size])]);
    assert_eq!(with(of_size(Consensus::LATER_FIELD_SIZE)), Ok(()));
    assert!(with(of_size(Consensus::LATER_FIELD_SIZE + 1)).is_err());
    // The last key below is one that must be understood, and what is there is a byte string.
    assert_eq!(
        with(BTreeMap::from([(999, vec![7])])).unwrap_err().fault(),
        Some(DocumentFault::UnknownField)
    );
    let body = super::super::cbor::encode(&consensus());
    let number = [&[0xb1], &body[1..], &[0x19, 0x03, 0xe8, 0x07]].concat();
    assert_eq!(fault(signed_body(&authority, number)), None);
}
