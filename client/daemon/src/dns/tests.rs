//! Programs that ask by raw bytes, with exits of the tests' own.

use super::message::tests::{asking, reply_to};
use super::*;
use crate::fake::Exits;
use crate::isolation::Generation;
use crate::listener::{Address, Listener};
use crate::proxy;
use crate::traffic::Traffic;
use simple_dns::{Packet, PacketFlag, RCODE};
use tokio::net::TcpStream;

struct Setup {
    exits: Exits,
    counts: Arc<Counts>,
    generation: Generation,
    port: SocketAddr,
    /// A proxy port beside it.
    proxy: SocketAddr,
}

async fn set_up(resolver: fn(&[u8], bool) -> Option<Vec<u8>>) -> Setup {
    let exits = Exits::new(resolver);
    let (counts, generation) = (Arc::<Counts>::default(), Generation::default());
    let open = Port::open("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let port = open.address().unwrap();
    let answers =
        ByExit { network: exits.clone(), generation: generation.clone(), listener: 1, token: Vec::new() };
    let service = Service::new(answers, Arc::clone(&counts));
    tokio::spawn(async move { service.serve(&open).await });
    let listener = Listener::open(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let Ok(Address::Tcp(proxy)) = listener.address() else { unreachable!() };
    let shared = proxy::Port {
        network: exits.clone(),
        places: Arc::new(Semaphore::new(9)),
        traffic: Arc::<Traffic>::default(),
        associations: Arc::default(),
        questions: Arc::clone(&counts),
        generation: generation.clone(),
        number: 0,
    };
    tokio::spawn(proxy::serve(listener, shared));
    Setup { exits, counts, generation, port, proxy }
}

impl Setup {
    async fn socket(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.port).await.unwrap();
        socket
    }

    /// The answer to a message by UDP.
    async fn ask(&self, message: &[u8]) -> Vec<u8> {
        let socket = self.socket().await;
        socket.send(message).await.unwrap();
        heard(&socket).await
    }

    async fn stream(&self) -> TcpStream {
        TcpStream::connect(self.port).await.unwrap()
    }
}

async fn heard(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; LARGEST];
    let count = timeout(PATIENCE * 2, socket.recv(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(count);
    buffer
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let length = stream.read_u16().await.unwrap();
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await.unwrap();
    reply
}

/// As an exit and its resolver do: by a datagram, answers to `long…` are cut.
fn resolve(message: &[u8], by_stream: bool) -> Option<Vec<u8>> {
    let is_long = message[12..].starts_with(b"\x04long");
    let reply = reply_to(message, if is_long { 20 } else { 2 });
    Some(match is_long && !by_stream {
        true => Question::parse(message).unwrap().fitting(vec![0x80; 70_000]),
        false => reply,
    })
}

#[tokio::test]
async fn answers_come_by_udp_and_tcp_under_the_programs_own_number() {
    let setup = set_up(resolve).await;
    let message = asking("a.test", 1, None);
    let reply = setup.ask(&message).await;
    assert_eq!(reply, reply_to(&message, 2));
    let mut stream = setup.stream().await;
    stream.write_all(&framed(&message)).await.unwrap();
    assert_eq!(next(&mut stream).await, reply);
    let sent = setup.exits.sent();
    let numbers: Vec<_> = sent.iter().map(|(_, message)| message[..2].to_vec()).collect();
    assert!(numbers[0] != numbers[1] && !numbers.contains(&vec![0x12, 0x34]), "{numbers:?}");
    assert_eq!(setup.counts.now(), Asked { questions: 2, answered: 2, ..Asked::default() });
}

#[tokio::test]
async fn a_long_answer_is_cut_by_udp_and_whole_by_tcp() {
    let setup = set_up(resolve).await;
    for room in [None, Some(1_232), Some(4_096)] {
        let message = asking("long.test", 16, room);
        let cut = setup.ask(&message).await;
        assert!(Packet::parse(&cut).unwrap().has_flags(PacketFlag::TRUNCATION), "{room:?}");
        assert!(cut.len() <= 512);
        let mut stream = setup.stream().await;
        stream.write_all(&framed(&message)).await.unwrap();
        let whole = next(&mut stream).await;
        assert_eq!(Packet::parse(&whole).unwrap().answers.len(), 21);
        assert_eq!(whole[..2], [0x12, 0x34]);
    }
}

#[tokio::test]
async fn an_answer_that_came_whole_is_cut_to_what_the_program_takes() {
    let setup = set_up(|message, _| Some(reply_to(message, 4))).await;
    for (room, cut) in [(None, true), (Some(700), true), (Some(1_232), false)] {
        let reply = setup.ask(&asking("a.test", 16, room)).await;
        let packet = Packet::parse(&reply).unwrap();
        assert_eq!(packet.has_flags(PacketFlag::TRUNCATION), cut, "{room:?}");
        assert!(reply.len() <= usize::from(room.unwrap_or(512)));
    }
}

#[tokio::test]
async fn what_is_no_question_gets_its_code_or_nothing_and_is_not_asked() {
    let setup = set_up(resolve).await;
    let mut two = asking("a.test", 1, None);
    two[5] = 2;
    assert_eq!(setup.ask(&two).await[..4], [0x12, 0x34, 0x81, 0x81]);
    let mut update = asking("a.test", 1, None);
    update[2] = 0x28;
    assert_eq!(setup.ask(&update).await[3], 0x84);
    let socket = setup.socket().await;
    let mut answer = asking("a.test", 1, None);
    answer[2] |= 0x80;
    for silent in [&b""[..], b"\x12\x34", &answer] {
        socket.send(silent).await.unwrap();
    }
    socket.send(&asking("a.test", 1, None)).await.unwrap();
    assert_eq!(heard(&socket).await[3] & 15, 0, "nothing was said before this");
    assert_eq!(setup.exits.sent().len(), 1);
    let asked = Asked { questions: 1, answered: 1, malformed: 5, ..Asked::default() };
    assert_eq!(setup.counts.now(), asked);
}

#[tokio::test]
async fn without_an_answer_it_is_asked_again_and_then_that_is_the_answer() {
    let setup = set_up(|_, _| None).await;
    let reply = setup.ask(&asking("a.test", 1, Some(1_232))).await;
    let packet = Packet::parse(&reply).unwrap();
    assert_eq!((packet.id(), packet.rcode()), (0x1234, RCODE::ServerFailure));
    assert_eq!(setup.exits.sent().len(), 3);
    assert_eq!(setup.counts.now(), Asked { questions: 1, failed: 1, ..Asked::default() });
}

#[tokio::test]
async fn answers_under_another_number_or_to_another_question_are_passed_over() {
    let forged = set_up(|message, _| {
        let mut reply = reply_to(message, 0);
        reply[0] ^= 1;
        Some(reply)
    })
    .await;
    let other = set_up(|message, _| {
        let mut reply = reply_to(message, 0);
        reply[13] = b'b';
        Some(reply)
    })
    .await;
    let message = asking("a.test", 1, None);
    let (forged, other) = tokio::join!(forged.ask(&message), other.ask(&message));
    assert_eq!((forged[3] & 15, other[3] & 15), (2, 2));
}

#[tokio::test]
async fn many_questions_on_one_stream_are_answered_and_its_end_waits_for_them() {
    let setup = set_up(resolve).await;
    let mut stream = setup.stream().await;
    let mut sent = Vec::new();
    for number in 0..100u8 {
        let mut message = asking("a.test", 1, None);
        message[1] = number;
        sent.extend(framed(&message));
    }
    // In pieces that end nowhere in particular.
    let (mut reader, mut writer) = stream.split();
    let write = async {
        for piece in sent.chunks(7) {
            writer.write_all(piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let read = async {
        let mut numbers = Vec::new();
        for _ in 0..100 {
            numbers.push(next(&mut reader).await[1]);
        }
        assert_eq!(reader.read(&mut [0]).await.unwrap(), 0);
        numbers
    };
    let ((), mut numbers) = tokio::join!(write, read);
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn past_the_places_a_question_fails_at_once() {
    let setup = set_up(|_, _| None).await;
    let socket = setup.socket().await;
    for _ in 0..WAITING {
        socket.send(&asking("a.test", 1, None)).await.unwrap();
        // Loopback would drop what its buffer does not hold.
        tokio::task::yield_now().await;
    }
    let all = async {
        while setup.counts.now().questions < WAITING as u64 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(5), all).await.unwrap();
    let other = setup.ask(&asking("b.test", 1, None)).await;
    assert_eq!((other[3] & 15, setup.counts.now().full), (2, 1));
    assert_eq!(setup.exits.sent().len(), UNDER_WAY, "an exit takes no more of one session");
}

#[tokio::test]
async fn the_port_is_a_listener_of_its_own_and_takes_new_identities() {
    let setup = set_up(resolve).await;
    setup.ask(&asking("a.test", 1, None)).await;
    setup.generation.advance();
    setup.ask(&asking("a.test", 1, None)).await;
    let before = Generation::default();
    let isolations = setup.exits.isolations.lock().unwrap().clone();
    assert_eq!(isolations, [before.isolation(1, b""), setup.generation.isolation(1, b"")]);
}

#[tokio::test]
async fn questions_by_the_proxy_port_are_isolated_by_their_token_and_come_whole() {
    let setup = set_up(resolve).await;
    let message = asking("long.test", 16, None);
    let mut stream = TcpStream::connect(setup.proxy).await.unwrap();
    let request = b"\x05\x01\x02\x01\x01a\x01b\x05\xd5\0\x01\0\0\0\0\0\0";
    stream.write_all(&[&request[..], &framed(&message)].concat()).await.unwrap();
    let mut answers = [0; 14];
    stream.read_exact(&mut answers).await.unwrap();
    assert_eq!(answers, *b"\x05\x02\x01\0\x05\0\0\x01\0\0\0\0\0\0");
    assert_eq!(Packet::parse(&next(&mut stream).await).unwrap().answers.len(), 21);
    stream.write_all(&framed(&asking("a.test", 1, None))).await.unwrap();
    next(&mut stream).await;
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    let token = setup.generation.isolation(0, b"\x01\x01a\x01b");
    assert!(setup.exits.isolations.lock().unwrap().iter().all(|isolation| *isolation == token));
    assert_eq!(setup.counts.now().answered, 2);
}
