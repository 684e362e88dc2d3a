//! Looks a name up through the mixnet, and sends a datagram to it: `cargo run --example ask -- network.toml NAME PORT`

use mizzle_client::{Client, Config, NetworkFile, Target};
use std::time::Duration;
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let network = NetworkFile::load(arguments.next().ok_or("name a network file")?.as_ref())?;
    let host = arguments.next().ok_or("name a host")?;
    let port = arguments.next().ok_or("name a port")?.parse()?;
    let client = Client::start(Config::new(network, "state")).await?;
    for address in client.look_up(&host, b"").await? {
        let name = client.look_up_address(address, b"").await;
        println!("{address} is {}", name.unwrap_or_else(|error| error.to_string()));
    }
    let datagrams = client.datagrams(b"").await?;
    datagrams.send(Target::parse(&host, port)?, b"hello".to_vec()).await?;
    match timeout(Duration::from_secs(5), datagrams.receive()).await? {
        Some((_, bytes)) => println!("it answered: {}", String::from_utf8_lossy(&bytes)),
        None => println!("the client has stopped"),
    }
    Ok(())
}
