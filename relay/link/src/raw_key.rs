//! The form in which a peer shows its key in a handshake (RFC 7250).

use mizzle_protocol::id::RelayId;

/// The Ed25519 key in a SubjectPublicKeyInfo (RFC 8410): 12 fixed bytes, then the key. `None` for all else.
pub(crate) fn read(info: &[u8]) -> Option<RelayId> {
    info.strip_prefix(&ED25519_INFO).and_then(|key| RelayId::from_slice(key).ok())
}

const ED25519_INFO: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
