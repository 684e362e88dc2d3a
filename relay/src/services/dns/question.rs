//! One question to a resolver, as it came from a client, and answers that need no resolver.
//!
//! A message is passed on as it is, so only its head and its question are taken apart here; that the rest is a
//! message at all is seen by the library's parser, which does not know every type that may be asked for.

use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Label, Name, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A plain question.
#[derive(Debug)]
pub(super) struct Question<'a> {
    message: &'a [u8],
    /// Labels of the name that is asked for.
    labels: Vec<&'a [u8]>,
    /// Where the question ends.
    end: usize,
    kind: u16,
    class: u16,
    /// The client understands EDNS (RFC 6891).
    extended: bool,
}

impl<'a> Question<'a> {
    /// Reads a message that asks one plain question. `None`: it is something else.
    pub(super) fn parse(message: &'a [u8]) -> Option<Self> {
        let (labels, name_end) = labels(message)?;
        let end = name_end + 4;
        let (&[kind_high, kind_low, class_high, class_low], _) =
            message.get(name_end..)?.split_first_chunk::<4>()?;
        // The parser is shown a type and a class that it knows.
        let mut known = message.to_vec();
        known.get_mut(name_end..end)?.copy_from_slice(&[0, 1, 0, 1]);
        let packet = Packet::parse(&known).ok()?;
        let plain = !packet.has_flags(PacketFlag::RESPONSE)
            && !packet.has_flags(PacketFlag::TRUNCATION)
            && packet.opcode() == simple_dns::OPCODE::StandardQuery
            && packet.questions.len() == 1
            && packet.answers.is_empty()
            && packet.name_servers.is_empty()
            && packet.additional_records.is_empty();
        plain.then_some(Self {
            message,
            labels,
            end,
            kind: u16::from_be_bytes([kind_high, kind_low]),
            class: u16::from_be_bytes([class_high, class_low]),
            extended: packet.opt().is_some(),
        })
    }

    /// The client's number of it.
    pub(super) fn id(&self) -> [u8; 2] {
        self.message.first_chunk().copied().unwrap_or_default()
    }

    /// The message under another number, for a resolver. It is always one to resolve in full: who asks only what a
    /// resolver has at hand wants to know what others have asked.
    pub(super) fn renumbered(&self, id: [u8; 2]) -> Vec<u8> {
        let mut message = self.message.to_vec();
        if let [high, low, flags, ..] = message.as_mut_slice() {
            [*high, *low] = id;
            *flags |= RECURSION_DESIRED;
        }
        message
    }

    /// True if `reply` answers this question, under that number.
    pub(super) fn is_answered_by(&self, reply: &[u8], id: [u8; 2]) -> bool {
        let (Some(asked), Some(told)) = (self.message.get(12..self.end), reply.get(12..self.end)) else {
            return false;
        };
        let split = asked.len() - 4;
        reply.starts_with(&id)
            && reply.get(2).is_some_and(|flags| flags & RESPONSE != 0)
            && reply.get(4..6) == Some(&[0, 1])
            && asked.get(split..) == told.get(split..)
            && asked.get(..split).zip(told.get(..split)).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
    }

    /// A resolver's reply with the client's number; `None` if it is none.
    pub(super) fn returned(&self, mut reply: Vec<u8>) -> Vec<u8> {
        let recursion = self.message.get(2).map_or(0, |flags| flags & RECURSION_DESIRED);
        if let [high, low, flags, ..] = reply.as_mut_slice() {
            [*high, *low] = self.id();
            *flags = *flags & !RECURSION_DESIRED | recursion;
        }
        reply
    }

    /// A reply cut down to its head and question, which sends the client to a stream.
    pub(super) fn cut(&self, reply: &[u8]) -> Vec<u8> {
        let mut cut = reply.get(..self.end).unwrap_or_default().to_vec();
        if let [_, _, flags, _, _, _, counts @ ..] = cut.as_mut_slice() {
            *flags |= TRUNCATED;
            counts.iter_mut().take(6).for_each(|byte| *byte = 0);
        }
        cut
    }

