//! UDP ASSOCIATE (RFC 1928, section 7): a relay port for one application's datagrams, for as long as its stream
//! lasts. (spec: PROXY-8, PROXY-9)

use crate::listener::Application;
use crate::network::Datagrams;
use crate::socks::datagram::{self, Unfit};
use mizzle_client::ErrorKind;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All associations of this daemon: how many there may be, and what became of their datagrams.
#[derive(Debug)]
pub(crate) struct Associations {
    places: Arc<Semaphore>,
    most: usize,
    out: AtomicU64,
    home: AtomicU64,
    dropped: [AtomicU64; 6],
}

/// What they say at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Associated {
    /// Associations now.
    pub(crate) open: u64,
    /// Datagrams that went into the network.
    pub(crate) out: u64,
    /// Datagrams that came home to an application.
    pub(crate) home: u64,
    /// Dropped: parts of datagrams.
    pub(crate) fragments: u64,
    /// Dropped: no datagrams of this protocol.
    pub(crate) malformed: u64,
    /// Dropped: from somebody else than the application.
    pub(crate) strangers: u64,
    /// Dropped: larger than what a packet holds.
    pub(crate) too_large: u64,
    /// Dropped: the network could not be used, or was too busy.
    pub(crate) no_network: u64,
    /// Dropped: the system did not take them to the application.
    pub(crate) undelivered: u64,
}

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Fragment,
    Malformed,
    Stranger,
    TooLarge,
    NoNetwork,
    Undelivered,
}

impl Default for Associations {
    fn default() -> Self {
        Self::new(ASSOCIATIONS)
    }
}

impl Associations {
    /// For so many at a time.
    pub(crate) fn new(most: usize) -> Self {
        let places = Arc::new(Semaphore::new(most));
        Self { places, most, out: AtomicU64::new(0), home: AtomicU64::new(0), dropped: Default::default() }
    }

    /// A place for one more, if there is one.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// The counts.
    pub(crate) fn now(&self) -> Associated {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let lost = |loss: Loss| self.dropped.get(loss as usize).map_or(0, read);
        Associated {
            open: self.most.saturating_sub(self.places.available_permits()) as u64,
            out: read(&self.out),
            home: read(&self.home),
            fragments: lost(Loss::Fragment),
            malformed: lost(Loss::Malformed),
            strangers: lost(Loss::Stranger),
            too_large: lost(Loss::TooLarge),
            no_network: lost(Loss::NoNetwork),
            undelivered: lost(Loss::Undelivered),
        }
    }

