//! `run`: puts the parts together, and takes them apart again.

use crate::bandwidth::Bandwidth;
use crate::coarse::Shown;
use crate::config::{Config, Flags, RelayRole};
use crate::control::Control;
use crate::engine::{Engine, Outlets, Shared};
use crate::entry::clients::Clients;
use crate::entry::line::Entry;
use crate::entry::slots::SlotThread;
use crate::family::Family;
use crate::heartbeat;
use crate::keys::{Keys, PACKET_TAGS, SESSION_TAGS};
use crate::links::Links;
use crate::listener::{Port, serve_metrics};
use crate::live::Live;
use crate::logging::Level;
use crate::loops::Loops;
use crate::machine;
use crate::membership::{Fed, Membership, Standing, capacity};
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::notice;
use crate::presence::Presence;
use crate::quota;
use crate::reload::{Reload, own_addresses};
use crate::replay::TagLog;
use crate::room::Room;
use crate::services::connect::Connect;
use crate::services::dns::nameservers;
use crate::services::policy::Policy;
use crate::services::pump::{Connector, Rules};
use crate::services::resolve::Resolver;
use crate::services::{Replies, Services};
use crate::status::Page;
use crate::stop::Stop;
use crate::{possession, runtime, speed};
use mizzle_link::{Acceptor, Alpn, Clock, Error, Identity, NetworkFile, Result};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs the relay until it is told to stop, or has left the network. `path` and `flags` are what `config` was
/// read from, to read it again.
pub(crate) async fn run(config: Config, path: PathBuf, flags: Flags, level: Level) -> Result<()> {
    machine::check_processor()?;
    let files = machine::raise_file_limit();
    let network = NetworkFile::load(&config.network)?;
    let identity = Identity::load_or_create(&config.identity())?;
    let family = Family::open(&config, &network.name, identity.id())?;
    let memory = runtime::folder(&config, identity.id())?;
    let _possession = possession::take(&memory, possession::boot().as_deref())?;
    let clock = Clock::new();
    tokio::spawn(clock.warn_when_set());
    tokio::spawn(family.clone().warn(clock));
    let metrics = Metrics::new()?;
    let bandwidth = Bandwidth::new(config.allowed(), clock.now(), metrics.beyond.clone());
    let quota = Arc::new(quota::open(&config.state, config.quota, config.quota_reset, clock.now().unix()));
    speed::choose_backend();
    let a_thread = speed::rate_a_thread(speed::measure(clock)?);
    let (presence, stop) = (Presence::new(capacity(&config, a_thread)), Stop::new());
    let live = Arc::new(Live::new());
    let links = Arc::new(Links::new(clock, identity.clone(), config.outbound, metrics.clone()));
    let (tags, room) = (config.replay_tags(), Room::of(&memory));
    if let Some((what, advice)) = room.complaint(&config, &memory) {
        tracing::warn!("{what}; {advice}");
    }
    metrics.replay_tags_limit.set(i64::try_from(tags).unwrap_or(i64::MAX));
    let replay = Arc::new(TagLog::new(&memory, PACKET_TAGS, tags, metrics.replay_tags.clone()));
    let sessions = Arc::new(TagLog::new(&memory, SESSION_TAGS, SESSIONS, metrics.session_tags.clone()));
    let listener = bind(config.listen, "listen").await?;
    let scrapes = bind(config.metrics, "metrics").await?;
    let control = Control::bind(&config.state).await;
    if let Err(error) = &control {
        if error.kind() == mizzle_protocol::ErrorKind::Misuse {
            return control.map(drop);
        }
        tracing::warn!("mizzle-relay drain will not reach this relay: {error}");
    }

    let entry = match config.role {
        RelayRole::Entry => {
            let clients = Arc::new(Clients::new(&config.state)?);
            let slots = Arc::new(SlotThread::start(clock, clients.clone(), metrics.clone())?);
            let (live, links, metrics) = (live.clone(), links.clone(), metrics.clone());
            let (bandwidth, stop) = (bandwidth.clone(), stop.clone());
            Some(Entry { clock, live, links, clients, slots, metrics, bandwidth, stop })
        }
        RelayRole::Mix | RelayRole::Exit => None,
    };
    let mirror = Arc::new(Mirror::new(clock, metrics.clone(), bandwidth.clone()));
    let mut rules = None;
    let replies = {
        let (links, books) = (links.clone(), metrics.clone());
        Replies { clock, links, metrics: books, bandwidth: bandwidth.clone() }
    };
    let loops = Arc::new(Loops::new(clock, identity.id(), config.loops, metrics.clone())?);
    let services = match config.role {
        RelayRole::Exit => {
            let policy = Policy::new(config.exit.policy(), network.open_exits, own_addresses(&config));
            let held = Rules::new(policy, Resolver::new(&config.hosts), nameservers(&config.resolver));
            rules = Some((held.clone(), network.open_exits));
            let connector =
                Connector { rules: held, outbound: config.outbound, traffic: metrics.internet.clone() };
            if network.open_exits {
                tracing::warn!("this network lets exits reach private addresses: for local networks only");
            }
            let (live, sessions, mirror) = (live.clone(), sessions.clone(), mirror.clone());
            let connect = Connect::start(replies.clone(), live, sessions, connector, mirror)?;
            Some(Arc::new(Services { replies: replies.clone(), connect }))
        }
        RelayRole::Mix | RelayRole::Entry => None,
    };
    let clients = entry.as_ref().map(|entry| entry.clients.clone());
    let outlets = Outlets { links: links.clone(), clients, services: services.clone() };
    let (replay_, metrics_) = (replay.clone(), metrics.clone());
    let shared = Shared {
        clock,
        live: live.clone(),
        replay: replay_,
        metrics: metrics_,
        outlets,
        loops: loops.clone(),
    };
    let engine = Arc::new(Engine::start(config.crypto_threads(), &shared)?);
    let port = Port {
        acceptor: Acceptor::new(&identity, &Alpn::ALL)?,
        clock,
        live: live.clone(),
        // Kept here, too: the port goes first, and what the engine holds must still leave.
        engine: engine.clone(),
        mirror: mirror.clone(),
        metrics: metrics.clone(),
        bandwidth: bandwidth.clone(),
        stop: stop.clone(),
        authorities: Arc::new(network.authorities.iter().map(|authority| authority.id).collect()),
        guests: links.guests.clone(),
        entry,
    };
    let standing = Arc::new(RwLock::new(Standing::default()));
    let shown = Arc::new(Shown::new(metrics.clone(), config.exact_metrics));
    let page = {
        let shown = shown.clone();
        let (standing, role) = (standing.clone(), config.role);
        let (quota, family, country) = (quota.clone(), family.clone(), config.country);
        let (replay, sessions) = (replay.clone(), sessions.clone());
        move || {
            let standing = standing.read().unwrap_or_else(PoisonError::into_inner).clone();
            let now = clock.now();
            let trouble = replay.trouble().or_else(|| sessions.trouble());
            let (quota, family) = (quota.sentence(now.unix()), family.sentence(now));
            Page::new(role, standing, shown.traffic(), trouble, quota, family, files)
                .in_country(country)
                .to_json()
        }
    };
    if let (RelayRole::Exit, Some(address), Some(contact)) =
        (config.role, config.exit.notice, &config.exit.contact)
    {
        let listener = bind(address, "notice").await?;
        tokio::spawn(notice::serve(listener, contact.clone(), metrics.clone()));
    }
    tokio::spawn(serve_metrics(scrapes, metrics.clone(), shown, page));
    tokio::spawn(quota::keep(quota.clone(), clock, metrics.clone(), bandwidth.clone(), presence.clone()));
    tokio::spawn(heartbeat::beat(config.heartbeat.0, clock, metrics.clone(), quota.clone()));
    let control = control.ok().map(|control| tokio::spawn(control.serve(presence.clone(), live.clone())));

    let (mut ends, mut hangups) = (Ends::new()?, listen_for(SignalKind::hangup())?);
    let keys = Keys::new(&memory, config.role);
    let (live_, links_, metrics_) = (live.clone(), links.clone(), metrics.clone());
    let fed = Fed {
        live: live_,
        links: links_,
        mirror,
        metrics: metrics_,
        replay,
        carried: tags.min(room.tags()),
        sessions,
        services,
        standing,
        presence: presence.clone(),
        family: family.clone(),
    };
    let membership = Membership::new(config.clone(), network, identity, clock, keys, fed);
    let mut reload = Reload {
        path,
        flags,
        config,
        a_thread,
        clock,
        level,
        bandwidth,
        quota: quota.clone(),
        presence,
        family,
        rules,
    };
    println!("ready");
    let result = tokio::select! {
        () = port.listen(listener) => Ok(()),
        result = membership.run() => result,
        result = loops.run(&live, &replies) => result,
        () = ends.next() => Ok(()),
        () = async {
            while hangups.recv().await.is_some() {
                reload.reload();
            }
        } => Ok(()),
    };
    if result.is_ok() {
        let longest = live.load().parameters.max_delay;
        let (held, lost) = tokio::select! {
            books = stop.drain(&metrics, &links, longest) => books,
            // Told twice, it ends at once.
            () = ends.next() => (metrics.can_leave(), metrics.can_leave()),
        };
        match lost {
            0 => tracing::info!("stopped: {held} packets were here, and all went out"),
            lost => tracing::warn!("stopped: {held} packets were here, and {lost} are lost"),
        }
    }
    if let Err(error) = quota.save() {
        tracing::warn!("the used quota is not written down: {error}");
    }
    if let Some(control) = control {
        control.abort();
        // Its socket goes with it.
        let _ = control.await;
    }
    drop(engine);
    result
}

/// The signals that end a relay.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: listen_for(SignalKind::terminate())?,
            interrupt: listen_for(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn listen_for(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Error::io("listen for signals", error))
}

async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener> {
    // The operator's own address, which the operator wrote down and now needs to see.
    let doing = || format!("listen on {address} (key `{key}`)");
    TcpListener::bind(address).await.map_err(|error| Error::io(doing(), error))
}

/// Sessions that one key period may begin here: beyond, new ones are refused.
const SESSIONS: usize = 1 << 24;
