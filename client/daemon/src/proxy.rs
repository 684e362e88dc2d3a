//! The proxy port: accepts applications and carries their connections as streams. (spec: CLIENT-2, PROXY-4)

use crate::associate::{Associations, RelayPort};
use crate::bounded::Bounded;
use crate::dns::{ByExit, Counts, Service};
use crate::isolation::Generation;
use crate::listener::{Application, Listener};
use crate::network::Network;
use crate::refusals::Refusal;
use crate::socks::{Body, Command, Handshake, Output, Reply, Request};
use crate::traffic::Traffic;
use mizzle_client::{ErrorKind, Host};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;

/// What the connections of one listener share.
#[derive(Debug)]
pub(crate) struct Port<N> {
    pub(crate) network: N,
    /// Places for connections, of all listeners together.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) traffic: Arc<Traffic>,
    /// Places for datagrams, of all listeners together.
    pub(crate) associations: Arc<Associations>,
    /// Questions for names.
    pub(crate) questions: Arc<Counts>,
    pub(crate) generation: Generation,
    /// Its number: listeners isolate.
    pub(crate) number: u16,
}

impl<N> Port<N> {
    /// Counts a request that failed because the client carries as much as it can.
    fn count_crowded(&self, error: &mizzle_client::Error) {
        if error.kind() == ErrorKind::Exhausted {
            self.traffic.refusals.count(Refusal::Crowded);
        }
    }
}

