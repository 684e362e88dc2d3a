//! Names to addresses and back, by the resolver of an exit: DNS messages (RFC 1035) through the mixnet, and from
//! nowhere else. No search domains play a part, and no cache.

use crate::client::Client;
use crate::datagram::Datagrams;
use crate::{Error, ErrorKind, Result};
use mizzle_link::seeded_rng;
use mizzle_protocol::wire::target::{Host, Target};
use rand_core::Rng;
use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, TYPE};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

impl Client {
    /// The addresses of `name`, as an exit resolves it: at least one, IPv4 first. An address literal is its own.
    ///
    /// Fails with [`ErrorKind::HostNotFound`], with [`ErrorKind::TimedOut`] after three questions of 2 s each, with
    /// [`ErrorKind::NotAllowed`] if the exit refuses the question, or with [`ErrorKind::NoNetwork`] and why.
    pub async fn look_up(&self, name: &str, isolation: &[u8]) -> Result<Vec<IpAddr>> {
        let name = match Target::parse(name, Target::RESOLVER_PORT).map(|target| target.host) {
            Ok(Host::Address(address)) => return Ok(vec![address]),
            Ok(Host::Name(name)) => name,
            Ok(Host::Resolver | Host::Documents) | Err(_) => {
                return Err(Error::new(ErrorKind::HostNotFound, "not a name that can be looked up"));
            }
        };
        let questions = [Question::new(&name, TYPE::A)?, Question::new(&name, TYPE::AAAA)?];
        let found = self.answers(&questions, isolation).await?;
        let addresses: Vec<IpAddr> = found.into_iter().filter_map(Found::address).collect();
        if addresses.is_empty() { Err(not_found()) } else { Ok(addresses) }
    }

    /// The name of `address`, as an exit resolves it. Fails as [`Self::look_up`] does.
    pub async fn look_up_address(&self, address: IpAddr, isolation: &[u8]) -> Result<String> {
        let question = Question::new(&reverse_name(address), TYPE::PTR)?;
        let found = self.answers(&[question], isolation).await?;
        let name = found.into_iter().find_map(Found::name);
        // Who may write anything into the reverse tree must not write anything into a program.
        match name.and_then(|name| Target::parse(&name, Target::RESOLVER_PORT).ok()).map(|target| target.host)
        {
            Some(Host::Name(name)) => Ok(name),
            _ => Err(not_found()),
        }
    }

    /// What the answers hold, in the questions' order.
    async fn answers(&self, questions: &[Question], isolation: &[u8]) -> Result<Vec<Found>> {
        let mut answers: Vec<Option<Answer>> = questions.iter().map(|_| None).collect();
        let datagrams = self.datagrams(isolation).await?;
        for _ in 0..TRIES {
            for (question, _) in unanswered(questions, &answers) {
                // Lost, it is asked again.
                datagrams.send(Target::resolver(), question.message.clone()).await?;
            }
            listen(&datagrams, questions, &mut answers).await?;
            if is_enough(questions, &answers) {
                break;
            }
        }
        if answers.iter().all(Option::is_none) {
            let silent = || Error::new(ErrorKind::TimedOut, "the exit's resolver did not answer; try again");
            return Err(self.why_not().unwrap_or_else(silent));
        }
        let (mut all, mut failure) = (Vec::new(), None);
        for (question, answer) in questions.iter().zip(answers) {
            match answer {
                Some(Answer::Found(found)) => all.extend(found),
                Some(Answer::Truncated) => all.extend(self.whole_answer(question, isolation).await?),
                Some(Answer::Missing) => return Err(not_found()),
                Some(Answer::Failed(error)) => failure = failure.or(Some(error)),
                None => {}
            }
        }
        match failure {
            Some(error) if all.is_empty() => Err(error),
            _ => Ok(all),
        }
    }

