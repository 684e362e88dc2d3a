//! What a relay says of itself.

use super::cbor::{self, Canonical, Reader, Writer, malformed};
use super::envelope::Envelope;
use super::family::FamilyCertificate;
use super::fault::DocumentFault;
use super::load::coarse;
use super::signed::{sign_over, verify_over};
use super::{MAX_ADDRESSES, MAX_NETWORK_NAME, MAX_PROTOCOLS, ProtocolNumber, ordered};
use crate::country::Country;
use crate::id::{Period, RelayId};
use crate::session::ServiceKey;
use crate::sphinx::PublicKey;
use crate::sphinx::x25519::is_public_key;
use crate::time::UnixTime;
use crate::{Error, ErrorKind, Result};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;
use std::str::FromStr;

/// What a relay's operator made it for. Its layer, if it is a mix, is the authorities' to deal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RelayKind {
    /// Holds packets in one of the layers.
    Mix,
    /// A gateway that takes client links.
    Entry,
    /// A gateway that offers services.
    Exit,
}

impl RelayKind {
    /// The kind in files and on pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Mix => "mix",
            Self::Entry => "entry",
            Self::Exit => "exit",
        }
    }
}

impl fmt::Display for RelayKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl FromStr for RelayKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "mix" => Ok(Self::Mix),
            "entry" => Ok(Self::Entry),
            "exit" => Ok(Self::Exit),
            _ => Err(malformed("a role is one of mix, entry, exit")),
        }
    }
}

/// A relay's keys of one period.
#[derive(Clone, Debug, PartialEq)]
pub struct PeriodKeys {
    /// The period.
    pub period: Period,
    /// For packets.
    pub mix: PublicKey,
    /// For sessions; exits only.
    pub service: Option<ServiceKey>,
}

/// A relay's description of itself, signed with its identity.
///
/// Its bytes: a CBOR array of the body and an Ed25519 signature over `mizzle descriptor 1`, a zero byte and
/// the body. (spec: DOC-2)
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    /// The network it wants to serve.
    pub network: String,
    /// Its identity key.
    pub relay: RelayId,
    /// What it is made for.
    pub kind: RelayKind,
    /// Where it listens, best first: one to eight.
    pub addresses: Vec<SocketAddr>,
    /// Keys of the current period and those that follow, in order: one to three.
    pub keys: Vec<PeriodKeys>,
    /// That it is of the family which all relays of one operator share.
    pub family: Option<FamilyCertificate>,
    /// What it speaks, in order.
    pub protocols: Vec<ProtocolNumber>,
    /// Software and version, for people.
    pub software: String,
    /// When it was signed. Of two, the later counts.
    pub published: UnixTime,
    /// Packets per second that it can carry, by its own measure.
    pub announced_rate: u32,
    /// Where its operator says that it is. (spec: COUNTRY-1)
    pub country: Option<Country>,
    /// Packets per second that it has carried lately, [`coarse`](super::coarse); `None` if it has not been long enough
    /// at work to say. (spec: LOAD-1)
    pub carried_rate: Option<u32>,
}

impl Descriptor {
    /// The signed bytes; `sign` makes an Ed25519 signature with the identity key of [`Self::relay`].
    pub fn to_signed_bytes(&self, sign: impl FnOnce(&[u8]) -> [u8; 64]) -> Vec<u8> {
        let body = cbor::encode(self);
        let signature = sign_over(DOMAIN, &body, sign);
        cbor::encode(&Envelope { body, signature })
    }

    /// Parses and verifies the signature, the network, the family and every key; the times are the caller's to
    /// judge.
    ///
    /// [`ErrorKind::Malformed`], [`ErrorKind::Forged`] (also for a family that has not certified it), or [`ErrorKind::Incompatible`] for another format
    /// or network.
    pub fn from_signed_bytes(bytes: &[u8], network: &str) -> Result<Self> {
        let envelope: Envelope = cbor::decode(bytes, MAX_DESCRIPTOR_SIZE)?;
        let descriptor: Self = cbor::decode(&envelope.body, MAX_DESCRIPTOR_SIZE)?;
        if !verify_over(DOMAIN, &envelope.body, &descriptor.relay.0, &envelope.signature) {
            return Err(Error::new(
                ErrorKind::Forged,
                "the descriptor is not signed with the identity it names",
            ));
        }
        if descriptor.network != network {
            return Err(Error::new(ErrorKind::Incompatible, "the descriptor is for another network"));
        }
        if let Some(certificate) = &descriptor.family {
            certificate.verify(network, descriptor.relay)?;
        }
        Ok(descriptor)
    }

    /// The keys of `period`.
    pub fn keys_of(&self, period: Period) -> Option<&PeriodKeys> {
        self.keys.iter().find(|keys| keys.period == period)
    }
}