/// Serves applications until the task is dropped. Past the places, new ones are closed.
pub(crate) async fn serve<N: Network>(listener: Listener, port: Port<N>) {
    let port = Arc::new(port);
    let mut full = false;
    loop {
        let application = match listener.accept().await {
            Ok(application) => application,
            Err(error) => {
                // Out of file descriptors, most likely: give the others time to end.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&port.places).try_acquire_owned() else {
            if !std::mem::replace(&mut full, true) {
                tracing::warn!("all places are taken: new connections are closed (key `connections`)");
            }
            port.traffic.refusals.count(Refusal::Full);
            continue;
        };
        full = false;
        let port = Arc::clone(&port);
        let carried = port.traffic.carry();
        tokio::spawn(async move {
            // What an application does wrong is its own business, and nobody else's.
            if let Err(error) = carry(application, &port).await {
                tracing::debug!("a connection ended: {}", error.kind());
            }
            drop((place, carried));
        });
    }
}

/// One application's connection, from the greeting to the end.
async fn carry<N: Network>(mut application: Application, port: &Port<N>) -> io::Result<()> {
    let request = match tokio::time::timeout(HANDSHAKE_TIME, shake_hands(&mut application)).await {
        Ok(request) => request,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let request = request.inspect_err(|error| port.traffic.refusals.count(Refusal::of(error)))?;
    let Request { command, protocol, token, exit_country, early_data, body } = request;
    let network = port.network.by_exits_in(exit_country);
    let isolation = port.generation.isolation(port.number, &token);
    match command {
        Command::Connect(target) => {
            // What the application sends without waiting travels with the opening.
            let stream = match network.connect(target, &isolation, &early_data).await {
                Ok(stream) => stream,
                Err(error) => {
                    port.count_crowded(&error);
                    let answer = reply_to(error.kind()).with_reason(protocol, &error.to_string());
                    return reject(&mut application, &answer).await;
                }
            };
            application.write_all(&Reply::Succeeded.to_protocol(protocol)).await?;
            carry_bytes(application, stream, body).await
        }
        Command::Associate(named) => associate(application, named, &network, port, &isolation).await,
        // (spec: PROXY-12)
        Command::Questions => {
            application.write_all(&Reply::Succeeded.to_bytes()).await?;
            let generation = port.generation.clone();
            let answers = ByExit { network, generation, listener: port.number, token };
            // The first questions may have come along with the request.
            let (reader, writer) = tokio::io::split(application);
            let stream = tokio::io::join(early_data.chain(reader), writer);
            Service::new(answers, Arc::clone(&port.questions)).converse(stream).await
        }
        Command::Resolve(host) => {
            let answer = match host {
                Host::Address(address) => Reply::with_address(address),
                Host::Resolver | Host::Documents => Reply::HostNotFound.to_bytes(),
                Host::Name(name) => match network.look_up(&name, &isolation).await {
                    Ok(addresses) => addresses.first().map_or_else(
                        || Reply::HostNotFound.to_bytes(),
                        |&address| Reply::with_address(address),
                    ),
                    Err(error) => {
                        port.count_crowded(&error);
                        reply_to(error.kind()).to_bytes()
                    }
                },
            };
            reject(&mut application, &answer).await
        }
        Command::ResolveAddress(address) => {
            let answer = match network.look_up_address(address, &isolation).await {
                Ok(name) => Reply::with_name(&name),
                Err(error) => reply_to(error.kind()).to_bytes(),
            };
            reject(&mut application, &answer).await
        }
    }
}

/// Datagrams for as long as the application's stream lasts.
async fn associate<N: Network>(
    mut application: Application,
    named: SocketAddr,
    network: &N,
    port: &Port<N>,
    isolation: &[u8],
) -> io::Result<()> {
    let Some(_place) = port.associations.place() else {
        port.traffic.refusals.count(Refusal::Full);
        return reject(&mut application, &Reply::GeneralFailure.to_bytes()).await;
    };
    let datagrams = match network.datagrams(isolation).await {
        Ok(datagrams) => datagrams,
        Err(error) => {
            port.count_crowded(&error);
            return reject(&mut application, &reply_to(error.kind()).to_bytes()).await;
        }
    };
    let opened = RelayPort::open(&application, named).await.and_then(|relay| Ok((relay.address()?, relay)));
    let Ok((address, relay)) = opened else {
        return reject(&mut application, &Reply::GeneralFailure.to_bytes()).await;
    };
    application.write_all(&Reply::with_bound(address)).await?;
    relay.carry(application, datagrams, &port.associations).await;
    Ok(())
}

/// Copies both ways until both have ended; of the application, the rest of `body` if there is one.
async fn carry_bytes(
    application: Application,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    body: Option<Body>,
) -> io::Result<()> {
    // An application must not take a broken stream for a finished one. So from here on every end is a reset,
    // whatever brings it: an error, this task's end, even the daemon's by `kill -9`.
    application.reset_on_close()?;
    let mut application = Bounded { application, body };
    tokio::io::copy_bidirectional_with_sizes(&mut application, &mut stream, BUFFER, BUFFER).await?;
    // Except this one, where both sides have said that they are done: what still waits is to arrive.
    application.application.close_in_order()
}

/// Reads a request. What is none is an error of kind `InvalidData`, after the application was told so.
async fn shake_hands(application: &mut Application) -> io::Result<Request> {
    let mut handshake = Handshake::new();
    let mut buffer = [0; 2_048];
    loop {
        let count = application.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        handshake.receive(buffer.get(..count).unwrap_or_default());
        while let Some(output) = handshake.poll() {
            match output {
                Output::Send(answer) => application.write_all(&answer).await?,
                Output::Request(request) => return Ok(request),
                Output::Reject(answer) => {
                    // Whether it hears that is its own business.
                    let _ = reject(application, &answer).await;
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }
}

/// Says a last word, and sees to it that it arrives: closing with unread data would cut it off.
async fn reject(application: &mut Application, answer: &[u8]) -> io::Result<()> {
    application.write_all(answer).await?;
    application.shutdown().await?;
    let mut left = DRAIN_LIMIT;
    let drain = async {
        let mut buffer = [0; 2_048];
        while left > 0 {
            match application.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    // A client that neither reads nor closes is left alone.
    let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
    Ok(())
}

/// The reply to a failure.
fn reply_to(kind: ErrorKind) -> Reply {
    match kind {
        ErrorKind::NotAllowed => Reply::NotAllowed,
        ErrorKind::NetworkUnreachable => Reply::NetworkUnreachable,
        ErrorKind::HostUnreachable => Reply::HostUnreachable,
        ErrorKind::HostNotFound => Reply::HostNotFound,
        ErrorKind::ConnectionRefused => Reply::ConnectionRefused,
        ErrorKind::TimedOut => Reply::TimedOut,
        ErrorKind::NoNetwork | ErrorKind::Outdated => Reply::NoNetwork,
        ErrorKind::NoSuchExit => Reply::NoSuchExit,
        ErrorKind::Exhausted => Reply::Crowded,
        _ => Reply::GeneralFailure,
    }
}

const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const DRAIN_TIME: Duration = Duration::from_secs(2);
const DRAIN_LIMIT: usize = 64 * 1024;
const BUFFER: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Echo, Exits};
    use crate::listener::Address;
    use mizzle_client::{Country, Error, Target};
    use std::net::IpAddr;
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll};
    use tokio::io::{DuplexStream, ReadBuf};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::{mpsc, oneshot};

    #[test]
    fn every_failure_has_its_code() {
        for (kind, code) in [
            (ErrorKind::NotAllowed, 2),
            (ErrorKind::NetworkUnreachable, 3),
            (ErrorKind::HostNotFound, 4),
            (ErrorKind::HostUnreachable, 4),
            (ErrorKind::ConnectionRefused, 5),
            (ErrorKind::TimedOut, 6),
            (ErrorKind::NoNetwork, 1),
            (ErrorKind::NoSuchExit, 1),
            (ErrorKind::Closed, 1),
            (ErrorKind::Exhausted, 1),
        ] {
            assert_eq!(reply_to(kind).code(), code, "{kind:?}");
        }
    }

    /// A network whose exit is the test.
    #[derive(Clone)]
    struct Fake {
        asks: mpsc::Sender<Asked>,
        country: Option<Country>,
        noted: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    struct Asked {
        target: Target,
        isolation: Vec<u8>,
        first: Vec<u8>,
        exit_country: Option<Country>,
        answer: oneshot::Sender<mizzle_client::Result<DuplexStream>>,
    }

    impl Network for Fake {
        type Stream = DuplexStream;
        type Datagrams = Echo;

        fn by_exits_in(&self, country: Option<Country>) -> Self {
            Self { country, ..self.clone() }
        }

        async fn connect(
            &self,
            target: Target,
            isolation: &[u8],
            first: &[u8],
        ) -> mizzle_client::Result<DuplexStream> {
            let (answer, answered) = oneshot::channel();
            let (isolation, first) = (isolation.to_vec(), first.to_vec());
            self.asks
                .send(Asked { target, isolation, first: first.clone(), exit_country: self.country, answer })
                .await
                .map_err(drop)
                .unwrap();
            let mut stream = answered.await.unwrap()?;
            stream.write_all(&first).await.unwrap();
            Ok(stream)
        }

        async fn datagrams(&self, isolation: &[u8]) -> mizzle_client::Result<Echo> {
            self.note(isolation);
            Ok(Echo::new(Exits::new(|_, _| None)))
        }

        async fn look_up(&self, name: &str, isolation: &[u8]) -> mizzle_client::Result<Vec<IpAddr>> {
            self.note(isolation);
            match name {
                "a.test" => Ok(vec!["192.0.2.7".parse().unwrap()]),
                _ => Err(Error::new(ErrorKind::HostNotFound, "none")),
            }
        }

        async fn look_up_address(&self, _: IpAddr, isolation: &[u8]) -> mizzle_client::Result<String> {
            self.note(isolation);
            Ok("a.test".into())
        }
    }

    impl Fake {
        /// What was asked for without a stream.
        fn note(&self, isolation: &[u8]) {
            self.noted.lock().unwrap().push(isolation.to_vec());
        }
    }

    struct Setup {
        address: std::net::SocketAddr,
        asked: mpsc::Receiver<Asked>,
        generation: Generation,
        traffic: Arc<Traffic>,
        noted: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    async fn set_up(number: u16, places: usize) -> Setup {
        let listener = Listener::open(&Address::Tcp("127.0.0.1:0".parse().unwrap())).await.unwrap();
        let Listener::Tcp(tcp) = &listener else { unreachable!() };
        let address = tcp.local_addr().unwrap();
        let (sender, asked) = mpsc::channel(16);
        let (generation, traffic) = (Generation::default(), Arc::<Traffic>::default());
        let noted = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let port = Port {
            network: Fake { asks: sender, country: None, noted: Arc::clone(&noted) },
            places: Arc::new(Semaphore::new(places)),
            traffic: Arc::clone(&traffic),
            associations: Arc::default(),
            questions: Arc::default(),
            generation: generation.clone(),
            number,
        };
        tokio::spawn(serve(listener, port));
        Setup { address, asked, generation, traffic, noted }
    }

    impl Setup {
        async fn send(&self, bytes: &[u8]) -> TcpStream {
            let mut application = TcpStream::connect(self.address).await.unwrap();
            application.write_all(bytes).await.unwrap();
            application
        }
    }

    /// The same target in each protocol.
    const REQUESTS: [&[u8]; 4] = [
        b"\x05\x01\x00\x05\x01\x00\x03\x06a.test\x00\x50",
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00a.test\x00",
        b"CONNECT a.test:80 HTTP/1.1\r\n\r\n",
        b"GET http://a.test/ HTTP/1.1\r\n\r\n",
    ];

    #[tokio::test]
    async fn success_is_told_only_when_the_exit_has_connected_and_each_end_is_passed_on() {
        let mut setup = set_up(0, 9).await;
        for (request, success) in REQUESTS.into_iter().zip([
            &b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"[..],
            b"\x00\x5a\x00\x00\x00\x00\x00\x00",
            b"HTTP/1.1 200 Connection established\r\n\r\n",
            b"",
        ]) {
            let mut application = setup.send(request).await;
            let asked = setup.asked.recv().await.unwrap();
            assert!(asked.target == Target::parse("a.test", 80).unwrap());
            let mut got = vec![0; if request[0] == 5 { 2 } else { 0 }];
            application.read_exact(&mut got).await.unwrap();
            // Nothing more comes while the exit has said nothing.
            let early = tokio::time::timeout(Duration::from_millis(50), application.read_u8()).await;
            assert!(early.is_err(), "an answer before the exit's");
            let (mut far, near) = tokio::io::duplex(1_000);
            asked.answer.send(Ok(near)).unwrap();
            application.shutdown().await.unwrap();
            let mut sent = Vec::new();
            far.read_to_end(&mut sent).await.unwrap();
            assert_eq!(sent.starts_with(b"GET / HTTP/1.1\r\nHost: a.test\r\n"), request[0] == b'G');
            // The application has ended, and still hears.
            far.write_all(b"late").await.unwrap();
            drop(far);
            application.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, [success, b"late"].concat());
        }
    }

    #[tokio::test]
    async fn what_an_application_sends_without_waiting_travels_with_the_opening() {
        let mut setup = set_up(0, 9).await;
        for request in REQUESTS {
            let _application = setup.send(&[request, b"hello"].concat()).await;
            let asked = setup.asked.recv().await.unwrap();
            // A plain request without a body ends with its head.
            let text = String::from_utf8_lossy(&asked.first).into_owned();
            assert!(text == "hello" || text.starts_with("GET / HTTP/1.1\r\n"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_failure_is_told_in_each_protocol() {
        let mut setup = set_up(0, 9).await;
        for (kind, code, status) in [
            (ErrorKind::NotAllowed, 2, "403"),
            (ErrorKind::NetworkUnreachable, 3, "502"),
            (ErrorKind::HostUnreachable, 4, "502"),
            (ErrorKind::HostNotFound, 4, "502"),
            (ErrorKind::ConnectionRefused, 5, "502"),
            (ErrorKind::TimedOut, 6, "504"),
            (ErrorKind::NoNetwork, 1, "503"),
            (ErrorKind::NoSuchExit, 1, "503"),
            (ErrorKind::Exhausted, 1, "503"),
            (ErrorKind::Other, 1, "502"),
        ] {
            for request in REQUESTS {
                let mut application = setup.send(request).await;
                let asked = setup.asked.recv().await.unwrap();
                asked.answer.send(Err(Error::new(kind, "why"))).unwrap();
                let mut got = Vec::new();
                application.read_to_end(&mut got).await.unwrap();
                match request[0] {
                    5 => assert_eq!(got, [5, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0]),
                    4 => assert_eq!(got, [0, 0x5b, 0, 0, 0, 0, 0, 0]),
                    _ => assert!(got.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{kind:?}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn look_ups_are_answered_as_tor_answers_them() {
        let setup = set_up(0, 9).await;
        for (request, answer) in [
            (&b"\xf0\0\x03\x06a.test\0\0"[..], &b"\0\0\x01\xc0\0\x02\x07\0\0"[..]),
            (b"\xf0\0\x03\x06b.test\0\0", b"\x04\0\x01\0\0\0\0\0\0"),
            (b"\xf0\0\x03\x03::1\0\0", b"\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0"),
            (b"\xf1\0\x01\xc0\0\x02\x07\0\0", b"\0\0\x03\x06a.test\0\0"),
            (b"\x02\0\x01\0\0\0\0\0\0", b"\x07\0\x01\0\0\0\0\0\0"),
        ] {
            let mut application = setup.send(&[b"\x05\x01\0\x05", request].concat()).await;
            let mut got = Vec::new();
            application.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, [b"\x05\0\x05", answer].concat());
        }
    }

    #[tokio::test]
    async fn listeners_tokens_and_new_identities_isolate() {
        let (mut one, mut two) = (set_up(0, 9).await, set_up(1, 9).await);
        let plain = REQUESTS[0];
        let mut token = b"\x05\x01\x02\x01\x01a\x00".to_vec();
        token.extend(&plain[3..]);
        let mut seen = Vec::new();
        for _ in 0..2 {
            for setup in [&mut one, &mut two] {
                for request in [plain, &token] {
                    let _application = setup.send(request).await;
                    seen.push(setup.asked.recv().await.unwrap().isolation);
                }
                setup.generation.advance();
            }
        }
        for (index, isolation) in seen.iter().enumerate() {
            assert!(!seen[..index].contains(isolation));
        }
    }

    /// Datagrams and look-ups are kept apart like streams: by the user, by the password, and by nothing that is equal.
    #[tokio::test]
    async fn what_needs_no_stream_is_isolated_like_streams() {
        let mut setup = set_up(0, 9).await;
        let users = [&b"\x01\x01a\x01x"[..], b"\x01\x01a\x01y", b"\x01\x01b\x01x", b"\x01\x01a\x01x"];
        let commands = [
            &b"\x05\x03\0\x01\0\0\0\0\0\0"[..],
            b"\x05\xf0\0\x03\x06a.test\0\0",
            b"\x05\xf1\0\x01\xc0\0\x02\x07\0\0",
        ];
        let stream = b"\x05\x01\0\x03\x06a.test\0\x50";
        let mut by_user = Vec::new();
        for user in users {
            let request = |command: &[u8]| [b"\x05\x01\x02", user, command].concat();
            let _application = setup.send(&request(stream)).await;
            let of_stream = setup.asked.recv().await.unwrap().isolation;
            for command in commands {
                let mut application = setup.send(&request(command)).await;
                // Method, password, and the beginning of the reply.
                let mut got = [0; 6];
                application.read_exact(&mut got).await.unwrap();
                assert_eq!(got, [5, 2, 1, 0, 5, 0]);
                assert_eq!(setup.noted.lock().unwrap().pop(), Some(of_stream.clone()), "{command:?}");
            }
            by_user.push(of_stream);
        }
        assert_eq!(by_user[0], by_user[3]);
        by_user.pop();
        by_user.sort();
        by_user.dedup();
        assert_eq!(by_user.len(), 3);
    }

    #[tokio::test]
    async fn what_finds_no_session_is_counted_and_told() {
        let mut setup = set_up(0, 9).await;
        let mut application = setup.send(REQUESTS[2]).await;
        let refused = Err(Error::new(ErrorKind::Exhausted, "too many sessions"));
        setup.asked.recv().await.unwrap().answer.send(refused).unwrap();
        let mut got = String::new();
        application.read_to_string(&mut got).await.unwrap();
        assert!(got.contains("too many hosts at once"), "{got}");
        assert_eq!(setup.traffic.refusals.now().crowded, 1);
    }

    #[tokio::test]
    async fn each_protocol_asks_for_an_exit_by_country_in_its_own_words() {
        let mut setup = set_up(0, 9).await;
        for (request, wanted) in [
            (&b"\x05\x01\x02\x01\x0acountry=de\x00\x05\x01\x00\x03\x06a.test\x00\x50"[..], Some("DE")),
            (b"\x05\x01\x02\x01\x02de\x00\x05\x01\x00\x03\x06a.test\x00\x50", None),
            (b"\x04\x01\x00\x50\x00\x00\x00\x01country=FR\x00a.test\x00", Some("FR")),
            (b"CONNECT a.test:80 HTTP/1.1\r\nX-Mizzle-Exit-Country: FR\r\n\r\n", Some("FR")),
            (b"GET http://a.test/ HTTP/1.1\r\nx-mizzle-exit-country: FR\r\n\r\n", Some("FR")),
        ] {
            let mut application = setup.send(request).await;
            let asked = setup.asked.recv().await.unwrap();
            assert_eq!(asked.exit_country.map(|country| country.to_string()).as_deref(), wanted);
            let first = String::from_utf8_lossy(&asked.first).to_lowercase();
            assert!(!first.contains("country"), "the origin need not know: {first}");
            let reason = "no exit says that it is in FR; there are exits in AT, CH";
            asked.answer.send(Err(Error::new(ErrorKind::NoSuchExit, reason))).unwrap();
            let mut got = Vec::new();
            application.read_to_end(&mut got).await.unwrap();
            let got = String::from_utf8_lossy(&got);
            assert_eq!(got.contains(reason), request[0].is_ascii_uppercase(), "{got}");
        }
        for (request, answer) in [
            (&b"\x05\x01\x02\x01\x0acountry=XX\x00"[..], &b"\x05\x02\x01\x01"[..]),
            (b"\x04\x01\x00\x50\x00\x00\x00\x01country=\x00a.test\x00", b"\x00\x5b"),
            (b"CONNECT a.test:80 HTTP/1.1\r\nX-Mizzle-Exit-Country: XX\r\n\r\n", b"HTTP/1.1 400 "),
            (b"GET http://a.test/ HTTP/1.1\r\nX-Mizzle-Exit-Country: \r\n\r\n", b"HTTP/1.1 400 "),
            (
                b"GET http://a.test/ HTTP/1.1\r\nX-Mizzle-Exit-Country: DE\r\nX-Mizzle-Exit-Country: FR\r\n\r\n",
                b"HTTP/1.1 400 ",
            ),
        ] {
            let mut application = setup.send(request).await;
            let mut got = Vec::new();
            application.read_to_end(&mut got).await.unwrap();
            assert!(got.starts_with(answer), "{}", String::from_utf8_lossy(&got));
        }
        assert!(setup.asked.try_recv().is_err(), "nothing goes out that was refused");
    }

    #[tokio::test]
    async fn behind_the_body_of_a_plain_request_nothing_passes() {
        let mut setup = set_up(0, 9).await;
        let head = b"POST http://a.test/ HTTP/1.1\r\nContent-Length: 6\r\n\r\nbo";
        let mut application = setup.send(head).await;
        let (mut far, near) = tokio::io::duplex(1_000);
        setup.asked.recv().await.unwrap().answer.send(Ok(near)).unwrap();
        application.write_all(b"dy").await.unwrap();
        application.write_all(b"..GET http://other.test/ HTTP/1.1\r\n\r\n").await.unwrap();
        application.write_all(b"more").await.unwrap();
        application.shutdown().await.unwrap();
        let mut sent = String::new();
        far.read_to_string(&mut sent).await.unwrap();
        assert!(sent.ends_with("\r\n\r\nbody.."), "{sent}");
    }

    #[tokio::test]
    async fn past_the_places_connections_are_closed_and_counted() {
        let mut setup = set_up(0, 1).await;
        let _first = setup.send(REQUESTS[0]).await;
        let _asked = setup.asked.recv().await.unwrap();
        let mut second = TcpStream::connect(setup.address).await.unwrap();
        assert_eq!(second.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(setup.traffic.refusals.now().full, 1);
    }

    /// Two ends of a connection on loopback.
    async fn connection() -> (TcpStream, Application) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (application, Application::Tcp(listener.accept().await.unwrap().0))
    }

    /// Gives some bytes, then fails as a stream does whose exit is gone.
    struct Breaking(&'static [u8]);

    impl AsyncRead for Breaking {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            buffer.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_stream_that_breaks_resets_the_application() {
        let (mut application, ours) = connection().await;
        let stream = tokio::io::join(Breaking(b"part of a page"), tokio::io::sink());
        assert!(carry_bytes(ours, stream, None).await.is_err());
        let end = application.read_to_end(&mut Vec::new()).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_daemon_that_ends_resets_the_application() {
        let (mut application, ours) = connection().await;
        let (mut far, stream) = tokio::io::duplex(1_000);
        let carried = tokio::spawn(carry_bytes(ours, stream, None));
        far.write_all(b"part").await.unwrap();
        application.read_exact(&mut [0; 4]).await.unwrap();
        carried.abort();
        let end = application.read_to_end(&mut Vec::new()).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_stream_that_ends_in_order_arrives_as_a_whole() {
        let (mut application, ours) = connection().await;
        let (mut far, stream) = tokio::io::duplex(1_000);
        let carried = tokio::spawn(carry_bytes(ours, stream, None));
        let page = vec![7; 300_000];
        let sending = async {
            far.write_all(&page).await.unwrap();
            far.shutdown().await.unwrap();
            let mut request = String::new();
            far.read_to_string(&mut request).await.unwrap();
            request
        };
        let asking = async {
            application.write_all(b"request").await.unwrap();
            application.shutdown().await.unwrap();
        };
        let (request, ()) = tokio::join!(
            async { tokio::time::timeout(Duration::from_secs(20), sending).await.unwrap() },
            asking
        );
        carried.await.unwrap().unwrap();
        let mut got = Vec::new();
        application.read_to_end(&mut got).await.unwrap();
        assert_eq!((request.as_str(), got.len()), ("request", page.len()));
    }

    #[tokio::test]
    async fn a_rejected_client_reads_the_whole_answer_though_it_keeps_sending() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (application, _) = listener.accept().await.unwrap();
            shake_hands(&mut Application::Tcp(application)).await
        });
        let mut browser = TcpStream::connect(address).await.unwrap();
        browser.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
        browser.write_all(b"\r\n").await.unwrap();
        let mut page = String::new();
        browser.read_to_string(&mut page).await.unwrap();
        assert!(page.contains("SOCKS5"), "{page}");
        drop(browser);
        let error = server.await.unwrap().unwrap_err();
        assert_eq!(Refusal::of(&error), Refusal::Malformed);
    }
}
