//! What a packet carries to an exit: one byte that names the service, then the service's bytes.
//! (spec: PACKET-9)
//!
//! ```text
//! 0 drop      nothing else
//! 1 session   session packet (see [`crate::session`])
//! 2 ping      nonce 16 · period hint 1 · SURB 396        answered by: nonce 16 · arrival 8
//! ```

use super::Reader;
use crate::sphinx::Surb;
use crate::time::Instant;
use crate::{Error, ErrorKind, Result};

/// A message to an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "parsed, looked at and dropped: a box would cost more")]
pub enum Payload<'a> {
    /// Cover; ends here.
    Drop,
    /// A packet of a session.
    Session(&'a [u8]),
    /// Asks when it arrived.
    Ping(Ping),
}

/// A ping: the exit burns the SURB at once and says when the ping arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Chosen by the client.
    pub nonce: [u8; 16],
    /// Key period of the SURB.
    pub hint: u8,
    /// For the answer.
    pub surb: Surb,
}

/// The answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// The ping's.
    pub nonce: [u8; 16],
    /// When the ping reached the exit, by the exit's clock; in whole microseconds.
    pub arrival: Instant,
}

impl<'a> Payload<'a> {
    /// Parses a message.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            0 => reader.finish().map(|()| Self::Drop),
            1 => Ok(Self::Session(reader.rest())),
            2 => {
                let ping = Ping {
                    nonce: reader.array()?,
                    hint: reader.u8()?,
                    surb: Surb::from_slice(reader.rest())?,
                };
                Ok(Self::Ping(ping))
            }
            _ => Err(Error::new(ErrorKind::Incompatible, "no such service here")),
        }
    }

    /// Writes the message into `out`, which is cleared first.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Drop => out.push(0),
            Self::Session(packet) => {
                out.push(1);
                out.extend(*packet);
            }
            Self::Ping(ping) => {
                out.push(2);
                out.extend(ping.nonce);
                out.push(ping.hint);
                out.extend(ping.surb.as_bytes());
            }
        }
    }
}

impl Pong {
    /// Parses an answer.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let pong = Self { nonce: reader.array()?, arrival: Instant::from_micros(reader.u64()?) };
        reader.finish().map(|()| pong)
    }

    /// The answer's bytes.
    pub fn to_bytes(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let (nonce, arrival) = bytes.split_at_mut(16);
        nonce.copy_from_slice(&self.nonce);
        arrival.copy_from_slice(&self.arrival.as_micros().to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::SURB_SIZE;

    #[test]
    fn messages_round_trip_and_leftovers_are_refused() {
        let surb = Surb::from_slice(&[3; SURB_SIZE]).unwrap();
        let messages = [
            Payload::Drop,
            Payload::Session(b"bytes"),
            Payload::Ping(Ping { nonce: [1; 16], hint: 2, surb }),
        ];
        for message in messages {
            let mut bytes = Vec::new();
            message.emit(&mut bytes);
            assert_eq!(Payload::parse(&bytes).as_ref(), Ok(&message));
        }
        assert!(Payload::parse(&[]).is_err());
        assert!(Payload::parse(&[0, 0]).is_err());
        assert!(Payload::parse(&[2, 0]).is_err());
        assert!(Payload::parse(&[9]).is_err());
        let pong = Pong { nonce: [5; 16], arrival: Instant::from_micros(77) };
        assert_eq!(Pong::parse(&pong.to_bytes()), Ok(pong));
    }
}
