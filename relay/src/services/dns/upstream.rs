//! Asks a resolver as a stub does (RFC 5452): from a fresh port under a fresh number, and believes only what answers
//! that question under that number from that address.

use super::question::{Question, is_cut, is_failure};
use mizzle_link::seeded_rng;
use rand_core::Rng;
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

/// Asks `servers` one after the other, twice around; a reply that was cut is fetched whole if `whole`. `None` if
/// there is no answer, or none but that there was a failure.
pub(super) async fn ask(
    servers: &[SocketAddr],
    outbound: Option<IpAddr>,
    question: &Question<'_>,
    whole: bool,
) -> Option<Vec<u8>> {
    let asking = async {
        for _ in 0..ROUNDS {
            for &server in servers {
                let answered = timeout(TRY, by_datagram(server, outbound, question)).await;
                let Ok(Ok(reply)) = answered else { continue };
                if is_failure(&reply) {
                    // Another one may know more.
                    continue;
                }
                if !(whole && is_cut(&reply)) {
                    return Some(reply);
                }
                if let Ok(Ok(reply)) = timeout(TRY, by_stream(server, outbound, question)).await {
                    return Some(reply);
                }
            }
        }
        None
    };
    timeout(PATIENCE, asking).await.ok().flatten()
}

async fn by_datagram(
    server: SocketAddr,
    outbound: Option<IpAddr>,
    question: &Question<'_>,
) -> Result<Vec<u8>> {
    // The system draws the port.
    let socket = UdpSocket::bind(source(server, outbound)).await?;
    socket.connect(server).await?;
    let id = fresh_id()?;
    socket.send(&question.renumbered(id)).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let count = socket.recv(&mut buffer).await?;
        let reply = buffer.get(..count).unwrap_or_default();
        if question.is_answered_by(reply, id) {
            return Ok(question.returned(reply.to_vec()));
        }
    }
}

async fn by_stream(server: SocketAddr, outbound: Option<IpAddr>, question: &Question<'_>) -> Result<Vec<u8>> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(source(server, outbound))?;
    let mut stream = socket.connect(server).await?;
    let id = fresh_id()?;
    let message = question.renumbered(id);
    let length = u16::try_from(message.len()).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    stream.write_all(&[&length.to_be_bytes()[..], &message].concat()).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    match question.is_answered_by(&reply, id) {
        true => Ok(question.returned(reply)),
        false => Err(ErrorKind::InvalidData.into()),
    }
}

/// Where questions come from: the operator's address, if that leads there.
fn source(server: SocketAddr, outbound: Option<IpAddr>) -> SocketAddr {
    let own = |address: &IpAddr| {
        address.is_ipv4() == server.is_ipv4() && (address.is_loopback() || !server.ip().is_loopback())
    };
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(outbound.filter(own).unwrap_or(any), 0)
}

fn fresh_id() -> Result<[u8; 2]> {
    let mut id = [0; 2];
    seeded_rng().map_err(|_| Error::from(ErrorKind::Other))?.fill_bytes(&mut id);
    Ok(id)
}

const ROUNDS: usize = 2;
const TRY: Duration = Duration::from_millis(1_500);
/// All tries together. A client asks again after 2 s, three times.
const PATIENCE: Duration = Duration::from_secs(5);
const LARGEST: usize = 65_535;

#[cfg(test)]
mod tests {
    use super::super::question::tests::asking;
    use super::*;
    use tokio::net::TcpListener;

    async fn server() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    fn reply_to(question: &[u8]) -> Vec<u8> {
        Question::parse(question).unwrap().reply_address([192, 0, 2, 1].into()).unwrap()
    }

