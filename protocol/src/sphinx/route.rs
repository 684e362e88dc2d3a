//! Headers, from the last hop to the first, at the cost of one X25519 a hop.
//!
//! Hop i shares with the sender the secret (x · b₁ ⋯ bᵢ₋₁) · Pᵢ, where x is the packet's secret, b are the
//! clamped blinding scalars of the hops before, and Pᵢ is its key. Taken one factor at a time this needs i
//! ladders for hop i, quadratic in all. The product can be taken first, modulo the order ℓ of the group, but
//! what comes out is no clamped scalar, and X25519 clamps what it is given.
//!
//! Hence the multiplier. All factors are multiples of 8, so the product is 8t, and X25519 sees only the first
//! coordinate, so 8t and −8t are as good. Of 8t and 8(ℓ − t), with t reduced, one is always clamped already:
//! ℓ is a little more than 2²⁵², so one of t and ℓ − t lies in 2²⁵¹ .. 2²⁵², but for a chance of 2⁻¹²⁶. As
//! both are multiples of 8, a low-order part of a key vanishes as it does step by step.
//!
//! This needs keys on the curve: those of the twist have another order, and no secret.

use super::Hop;
use super::header::{ELEMENT, FINAL_SIZE, MAC, ROUTING, ROUTING_SIZE, Routing, STEP};
use super::keys::{HopKeys, MAC_SIZE};
use super::x25519::Backend;
use crate::geometry::{HEADER_SIZE, MAX_HOPS};
use crate::id::ReplyId;
use crate::secret::Secret;
use crate::{Error, ErrorKind, Result};
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use rand_core::CryptoRng;
use subtle::{Choice, ConditionallySelectable};
use zeroize::Zeroizing;

/// The keys of a route's hops, in order, and how many there are.
pub(super) struct RouteKeys {
    keys: [HopKeys; MAX_HOPS],
    hops: usize,
}

impl RouteKeys {
    /// The hops' keys, first to last.
    pub(super) fn hops(&self) -> &[HopKeys] {
        &self.keys[..self.hops]
    }
}

/// Writes a header for `hops`, with a fresh secret and fresh padding, and gives the keys of its hops.
///
/// `header` is [`HEADER_SIZE`] bytes. The padding at the last hop is random: zeros would tell it how long the
/// route was (Kuhn et al., "Breaking and (Partially) Fixing Provably Secure Onion Routing", 2020).
pub(super) fn write_header(
    hops: &[Hop],
    reply: ReplyId,
    rng: &mut impl CryptoRng,
    header: &mut [u8; HEADER_SIZE],
) -> Result<RouteKeys> {
    let Some(last) = hops.last().filter(|_| hops.len() <= MAX_HOPS) else {
        return Err(Error::new(ErrorKind::Misuse, "a route has one to five hops"));
    };
    let mut secret = Zeroizing::new([0; 32]);
    rng.fill_bytes(secret.as_mut());
    header[ELEMENT].copy_from_slice(&Backend::current().public_key(&secret));
    let route = derive(hops, &secret)?;
    let keys = route.hops();

    // What each hop but the last appends, as the last will see it.
    let mut filler = [0; ROUTING_SIZE];
    let filled = STEP * (hops.len() - 1);
    for (hop, keys) in keys[..hops.len() - 1].iter().enumerate() {
        keys.apply_filler(hop, &mut filler);
    }

    let mut mac = [0; MAC_SIZE];
    let routing = &mut header[ROUTING];
    for (hop, keys) in keys.iter().enumerate().rev() {
        match hops.get(hop + 1) {
            None => {
                let (own, appended) = routing.split_at_mut(ROUTING_SIZE - filled);
                Routing::write_final(own, &last.address, reply);
                rng.fill_bytes(&mut own[FINAL_SIZE..]);
                keys.apply_stream(own);
                appended.copy_from_slice(&filler[..filled]);
            }
            Some(next) => {
                routing.copy_within(..ROUTING_SIZE - STEP, STEP);
                Routing::write_forward(routing, &next.address, hops[hop].delay);
                routing[STEP - MAC_SIZE..STEP].copy_from_slice(&mac);
                keys.apply_stream(routing);
            }
        }
        mac = keys.mac(routing);
    }
    header[MAC].copy_from_slice(&mac);
    Ok(route)
}