    /// The name in lower case, if it is one that a host may have.
    pub(super) fn host(&self) -> Option<String> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let plain = !self.labels.is_empty() && self.labels.iter().all(|label| label.iter().all(allowed));
        let label = |label: &&[u8]| String::from_utf8_lossy(label).to_ascii_lowercase();
        plain.then(|| self.labels.iter().map(label).collect::<Vec<_>>().join("."))
    }

    /// True for addresses of that family, or for all that there is.
    pub(super) fn wants(&self, address: IpAddr) -> bool {
        let kind = if address.is_ipv4() { TYPE::A } else { TYPE::AAAA };
        self.kind == u16::from(kind) || self.kind == ALL
    }

    /// True for the name of an address.
    pub(super) fn wants_name(&self) -> bool {
        self.kind == u16::from(TYPE::PTR) || self.kind == ALL
    }

    /// What no resolver is asked on a client's behalf: whole zones, the keys of transactions, and other classes than
    /// the internet, under which resolvers talk about themselves.
    pub(super) fn is_out_of_bounds(&self) -> bool {
        self.class != u16::from(CLASS::IN) || matches!(self.kind, 0 | 41 | 249..=252)
    }

    /// The address, or the lowest one of the network, that a name of the reverse tree stands for, and whether it is
    /// a whole address.
    pub(super) fn reverse(&self) -> Option<(IpAddr, bool)> {
        let [rest @ .., zone, top] = self.labels.as_slice() else { return None };
        if !top.eq_ignore_ascii_case(b"arpa") {
            return None;
        }
        let text = |label: &&[u8]| std::str::from_utf8(label).ok().map(str::to_owned);
        if zone.eq_ignore_ascii_case(b"in-addr") {
            let octet = |label: &&[u8]| text(label)?.parse::<u8>().ok();
            let known: Vec<u8> = rest.iter().rev().map_while(octet).take(4).collect();
            let mut octets = [0; 4];
            octets.iter_mut().zip(&known).for_each(|(octet, known)| *octet = *known);
            (!known.is_empty()).then(|| (Ipv4Addr::from(octets).into(), known.len() == 4))
        } else if zone.eq_ignore_ascii_case(b"ip6") {
            let nibble = |label: &&[u8]| match label {
                [digit] => char::from(*digit).to_digit(16),
                _ => None,
            };
            let known: Vec<u32> = rest.iter().rev().map_while(nibble).take(32).collect();
            let nibbles = known.iter().copied().chain(std::iter::repeat(0)).take(32);
            let bits = nibbles.fold(0, |bits: u128, nibble| bits << 4 | u128::from(nibble));
            (!known.is_empty()).then(|| (Ipv6Addr::from_bits(bits).into(), known.len() == 32))
        } else {
            None
        }
    }

    /// A reply without records: "no such data", or why there is none.
    pub(super) fn reply(&self, code: RCODE) -> Option<Vec<u8>> {
        self.reply_with(code, None)
    }

    /// A reply with the address of one of the operator's own names.
    pub(super) fn reply_address(&self, address: IpAddr) -> Option<Vec<u8>> {
        let record = match address {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        };
        self.reply_with(RCODE::NoError, Some(record))
    }

    /// A reply with one of the operator's own names.
    pub(super) fn reply_name(&self, name: &str) -> Option<Vec<u8>> {
        let record = RData::PTR(simple_dns::rdata::PTR(Name::new(name).ok()?));
        self.reply_with(RCODE::NoError, Some(record))
    }

    fn reply_with(&self, code: RCODE, record: Option<RData<'_>>) -> Option<Vec<u8>> {
        // As they came: `Label::new` would read a backslash in them as an escape.
        let labels: Vec<Label<'_>> = self.labels.iter().map(|label| Label::new_unchecked(*label)).collect();
        let name = Name::new_with_labels(&labels);
        let mut reply = Packet::new_reply(u16::from_be_bytes(self.id()));
        reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
        if self.message.get(2).is_some_and(|flags| flags & RECURSION_DESIRED != 0) {
            reply.set_flags(PacketFlag::RECURSION_DESIRED);
        }
        *reply.rcode_mut() = code;
        let class = QCLASS::CLASS(CLASS::IN);
        let asked = simple_dns::Question::new(name.clone(), QTYPE::TYPE(self.kind.into()), class, false);
        reply.questions.push(asked);
        reply.answers.extend(record.map(|record| ResourceRecord::new(name, CLASS::IN, LIFE, record)));
        if self.extended {
            *reply.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: SIZE, version: 0 });
        }
        let mut bytes = reply.build_bytes_vec_compressed().ok()?;
        // In the client's own words, the class among them.
        bytes.get_mut(12..self.end)?.copy_from_slice(self.message.get(12..self.end)?);
        Some(bytes)
    }
}

