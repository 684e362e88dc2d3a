//! One DNS question as it came from a program (RFC 1035, RFC 6891), and answers that need no resolver.
//!
//! Only what must be known is taken apart: the head, the question, and the size that the program takes. The parser
//! sees whether the rest is a message at all, so that an exit, which does the same, is asked nothing that it passes
//! over in silence. (spec: PROXY-11)

use simple_dns::{Packet, PacketFlag, RCODE};

/// A plain question.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Question {
    message: Vec<u8>,
    /// Where the question ends.
    end: usize,
    /// Bytes of an answer that the program takes in a datagram, if it says so by EDNS.
    room: Option<u16>,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Question(redacted)")
    }
}

/// What is no plain question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unasked {
    /// It is answered by this.
    Answered(Vec<u8>),
    /// Nobody can answer it: it is too short, or an answer itself.
    Silence,
}

impl Question {
    /// Reads a message.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, Unasked> {
        let Some((&[high, low, flags, _, ..], _)) = message.split_first_chunk::<HEAD>() else {
            return Err(Unasked::Silence);
        };
        if flags & RESPONSE != 0 {
            return Err(Unasked::Silence);
        }
        let refuse = |code: RCODE| {
            let flags = RESPONSE | flags & (OPERATION | RECURSION_DESIRED);
            let mut reply = vec![high, low, flags, RECURSION_AVAILABLE | code as u8];
            reply.resize(HEAD, 0);
            Unasked::Answered(reply)
        };
        if flags & OPERATION != 0 {
            return Err(refuse(RCODE::NotImplemented));
        }
        Self::plain(message).ok_or_else(|| refuse(RCODE::FormatError))
    }

    fn plain(message: &[u8]) -> Option<Self> {
        let mut end = HEAD;
        // The first name of a message cannot point elsewhere: nothing is before it.
        loop {
            match usize::from(*message.get(end)?) {
                0 => break,
                length @ 1..=63 => end += 1 + length,
                _ => return None,
            }
        }
        if end - HEAD >= LONGEST_NAME {
            return None;
        }
        end += 1 + KIND_AND_CLASS;
        // The parser does not know every type and class that may be asked for: it is shown others.
        let mut known = message.to_vec();
        known.get_mut(end - KIND_AND_CLASS..end)?.copy_from_slice(&[0, 1, 0, 1]);
        let packet = Packet::parse(&known).ok()?;
        let plain = packet.questions.len() == 1
            && !packet.has_flags(PacketFlag::TRUNCATION)
            && packet.answers.is_empty()
            && packet.name_servers.is_empty()
            && packet.additional_records.is_empty();
        let room = packet.opt().map(|opt| opt.udp_packet_size);
        plain.then(|| Self { message: message.to_vec(), end, room })
    }

    /// As it came.
    pub(crate) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Bytes of an answer that fits a datagram to the program.
    pub(crate) fn room(&self) -> usize {
        self.room.map_or(SMALLEST, |room| usize::from(room).max(SMALLEST))
    }

    /// The message as it goes to an exit: under another number, and of EDNS only that it is understood, and whether
    /// signatures are wanted. What else programs say there, such as their network or a mark to be known by again,
    /// would tell exits who asks.
    pub(crate) fn outward(&self, id: [u8; 2]) -> Vec<u8> {
        let mut message = self.message.get(..self.end).unwrap_or_default().to_vec();
        if let Some(number) = message.first_chunk_mut() {
            *number = id;
        }
        if self.room.is_some() {
            let [high, low] = ROOM.to_be_bytes();
            let signatures = self.message.get(self.end + 7).map_or(0, |flags| flags & SIGNATURES);
            message.extend([0, 0, EXTENSION, high, low, 0, 0, signatures, 0, 0, 0]);
        }
        message
    }

    /// True if `reply` answers this question, under that number.
    pub(crate) fn is_answered_by(&self, reply: &[u8], id: [u8; 2]) -> bool {
        let split = self.end - KIND_AND_CLASS;
        let same = |range: std::ops::Range<usize>| match (self.message.get(range.clone()), reply.get(range)) {
            (Some(asked), Some(told)) => asked.eq_ignore_ascii_case(told),
            _ => false,
        };
        reply.starts_with(&id)
            && reply.get(2).is_some_and(|flags| flags & RESPONSE != 0)
            && reply.get(4..6) == Some(&[0, 1])
            && same(HEAD..split)
            // Letters in a type are none.
            && reply.get(split..self.end) == self.message.get(split..self.end)
    }

    /// A reply under the program's own number.
    pub(crate) fn returned(&self, mut reply: Vec<u8>) -> Vec<u8> {
        if let (Some(number), Some(own)) = (reply.first_chunk_mut::<2>(), self.message.first_chunk()) {
            *number = *own;
        }
        reply
    }

    /// A reply as a datagram of at most [`Self::room`] bytes: one that is longer is cut down to its question, which
    /// sends the program to TCP.
    pub(crate) fn fitting(&self, reply: Vec<u8>) -> Vec<u8> {
        if reply.len() <= self.room() {
            return reply;
        }
        let flags = |at: usize| reply.get(at).copied().unwrap_or_default();
        // Some take a reply without records for that of a broken server, unless it says that it is a resolver's.
        self.bare([flags(2) | RESPONSE | TRUNCATED, flags(3) | RECURSION_AVAILABLE])
    }

    /// The answer that there was a failure.
    pub(crate) fn failure(&self) -> Vec<u8> {
        let recursion = self.message.get(2).map_or(0, |flags| flags & RECURSION_DESIRED);
        self.bare([RESPONSE | recursion, RECURSION_AVAILABLE | RCODE::ServerFailure as u8])
    }

    /// A reply without records.
    fn bare(&self, flags: [u8; 2]) -> Vec<u8> {
        let mut reply = self.message.get(..self.end).unwrap_or_default().to_vec();
        let extended = self.room.is_some();
        if let Some(head) = reply.first_chunk_mut::<HEAD>() {
            let [_, _, high, low, counts @ ..] = head;
            [*high, *low] = flags;
            *counts = [0, 1, 0, 0, 0, 0, 0, u8::from(extended)];
        }
        if extended {
            let [high, low] = ROOM.to_be_bytes();
            reply.extend([0, 0, EXTENSION, high, low, 0, 0, 0, 0, 0, 0]);
        }
        reply
    }
}