    fn lose(&self, loss: Loss) {
        if let Some(counter) = self.dropped.get(loss as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Associated {
    /// Datagrams that were dropped, for whatever reason.
    pub(crate) fn dropped(&self) -> u64 {
        self.fragments + self.malformed + self.strangers + self.too_large + self.no_network + self.undelivered
    }
}

/// The port to which one application sends its datagrams.
#[derive(Debug)]
pub(crate) struct RelayPort {
    socket: UdpSocket,
    owner: Owner,
}

/// From whom datagrams are taken: the first who fits.
#[derive(Debug)]
struct Owner {
    /// The computer from which the application's stream comes; `None`: this one.
    address: Option<IpAddr>,
    /// The port that the application said it would use; `None`: it did not say.
    port: Option<u16>,
    first: OnceLock<SocketAddr>,
}

impl RelayPort {
    /// Opens one on the interface by which the application came; on the loopback device for a Unix socket.
    pub(crate) async fn open(application: &Application, named: SocketAddr) -> io::Result<Self> {
        let (interface, peer) = match application {
            Application::Tcp(stream) => {
                // A listener for both families shows IPv4 in the clothes of IPv6.
                let peer = stream.peer_addr()?.ip().to_canonical();
                (stream.local_addr()?.ip().to_canonical(), Some(peer))
            }
            Application::Unix(_) => (Ipv4Addr::LOCALHOST.into(), None),
        };
        let socket = UdpSocket::bind(SocketAddr::new(interface, 0)).await?;
        Ok(Self { socket, owner: Owner::new(peer, named) })
    }

    /// Where the application is to send.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Carries datagrams both ways until the application's stream ends; with it, at once, this port does.
    pub(crate) async fn carry(
        self,
        application: Application,
        datagrams: impl Datagrams,
        counts: &Associations,
    ) {
        tokio::select! {
            () = end_of(application) => {}
            () = self.outward(&datagrams, counts) => {}
            () = self.homeward(&datagrams, counts) => {}
        }
    }

    async fn outward(&self, datagrams: &impl Datagrams, counts: &Associations) {
        // One byte more than what is taken shows what is larger.
        let mut buffer = vec![0; LARGEST + 1];
        loop {
            let Ok((count, source)) = self.socket.recv_from(&mut buffer).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let sent = match self.take(source, buffer.get(..count).unwrap_or_default()) {
                Ok((target, bytes)) => {
                    datagrams.send(target, bytes.to_vec()).await.map_err(|error| match error.kind() {
                        ErrorKind::TooLarge => Loss::TooLarge,
                        _ => Loss::NoNetwork,
                    })
                }
                Err(loss) => Err(loss),
            };
            match sent {
                Ok(()) => drop(counts.out.fetch_add(1, Ordering::Relaxed)),
                Err(loss) => counts.lose(loss),
            }
        }
    }

    /// What a datagram says, if it is the application's own.
    fn take<'a>(
        &self,
        source: SocketAddr,
        bytes: &'a [u8],
    ) -> Result<(mizzle_client::Target, &'a [u8]), Loss> {
        if !self.owner.may_be(source) {
            return Err(Loss::Stranger);
        }
        if bytes.len() > LARGEST {
            return Err(Loss::TooLarge);
        }
        let opened = datagram::open(bytes).map_err(|unfit| match unfit {
            Unfit::Fragment => Loss::Fragment,
            Unfit::Malformed => Loss::Malformed,
        })?;
        // Junk makes nobody the owner.
        self.owner.first.get_or_init(|| source);
        Ok(opened)
    }

    async fn homeward(&self, datagrams: &impl Datagrams, counts: &Associations) {
        while let Some((source, bytes)) = datagrams.receive().await {
            let sent = match (self.owner.first.get(), datagram::wrap(&source, &bytes)) {
                (Some(owner), Some(datagram)) => self.socket.send_to(&datagram, owner).await.is_ok(),
                _ => false,
            };
            match sent {
                true => drop(counts.home.fetch_add(1, Ordering::Relaxed)),
                false => counts.lose(Loss::Undelivered),
            }
        }
    }
}

impl Owner {
    /// An address that is not the peer's own says nothing: some name where they will send to, some what they have
    /// behind a translator.
    fn new(peer: Option<IpAddr>, named: SocketAddr) -> Self {
        let ip = named.ip().to_canonical();
        let own = ip.is_unspecified() || peer.map_or(ip.is_loopback(), |peer| peer == ip);
        let port = Some(named.port()).filter(|&port| own && port != 0);
        Self { address: peer, port, first: OnceLock::new() }
    }

    fn may_be(&self, source: SocketAddr) -> bool {
        match self.first.get() {
            Some(first) => *first == source,
            None => {
                self.address.is_none_or(|address| address == source.ip().to_canonical())
                    && self.port.is_none_or(|port| port == source.port())
            }
        }
    }
}

/// Returns when the application ends its stream, or breaks it. What it says there means nothing.
async fn end_of(mut application: Application) {
    let mut nothing = [0; 512];
    while matches!(application.read(&mut nothing).await, Ok(1..)) {}
}

/// At a time; above: refused.
const ASSOCIATIONS: usize = 256;
/// Bytes of a datagram with its head: more than any network's packet holds of it.
const LARGEST: usize = 16 * 1024;
/// After an error of the system.
const PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Exits, NOWHERE};
    use crate::isolation::Generation;
    use crate::listener::{Address, Listener};
    use crate::proxy::{Port, serve};
    use crate::traffic::Traffic;
    use tokio::io::AsyncWriteExt;

    fn owner(peer: Option<&str>, named: &str) -> Owner {
        Owner::new(peer.map(|peer| peer.parse().unwrap()), named.parse().unwrap())
    }

    #[test]
    fn the_owner_is_who_was_named_or_came_first_from_the_applications_computer() {
        for (peer, named, source, fits) in [
            (Some("192.0.2.1"), "0.0.0.0:0", "192.0.2.1:5", true),
            (Some("192.0.2.1"), "0.0.0.0:0", "192.0.2.2:5", false),
            (Some("192.0.2.1"), "0.0.0.0:5", "192.0.2.1:5", true),
            (Some("192.0.2.1"), "0.0.0.0:5", "192.0.2.1:6", false),
            (Some("192.0.2.1"), "192.0.2.1:5", "192.0.2.1:6", false),
            (Some("192.0.2.1"), "[::ffff:192.0.2.1]:5", "192.0.2.1:6", false),
            (Some("192.0.2.1"), "[::]:5", "192.0.2.1:6", false),
            (Some("192.0.2.1"), "198.51.100.9:53", "192.0.2.1:6", true),
            (Some("192.0.2.1"), "198.51.100.9:53", "198.51.100.9:53", false),
            (Some("2001:db8::1"), "[::]:0", "[2001:db8::1]:5", true),
            (None, "0.0.0.0:0", "127.0.0.1:5", true),
            (None, "127.0.0.1:5", "127.0.0.1:6", false),
        ] {
            assert_eq!(owner(peer, named).may_be(source.parse().unwrap()), fits, "{peer:?} {named} {source}");
        }
        let owner = owner(None, "0.0.0.0:0");
        owner.first.set("127.0.0.1:5".parse().unwrap()).unwrap();
        assert!(
            owner.may_be("127.0.0.1:5".parse().unwrap()) && !owner.may_be("127.0.0.1:6".parse().unwrap())
        );
    }