/// True if a resolver has cut its reply.
pub(super) fn is_cut(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|flags| flags & TRUNCATED != 0)
}

/// True if a resolver says that it could not find out.
pub(super) fn is_failure(reply: &[u8]) -> bool {
    reply.get(3).is_some_and(|flags| flags & 15 == RCODE::ServerFailure as u8)
}

/// The labels of the first question's name, and where they end. That name cannot point elsewhere: nothing is
/// before it.
fn labels(message: &[u8]) -> Option<(Vec<&[u8]>, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        match usize::from(*message.get(at)?) {
            0 if at < 12 + LONGEST_NAME => return Some((labels, at + 1)),
            length @ 1..=63 => {
                labels.push(message.get(at + 1..at + 1 + length)?);
                at += 1 + length;
            }
            _ => return None,
        }
    }
}

/// Flags in the third byte of a message.
const RESPONSE: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
/// The type that stands for all of them.
const ALL: u16 = 255;
/// Bytes of a name, its end included.
const LONGEST_NAME: usize = 255;
/// Seconds that an answer from the operator's table may be kept: little, since a reload may change it.
const LIFE: u32 = 60;
/// Bytes of a message that is welcome here: what fits all ways.
const SIZE: u16 = 1_232;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message that asks for `kind` of `name`.
    pub(crate) fn asking(name: &str, kind: u16) -> Vec<u8> {
        let mut packet = Packet::new_query(0x1234);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        packet.questions.push(simple_dns::Question::new(
            name,
            QTYPE::TYPE(kind.into()),
            CLASS::IN.into(),
            false,
        ));
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn plain_questions_of_any_type_are_read() {
        for kind in [1, 28, 16, 65, 52, 44, 256, 65_280] {
            let message = asking("A.b-c.test", kind);
            let question = Question::parse(&message).unwrap();
            assert_eq!((question.kind, question.class, question.end), (kind, 1, message.len()));
            assert_eq!(question.host().as_deref(), Some("a.b-c.test"));
            assert!(!question.is_out_of_bounds());
        }
        for kind in [0, 41, 249, 250, 251, 252] {
            assert!(Question::parse(&asking("a.test", kind)).unwrap().is_out_of_bounds(), "{kind}");
        }
        let mut chaos = asking("version.bind", 16);
        *chaos.last_mut().unwrap() = 3;
        assert!(Question::parse(&chaos).unwrap().is_out_of_bounds());
    }

    #[test]
    fn what_is_no_plain_question_is_not_read() {
        let plain = asking("a.test", 1);
        let with = |at: usize, byte: u8| {
            let mut message = plain.clone();
            message[at] = byte;
            message
        };
        assert!(Question::parse(&plain).is_some());
        for (what, message) in [
            ("a reply", with(2, 0x81)),
            ("a cut one", with(2, 0x03)),
            ("an update", with(2, 0x28)),
            ("no question", with(5, 0)),
            ("two questions", with(5, 2)),
            ("with an answer", with(7, 1)),
            ("with a name server", with(9, 1)),
            ("with more that is not there", with(11, 1)),
            ("a pointer", with(12, 0xc0)),
            ("a label beyond the end", with(12, 60)),
            ("cut off", plain[..plain.len() - 1].to_vec()),
            ("a head alone", plain[..12].to_vec()),
            ("nothing", Vec::new()),
        ] {
            assert!(Question::parse(&message).is_none(), "{what}");
        }
    }

    #[test]
    fn only_the_answer_to_this_question_under_this_number_counts() {
        let message = asking("a.test", 1);
        let question = Question::parse(&message).unwrap();
        let id = [7, 9];
        let mut reply = question.renumbered(id);
        assert_ne!(question.id(), id);
        // What a resolver has at hand is nobody's business: it is asked to look, and the client hears what it asked.
        let mut peeping = message.clone();
        peeping[2] = 0;
        let peeping = Question::parse(&peeping).unwrap();
        assert_eq!(peeping.renumbered(id), reply);
        assert_eq!(peeping.returned(reply.clone())[2], 0);
        assert!(!question.is_answered_by(&reply, id), "the question itself");
        reply[2] |= RESPONSE;
        assert!(question.is_answered_by(&reply, id));
        let mut shouted = reply.clone();
        shouted[13] = b'A';
        assert!(question.is_answered_by(&shouted, id));
        for at in [0, 1, 5, 13, 15, message.len() - 3, message.len() - 1] {
            let mut other = reply.clone();
            other[at] ^= 1;
            assert!(!question.is_answered_by(&other, id), "byte {at}");
        }
        // Letters of a name may change their case, a type may not: `A` is 65 and `a` is 97.
        let typed = asking("a.test", 65);
        let question = Question::parse(&typed).unwrap();
        let mut reply = question.renumbered(id);
        reply[2] |= RESPONSE;
        reply[typed.len() - 3] = 97;
        assert!(!question.is_answered_by(&reply, id));
        assert!(question.returned(reply).starts_with(&[0x12, 0x34]));
    }

    #[test]
    fn a_cut_reply_has_a_head_a_question_and_says_so() {
        let message = asking("a.test", 1);
        let question = Question::parse(&message).unwrap();
        let whole = question.reply_address([192, 0, 2, 1].into()).unwrap();
        assert!(!is_cut(&whole));
        let cut = question.cut(&whole);
        let packet = Packet::parse(&cut).unwrap();
        assert!(packet.has_flags(PacketFlag::TRUNCATION | PacketFlag::RESPONSE));
        assert_eq!((packet.questions.len(), packet.answers.len(), cut.len()), (1, 0, message.len()));
        assert!(is_cut(&cut));
    }

    #[test]
    fn replies_repeat_the_question_byte_by_byte() {
        for kind in [1, 28, 52, 65_280] {
            let message = asking("A.TeSt", kind);
            let question = Question::parse(&message).unwrap();
            for code in [RCODE::NoError, RCODE::Refused, RCODE::ServerFailure] {
                let reply = question.reply(code).unwrap();
                assert!(question.is_answered_by(&reply, question.id()));
                assert_eq!(reply.get(12..), message.get(12..));
                assert_eq!(is_failure(&reply), code == RCODE::ServerFailure);
            }
        }
    }

    #[test]
    fn a_backslash_in_a_name_is_a_backslash() {
        let mut message = asking("aaaa.test", 1);
        message[13..17].copy_from_slice(b"\\1.\\");
        let question = Question::parse(&message).unwrap();
        assert_eq!(question.host(), None);
        let reply = question.reply(RCODE::NoError).unwrap();
        assert!(question.is_answered_by(&reply, question.id()));
    }

    #[test]
    fn names_of_the_reverse_tree_are_addresses_or_networks() {
        let reverse = |name: &str| Question::parse(&asking(name, 12)).unwrap().reverse();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(reverse("7.2.0.192.in-addr.arpa"), Some((address("192.0.2.7"), true)));
        assert_eq!(reverse("7.2.0.192.IN-ADDR.ARPA"), Some((address("192.0.2.7"), true)));
        assert_eq!(reverse("b._dns-sd._udp.1.2.0.192.in-addr.arpa"), Some((address("192.0.2.1"), true)));
        assert_eq!(reverse("7.0-25.2.0.192.in-addr.arpa"), Some((address("192.0.2.0"), false)));
        assert_eq!(reverse("10.in-addr.arpa"), Some((address("10.0.0.0"), false)));
        assert_eq!(reverse("8.b.d.0.1.0.0.2.ip6.arpa"), Some((address("2001:db8::"), false)));
        let whole = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(reverse(whole), Some((address("2001:db8::1"), true)));
        for name in ["in-addr.arpa", "a.test", "256.in-addr.arpa", "7.2.0.192.in-addr.test", "arpa"] {
            assert_eq!(reverse(name), None, "{name}");
        }
    }

    #[test]
    fn bytes_that_are_made_up_are_read_or_refused_and_nothing_else() {
        use rand_core::Rng;
        use rand_core::SeedableRng;
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let mut read = 0;
        for round in 0..20_000u32 {
            // Half of them are questions with some bytes changed.
            let mut message = asking("name.test", 1);
            if round % 2 == 0 {
                message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
                message[11] = 1;
            }
            for _ in 0..rng.next_u32() % 4 {
                let at = rng.next_u32() as usize % message.len();
                message[at] = rng.next_u32() as u8;
            }
            if let Some(question) = Question::parse(&message) {
                read += 1;
                let _ = (question.reverse(), question.host(), question.is_out_of_bounds());
                let reply = question.reply(RCODE::NoError).unwrap();
                assert!(question.is_answered_by(&reply, question.id()));
                question.cut(&reply);
            }
        }
        assert!(read > 2_000, "{read}");
    }
}
