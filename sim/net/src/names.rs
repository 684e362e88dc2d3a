//! The resolver of a local network's exits: a handful of names, by UDP and by TCP, for the exits only; and a port that
//! gives every datagram back.
//!
//! | name | records |
//! |---|---|
//! | `dual.hello.test` | A (the origin), AAAA, TXT |
//! | `long.hello.test` | TXT of 5 KB: cut in a datagram, whole over TCP |
//! | the origin's address, reversed | PTR |
//! | all others | do not exist |

use crate::error::{Error, Result};
use crate::plan::ORIGIN_NAME;
use simple_dns::rdata::{A, AAAA, PTR, RData, TXT};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// What the names stand for, and who may ask.
#[derive(Debug)]
pub(crate) struct Zone {
    pub(crate) origin: Ipv4Addr,
    pub(crate) allow: Vec<IpAddr>,
}

/// Answers questions at `listen` from now on.
pub(crate) async fn answer(listen: SocketAddr, zone: Arc<Zone>) -> Result<()> {
    let failed =
        || Error::system(format!("the resolver cannot listen on {listen}: does another network run?"));
    let socket = UdpSocket::bind(listen).await.map_err(failed())?;
    let listener = TcpListener::bind(listen).await.map_err(failed())?;
    let asked = Arc::clone(&zone);
    tokio::spawn(async move {
        let mut buffer = [0; LARGEST];
        loop {
            let (count, peer) = next(&socket, &mut buffer).await;
            if let Some(reply) = asked.reply(&buffer[..count], peer.ip(), false) {
                let _ = socket.send_to(&reply, peer).await;
            }
        }
    });
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let zone = Arc::clone(&zone);
                    tokio::spawn(async move {
                        // A peer that breaks off is its own affair.
                        let _ = timeout(PATIENCE, zone.serve(stream, peer.ip())).await;
                        drop(place);
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(())
}

/// Gives datagrams to `listen` back from now on, to the peers in `allow`.
pub(crate) async fn echo(listen: SocketAddr, allow: Vec<IpAddr>) -> Result<()> {
    let socket = UdpSocket::bind(listen).await.map_err(Error::system(format!(
        "the origin cannot take datagrams on {listen}: does another network run?"
    )))?;
    tokio::spawn(async move {
        let mut buffer = [0; LARGEST];
        loop {
            let (count, peer) = next(&socket, &mut buffer).await;
            if allow.contains(&peer.ip()) {
                let _ = socket.send_to(&buffer[..count], peer).await;
            }
        }
    });
    Ok(())
}

/// The next datagram.
async fn next(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match socket.recv_from(buffer).await {
            Ok(received) => return received,
            // What became of an earlier one: nothing to do about it.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

impl Zone {
    async fn serve(&self, mut stream: TcpStream, peer: IpAddr) -> std::io::Result<()> {
        loop {
            let mut message = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut message).await?;
            let Some(reply) = self.reply(&message, peer, true) else { return Ok(()) };
            let length = u16::try_from(reply.len()).map_err(|_| std::io::ErrorKind::InvalidData)?;
            stream.write_all(&[&length.to_be_bytes()[..], &reply].concat()).await?;
        }
    }

    /// The reply to a message; over UDP it is cut to what the peer says that it takes.
    fn reply(&self, message: &[u8], peer: IpAddr, whole: bool) -> Option<Vec<u8>> {
        let asked = Packet::parse(message).ok().filter(|packet| !packet.has_flags(PacketFlag::RESPONSE))?;
        let size = asked.opt().map_or(SMALLEST, |opt| usize::from(opt.udp_packet_size).max(SMALLEST));
        let mut reply = asked.into_reply();
        reply.set_flags(PacketFlag::RECURSION_AVAILABLE | PacketFlag::RECURSION_DESIRED);
        let question = reply.questions.first()?.clone();
        let name = question.qname.to_string().to_ascii_lowercase();
        match self.records(&name) {
            _ if !self.allow.contains(&peer) => *reply.rcode_mut() = RCODE::Refused,
            None => *reply.rcode_mut() = RCODE::NameError,
            Some(records) => {
                let wanted = records.into_iter().filter(|record| match question.qtype {
                    QTYPE::ANY => true,
                    kind => kind == QTYPE::TYPE(record.type_code()),
                });
                let owner = || question.qname.clone();
                reply
                    .answers
                    .extend(wanted.map(|rdata| ResourceRecord::new(owner(), CLASS::IN, LIFE, rdata)));
            }
        }
        let bytes = reply.build_bytes_vec_compressed().ok()?;
        if whole || bytes.len() <= size {
            return Some(bytes);
        }
        reply.answers.clear();
        reply.set_flags(PacketFlag::TRUNCATION);
        reply.build_bytes_vec_compressed().ok()
    }

    /// What there is of a name; `None`: no such name.
    fn records(&self, name: &str) -> Option<Vec<RData<'static>>> {
        let text = |text: &str| TXT::new().with_string(text).map(|text| RData::TXT(text.into_owned()));
        let [a, b, c, d] = self.origin.octets();
        if name == format!("{DUAL}.{ORIGIN_NAME}") {
            let v6 = RData::AAAA(AAAA::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x90)));
            let mut records = vec![RData::A(A::from(self.origin)), v6];
            records.extend(text("Hello. This answer came through the mixnet."));
            Some(records)
        } else if name == format!("{LONG}.{ORIGIN_NAME}") {
            Some((0..20).flat_map(|number| text(&format!("{number:0250}"))).collect())
        } else if name == format!("{d}.{c}.{b}.{a}.in-addr.arpa") {
            Some(vec![RData::PTR(PTR(Name::new_unchecked("dual.hello.test").into_owned()))])
        } else {
            None
        }
    }
}

