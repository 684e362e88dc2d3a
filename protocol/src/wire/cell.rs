//! Cells: what travels on a link. All cells of one kind of link have one size.
//!
//! ```text
//! client link   kind 1 · period hint 1 · address 32 · body (a Sphinx packet's size)
//! relay link    kind 1 · period hint 1 ·              body (a Sphinx packet's size)
//! ```
//! Outward on a client link the address names the first mix; homeward it is zero. Control is inside cells,
//! so that the line sees nothing but cells. (spec: LINK-10 to LINK-12)

use super::Reader;
use crate::geometry::Geometry;
use crate::id::{ClientAddress, RelayId};
use crate::level::{Level, Step};
use crate::secret::Secret;
use crate::{Error, ErrorKind, Result};

/// Kind byte: nothing inside; keeps the rate.
pub const FILLER: u8 = 0;
/// Kind byte: a Sphinx packet.
pub const PACKET: u8 = 1;
/// Kind byte: client to entry, the first cell of a link.
pub const HELLO: u8 = 2;
/// Kind byte: entry to client, the answer.
pub const WELCOME: u8 = 3;
/// Kind byte: client to entry, the step that it wants; entry to client, the one that it has.
pub const STEP: u8 = 4;

/// A cell on a client link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCell<'a> {
    /// Nothing; sent where a slot is empty.
    Filler,
    /// Outward: forward to `next`. Homeward: for the client itself (`next` is zero).
    Packet {
        /// First mix of the path.
        next: RelayId,
        /// Low byte of the key period.
        hint: u8,
        /// The Sphinx packet.
        packet: &'a [u8],
    },
    /// Asks for an address on this link, or for the one that this secret held before.
    Hello(Hello),
    /// Grants it.
    Welcome {
        /// Put into the headers of homeward packets.
        address: ClientAddress,
        /// Whose rates hold from now on: the hello's, or the slowest that the entry can give.
        step: Step,
    },
    /// Outward: asks for the rates of another step. Homeward: the step whose rates hold from now on.
    Step(Step),
}

/// Body of a hello: the secret that reclaims an address after a reconnect, so that SURBs live on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Chosen at random by the client, once per kept entry.
    pub reclaim: Secret<32>,
    /// The step that the client wants.
    pub step: Step,
}

/// Bytes before the body of a cell on a client link.
pub const CLIENT_HEAD: usize = 2 + 32;
/// Bytes before the body of a cell on a relay link.
pub const RELAY_HEAD: usize = 2;

/// Bytes of a cell on a client link.
pub const fn client_cell_size(geometry: Geometry) -> usize {
    CLIENT_HEAD + geometry.packet()
}

/// Bytes of a cell on a relay link.
pub const fn relay_cell_size(geometry: Geometry) -> usize {
    RELAY_HEAD + geometry.packet()
}

impl<'a> ClientCell<'a> {
    /// Parses a whole cell.
    pub fn parse(geometry: Geometry, bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() != client_cell_size(geometry) {
            return Err(Error::new(ErrorKind::Malformed, "client cell of another size"));
        }
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        let hint = reader.u8()?;
        let next = RelayId(reader.array()?);
        match kind {
            FILLER => Ok(Self::Filler),
            PACKET => Ok(Self::Packet { next, hint, packet: reader.rest() }),
            HELLO => {
                let reclaim = Secret::new(reader.array()?);
                Ok(Self::Hello(Hello { reclaim, step: step(&mut reader)? }))
            }
            WELCOME => {
                let address = ClientAddress(reader.array()?);
                Ok(Self::Welcome { address, step: step(&mut reader)? })
            }
            STEP => step(&mut reader).map(Self::Step),
            _ => Err(Error::new(ErrorKind::Malformed, "client cell of unknown kind")),
        }
    }

