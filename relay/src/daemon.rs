//! `run`: puts the parts together, and takes them apart again.

use crate::config::{Config, RelayRole};
use crate::engine::{Engine, Outlets, Shared};
use crate::entry::clients::Clients;
use crate::entry::line::Entry;
use crate::entry::slots::SlotThread;
use crate::keys::Keys;
use crate::links::Links;
use crate::listener::{Port, serve_metrics};
use crate::live::Live;
use crate::membership::{Fed, Membership, Standing};
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::replay::{REPLAY_TAGS, TagLog};
use crate::services::connect::Connect;
use crate::services::policy::Policy;
use crate::services::pump::Connector;
use crate::services::resolve::Resolver;
use crate::services::{Replies, Services};
use crate::status::Page;
use crate::{possession, runtime};
use mizzle_link::{Acceptor, Alpn, Clock, Error, Identity, NetworkFile, Result};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the relay until it is told to stop.
pub(crate) async fn run(config: Config) -> Result<()> {
    let network = NetworkFile::load(&config.network)?;
    let identity = Identity::load_or_create(&config.identity())?;
    let memory = runtime::folder(&config, identity.id())?;
    let _possession = possession::take(&memory, possession::boot().as_deref())?;
    let clock = Clock::new();
    let metrics = Metrics::new()?;
    let live = Arc::new(Live::new());
    let links = Arc::new(Links::new(identity.clone(), config.outbound, metrics.clone()));
    let replay = Arc::new(TagLog::new(&memory, "tags", REPLAY_TAGS, metrics.replay_tags.clone()));
    let sessions = Arc::new(TagLog::new(&memory, "sessions", SESSIONS, metrics.session_tags.clone()));
    let listener = bind(config.listen, "listen").await?;
    let scrapes = bind(config.metrics, "metrics").await?;

    let entry = match config.role {
        RelayRole::Entry => {
            let clients = Arc::new(Clients::new(&config.state)?);
            let slots = Arc::new(SlotThread::start(clock, clients.clone(), metrics.clone())?);
            let (live, links, metrics) = (live.clone(), links.clone(), metrics.clone());
            Some(Entry { clock, live, links, clients, slots, metrics })
        }
        RelayRole::Mix | RelayRole::Exit => None,
    };
    let services = match config.role {
        RelayRole::Exit => {
            let replies = Replies { clock, links: links.clone(), metrics: metrics.clone() };
            let own = config.announced().into_iter().chain([config.listen, config.metrics]);
            let own = own.map(|address| address.ip()).chain(config.outbound).collect();
            let connector = Connector {
                policy: Arc::new(Policy::new(config.exit.clone(), network.open_exits, own)),
                resolver: Resolver::new(&config.hosts),
                outbound: config.outbound,
            };
            if network.open_exits {
                tracing::warn!("this network lets exits reach private addresses: for local networks only");
            }
            let connect = Connect::start(replies.clone(), live.clone(), sessions.clone(), connector)?;
            Some(Arc::new(Services { replies, connect }))
        }
        RelayRole::Mix | RelayRole::Entry => None,
    };
    let clients = entry.as_ref().map(|entry| entry.clients.clone());
    let outlets = Outlets { links: links.clone(), clients, services: services.clone() };
    let (replay_, metrics_) = (replay.clone(), metrics.clone());
    let shared = Shared { clock, live: live.clone(), replay: replay_, metrics: metrics_, outlets };
    let engine = Arc::new(Engine::start(config.crypto_threads(), &shared)?);
    let mirror = Arc::new(Mirror::default());
    let port = Port {
        acceptor: Acceptor::new(&identity, &Alpn::ALL)?,
        clock,
        live: live.clone(),
        engine,
        mirror: mirror.clone(),
        metrics: metrics.clone(),
        entry,
    };
    let standing = Arc::new(RwLock::new(Standing::default()));
    let page = {
        let (metrics, standing, role) = (metrics.clone(), standing.clone(), config.role);
        move || {
            let standing = standing.read().unwrap_or_else(PoisonError::into_inner).clone();
            Page::new(role, standing, &metrics).to_json()
        }
    };
    let keys = Keys::new(&memory, config.role);
    let fed = Fed { live, links, mirror, metrics: metrics.clone(), replay, sessions, services, standing };
    let membership = Membership::new(config, network, identity, clock, keys, fed);

    let failed = |error| Error::io("listen for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    println!("ready");
    tokio::select! {
        () = port.listen(listener) => Ok(()),
        () = serve_metrics(scrapes, metrics, page) => Ok(()),
        result = membership.run() => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener> {
    // The operator's own address, which the operator wrote down and now needs to see.
    let doing = || format!("listen on {address} (key `{key}`)");
    TcpListener::bind(address).await.map_err(|error| Error::io(doing(), error))
}

/// Sessions that one key period may begin here: beyond, new ones are refused.
const SESSIONS: usize = 1 << 24;
