//! The way into the running client for commands that carry connections themselves: its own port, as any
//! application would use it, with a token that nobody else has. (spec: DAILY-2)

use crate::config::{Flags, Settings, UpFlags};
use crate::control::{DaemonStatus, Request};
use crate::listener::{Address, Application};
use crate::socks::{CONNECT, QUESTIONS};
use mizzle_client::{Host, Target};
use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Where the running client takes connections, and the user and password that isolate this command's.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) address: Address,
    pub(crate) user: String,
    pub(crate) password: String,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Door({}, redacted)", self.address)
    }
}

impl Door {
    /// Asks the running client where its door is; an error if none runs.
    pub(crate) async fn find(flags: &Flags) -> Result<Self, Box<dyn Error>> {
        let status = crate::ask(flags, &Request::Status).await?;
        if !status.client.connected {
            let reason = status.client.reason.as_deref().unwrap_or("see `mizzle status`");
            tracing::warn!("the client is not connected yet, and connections fail until it is: {reason}");
        }
        let settings = Settings::merge(flags, &UpFlags::default())?;
        let address = address(&status, &settings).ok_or("the running client has no port for applications")?;
        Self::at(address)
    }

    /// The door at an address, with new credentials.
    pub(crate) fn at(address: Address) -> Result<Self, Box<dyn Error>> {
        Ok(Self { address, user: random_word()?, password: random_word()? })
    }

    /// A connection to the client on which nothing has been said.
    pub(crate) async fn open(&self) -> Result<Application, String> {
        Application::connect(&self.address).await.map_err(|error| {
            format!("the client does not answer ({error}): is it still running? try: mizzle status")
        })
    }

    /// A stream to the target; once this returns, an exit has connected.
    pub(crate) async fn connect(&self, target: &Target) -> Result<Application, String> {
        let mut stream = self.open().await?;
        let code = self.request(&mut stream, CONNECT, target, &[]).await;
        match code
            .map_err(|error| format!("the client ended the connection ({error}): try: mizzle status"))?
        {
            0 => Ok(stream),
            code => Err(meaning(code)),
        }
    }

    /// What an exit's resolver answers to a DNS message, whole.
    pub(crate) async fn ask(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = Application::connect(&self.address).await?;
        let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // No target counts there.
        let nowhere = Target { host: Host::Address(Ipv4Addr::UNSPECIFIED.into()), port: 0 };
        let question = [&length.to_be_bytes()[..], message].concat();
        match self.request(&mut stream, QUESTIONS, &nowhere, &question).await? {
            0 => {}
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        let mut reply = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut reply).await?;
        Ok(reply)
    }

    /// Says all at once, since every answer but the last is known; gives the last one's code.
    async fn request(
        &self,
        stream: &mut Application,
        command: u8,
        target: &Target,
        first: &[u8],
    ) -> io::Result<u8> {
        let mut message = vec![5, 1, 2, 1];
        push_text(&mut message, &self.user)?;
        push_text(&mut message, &self.password)?;
        message.extend([5, command, 0]);
        match &target.host {
            Host::Address(IpAddr::V4(address)) => {
                message.push(1);
                message.extend(address.octets());
            }
            Host::Address(IpAddr::V6(address)) => {
                message.push(4);
                message.extend(address.octets());
            }
            Host::Name(name) => {
                message.push(3);
                push_text(&mut message, name)?;
            }
            // No text that names a target means it, and the port knows no word for it.
            Host::Resolver | Host::Documents => return Err(io::ErrorKind::InvalidInput.into()),
        }
        message.extend(target.port.to_be_bytes());
        message.extend(first);
        stream.write_all(&message).await?;
        let mut answers = [0; 4];
        stream.read_exact(&mut answers).await?;
        if answers != [5, 2, 1, 0] {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "what listens there is no client of ours",
            ));
        }
        let [_, code, _, kind] = {
            let mut reply = [0; 4];
            stream.read_exact(&mut reply).await?;
            reply
        };
        let bound = if kind == 4 { 18 } else { 6 };
        stream.read_exact(&mut [0; 18][..bound]).await?;
        Ok(code)
    }
}