    struct Setup {
        address: Address,
        exits: Exits,
        associations: Arc<Associations>,
        traffic: Arc<Traffic>,
        _folder: tempfile::TempDir,
    }

    /// A port with places for so many associations; one that is a Unix socket for `unix`.
    async fn set_up(places: usize, unix: bool) -> Setup {
        let folder = tempfile::tempdir().unwrap();
        let address = match unix {
            true => Address::Unix(folder.path().join("s")),
            false => "127.0.0.1:0".parse().unwrap(),
        };
        let listener = Listener::open(&address).await.unwrap();
        let address = listener.address().unwrap();
        let exits = Exits::new(|_, _| None);
        let associations = Arc::new(Associations::new(places));
        let traffic = Arc::<Traffic>::default();
        let port = Port {
            network: exits.clone(),
            places: Arc::new(Semaphore::new(9)),
            traffic: Arc::clone(&traffic),
            associations: Arc::clone(&associations),
            questions: Arc::default(),
            generation: Generation::default(),
            number: 0,
        };
        tokio::spawn(serve(listener, port));
        Setup { address, exits, associations, traffic, _folder: folder }
    }

    impl Setup {
        /// The stream of an association, and its relay port.
        async fn associate(&self, named: &[u8; 6]) -> (Application, SocketAddr) {
            let mut stream = Application::connect(&self.address).await.unwrap();
            stream.write_all(&[&b"\x05\x01\0\x05\x03\0\x01"[..], named].concat()).await.unwrap();
            let mut reply = [0; 12];
            stream.read_exact(&mut reply).await.unwrap();
            assert_eq!(reply[..10], *b"\x05\0\x05\0\0\x01\x7f\0\0\x01", "on the listener's own interface");
            let port = u16::from_be_bytes([reply[10], reply[11]]);
            (stream, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
        }

        /// Waits until the counts are these.
        async fn counted(&self, expected: Associated) {
            let seen = async {
                while self.associations.now() != expected {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
            assert!(seen.is_ok(), "{:?} is not {expected:?}", self.associations.now());
        }
    }

    async fn program(relay: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(relay).await.unwrap();
        socket
    }

    async fn heard(socket: &UdpSocket) -> Vec<u8> {
        let mut buffer = vec![0; 2_000];
        let count = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
        buffer.truncate(count.unwrap().unwrap());
        buffer
    }

    #[tokio::test]
    async fn datagrams_go_and_come_with_their_source_as_the_exit_saw_it() {
        for unix in [false, true] {
            let setup = set_up(9, unix).await;
            let (_stream, relay) = setup.associate(ANYONE).await;
            let socket = program(relay).await;
            for (sent, answer) in [
                (&b"\0\0\0\x03\x06a.test\0\x35name"[..], &b"\0\0\0\x01\xc0\0\x02\x07\0\x35name"[..]),
                (b"\0\0\0\x01\xc0\0\x02\x09\0\x35four", b"\0\0\0\x01\xc0\0\x02\x09\0\x35four"),
                (
                    b"\0\0\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x35six",
                    b"\0\0\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x35six",
                ),
                (b"\0\0\0\x01\xc0\0\x02\x09\0\x35", b"\0\0\0\x01\xc0\0\x02\x09\0\x35"),
            ] {
                socket.send(sent).await.unwrap();
                assert_eq!(heard(&socket).await, answer);
            }
            setup.counted(Associated { open: 1, out: 4, home: 4, ..Associated::default() }).await;
            assert_eq!(*setup.exits.isolations.lock().unwrap(), [Generation::default().isolation(0, b"")]);
        }
    }

    /// (spec: COUNTRY-3)
    #[tokio::test]
    async fn datagrams_and_questions_go_by_exits_in_the_country_that_was_asked_for() {
        let setup = set_up(9, false).await;
        for command in [3, 0xd5] {
            let mut stream = Application::connect(&setup.address).await.unwrap();
            let greeting = b"\x05\x01\x02\x01\x0acountry=DE\x01x\x05";
            stream.write_all(&[&greeting[..], &[command], b"\0\x01\0\0\0\0\0\0"].concat()).await.unwrap();
            let mut answers = [0; 6];
            stream.read_exact(&mut answers).await.unwrap();
            assert_eq!(answers, *b"\x05\x02\x01\0\x05\0");
            if command == 0xd5 {
                // A question: two bytes of length, then a head and `a.test`.
                let question = b"\0\x18\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01";
                stream.write_all(question).await.unwrap();
                let until_asked = async {
                    while setup.exits.countries.lock().unwrap().len() < 2 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(10), until_asked).await.unwrap();
            }
        }
        assert_eq!(*setup.exits.countries.lock().unwrap(), [Some("DE".parse().unwrap()); 2]);
    }

    #[tokio::test]
    async fn what_is_no_datagram_or_not_the_programs_own_is_dropped_and_counted() {
        let setup = set_up(9, false).await;
        let (_stream, relay) = setup.associate(ANYONE).await;
        let (socket, stranger) = (program(relay).await, program(relay).await);
        // Junk makes nobody the owner.
        stranger.send(b"\0\0\0\x09abc").await.unwrap();
        stranger.send(b"\0\0\x01\x01\xc0\0\x02\x09\0\x35part").await.unwrap();
        let mut counts = Associated { open: 1, malformed: 1, fragments: 1, ..Associated::default() };
        setup.counted(counts).await;
        socket.send(&to(53, b"mine")).await.unwrap();
        assert_eq!(heard(&socket).await, to(53, b"mine"));
        stranger.send(&to(53, b"not mine")).await.unwrap();
        (counts.out, counts.home, counts.strangers) = (1, 1, 1);
        setup.counted(counts).await;
        for junk in [&b""[..], b"\0", b"\0\0\0\x03\xffshort", b"\x01\0\0\x01\xc0\0\x02\x09\0\x35x"] {
            socket.send(junk).await.unwrap();
            counts.malformed += 1;
        }
        socket.send(&to(0, b"x")).await.unwrap();
        counts.malformed += 1;
        for large in [1_366, LARGEST - 9, 40_000] {
            socket.send(&to(53, &vec![7; large])).await.unwrap();
            counts.too_large += 1;
        }
        socket.send(&to(NOWHERE, b"x")).await.unwrap();
        counts.no_network += 1;
        setup.counted(counts).await;
        socket.send(&to(53, &[7; 1_365])).await.unwrap();
        assert_eq!(heard(&socket).await, to(53, &[7; 1_365]));
        assert_eq!(setup.exits.sent().len(), 2);
    }

    #[tokio::test]
    async fn who_names_a_port_is_heard_from_there_only() {
        let setup = set_up(9, false).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port().to_be_bytes();
        let (_stream, relay) = setup.associate(&[127, 0, 0, 1, port[0], port[1]]).await;
        socket.connect(relay).await.unwrap();
        let stranger = program(relay).await;
        stranger.send(&to(53, b"first")).await.unwrap();
        setup.counted(Associated { open: 1, strangers: 1, ..Associated::default() }).await;
        socket.send(&to(53, b"mine")).await.unwrap();
        assert_eq!(heard(&socket).await, to(53, b"mine"));
        // The same port of another address is another's.
        let other = UdpSocket::bind(SocketAddr::new([127, 0, 0, 2].into(), 0)).await.unwrap();
        other.send_to(&to(53, b"other"), relay).await.unwrap();
        setup.counted(Associated { open: 1, out: 1, home: 1, strangers: 2, ..Associated::default() }).await;
    }

    #[tokio::test]
    async fn with_the_stream_the_relay_port_ends_and_its_place_is_free() {
        let setup = set_up(1, false).await;
        let (mut stream, relay) = setup.associate(ANYONE).await;
        // What is said on the stream means nothing.
        stream.write_all(&[7; 5_000]).await.unwrap();
        let socket = program(relay).await;
        socket.send(&to(53, b"x")).await.unwrap();
        heard(&socket).await;
        let mut second = Application::connect(&setup.address).await.unwrap();
        second.write_all(&[&b"\x05\x01\0\x05\x03\0\x01"[..], ANYONE].concat()).await.unwrap();
        let mut refused = Vec::new();
        second.read_to_end(&mut refused).await.unwrap();
        assert_eq!(refused, b"\x05\0\x05\x01\0\x01\0\0\0\0\0\0");
        assert_eq!(setup.traffic.refusals.now().full, 1);
        drop(stream);
        setup.counted(Associated { open: 0, out: 1, home: 1, ..Associated::default() }).await;
        // The system says that nobody listens there any more.
        let refused = async {
            while socket.send(&to(53, b"x")).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
        assert_eq!(setup.exits.sent().len(), 1);
        setup.associate(ANYONE).await;
    }

    fn to(port: u16, body: &[u8]) -> Vec<u8> {
        [&b"\0\0\0\x01\xc0\0\x02\x09"[..], &port.to_be_bytes(), body].concat()
    }

    const ANYONE: &[u8; 6] = &[0; 6];
}