    /// Asks by a stream, which carries answers of any size.
    async fn whole_answer(&self, question: &Question, isolation: &[u8]) -> Result<Vec<Found>> {
        let asked = async {
            let mut stream = self.connect(Target::resolver(), isolation).await?;
            let length = u16::try_from(question.message.len()).unwrap_or(u16::MAX);
            let exchange = async {
                stream.write_all(&length.to_be_bytes()).await?;
                stream.write_all(&question.message).await?;
                let length = stream.read_u16().await?;
                let mut bytes = vec![0; usize::from(length)];
                stream.read_exact(&mut bytes).await?;
                std::io::Result::Ok(bytes)
            };
            let closed = |_| Error::new(ErrorKind::Closed, "the exit's resolver broke off; try again");
            let bytes = exchange.await.map_err(closed)?;
            match question.answer(&bytes) {
                Some(Answer::Found(found)) => Ok(found),
                Some(Answer::Missing) => Err(not_found()),
                Some(Answer::Failed(error)) => Err(error),
                Some(Answer::Truncated) | None => {
                    Err(Error::new(ErrorKind::Other, "the exit's resolver answered another question"))
                }
            }
        };
        let late = || Error::new(ErrorKind::TimedOut, "the exit's resolver did not answer; try again");
        timeout(STREAM_TIME, asked).await.unwrap_or_else(|_| Err(self.why_not().unwrap_or_else(late)))
    }
}

/// Takes answers until they are enough, or this try is over.
async fn listen(datagrams: &Datagrams, questions: &[Question], answers: &mut [Option<Answer>]) -> Result<()> {
    let mut until = Instant::now() + TRY_TIME;
    while let Ok(received) = timeout_at(until, datagrams.receive()).await {
        let (_, bytes) = received.ok_or_else(crate::client::stopped)?;
        let answered = questions.iter().zip(&mut *answers).find_map(|(question, answer)| match answer {
            None => question.answer(&bytes).map(|found| (answer, found)),
            Some(_) => None,
        });
        match answered {
            Some((answer, found)) => *answer = Some(found),
            // Another's, an earlier one's, or no answer at all.
            None => continue,
        }
        let missing = answers.iter().any(|answer| matches!(answer, Some(Answer::Missing)));
        if missing || answers.iter().all(Option::is_some) {
            break;
        }
        if is_enough(questions, answers) {
            until = until.min(Instant::now() + STRAGGLER_TIME);
        }
    }
    Ok(())
}

fn unanswered<'a>(
    questions: &'a [Question],
    answers: &'a [Option<Answer>],
) -> impl Iterator<Item = (&'a Question, &'a Option<Answer>)> {
    questions.iter().zip(answers).filter(|(_, answer)| answer.is_none())
}

/// All are answered; or the first is, with something: what else there is can be done without; or the name is not
/// there, which is true of all types.
fn is_enough(questions: &[Question], answers: &[Option<Answer>]) -> bool {
    let first = match answers.first() {
        Some(Some(Answer::Found(found))) => !found.is_empty(),
        Some(Some(Answer::Truncated)) => true,
        _ => false,
    };
    first
        || answers.iter().any(|answer| matches!(answer, Some(Answer::Missing)))
        || unanswered(questions, answers).next().is_none()
}

/// One question, and the message that asks it.
struct Question {
    id: u16,
    name: String,
    kind: TYPE,
    message: Vec<u8>,
}

/// What an answer says.
enum Answer {
    /// These, which may be none.
    Found(Vec<Found>),
    /// More than a datagram holds.
    Truncated,
    /// There is no such name.
    Missing,
    /// It cannot be answered.
    Failed(Error),
}

/// What was asked for.
#[derive(Debug, PartialEq)]
enum Found {
    Address(IpAddr),
    Name(String),
}

impl Found {
    fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::Name(_) => None,
        }
    }

    fn name(self) -> Option<String> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

