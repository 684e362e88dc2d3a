//! `mizzle forward`: a port of this computer whose connections come out at an exit, and end at one target.
//! (spec: DAILY-3)

use crate::config::Flags;
use crate::door::Door;
use crate::listener::{Address, Application, Listener};
use crate::service;
use crate::system::Ending;
use mizzle_client::Target;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Carries connections until a signal ends it.
pub(crate) async fn run(
    flags: &Flags,
    local: &Address,
    target: Target,
    connections: NonZeroUsize,
) -> Result<(), Box<dyn Error>> {
    let mut ending = Ending::watch()?;
    let door = Door::find(flags).await?;
    let listener = Listener::open(local).await.map_err(|error| {
        format!("cannot listen at {local} ({error}): is another program there? choose another LOCAL")
    })?;
    let address = listener.address()?;
    if matches!(address, Address::Tcp(address) if !address.ip().is_loopback()) {
        tracing::warn!("{address} is open to other machines: anybody there can use it");
    }
    crate::say(&format!("{address} leads to the target; Ctrl-C ends it\n"));
    tokio::select! {
        () = serve(&listener, door, target, connections.get()) => {}
        () = ending.asked() => {}
    }
    Ok(())
}

/// Reads LOCAL.
pub(crate) fn local(text: &str) -> Result<Address, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok(Address::Tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))),
        Err(_) => text.parse().map_err(|error| format!("{error}, or only a port")),
    }
}

/// Reads HOST:PORT.
pub(crate) fn target(text: &str) -> Result<Target, String> {
    let wrong = || format!("`{text}` is no target: write one like host.example:22 or [2001:db8::1]:22");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    if host.contains(':') && !host.starts_with('[') {
        return Err(wrong());
    }
    let port = port.parse().map_err(|_| wrong())?;
    Target::parse(host, port).map_err(|error| format!("{}: {error}", wrong()))
}

async fn serve(listener: &Listener, door: Door, target: Target, connections: usize) {
    let way = Arc::new((door, target));
    let places = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
    service::serve(listener, &places, |application| carry(application, Arc::clone(&way))).await;
}

async fn carry(application: Application, way: Arc<(Door, Target)>) -> Result<(), String> {
    // Until there is a stream, the only true end is a reset.
    application.reset_on_close().map_err(|error| error.to_string())?;
    let (door, target) = way.as_ref();
    let stream = door.connect(target).await?;
    if let Err(error) = service::carry_bytes(application, stream).await {
        // Programs cut connections all day; that is no news.
        tracing::debug!("a connection was cut: {}", error.kind());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    #[test]
    fn what_is_typed_is_understood_or_explained() {
        assert_eq!(local("8022").unwrap(), "127.0.0.1:8022".parse().unwrap());
        assert_eq!(local("0.0.0.0:8022").unwrap(), "0.0.0.0:8022".parse().unwrap());
        assert_eq!(local("unix:/a/b").unwrap(), Address::Unix("/a/b".into()));
        assert!(local("70000").unwrap_err().contains("only a port"));
        assert!(target("host.example:22").unwrap() == Target::parse("host.example", 22).unwrap());
        assert!(target("[2001:db8::1]:22").unwrap() == Target::parse("2001:db8::1", 22).unwrap());
        for wrong in ["host.example", "host.example:0", "2001:db8::1:22", "a b:1", ":22", "host.example:ssh"]
        {
            assert!(target(wrong).unwrap_err().contains("host.example:22"), "{wrong}");
        }
    }

    /// A client that is the test, and a forward that leads to it.
    struct Setup {
        client: TcpListener,
        address: SocketAddr,
    }

    async fn set_up(places: usize) -> Setup {
        let client = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Door::at(Address::Tcp(client.local_addr().unwrap())).unwrap();
        let listener = Listener::open(&local("0").unwrap()).await.unwrap();
        let Address::Tcp(address) = listener.address().unwrap() else { unreachable!() };
        tokio::spawn(async move {
            serve(&listener, door, Target::parse("a.test", 80).unwrap(), places).await;
        });
        Setup { client, address }
    }

    impl Setup {
        /// Takes one connection as the client would, and answers with this code.
        async fn take(&self, code: u8) -> TcpStream {
            let (mut stream, _) = self.client.accept().await.unwrap();
            let mut request = [0; 4 + 33 + 33 + 3 + 1 + 7 + 2];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(request[70..], *b"\x05\x01\0\x03\x06a.test\0\x50");
            stream.write_all(&[5, 2, 1, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            stream
        }
    }

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let setup = set_up(9).await;
        for program_first in [true, false] {
            let mut program = TcpStream::connect(setup.address).await.unwrap();
            let mut stream = setup.take(0).await;
            let (first, second) =
                if program_first { (&mut program, &mut stream) } else { (&mut stream, &mut program) };
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            let mut got = Vec::new();
            second.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"question");
            second.write_all(b"answer").await.unwrap();
            second.shutdown().await.unwrap();
            got.clear();
            first.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"answer");
        }
    }

    #[tokio::test]
    async fn no_program_takes_a_failure_for_an_end() {
        let setup = set_up(9).await;
        // Refused by the target.
        let mut program = TcpStream::connect(setup.address).await.unwrap();
        let _stream = setup.take(5).await;
        assert_eq!(program.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        // Broken later, from either side.
        let mut program = TcpStream::connect(setup.address).await.unwrap();
        let mut stream = setup.take(0).await;
        stream.write_all(b"half").await.unwrap();
        program.read_exact(&mut [0; 4]).await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
        assert_eq!(program.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let program = TcpStream::connect(setup.address).await.unwrap();
        let mut stream = setup.take(0).await;
        program.set_zero_linger().unwrap();
        drop(program);
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn past_the_places_connections_wait() {
        let setup = set_up(1).await;
        let mut first = TcpStream::connect(setup.address).await.unwrap();
        let mut stream = setup.take(0).await;
        let _second = TcpStream::connect(setup.address).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), setup.client.accept()).await;
        assert!(early.is_err(), "more than the places");
        first.shutdown().await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        setup.take(0).await;
    }
}