    #[tokio::test]
    async fn forged_answers_are_passed_over_and_the_right_one_is_taken() {
        let (socket, address) = server().await;
        let (stranger, _) = server().await;
        let mut seen = Vec::new();
        let message = asking("a.test", 1);
        let question = Question::parse(&message).unwrap();
        for _ in 0..2 {
            let servers = [address];
            let serve = async {
                let mut buffer = [0; 512];
                let (count, client) = socket.recv_from(&mut buffer).await.unwrap();
                let right = reply_to(&buffer[..count]);
                let mut other_id = right.clone();
                other_id[1] ^= 1;
                let mut other_name = right.clone();
                other_name[13] ^= 1;
                for forged in [&other_id, &other_name] {
                    socket.send_to(forged, client).await.unwrap();
                }
                let mut poison = right.clone();
                *poison.last_mut().unwrap() = 66;
                stranger.send_to(&poison, client).await.unwrap();
                socket.send_to(&right, client).await.unwrap();
                (client.port(), [buffer[0], buffer[1]])
            };
            let (reply, asked) = tokio::join!(ask(&servers, None, &question, false), serve);
            assert_eq!(reply, Some(reply_to(&message)));
            seen.push(asked);
        }
        assert_ne!(seen[0].0, seen[1].0, "the port is used again");
        assert_ne!(seen[0].1, [message[0], message[1]], "the number is the client's");
        assert_ne!(seen[0].1, seen[1].1, "the number is used again");
    }

    #[tokio::test]
    async fn the_next_resolver_is_asked_when_one_fails() {
        let ((failing, first), (working, second)) = (server().await, server().await);
        let message = asking("a.test", 1);
        let question = Question::parse(&message).unwrap();
        let serve = async {
            let mut buffer = [0; 512];
            let (count, client) = failing.recv_from(&mut buffer).await.unwrap();
            let failure = Question::parse(&buffer[..count]).unwrap().reply(simple_dns::RCODE::ServerFailure);
            failing.send_to(&failure.unwrap(), client).await.unwrap();
            let (count, client) = working.recv_from(&mut buffer).await.unwrap();
            working.send_to(&reply_to(&buffer[..count]), client).await.unwrap();
        };
        let servers = [first, second];
        let (reply, ()) = tokio::join!(ask(&servers, None, &question, false), serve);
        assert_eq!(reply, Some(reply_to(&message)));
    }

    #[tokio::test]
    async fn a_reply_that_was_cut_is_fetched_whole_for_who_has_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).await.unwrap();
        let message = asking("a.test", 1);
        let question = Question::parse(&message).unwrap();
        for whole in [false, true] {
            let serve = async {
                let mut buffer = [0; 512];
                let (count, client) = socket.recv_from(&mut buffer).await.unwrap();
                let cut = Question::parse(&buffer[..count]).unwrap().cut(&reply_to(&buffer[..count]));
                socket.send_to(&cut, client).await.unwrap();
                if whole {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut asked = vec![0; usize::from(stream.read_u16().await.unwrap())];
                    stream.read_exact(&mut asked).await.unwrap();
                    let reply = reply_to(&asked);
                    stream.write_u16(reply.len() as u16).await.unwrap();
                    stream.write_all(&reply).await.unwrap();
                }
            };
            let servers = [address];
            let (reply, ()) = tokio::join!(ask(&servers, None, &question, whole), serve);
            let reply = reply.unwrap();
            assert_eq!(is_cut(&reply), !whole);
            assert_eq!(reply == reply_to(&message), whole);
        }
    }

    #[test]
    fn questions_come_from_the_operators_address_if_that_leads_there() {
        let source = |server: &str, outbound: &str| {
            source(server.parse().unwrap(), Some(outbound.parse().unwrap())).ip().to_string()
        };
        assert_eq!(source("192.0.2.53:53", "192.0.2.7"), "192.0.2.7");
        assert_eq!(source("127.0.0.53:53", "192.0.2.7"), "0.0.0.0");
        assert_eq!(source("127.0.0.53:53", "127.31.0.1"), "127.31.0.1");
        assert_eq!(source("[2001:db8::53]:53", "192.0.2.7"), "::");
    }
}