impl Question {
    /// Asks for records of `kind` that `name` has.
    fn new(name: &str, kind: TYPE) -> Result<Self> {
        let wrong = |_| Error::new(ErrorKind::HostNotFound, "not a name that can be looked up");
        let id = (seeded_rng()?.next_u32() >> 16) as u16;
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let asked = Name::new(name).map_err(wrong)?;
        packet.questions.push(simple_dns::Question::new(asked, kind.into(), CLASS::IN.into(), false));
        *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: ANSWER, version: 0 });
        let message = packet.build_bytes_vec().map_err(wrong)?;
        Ok(Self { id, name: name.to_owned(), kind, message })
    }

    /// What `bytes` say to this question; `None` if they answer another one, or are no answer.
    fn answer(&self, bytes: &[u8]) -> Option<Answer> {
        let packet = Packet::parse(bytes).ok()?;
        let [question] = packet.questions.as_slice() else { return None };
        let name = Name::new(&self.name).ok()?;
        if packet.id() != self.id
            || !packet.has_flags(PacketFlag::RESPONSE)
            || question.qname != name
            || question.qtype != QTYPE::TYPE(self.kind)
        {
            return None;
        }
        if packet.has_flags(PacketFlag::TRUNCATION) {
            return Some(Answer::Truncated);
        }
        Some(match packet.rcode() {
            RCODE::NoError => Answer::Found(self.records(&packet, name)),
            RCODE::Refused => {
                let message = "the exit's resolver refuses this question";
                Answer::Failed(Error::new(ErrorKind::NotAllowed, message))
            }
            RCODE::NameError => Answer::Missing,
            _ => Answer::Failed(Error::new(ErrorKind::HostNotFound, "the exit's resolver found no answer")),
        })
    }

    /// The records that were asked for, of the name or of that which it stands for.
    fn records(&self, packet: &Packet<'_>, name: Name<'_>) -> Vec<Found> {
        let mut owner = name;
        for _ in 0..ALIASES {
            let alias = packet.answers.iter().find_map(|record| match &record.rdata {
                RData::CNAME(alias) if record.name == owner => Some(alias.0.clone()),
                _ => None,
            });
            match alias {
                Some(alias) => owner = alias,
                None => break,
            }
        }
        let found = packet.answers.iter().filter(|record| record.name == owner).take(RECORDS);
        found
            .filter_map(|record| match (&record.rdata, self.kind) {
                (RData::A(a), TYPE::A) => Some(Found::Address(IpAddr::V4(a.address.into()))),
                (RData::AAAA(aaaa), TYPE::AAAA) => Some(Found::Address(IpAddr::V6(aaaa.address.into()))),
                (RData::PTR(name), TYPE::PTR) => Some(Found::Name(name.0.to_string())),
                _ => None,
            })
            .collect()
    }
}

/// The name under which the name of an address is found (RFC 1035, 3.5; RFC 3596, 2.5).
fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

fn not_found() -> Error {
    Error::new(ErrorKind::HostNotFound, "the exit cannot resolve the name")
}

