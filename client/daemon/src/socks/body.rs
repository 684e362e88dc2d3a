//! Where the body of an HTTP request ends, so that what comes after it goes nowhere: it would be another
//! request, perhaps to another host. (spec: PROXY-3)

/// Follows a body (RFC 9112, sections 6 and 7) without changing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes are still to come.
    Length(u64),
    /// In the size of a chunk: what was read, and its digits.
    Size(u64, u8),
    /// Behind the size: an extension, which means nothing to anybody; the size, and how many bytes.
    Extension(u64, u16),
    /// The size's line has a carriage return.
    SizeEnd(u64),
    /// In a chunk.
    Data(u64),
    /// Behind a chunk.
    DataReturn,
    DataEnd,
    /// At the start of a trailer's line; bytes of all trailers.
    Trailer(u16),
    TrailerLine(u16),
    TrailerReturn(u16),
    LastReturn,
    Done,
    Broken,
}

impl Body {
    /// A body of so many bytes.
    pub(crate) fn of_length(length: u64) -> Self {
        Self { state: if length == 0 { State::Done } else { State::Length(length) } }
    }

    /// A body in chunks, with trailers.
    pub(crate) fn chunked() -> Self {
        Self { state: State::Size(0, 0) }
    }

    /// How many of these bytes belong to the body.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(&byte) = bytes.get(taken) {
            let left = bytes.len().saturating_sub(taken) as u64;
            self.state = match self.state {
                State::Done | State::Broken => break,
                State::Length(length) => {
                    let count = length.min(left);
                    taken += count as usize;
                    self.state = match length - count {
                        0 => State::Done,
                        length => State::Length(length),
                    };
                    continue;
                }
                State::Data(length) => {
                    let count = length.min(left);
                    taken += count as usize;
                    self.state = match length - count {
                        0 => State::DataReturn,
                        length => State::Data(length),
                    };
                    continue;
                }
                state => after(state, byte),
            };
            if self.state != State::Broken {
                taken += 1;
            }
        }
        taken
    }

    /// All of it has come.
    #[cfg(test)]
    fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// It is no body: what comes cannot be told from another request.
    pub(crate) fn is_broken(&self) -> bool {
        self.state == State::Broken
    }
}

/// The state behind one byte of a chunk's frame.
fn after(state: State, byte: u8) -> State {
    match (state, byte) {
        (State::Size(size, digits), _) if byte.is_ascii_hexdigit() && digits < LONGEST_SIZE => {
            let digit = char::from(byte).to_digit(16).unwrap_or_default();
            State::Size(size << 4 | u64::from(digit), digits + 1)
        }
        (State::Size(size, 1..), b'\r') => State::SizeEnd(size),
        (State::Size(size, 1..), b';') => State::Extension(size, 0),
        (State::Extension(size, _), b'\r') => State::SizeEnd(size),
        (State::Extension(size, count), _) if byte != b'\n' && count < EXTENSION => {
            State::Extension(size, count + 1)
        }
        (State::SizeEnd(0), b'\n') => State::Trailer(0),
        (State::SizeEnd(size), b'\n') => State::Data(size),
        (State::DataReturn, b'\r') => State::DataEnd,
        (State::DataEnd, b'\n') => State::Size(0, 0),
        (State::Trailer(_), b'\r') => State::LastReturn,
        (State::LastReturn, b'\n') => State::Done,
        (State::TrailerLine(count), b'\r') => State::TrailerReturn(count),
        (State::TrailerReturn(count), b'\n') => State::Trailer(count),
        (State::Trailer(count) | State::TrailerLine(count), _) if byte != b'\n' && count < TRAILERS => {
            State::TrailerLine(count + 1)
        }
        _ => State::Broken,
    }
}

/// Digits of a chunk's size: 2^60 bytes are enough for anybody.
const LONGEST_SIZE: u8 = 15;
const EXTENSION: u16 = 1024;
const TRAILERS: u16 = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bytes of the body, in pieces, and whether it is done and broken.
    fn follow(mut body: Body, bytes: &[u8], piece: usize) -> (usize, bool, bool) {
        let taken = bytes.chunks(piece).map(|bytes| body.take(bytes)).sum();
        (taken, body.is_done(), body.is_broken())
    }

    #[test]
    fn a_body_ends_where_it_says_in_any_pieces() {
        let next = b"GET http://other.test/ HTTP/1.1\r\n\r\n";
        for whole in [
            &b"0\r\n\r\n"[..],
            b"3;x=\"y\"\r\nabc\r\n0\r\n\r\n",
            b"A\r\n0123456789\r\n01\r\nx\r\n0\r\nA: b\r\n\r\n",
        ] {
            let bytes = [whole, next].concat();
            for piece in [1, 2, 3, bytes.len()] {
                assert_eq!(follow(Body::chunked(), &bytes, piece), (whole.len(), true, false));
                assert_eq!(follow(Body::of_length(7), &bytes, piece), (7, true, false));
            }
        }
        assert!(Body::of_length(0).is_done());
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_broken() {
        for bytes in [
            &b"3\nabc\r\n"[..],
            b"\r\n",
            b"+3\r\nabc",
            b"0x3\r\nabc",
            b" 3\r\nabc",
            b"3\r\nabcd\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"1000000000000000\r\n",
            b"0\r\nA: b\n\r\n",
        ] {
            let (taken, done, broken) = follow(Body::chunked(), bytes, 1);
            assert!(broken && !done && taken < bytes.len(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), any::<u8>()], 0..60), piece in 1..9usize) {
            prop_assert_eq!(follow(Body::chunked(), &bytes, piece), follow(Body::chunked(), &bytes, 100));
        }
    }
}