    /// Writes the cell into `out`, which is cleared first and padded with zeros to the cell size.
    pub fn emit(&self, geometry: Geometry, out: &mut Vec<u8>) {
        out.clear();
        let (kind, hint, next) = match self {
            Self::Filler => (FILLER, 0, RelayId([0; 32])),
            Self::Packet { next, hint, .. } => (PACKET, *hint, *next),
            Self::Hello(_) => (HELLO, 0, RelayId([0; 32])),
            Self::Welcome { .. } => (WELCOME, 0, RelayId([0; 32])),
            Self::Step(_) => (STEP, 0, RelayId([0; 32])),
        };
        out.extend([kind, hint]);
        out.extend(next.0);
        match self {
            Self::Filler => {}
            Self::Packet { packet, .. } => out.extend(*packet),
            Self::Hello(hello) => {
                out.extend(hello.reclaim.expose());
                put_step(hello.step, out);
            }
            Self::Welcome { address, step } => {
                out.extend(address.0);
                put_step(*step, out);
            }
            Self::Step(step) => put_step(*step, out),
        }
        out.resize(client_cell_size(geometry), 0);
    }
}

fn step(reader: &mut Reader<'_>) -> Result<Step> {
    let level = Level::from_code(reader.u8()?)
        .ok_or_else(|| Error::new(ErrorKind::Malformed, "client cell with an unknown level"))?;
    Ok(Step { level, step: reader.u8()? })
}

fn put_step(step: Step, out: &mut Vec<u8>) {
    out.extend([step.level as u8, step.step]);
}

/// A cell on a relay link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayCell<'a> {
    /// Nothing; keeps the link alive.
    Filler,
    /// A packet for this relay.
    Packet {
        /// Low byte of the key period.
        hint: u8,
        /// The Sphinx packet.
        packet: &'a [u8],
    },
}

impl<'a> RelayCell<'a> {
    /// Parses a whole cell.
    pub fn parse(geometry: Geometry, bytes: &'a [u8]) -> Result<Self> {
        match bytes {
            _ if bytes.len() != relay_cell_size(geometry) => {
                Err(Error::new(ErrorKind::Malformed, "relay cell of another size"))
            }
            [FILLER, ..] => Ok(Self::Filler),
            [PACKET, hint, packet @ ..] => Ok(Self::Packet { hint: *hint, packet }),
            _ => Err(Error::new(ErrorKind::Malformed, "relay cell of unknown kind")),
        }
    }

    /// Appends the cell to `out`, padded with zeros to the cell size.
    pub fn emit(&self, geometry: Geometry, out: &mut Vec<u8>) {
        let end = out.len() + relay_cell_size(geometry);
        match self {
            Self::Filler => out.extend([FILLER, 0]),
            Self::Packet { hint, packet } => {
                out.extend([PACKET, *hint]);
                out.extend(*packet);
            }
        }
        out.resize(end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_cell_has_one_size_and_round_trips() {
        for payload in [2048, 4096, 8192] {
            let geometry = Geometry::new(payload).unwrap();
            let packet = vec![7; geometry.packet()];
            let step = Step { level: Level::Balanced, step: 2 };
            let cells = [
                ClientCell::Filler,
                ClientCell::Packet { next: RelayId([3; 32]), hint: 9, packet: &packet },
                ClientCell::Hello(Hello { reclaim: Secret::new([4; 32]), step }),
                ClientCell::Welcome { address: ClientAddress([5; 32]), step },
                ClientCell::Step(Step { level: Level::Fast, step: 0 }),
            ];
            for cell in cells {
                let mut bytes = Vec::new();
                cell.emit(geometry, &mut bytes);
                assert_eq!(bytes.len(), client_cell_size(geometry));
                assert_eq!(ClientCell::parse(geometry, &bytes), Ok(cell));
                assert!(ClientCell::parse(geometry, &bytes[1..]).is_err());
            }
        }
    }

    #[test]
    fn relay_cells_append_and_round_trip() {
        let geometry = Geometry::default();
        let packet = vec![7; geometry.packet()];
        let mut bytes = Vec::new();
        RelayCell::Packet { hint: 1, packet: &packet }.emit(geometry, &mut bytes);
        RelayCell::Filler.emit(geometry, &mut bytes);
        let (first, second) = bytes.split_at(relay_cell_size(geometry));
        assert_eq!(RelayCell::parse(geometry, first), Ok(RelayCell::Packet { hint: 1, packet: &packet }));
        assert_eq!(RelayCell::parse(geometry, second), Ok(RelayCell::Filler));
        assert!(RelayCell::parse(geometry, &bytes).is_err());
    }
}
