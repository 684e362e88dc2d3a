//! Ids and signatures as hexadecimal digits in files, for serde's `with`.

use mizzle_protocol::id::{AuthorityId, FamilyId, RelayId, from_hex, to_hex};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

/// What a file shows as digits.
pub(crate) trait Digits: Sized {
    fn bytes(&self) -> &[u8];
    fn from_digits(text: &str) -> mizzle_protocol::Result<Self>;
}

macro_rules! digits_of_id {
    ($($name:ident),*) => {$(
        impl Digits for $name {
            fn bytes(&self) -> &[u8] {
                &self.0
            }

            fn from_digits(text: &str) -> mizzle_protocol::Result<Self> {
                from_hex(text).map(Self)
            }
        }
    )*};
}

digits_of_id!(AuthorityId, FamilyId, RelayId);

impl<const N: usize> Digits for [u8; N] {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn from_digits(text: &str) -> mizzle_protocol::Result<Self> {
        from_hex(text)
    }
}

pub(crate) fn serialize<S: Serializer>(value: &impl Digits, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&to_hex(value.bytes()))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: Digits>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    T::from_digits(&text).map_err(D::Error::custom)
}
