//! The link to the entry: one cell per TLS record, and nothing but cells. (spec: LINK-10 to LINK-12)

use crate::engine::Mailbox;
use crate::entries::Entry;
use crate::pace::Pacer;
use crate::slots::LinkCounters;
use crate::{Error, ErrorKind, Result};
use mizzle_link::{Alpn, Link, Way, dial_by};
use mizzle_protocol::geometry::Geometry;
use mizzle_protocol::id::ClientAddress;
use mizzle_protocol::wire::cell::{ClientCell, Hello, client_cell_size};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

/// A link whose entry has granted an address.
#[derive(Debug)]
pub(crate) struct EntryLink {
    /// What homeward packets name.
    pub(crate) address: ClientAddress,
    /// For [`receive`].
    pub(crate) reader: ReadHalf<Link>,
    /// For [`send`].
    pub(crate) writer: WriteHalf<Link>,
}

/// Dials the entry and says hello.
pub(crate) async fn connect(
    address: SocketAddr,
    entry: &Entry,
    geometry: Geometry,
    pacer: &Pacer,
    way: &Way,
) -> Result<EntryLink> {
    let failed =
        |error: mizzle_link::Error| Error::from_link(ErrorKind::NoNetwork, error.to_string(), &error);
    let broken = |error: std::io::Error| {
        Error::new(ErrorKind::NoNetwork, format!("the entry ended the link before its welcome ({error})"))
    };
    let greeting = async {
        let link = dial_by(way, address, entry.id, None, Alpn::Cells).await.map_err(failed)?;
        let (mut reader, mut writer) = tokio::io::split(link);
        let mut cell = Vec::new();
        let hello = Hello { reclaim: entry.reclaim.clone(), step: pacer.wanted() };
        ClientCell::Hello(hello).emit(geometry, &mut cell);
        write_cell(&mut writer, &cell).await.map_err(broken)?;
        let mut cell = vec![0; client_cell_size(geometry)];
        loop {
            reader.read_exact(&mut cell).await.map_err(broken)?;
            match ClientCell::parse(geometry, &cell)? {
                ClientCell::Welcome { address, step } => {
                    pacer.grant(step);
                    return Ok(EntryLink { address, reader, writer });
                }
                ClientCell::Filler => {}
                _ => {
                    return Err(Error::new(ErrorKind::Other, "the entry sent something else than a welcome"));
                }
            }
        }
    };
    tokio::time::timeout(GREETING_TIME, greeting)
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::NoNetwork, "the entry did not answer in time")))
}

/// Writes each cell as one TLS record, until the slots end or the link breaks.
pub(crate) async fn send(mut writer: WriteHalf<Link>, mut cells: mpsc::Receiver<Vec<u8>>) -> Error {
    while let Some(cell) = cells.recv().await {
        if let Err(error) = write_cell(&mut writer, &cell).await {
            return Error::new(ErrorKind::NoNetwork, format!("the link to the entry broke ({error})"));
        }
    }
    // All cells are out; the entry may close when it has them.
    let _ = writer.shutdown().await;
    Error::new(ErrorKind::NoNetwork, "the link to the entry was closed")
}

/// Hands each packet to the engine, until the link breaks or falls silent.
pub(crate) async fn receive(
    mut reader: ReadHalf<Link>,
    geometry: Geometry,
    mailbox: Arc<Mailbox>,
    pacer: Arc<Pacer>,
    counters: Arc<LinkCounters>,
) -> Error {
    let mut cell = vec![0; client_cell_size(geometry)];
    loop {
        // The entry sends all the time, so silence means that it is gone.
        match tokio::time::timeout(SILENCE, reader.read_exact(&mut cell)).await {
            Err(_) => return Error::new(ErrorKind::TimedOut, "the entry has fallen silent"),
            Ok(Err(error)) => {
                return Error::new(ErrorKind::NoNetwork, format!("the link to the entry broke ({error})"));
            }
            Ok(Ok(_)) => {}
        }
        counters.cells_in.fetch_add(1, Ordering::Relaxed);
        match ClientCell::parse(geometry, &cell) {
            Ok(ClientCell::Packet { packet, .. }) => {
                counters.packets_in.fetch_add(1, Ordering::Relaxed);
                mailbox.packet(packet.to_vec());
            }
            Ok(ClientCell::Step(step)) => {
                pacer.grant(step);
            }
            Ok(_) => {}
            Err(error) => {
                return Error::new(ErrorKind::Other, format!("the entry broke the protocol: {error}"));
            }
        }
    }
}

/// One write, then everything out: exactly one record, since the TLS buffer is empty before it.
async fn write_cell(writer: &mut WriteHalf<Link>, cell: &[u8]) -> std::io::Result<()> {
    writer.write_all(cell).await?;
    writer.flush().await
}

/// Cells between the slots and the writer. Full: the link stands still, and slots pass unused.
pub(crate) const CELLS_WAITING: usize = 8;
/// Dialling, the handshake and the welcome together.
const GREETING_TIME: Duration = Duration::from_secs(5);
/// How long the entry may send nothing.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);