const TRIES: usize = 3;
const TRY_TIME: Duration = Duration::from_secs(2);
/// How long the other answers may stay behind the first.
const STRAGGLER_TIME: Duration = Duration::from_millis(500);
const STREAM_TIME: Duration = Duration::from_secs(20);
/// Bytes of an answer that fit a datagram on all ways (the DNS flag day of 2020); all clients say the same.
const ANSWER: u16 = 1_232;
/// Names that stand for one another, at most.
const ALIASES: usize = 16;
/// Records that are taken from one answer.
const RECORDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, CNAME, PTR};

    fn reply<'a>(question: &'a Question, change: impl FnOnce(&mut Packet<'a>)) -> Vec<u8> {
        let mut packet = Packet::parse(&question.message).unwrap().into_reply();
        change(&mut packet);
        packet.build_bytes_vec_compressed().unwrap()
    }

    fn record<'a>(name: &'a str, rdata: RData<'a>) -> ResourceRecord<'a> {
        ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, 60, rdata)
    }

    fn found(question: &Question, bytes: &[u8]) -> Option<Vec<Found>> {
        match question.answer(bytes) {
            Some(Answer::Found(found)) => Some(found),
            _ => None,
        }
    }

    fn address(text: &str) -> Found {
        Found::Address(text.parse().unwrap())
    }

    #[test]
    fn only_records_that_were_asked_for_are_taken_also_behind_aliases() {
        let question = Question::new("www.a.test", TYPE::A).unwrap();
        let bytes = reply(&question, |packet| {
            packet.answers.push(record("B.test", RData::A(A { address: 0xc000_0201 })));
            packet.answers.push(record("www.A.test", RData::CNAME(CNAME(Name::new("b.test").unwrap()))));
            packet.answers.push(record("other.test", RData::A(A { address: 0xc000_0202 })));
            packet.answers.push(record("b.test", RData::PTR(PTR(Name::new("c.test").unwrap()))));
        });
        assert_eq!(found(&question, &bytes), Some(vec![address("192.0.2.1")]));
    }

    #[test]
    fn aliases_that_go_round_in_circles_end() {
        let question = Question::new("a.test", TYPE::A).unwrap();
        let bytes = reply(&question, |packet| {
            packet.answers.push(record("a.test", RData::CNAME(CNAME(Name::new("b.test").unwrap()))));
            packet.answers.push(record("b.test", RData::CNAME(CNAME(Name::new("a.test").unwrap()))));
        });
        assert_eq!(found(&question, &bytes), Some(Vec::new()));
    }

    #[test]
    fn answers_to_other_questions_are_none() {
        let question = Question::new("a.test", TYPE::A).unwrap();
        assert_eq!(found(&question, &reply(&question, |_| {})), Some(Vec::new()));
        for bytes in [
            question.message.clone(),
            reply(&question, |packet| packet.set_id(question.id ^ 1)),
            reply(&question, |packet| packet.questions.clear()),
            reply(&question, |packet| packet.questions[0].qname = Name::new("b.test").unwrap()),
            reply(&question, |packet| packet.questions[0].qtype = TYPE::AAAA.into()),
            b"no message".to_vec(),
        ] {
            assert!(question.answer(&bytes).is_none());
        }
    }

    #[test]
    fn failures_have_their_kinds() {
        let question = Question::new("a.test", TYPE::A).unwrap();
        for (code, kind) in
            [(RCODE::ServerFailure, ErrorKind::HostNotFound), (RCODE::Refused, ErrorKind::NotAllowed)]
        {
            match question.answer(&reply(&question, |packet| *packet.rcode_mut() = code)) {
                Some(Answer::Failed(error)) => assert_eq!(error.kind(), kind),
                _ => panic!("{code:?} is no failure"),
            }
        }
        let missing = reply(&question, |packet| *packet.rcode_mut() = RCODE::NameError);
        assert!(matches!(question.answer(&missing), Some(Answer::Missing)));
        let cut = reply(&question, |packet| packet.set_flags(PacketFlag::TRUNCATION));
        assert!(matches!(question.answer(&cut), Some(Answer::Truncated)));
    }

    #[test]
    fn made_up_answers_are_read_or_passed_over_and_nothing_else() {
        use rand_core::SeedableRng;
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(2);
        let question = Question::new("www.a.test", TYPE::A).unwrap();
        let right = reply(&question, |packet| {
            packet.answers.push(record("www.a.test", RData::CNAME(CNAME(Name::new("b.test").unwrap()))));
            packet.answers.push(record("b.test", RData::A(A { address: 0xc000_0201 })));
            packet.answers.push(record("b.test", RData::PTR(PTR(Name::new("b.test").unwrap()))));
        });
        let mut read = 0;
        for _ in 0..20_000 {
            let mut bytes = right.clone();
            for _ in 0..1 + rng.next_u32() % 3 {
                let at = rng.next_u32() as usize % bytes.len();
                bytes[at] = rng.next_u32() as u8;
            }
            bytes.truncate(bytes.len() - (rng.next_u32() as usize % 8).saturating_sub(4));
            if let Some(found) = found(&question, &bytes) {
                assert!(found.len() <= RECORDS);
                read += 1;
            }
        }
        assert!(read > 1_000, "{read}");
    }

    #[test]
    fn addresses_have_names_in_the_reverse_tree() {
        assert_eq!(reverse_name("192.0.2.7".parse().unwrap()), "7.2.0.192.in-addr.arpa");
        let long = reverse_name("2001:db8::567:89ab".parse().unwrap());
        assert_eq!(long, "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa");
    }

    #[test]
    fn one_answer_with_something_is_enough_but_none_is_not() {
        let questions =
            [Question::new("a.test", TYPE::A).unwrap(), Question::new("a.test", TYPE::AAAA).unwrap()];
        let some = || Some(Answer::Found(vec![address("192.0.2.1")]));
        let none = || Some(Answer::Found(Vec::new()));
        for (answers, enough) in [
            ([None, None], false),
            ([some(), None], true),
            ([none(), None], false),
            // IPv4 is asked for again: an exit need not have IPv6.
            ([None, some()], false),
            ([none(), none()], true),
            ([None, Some(Answer::Missing)], true),
        ] {
            assert_eq!(is_enough(&questions, &answers), enough);
        }
    }
}
