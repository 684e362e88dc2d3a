//! Fetches a page through the mixnet: `cargo run --example fetch -- network.toml example.com`

use mizzle_client::{Client, Config, NetworkFile, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let network = NetworkFile::load(arguments.next().ok_or("name a network file")?.as_ref())?;
    let host = arguments.next().ok_or("name a host")?;
    let client = Client::start(Config::new(network, "state")).await?;
    let mut stream = client.connect(Target::parse(&host, 80)?, b"").await?;
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    println!("{page}");
    Ok(())
}
