//! How large things are. Every packet of a network is alike, acks and cover included.
//! (spec: PACKET-1)

use crate::{Error, ErrorKind, Result};

/// Bytes of a Sphinx header: the wire format of `sphinx-packet` 0.8 with at most five hops.
pub const HEADER_SIZE: usize = 348;
/// Bytes of a SURB: header, first hop, one payload key seed.
pub const SURB_SIZE: usize = HEADER_SIZE + 32 + 16;
/// What Sphinx adds to a message: 16 zero bytes that prove integrity, 1 byte of padding.
pub const SPHINX_OVERHEAD: usize = 17;
/// Where the message begins in a packet at its last hop: after header and zeros.
pub const MESSAGE_START: usize = HEADER_SIZE + 16;
/// Most hops that a header holds.
pub const MAX_HOPS: usize = 5;
/// Mix layers between an entry and an exit.
pub const LAYERS: usize = 3;

/// The sizes of one network: a consensus parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    payload: usize,
}

impl Geometry {
    /// Sphinx payloads of `payload` bytes: 2048, 4096 or 8192.
    pub fn new(payload: usize) -> Result<Self> {
        match payload {
            2048 | 4096 | 8192 => Ok(Self { payload }),
            _ => Err(Error::new(
                ErrorKind::Incompatible,
                format!("payload size {payload} is not one of 2048, 4096, 8192"),
            )),
        }
    }

    /// Bytes of the Sphinx payload.
    pub const fn payload(self) -> usize {
        self.payload
    }

    /// Bytes of a whole Sphinx packet.
    pub const fn packet(self) -> usize {
        HEADER_SIZE + self.payload
    }

    /// Most bytes of message that a packet carries to its last hop.
    pub const fn message(self) -> usize {
        self.payload - SPHINX_OVERHEAD
    }
}

impl Default for Geometry {
    /// 4 KiB payloads: 5 % more work than 2 KiB for twice the goods.
    fn default() -> Self {
        Self { payload: 4096 }
    }
}
