//! Says user and password for a program that cannot: browsers speak SOCKS5, but know no password for it. What they say
//! after that passes untouched, and so do the answers.

use crate::door::Door;
use crate::listener::Application;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

impl Door {
    /// Takes the program's greeting, and opens a connection to the client that stands where the program's request
    /// comes next.
    pub(crate) async fn introduce(&self, program: &mut Application) -> Result<Application, String> {
        let introduced = async {
            greeted(program).await.map_err(|_| "the program does not speak SOCKS5 without a password")?;
            let mut client = self.open().await?;
            let [user, password] = [&self.user, &self.password].map(|text| text.as_bytes());
            let mut message = vec![5, 1, 2, 1];
            for text in [user, password] {
                message.push(u8::try_from(text.len()).map_err(|_| "a word is too long")?);
                message.extend(text);
            }
            let mut answer = [0; 4];
            let said = async {
                client.write_all(&message).await?;
                client.read_exact(&mut answer).await.map(drop)
            };
            said.await.map_err(|_| "the client ended the connection: try: mizzle status")?;
            if answer != [5, 2, 1, 0] {
                return Err("what listens there is no client of ours".to_owned());
            }
            program.write_all(&[5, 0]).await.map_err(|_| "the program has gone")?;
            Ok(client)
        };
        timeout(PATIENCE, introduced).await.unwrap_or_else(|_| Err("the program said nothing".to_owned()))
    }
}

async fn greeted(program: &mut Application) -> io::Result<()> {
    let [version, count] = {
        let mut head = [0; 2];
        program.read_exact(&mut head).await?;
        head
    };
    let mut methods = vec![0; count.into()];
    if version == 5 {
        program.read_exact(&mut methods).await?;
    }
    match version == 5 && methods.contains(&0) {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::Address;
    use tokio::net::{TcpListener, TcpStream};

    /// What the program hears of its greeting, and what the client hears of all.
    async fn talk(greeting: &[u8]) -> (Vec<u8>, Vec<u8>, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = Door::at(Address::Tcp(address)).unwrap();
        let client = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut said = [0; 4 + 33 + 33];
            stream.read_exact(&mut said).await.unwrap();
            stream.write_all(&[5, 2, 1, 0]).await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
            [said.to_vec(), rest].concat()
        });
        let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut program = TcpStream::connect(near.local_addr().unwrap()).await.unwrap();
        let mut application = Application::Tcp(near.accept().await.unwrap().0);
        program.write_all(greeting).await.unwrap();
        let introduced = door.introduce(&mut application).await;
        if introduced.is_err() {
            client.abort();
            return (Vec::new(), Vec::new(), false);
        }
        let mut heard = [0; 2];
        program.read_exact(&mut heard).await.unwrap();
        let mut stream = introduced.unwrap();
        stream.write_all(b"request").await.unwrap();
        drop(stream);
        let said = client.await.unwrap();
        let words =
            [[5, 1, 2, 1, 32].as_slice(), door.user.as_bytes(), &[32], door.password.as_bytes()].concat();
        (heard.to_vec(), said[words.len()..].to_vec(), said.starts_with(&words))
    }

    #[tokio::test]
    async fn a_program_without_a_password_is_given_one() {
        for greeting in [&[5, 1, 0][..], &[5, 2, 1, 0]] {
            assert_eq!(talk(greeting).await, (vec![5, 0], b"request".to_vec(), true));
        }
    }

    #[tokio::test]
    async fn what_would_share_the_door_of_others_is_refused() {
        for greeting in [&[4, 1, 0][..], b"GET / HTTP/1.1\r\n", &[5, 1, 2]] {
            assert!(!talk(greeting).await.2);
        }
    }
}