const DUAL: &str = "dual";
const LONG: &str = "long";
const LIFE: u32 = 60;
/// What a peer takes that says nothing.
const SMALLEST: usize = 512;
const LARGEST: usize = 65_535;
const CONNECTIONS: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::rdata::OPT;
    use simple_dns::{Question, TYPE};

    const EXIT: &str = "127.31.0.1";

    fn reply(
        name: &str,
        kind: TYPE,
        size: Option<u16>,
        peer: &str,
        whole: bool,
    ) -> (RCODE, bool, Vec<String>) {
        let zone = Zone { origin: [127, 90, 0, 1].into(), allow: vec![EXIT.parse().unwrap()] };
        let mut packet = Packet::new_query(7);
        packet.questions.push(Question::new(Name::new(name).unwrap(), kind.into(), CLASS::IN.into(), false));
        *packet.opt_mut() = size.map(|size| OPT { opt_codes: Vec::new(), udp_packet_size: size, version: 0 });
        let bytes = zone.reply(&packet.build_bytes_vec().unwrap(), peer.parse().unwrap(), whole).unwrap();
        let reply = Packet::parse(&bytes).unwrap();
        let records = reply.answers.iter().map(|record| match &record.rdata {
            RData::A(a) => Ipv4Addr::from(a.address).to_string(),
            RData::AAAA(aaaa) => Ipv6Addr::from(aaaa.address).to_string(),
            RData::PTR(name) => name.to_string(),
            other => format!("{:?}", other.type_code()),
        });
        (reply.rcode(), reply.has_flags(PacketFlag::TRUNCATION), records.collect())
    }

    #[test]
    fn names_have_the_records_that_the_table_says() {
        let found = |name: &str, kind| reply(name, kind, None, EXIT, false).2;
        assert_eq!(found("Dual.hello.test", TYPE::A), ["127.90.0.1"]);
        assert_eq!(found("dual.hello.test", TYPE::AAAA), ["2001:db8::90"]);
        assert_eq!(found("dual.hello.test", TYPE::TXT).len(), 1);
        assert!(found("dual.hello.test", TYPE::MX).is_empty());
        assert_eq!(found("1.0.90.127.in-addr.arpa", TYPE::PTR), ["dual.hello.test"]);
        assert_eq!(reply("other.test", TYPE::A, None, EXIT, false).0, RCODE::NameError);
        assert_eq!(reply("dual.hello.test", TYPE::A, None, "127.41.0.1", false).0, RCODE::Refused);
    }

    #[test]
    fn a_long_answer_is_cut_to_what_the_peer_takes_but_not_over_a_stream() {
        let long = |size, whole| {
            let (_, cut, records) = reply("long.hello.test", TYPE::TXT, size, EXIT, whole);
            (cut, records.len())
        };
        assert_eq!(long(None, false), (true, 0));
        assert_eq!(long(Some(1_232), false), (true, 0));
        assert_eq!(long(Some(8_192), false), (false, 20));
        assert_eq!(long(None, true), (false, 20));
    }

    #[tokio::test]
    async fn datagrams_come_back_to_those_who_may_send_them() {
        let free = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        echo(free, vec!["127.0.0.2".parse().unwrap()]).await.unwrap();
        let stranger = UdpSocket::bind("127.0.0.3:0").await.unwrap();
        let exit = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        for socket in [&stranger, &exit] {
            socket.send_to(b"hello", free).await.unwrap();
        }
        let mut buffer = [0; 16];
        let (count, source) = exit.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..count], source), (&b"hello"[..], free));
        // The stranger's was before.
        assert!(stranger.try_recv(&mut buffer).is_err());
    }
}
