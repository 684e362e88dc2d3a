//! A peer's key in a handshake, and the file that says which network it is.

use crate::bytes::{Seed, seed};
use crate::raw_key;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{DecodePublicKey, EncodePublicKey};
use mizzle_link::{AuthorityEntry, MirrorEntry, NetworkFile};
use mizzle_protocol::id::{AuthorityId, RelayId};

/// The key that a peer shows: 44 bytes that another implementation writes alike.
pub fn raw_key(bytes: &[u8]) {
    let ours = raw_key::read(bytes);
    if let Ok(theirs) = ed25519_dalek::VerifyingKey::from_public_key_der(bytes) {
        assert!(ours.is_some_and(|id| id.0 == theirs.to_bytes()), "a key that others read is refused");
        assert!(theirs.to_public_key_der().is_ok_and(|written| written.as_bytes() == bytes));
    }
    if let Some(id) = ours {
        assert!(bytes.len() == 44 && bytes.ends_with(&id.0));
    }
}

/// The network file, which people take from others. Its ids have one form, but for the case of their letters.
pub fn network_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(id) = RelayId::from_hex(text) {
        assert!(id.to_hex() == text.trim().to_ascii_lowercase(), "an identity has two encodings");
    }
    let Ok(file) = NetworkFile::parse(text) else { return };
    assert!((1..=file.authorities.len()).contains(&file.threshold) && (1..=64).contains(&file.name.len()));
    let written = file.to_toml().unwrap_or_else(|error| panic!("a network file cannot be written: {error}"));
    assert!(NetworkFile::parse(&written).is_ok_and(|again| again == file), "a network file changes");
    for id in file.authorities.iter().map(|authority| authority.id.to_hex()) {
        assert!(text.to_ascii_lowercase().contains(&id), "an identity that the file does not name");
    }
}

pub(crate) fn raw_key_seeds() -> Vec<Seed> {
    let key = SigningKey::from_bytes(&[1; 32]).verifying_key().to_public_key_der().unwrap();
    let key = key.as_bytes();
    vec![
        seed("key", &[key]),
        seed("with_parameters", &[&[0x30, 0x2c, 0x30, 7, 6, 3, 0x2b, 0x65, 0x70, 5, 0], &key[9..]]),
        seed("another_algorithm", &[&key[..8], &[0x6e], &key[9..]]),
        seed("longer", &[key, &[0]]),
        seed("shorter", &[&key[..43]]),
    ]
}

pub(crate) fn network_file_seeds() -> Vec<Seed> {
    let authority =
        |id: u8| AuthorityEntry { id: AuthorityId([id; 32]), address: "127.1.0.1:7000".parse().unwrap() };
    let file = NetworkFile {
        name: "local".to_owned(),
        threshold: 2,
        open_exits: true,
        authorities: vec![authority(1), authority(0xab)],
        mirrors: vec![MirrorEntry { id: RelayId([2; 32]), address: "[::1]:7000".parse().unwrap() }],
    };
    let text = file.to_toml().unwrap();
    vec![
        seed("network", &[text.as_bytes()]),
        seed("in_capitals", &[text.replace("abab", "ABAB").as_bytes()]),
        seed("threshold", &[text.replace("threshold = 2", "threshold = 3").as_bytes()]),
        seed("twice", &[text.replace("abab", "0101").as_bytes()]),
        seed("unknown_key", &[b"exits = true\n", text.as_bytes()]),
        seed("identity", &[RelayId([0x5a; 32]).to_hex().as_bytes()]),
        // Once taken: a sign is part of a number to Rust, but no hexadecimal digit.
        seed("identity_with_signs", &["+1".repeat(32).as_bytes()]),
    ]
}
