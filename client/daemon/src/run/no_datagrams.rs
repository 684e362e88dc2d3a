//! UDP ASSOCIATE in `mizzle run`: the port for datagrams would open outside, where the program cannot reach it. So
//! the program is told that there is none, instead of being left to send in vain. (spec: DAILY-4)

use crate::listener::Application;
use crate::socks::{Command, Handshake, Output, Reply};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Passes on what the program and the client say to each other until the program's request has passed. False if that
/// was one for datagrams: then the program was told no, and the client never heard of it.
pub(super) async fn pass_request(program: &mut Application, client: &mut Application) -> io::Result<bool> {
    timeout(PATIENCE, listen_in(program, client))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn listen_in(program: &mut Application, client: &mut Application) -> io::Result<bool> {
    // It only listens: the answers are the client's own.
    let mut handshake = Handshake::new();
    let (mut asked, mut answered) = ([0; 2_048], [0; 2_048]);
    loop {
        tokio::select! {
            count = program.read(&mut asked) => {
                let bytes = asked.get(..count?).unwrap_or_default();
                handshake.receive(bytes);
                let said = std::iter::from_fn(|| handshake.poll()).find(|said| !matches!(said, Output::Send(_)));
                if let Some(Output::Request(request)) = &said
                    && matches!(request.command, Command::Associate(_))
                {
                    program.write_all(&Reply::CommandNotSupported.to_bytes()).await?;
                    program.close_in_order()?;
                    program.shutdown().await?;
                    return Ok(false);
                }
                client.write_all(bytes).await?;
                // What comes after the request, or after its end, is none of this function's business.
                if said.is_some() || bytes.is_empty() {
                    return Ok(true);
                }
            }
            count = client.read(&mut answered) => {
                let bytes = answered.get(..count?).unwrap_or_default();
                program.write_all(bytes).await?;
                if bytes.is_empty() {
                    return Ok(true);
                }
            }
        }
    }
}

/// As long as the client itself waits for a request, and a little more: it is the one to say so.
const PATIENCE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    async fn connection() -> (TcpStream, Application) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (far, Application::Tcp(listener.accept().await.unwrap().0))
    }

    /// What the client heard, what the program heard, and what came of it, when the program says `parts` and waits
    /// for two bytes of answer after each but the last.
    async fn talk(parts: &[&[u8]]) -> (Vec<u8>, Vec<u8>, bool) {
        let (mut program, mut near) = connection().await;
        let (mut client, mut far) = connection().await;
        let passing = tokio::spawn(async move { pass_request(&mut near, &mut far).await.unwrap() });
        let (mut heard, mut answers) = (Vec::new(), Vec::new());
        for (number, part) in parts.iter().enumerate() {
            program.write_all(part).await.unwrap();
            if number + 1 < parts.len() {
                let mut said = vec![0; part.len()];
                client.read_exact(&mut said).await.unwrap();
                heard.extend(said);
                client.write_all(&[5, 0]).await.unwrap();
                let mut answer = [0; 2];
                program.read_exact(&mut answer).await.unwrap();
                answers.extend(answer);
            }
        }
        let passed = passing.await.unwrap();
        client.read_to_end(&mut heard).await.unwrap();
        program.read_to_end(&mut answers).await.unwrap();
        (heard, answers, passed)
    }

    const ASSOCIATE: &[u8] = b"\x05\x03\x00\x01\0\0\0\0\0\0";
    const CONNECT: &[u8] = b"\x05\x01\x00\x03\x06a.test\x00\x50";

    #[tokio::test]
    async fn a_port_for_datagrams_is_refused_and_the_client_does_not_hear_of_it() {
        let told = b"\x05\x00\x05\x07\x00\x01\0\0\0\0\0\0".to_vec();
        assert_eq!(talk(&[b"\x05\x01\x00", ASSOCIATE]).await, (b"\x05\x01\x00".to_vec(), told, false));
    }

    #[tokio::test]
    async fn every_other_request_passes_as_it_is() {
        let http = b"GET http://a.test/ HTTP/1.1\r\n\r\nmore";
        for parts in
            [&[b"\x05\x01\x00", CONNECT][..], &[http], &[b"\x05\x01\x00", b"\x05\x09\x00\x01\0\0\0\0\0\0"]]
        {
            let (heard, _, passed) = talk(parts).await;
            assert!(passed && heard == parts.concat(), "{heard:?}");
        }
    }
}