/// The keys that `secret` shares with each hop.
fn derive(hops: &[Hop], secret: &[u8; 32]) -> Result<RouteKeys> {
    let backend = Backend::current();
    let mut keys: [HopKeys; MAX_HOPS] = Default::default();
    let mut product = Zeroizing::new(eighth(secret));
    for (keys, hop) in keys.iter_mut().zip(hops) {
        let multiplier = multiplier(&product).ok_or_else(|| {
            Error::new(ErrorKind::Exhausted, "no multiplier for this packet: build it again")
        })?;
        let shared = backend
            .shared_secret(multiplier.expose(), hop.key.as_bytes())
            .ok_or_else(|| Error::new(ErrorKind::Misuse, "the key of a hop is of low order"))?;
        *keys = HopKeys::derive(&shared)?;
        let blinding = Zeroizing::new(Scalar::from_bytes_mod_order(clamp_integer(*keys.blinding())));
        *product *= &*blinding;
    }
    Ok(RouteKeys { keys, hops: hops.len() })
}

/// The clamped scalar divided by 8, which its three low zero bits make exact.
fn eighth(scalar: &[u8; 32]) -> Scalar {
    let clamped = Zeroizing::new(clamp_integer(*scalar));
    let mut eighth = Zeroizing::new([0; 32]);
    let above = clamped.iter().skip(1).chain([&0]);
    for ((byte, low), high) in eighth.iter_mut().zip(clamped.iter()).zip(above) {
        *byte = low >> 3 | high << 5;
    }
    Scalar::from_bytes_mod_order(*eighth)
}

/// The clamped scalar that is 8t or −8t modulo the order; `None` for one t in 2¹²⁶.
fn multiplier(t: &Scalar) -> Option<Secret<32>> {
    let minus = Zeroizing::new(-t);
    let bit_251 = Choice::from(t.as_bytes()[31] >> 3 & 1);
    let chosen = Zeroizing::new(Scalar::conditional_select(&minus, t, bit_251));
    let mut scalar = Zeroizing::new([0; 32]);
    let mut carry = 0;
    for (byte, eighth) in scalar.iter_mut().zip(chosen.as_bytes()) {
        *byte = eighth << 3 | carry;
        carry = eighth >> 5;
    }
    (scalar[31] & 0xc0 == 0x40).then(|| Secret::new(*scalar))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multiplier_is_clamped_and_stands_for_eight_times_its_number() {
        let mut t = Scalar::from_bytes_mod_order([0x5b; 32]);
        let eight = Scalar::from(8u8);
        let mut negated = 0;
        for _ in 0..1000 {
            t = t * t + Scalar::ONE;
            let scalar = multiplier(&t).unwrap();
            assert_eq!(clamp_integer(*scalar.expose()), *scalar.expose());
            let value = Scalar::from_bytes_mod_order(*scalar.expose());
            negated += usize::from(value == -(eight * t));
            assert!(value == eight * t || value == -(eight * t));
        }
        assert!((300..700).contains(&negated), "{negated} of 1000 were negated");
    }

    #[test]
    fn numbers_without_a_multiplier_are_noticed() {
        // 2^252 and its negative, which is as small as the order exceeds 2^252.
        let mut bytes = [0; 32];
        bytes[31] = 0x10;
        let t = Scalar::from_bytes_mod_order(bytes);
        assert!(multiplier(&t).is_none());
        assert!(multiplier(&-t).is_none());
        assert!(multiplier(&Scalar::ZERO).is_none());
    }

    #[test]
    fn an_eighth_times_eight_is_the_clamped_scalar() {
        for seed in 0..=255 {
            let clamped = clamp_integer([seed; 32]);
            assert_eq!(eighth(&[seed; 32]) * Scalar::from(8u8), Scalar::from_bytes_mod_order(clamped));
        }
    }
}