impl Canonical for Descriptor {
    fn write(&self, out: &mut Writer) {
        let optional = [self.family.is_some(), self.country.is_some(), self.carried_rate.is_some()];
        out.map(10 + optional.into_iter().filter(|is_there| *is_there).count());
        out.key(0).uint(FORMAT);
        out.key(1).text(&self.network);
        out.key(2).bytes(&self.relay.0);
        self.kind.write(out.key(3));
        write_addresses(out.key(4), &self.addresses);
        out.key(5).list(&self.keys);
        if let Some(certificate) = &self.family {
            certificate.write(out.key(6));
        }
        out.key(7).list(&self.protocols);
        out.key(8).text(&self.software);
        out.key(9).uint(self.published.0);
        out.key(10).uint(u64::from(self.announced_rate));
        if let Some(country) = &self.country {
            country.write(out.key(11));
        }
        if let Some(rate) = self.carried_rate {
            out.key(12).uint(u64::from(rate));
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        if fields.key(input, 0)?.uint(u64::MAX)? != FORMAT {
            return Err(DocumentFault::OtherFormat
                .saying("the descriptor's format is of another version: upgrade the older side"));
        }
        let network = fields.key(input, 1)?.text(MAX_NETWORK_NAME)?.to_owned();
        let relay = RelayId(fields.key(input, 2)?.fixed()?);
        let kind = RelayKind::read(fields.key(input, 3)?)?;
        let addresses = read_addresses(fields.key(input, 4)?)?;
        let keys: Vec<PeriodKeys> =
            ordered(fields.key(input, 5)?.list(MAX_PERIODS)?, |k: &PeriodKeys| k.period)?;
        let family = match fields.optional(input, 6)? {
            true => Some(FamilyCertificate::read(input)?),
            false => None,
        };
        let protocols = ordered(fields.key(input, 7)?.list(MAX_PROTOCOLS)?, |&number| number)?;
        let software = fields.key(input, 8)?.text(MAX_SOFTWARE)?.to_owned();
        let published = UnixTime(fields.key(input, 9)?.uint(u64::MAX)?);
        let announced_rate = fields.key(input, 10)?.u32()?;
        let country = match fields.optional(input, 11)? {
            true => Some(Country::read(input)?),
            false => None,
        };
        let carried_rate = match fields.optional(input, 12)? {
            true => Some(read_coarse(input)?),
            false => None,
        };
        fields.end(input)?;
        if keys.is_empty() {
            return Err(malformed("the descriptor has no keys"));
        }
        if keys.iter().any(|keys| keys.service.is_some() != (kind == RelayKind::Exit)) {
            return Err(malformed("exits have service keys, other relays have none"));
        }
        Ok(Self {
            network,
            relay,
            kind,
            addresses,
            keys,
            family,
            protocols,
            software,
            published,
            announced_rate,
            country,
            carried_rate,
        })
    }
}

impl Canonical for RelayKind {
    fn write(&self, out: &mut Writer) {
        out.uint(match self {
            Self::Mix => 0,
            Self::Entry => 1,
            Self::Exit => 2,
        });
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        match input.uint(u64::MAX)? {
            0 => Ok(Self::Mix),
            1 => Ok(Self::Entry),
            2 => Ok(Self::Exit),
            _ => Err(malformed("unknown role of a relay")),
        }
    }
}

impl Canonical for Country {
    fn write(&self, out: &mut Writer) {
        out.text(self.code());
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        Self::from_document(input.text(2)?)
    }
}

/// A count that says no more than it may.
pub(super) fn read_coarse(input: &mut Reader<'_>) -> Result<u32> {
    let count = input.u32()?;
    match coarse(count) == count {
        true => Ok(count),
        false => Err(malformed("a count is finer than documents carry it")),
    }
}

impl Canonical for PeriodKeys {
    fn write(&self, out: &mut Writer) {
        out.map(2 + usize::from(self.service.is_some()));
        out.key(0).uint(u64::from(self.period.0));
        out.key(1).bytes(self.mix.as_bytes());
        if let Some(key) = &self.service {
            out.key(2).bytes(key.as_bytes());
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self> {
        let mut fields = input.map()?;
        let period = Period(fields.key(input, 0)?.u32()?);
        let mix = read_mix_key(fields.key(input, 1)?)?;
        let service = match fields.optional(input, 2)? {
            true => Some(ServiceKey::from_bytes(input.bytes(crate::session::SERVICE_KEY_SIZE)?)?),
            false => None,
        };
        fields.end(input)?;
        Ok(Self { period, mix, service })
    }
}

/// A key for packets. One of small order would let anyone open the hop; one of the twist has no secret.
pub(super) fn read_mix_key(input: &mut Reader<'_>) -> Result<PublicKey> {
    let key = input.fixed::<32>()?;
    match is_public_key(&key) {
        true => Ok(PublicKey::from(key)),
        false => Err(malformed("a mix key is degenerate")),
    }
}

/// Addresses as strings of 6 or 18 bytes: the address, then the port.
/// Writes them as [`read_addresses`] reads them.
pub fn write_addresses(out: &mut Writer, addresses: &[SocketAddr]) {
    out.array(addresses.len());
    for address in addresses {
        let mut bytes = match address.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        bytes.extend(address.port().to_be_bytes());
        out.bytes(&bytes);
    }
}

/// One to eight addresses that someone can connect to.
pub fn read_addresses(input: &mut Reader<'_>) -> Result<Vec<SocketAddr>> {
    let count = input.array(MAX_ADDRESSES)?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        let mut bytes = crate::wire::Reader::new(input.bytes(18)?);
        let ip = match bytes.remaining() {
            6 => IpAddr::from(Ipv4Addr::from(bytes.array::<4>()?)),
            18 => IpAddr::from(Ipv6Addr::from(bytes.array::<16>()?)),
            _ => return Err(malformed("an address has 6 or 18 bytes")),
        };
        let port = bytes.u16()?;
        if port == 0 || ip.is_unspecified() || ip.to_canonical() != ip {
            return Err(malformed("an address that nobody can connect to"));
        }
        addresses.push(SocketAddr::new(ip, port));
    }
    match addresses.is_empty() {
        true => Err(malformed("a relay has at least one address")),
        false => Ok(addresses),
    }
}

/// Largest signed descriptor, in bytes.
pub const MAX_DESCRIPTOR_SIZE: usize = 8 * 1024;

const MAX_PERIODS: usize = 3;

const MAX_SOFTWARE: usize = 64;
const FORMAT: u64 = 1;
const DOMAIN: &[u8] = b"mizzle descriptor 1";