/// True if a resolver has cut its reply.
pub(crate) fn is_cut(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & TRUNCATED != 0)
}

/// Bytes of a message's head.
const HEAD: usize = 12;
const KIND_AND_CLASS: usize = 4;
/// Bytes of a name, its end not included.
const LONGEST_NAME: usize = 255;
/// Bytes that every program takes in a datagram.
const SMALLEST: usize = 512;
/// Bytes of a datagram that pass everywhere (the DNS flag day of 2020); all clients say the same.
const ROOM: u16 = 1_232;
/// Flags in the third byte.
const RESPONSE: u8 = 0x80;
const OPERATION: u8 = 0x78;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
/// In the fourth.
const RECURSION_AVAILABLE: u8 = 0x80;
/// The type of the record that EDNS adds, and its flag for signatures.
const EXTENSION: u8 = 41;
const SIGNATURES: u8 = 0x80;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use simple_dns::rdata::{A, OPT, RData, TXT};
    use simple_dns::{CLASS, Name, QTYPE, ResourceRecord};

    /// A message that asks for `kind` of `name`; with `room`, by EDNS.
    pub(crate) fn asking(name: &str, kind: u16, room: Option<u16>) -> Vec<u8> {
        let mut packet = Packet::new_query(0x1234);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        let kind = QTYPE::TYPE(kind.into());
        packet.questions.push(simple_dns::Question::new(name, kind, CLASS::IN.into(), false));
        *packet.opt_mut() = room.map(|room| OPT { opt_codes: Vec::new(), udp_packet_size: room, version: 0 });
        packet.build_bytes_vec().unwrap()
    }

    /// A reply to a message, with an address and so many texts of 200 bytes.
    pub(crate) fn reply_to(message: &[u8], texts: usize) -> Vec<u8> {
        let mut reply = Packet::parse(message).unwrap().into_reply();
        let name = reply.questions[0].qname.clone();
        let address = RData::A(A { address: 0xc000_0201 });
        let text = "x".repeat(200);
        let records = std::iter::repeat_n(RData::TXT(TXT::new().with_string(&text).unwrap()), texts);
        let records = std::iter::once(address).chain(records);
        reply.answers = records.map(|data| ResourceRecord::new(name.clone(), CLASS::IN, 60, data)).collect();
        reply.build_bytes_vec_compressed().unwrap()
    }

    #[test]
    fn plain_questions_of_any_type_are_read_with_the_room_that_they_offer() {
        for kind in [1, 28, 16, 65, 52, 256, 65_280] {
            for (room, bytes) in [(None, 512), (Some(100), 512), (Some(1_232), 1_232), (Some(4_096), 4_096)] {
                assert_eq!(Question::parse(&asking("a.test", kind, room)).unwrap().room(), bytes, "{kind}");
            }
        }
    }

    #[test]
    fn what_is_no_question_is_told_so_or_left_without_an_answer() {
        let good = asking("a.test", 1, None);
        let with = |at: usize, byte: u8| [&good[..at], &[byte], &good[at + 1..]].concat();
        for (message, code) in [
            (with(5, 2), 1),
            (with(5, 0), 1),
            (with(2, 0x03), 1),
            (with(12, 64), 1),
            (with(12, 0xc0), 1),
            (good[..good.len() - 1].to_vec(), 1),
            (good[..12].to_vec(), 1),
            (with(2, 0x11), 4),
            (with(2, 0x29), 4),
        ] {
            let Err(Unasked::Answered(reply)) = Question::parse(&message) else { panic!("{message:?}") };
            let reply = Packet::parse(&reply).unwrap();
            assert_eq!((reply.id(), reply.rcode() as u8), (0x1234, code), "{message:?}");
            assert!(reply.has_flags(PacketFlag::RESPONSE) && reply.questions.is_empty());
        }
        for message in [&b""[..], &good[..2], &good[..11], &with(2, 0x81)] {
            assert_eq!(Question::parse(message), Err(Unasked::Silence), "{message:?}");
        }
    }

    #[test]
    fn exits_get_another_number_and_nothing_by_which_programs_are_known_again() {
        // A cookie (10), the program's network (8), and the wish for signatures.
        let mut marked = asking("a.test", 1, None);
        marked[11] = 1;
        marked.extend([0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 23]);
        marked.extend([0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 8, 0, 7, 0, 1, 24, 0, 192, 0, 2]);
        let question = Question::parse(&marked).unwrap();
        assert_eq!(question.room(), 4_096);
        let sent = question.outward([0xab, 0xcd]);
        let plain = asking("a.test", 1, Some(1_232));
        assert_eq!(&sent[..2], [0xab, 0xcd]);
        assert_eq!(&sent[2..plain.len() - 4], &plain[2..plain.len() - 4]);
        assert_eq!(&sent[plain.len() - 4..], [0x80, 0, 0, 0]);
        let bare = asking("a.test", 1, None);
        assert_eq!(&Question::parse(&bare).unwrap().outward([1, 2])[2..], &bare[2..]);
    }

    #[test]
    fn only_the_answer_to_that_question_under_that_number_counts() {
        let message = asking("a.test", 1, None);
        let question = Question::parse(&message).unwrap();
        let reply = reply_to(&question.outward([7, 8]), 0);
        assert!(question.is_answered_by(&reply, [7, 8]));
        assert!(!question.is_answered_by(&reply, [7, 9]));
        assert!(!question.is_answered_by(&question.outward([7, 8]), [7, 8]));
        for other in [asking("b.test", 1, None), asking("a.test", 28, None), asking("a.test.b", 1, None)] {
            let other = Question::parse(&other).unwrap().outward([7, 8]);
            assert!(!question.is_answered_by(&reply_to(&other, 0), [7, 8]));
        }
        let upper = Question::parse(&asking("A.TEST", 1, None)).unwrap().outward([7, 8]);
        assert!(question.is_answered_by(&reply_to(&upper, 0), [7, 8]));
        assert_eq!(question.returned(reply)[..2], [0x12, 0x34]);
    }

    #[test]
    fn answers_that_do_not_fit_are_cut_and_say_so() {
        for (room, texts, fits) in [
            (None, 0, true),
            (None, 3, false),
            (Some(512), 3, false),
            (Some(1_232), 3, true),
            (Some(1_232), 6, false),
            (Some(4_096), 6, true),
        ] {
            let message = asking("a.test", 16, room);
            let question = Question::parse(&message).unwrap();
            let whole = reply_to(&message, texts);
            let reply = question.fitting(whole.clone());
            assert!(reply.len() <= question.room());
            assert_eq!((reply == whole, is_cut(&reply)), (fits, !fits), "{room:?} {texts}");
            let parsed = Packet::parse(&reply).unwrap();
            assert_eq!((parsed.questions.len(), parsed.answers.is_empty()), (1, !fits));
            assert!(fits || parsed.has_flags(PacketFlag::RECURSION_AVAILABLE));
            assert!(fits || parsed.opt().is_some() == room.is_some());
        }
    }

    #[test]
    fn a_failure_is_an_answer_to_the_question() {
        for room in [None, Some(1_232)] {
            let message = asking("a.test", 1, room);
            let failure = Question::parse(&message).unwrap().failure();
            let reply = Packet::parse(&failure).unwrap();
            assert_eq!((reply.id(), reply.rcode()), (0x1234, RCODE::ServerFailure));
            assert_eq!((reply.questions.len(), reply.opt().is_some()), (1, room.is_some()));
        }
    }

    proptest! {
        #[test]
        fn made_up_messages_are_read_or_refused_and_nothing_else(
            changes in proptest::collection::vec((0..40usize, any::<u8>()), 0..5), room in any::<Option<u16>>(),
            rest in proptest::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut message = asking("name.test", 1, room);
            message.extend(rest);
            for (at, byte) in changes {
                let length = message.len();
                message[at % length] = byte;
            }
            if let Ok(question) = Question::parse(&message) {
                let outward = question.outward([1, 2]);
                // What is asked in our words is as plain as it came.
                prop_assert!(Question::parse(&outward).is_ok());
                prop_assert!(question.is_answered_by(&question.failure(), [message[0], message[1]]));
                prop_assert!(question.fitting(vec![0; 70_000]).len() <= question.room());
            }
        }
    }
}
