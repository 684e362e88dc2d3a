//! X25519 (RFC 7748) behind one function, by the fastest implementation that this processor allows.
//!
//! Two implementations are known: graviola (assembler of s2n-bignum, formally verified, for x86-64 processors
//! with AVX2 and ADX and for aarch64) and curve25519-dalek (portable). Both clamp the scalar, ignore bit 255 of
//! the point, reduce what is not canonical, and take points of the twist, so that packets do not depend on
//! which one ran. graviola would panic on a processor that lacks what it needs: a [`Backend`] exists only
//! where it can run.

use crate::secret::Secret;
use curve25519_dalek::{EdwardsPoint, MontgomeryPoint};
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use subtle::ConstantTimeEq;

/// One implementation, which this processor can run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Backend(Kind);

impl Backend {
    /// The implementation that packets use: the fastest, unless [`Self::force`] chose another.
    pub fn current() -> Self {
        match CURRENT.load(Ordering::Relaxed) {
            DALEK => Self::dalek(),
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            GRAVIOLA => Self(Kind::Graviola),
            _ => {
                let fastest = Self::graviola().unwrap_or(Self::dalek());
                fastest.force();
                fastest
            }
        }
    }

    /// Lets the whole process use this implementation from now on: for tests and measurements.
    pub fn force(self) {
        CURRENT.store(self.0 as u8, Ordering::Relaxed);
    }

    /// All that this processor can run, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::graviola().into_iter().chain([Self::dalek()])
    }

    /// The portable implementation.
    pub fn dalek() -> Self {
        Self(Kind::Dalek)
    }

    /// The fast implementation, where the processor has what it needs.
    pub fn graviola() -> Option<Self> {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if graviola::util::is_cpu_supported() {
            return Some(Self(Kind::Graviola));
        }
        None
    }

    /// Its name, for reports.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Dalek => "dalek",
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            Kind::Graviola => "graviola",
        }
    }

    /// X25519(scalar, point): both 32 bytes as in RFC 7748, section 5. `None` if the result is all zero, which
    /// means that the point is of low order. (spec: PACKET-5)
    pub fn shared_secret(self, scalar: &[u8; 32], point: &[u8; 32]) -> Option<Secret<32>> {
        match self.0 {
            Kind::Dalek => portable_shared_secret(scalar, point),
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            Kind::Graviola => {
                use graviola::key_agreement::x25519::{PublicKey, StaticPrivateKey};
                let shared =
                    StaticPrivateKey::from_array(scalar).diffie_hellman(&PublicKey::from_array(point));
                shared.ok().map(|shared| Secret::new(shared.0))
            }
        }
    }

    /// X25519(scalar, 9): the public key of a secret.
    pub fn public_key(self, scalar: &[u8; 32]) -> [u8; 32] {
        match self.0 {
            Kind::Dalek => EdwardsPoint::mul_base_clamped(*scalar).to_montgomery().to_bytes(),
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            Kind::Graviola => {
                use graviola::key_agreement::x25519::StaticPrivateKey;
                StaticPrivateKey::from_array(scalar).public_key().as_bytes()
            }
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// True for a point that can be the public key of a secret: on the curve, and not of low order. (spec: PACKET-3)
pub fn is_public_key(point: &[u8; 32]) -> bool {
    MontgomeryPoint(*point).to_edwards(0).is_some_and(|point| !point.is_small_order())
}

/// On the curve, the way over its Edwards form is faster than the Montgomery ladder, which makes no use of AVX2.
/// Points of the twist have no such form. Which of the two a point is depends on the packet alone, so the branch
/// tells nothing about the key.
fn portable_shared_secret(scalar: &[u8; 32], point: &[u8; 32]) -> Option<Secret<32>> {
    let point = MontgomeryPoint(*point);
    let shared = match point.to_edwards(0) {
        Some(point) => point.mul_clamped(*scalar).to_montgomery(),
        None => point.mul_clamped(*scalar),
    };
    let shared = Secret::new(shared.to_bytes());
    let zero = bool::from(shared.expose().ct_eq(&[0; 32]));
    (!zero).then_some(shared)
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Dalek = DALEK,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    Graviola = GRAVIOLA,
}

/// The implementation in use; [`UNDECIDED`] until the first packet.
static CURRENT: AtomicU8 = AtomicU8::new(UNDECIDED);

const UNDECIDED: u8 = 0;
const DALEK: u8 = 1;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const GRAVIOLA: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_low_order_give_no_secret() {
        // RFC 7748: u of order 1, 2 and 4, and the same without reduction.
        let mut minus_one = [0xff; 32];
        minus_one[0] = 0xec;
        minus_one[31] = 0x7f;
        let mut order = [0xff; 32];
        order[0] = 0xed;
        order[31] = 0x7f;
        let mut one = [0; 32];
        one[0] = 1;
        for backend in Backend::available() {
            for point in [[0; 32], one, minus_one, order] {
                assert!(backend.shared_secret(&[7; 32], &point).is_none(), "{backend:?}");
                assert!(!is_public_key(&point));
            }
        }
    }

    #[test]
    fn implementations_agree_on_points_of_the_curve_and_of_the_twist() {
        let mut twisted = 0;
        for seed in 1..=100 {
            let point = [seed; 32];
            twisted += usize::from(!is_public_key(&point));
            let expected = x25519_dalek::x25519([seed ^ 0x55; 32], point);
            for backend in Backend::available() {
                let shared = backend.shared_secret(&[seed ^ 0x55; 32], &point).unwrap();
                assert_eq!(shared.expose(), &expected, "{backend:?}");
                let public = x25519_dalek::x25519(point, x25519_dalek::X25519_BASEPOINT_BYTES);
                assert_eq!(backend.public_key(&point), public, "{backend:?}");
            }
        }
        assert!((20..80).contains(&twisted));
    }
}