/// The first TCP port, since only there a cut can be told from an end; without one, the first Unix socket. A port
/// on every address is reached on this computer's own.
fn address(status: &DaemonStatus, settings: &Settings) -> Option<Address> {
    let told: Vec<Address> = status.listeners.iter().filter_map(|text| text.parse().ok()).collect();
    let all = if told.is_empty() { &settings.socks } else { &told };
    let tcp = all.iter().find(|address| matches!(address, Address::Tcp(_)));
    match tcp.or_else(|| all.first())?.clone() {
        Address::Tcp(address) if address.ip().is_unspecified() => {
            let ip = match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            Some(Address::Tcp(SocketAddr::new(ip, address.port())))
        }
        other => Some(other),
    }
}

fn push_text(message: &mut Vec<u8>, text: &str) -> io::Result<()> {
    let length = u8::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    message.push(length);
    message.extend(text.as_bytes());
    Ok(())
}

/// What a SOCKS5 code means, without the target: this may be logged.
fn meaning(code: u8) -> String {
    match code {
        1 => "the client has no network just now, or no exit in the country asked for; see: mizzle status",
        2 => "no exit allows this target: its policy, or a private address",
        3 => "the exit has no way to the target's network",
        4 => "the exit cannot find or reach the target: is its name right?",
        5 => "the target refused the connection: does anything listen at its port?",
        6 => "the target did not answer in time",
        _ => return format!("the client answered with the unknown code {code}"),
    }
    .into()
}

/// 128 random bits, in hexadecimal: letters that need no escaping in a URL.
fn random_word() -> Result<String, Box<dyn Error>> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| format!("the system gives no randomness ({error})"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socks::{Command, Handshake, Output};

    fn door() -> Door {
        Door::at("127.0.0.1:9".parse().unwrap()).unwrap()
    }

    #[test]
    fn no_two_doors_share_an_isolation_and_none_shows_it() {
        let (one, two) = (door(), door());
        assert!(one.user != two.user && one.password != two.password);
        assert!(one.user.len() == 32 && !format!("{one:?}").contains(&one.user));
    }

    #[test]
    fn the_running_client_knows_its_door_better_than_a_file() {
        let flags = Flags { state: Some("/s".into()), ..Flags::default() };
        let up = UpFlags { socks: Some(vec!["127.0.0.1:1".parse().unwrap()]), ..UpFlags::default() };
        let settings = Settings::merge(&flags, &up).unwrap();
        let mut status = DaemonStatus::default();
        assert_eq!(address(&status, &settings), Some("127.0.0.1:1".parse().unwrap()));
        for (listeners, reached) in [
            (&["0.0.0.0:7", "127.0.0.1:2"][..], "127.0.0.1:7"),
            (&["[::]:7"], "[::1]:7"),
            (&["10.0.0.1:7"], "10.0.0.1:7"),
            (&["unix:/a"], "unix:/a"),
            (&["unix:/a", "127.0.0.1:2"], "127.0.0.1:2"),
        ] {
            status.listeners = listeners.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(address(&status, &settings), Some(reached.parse().unwrap()));
        }
    }

    #[tokio::test]
    async fn our_own_port_understands_what_is_said_to_it() {
        for host in ["a.test", "192.0.2.1", "2001:db8::1"] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let door = Door::at(Address::Tcp(listener.local_addr().unwrap())).unwrap();
            let target = Target::parse(host, 443).unwrap();
            let expected = target.clone();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut handshake = Handshake::new();
                loop {
                    while let Some(output) = handshake.poll() {
                        match output {
                            Output::Send(answer) => stream.write_all(&answer).await.unwrap(),
                            Output::Request(request) => {
                                assert!(request.command == Command::Connect(expected));
                                assert!(request.early_data.is_empty());
                                stream.write_all(&[5, 0, 0, 4]).await.unwrap();
                                stream.write_all(&[0; 18]).await.unwrap();
                                stream.write_all(b"x").await.unwrap();
                                return request.token;
                            }
                            Output::Reject(_) => panic!("rejected"),
                        }
                    }
                    let mut buffer = [0; 512];
                    let count = stream.read(&mut buffer).await.unwrap();
                    handshake.receive(&buffer[..count]);
                }
            });
            let mut stream = door.connect(&target).await.unwrap();
            // Not a byte of the target's is lost to the handshake.
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
            let token = server.await.unwrap();
            let has = |word: &str| token.windows(word.len()).any(|window| window == word.as_bytes());
            assert!(has(&door.user) && has(&door.password));
        }
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        drop(listener);
        let door = Door::at(address).unwrap();
        let error = door.connect(&Target::parse("a.test", 80).unwrap()).await.unwrap_err();
        assert!(error.contains("mizzle status") && !error.contains("a.test"), "{error}");
    }
}
