//! The books: every packet that comes in goes out by exactly one of the ways that are counted here.
//!
//! `received = sent + delivered + dropped + in flight` holds by construction: a [`Packet`] is received when
//! it is made, and leaves the books when it is settled or, at the latest, dropped. (spec: RELAY-6)

use crate::bandwidth::Beyond;
use crate::cell::Cell;
use mizzle_link::{Error, Result};
use mizzle_protocol::ErrorKind;
use mizzle_protocol::mix::DropReason;
use mizzle_protocol::time::Instant;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::sync::Arc;

/// Where a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A relay link.
    Relay,
    /// A client link.
    Client,
    /// A service of this relay: a reply.
    Service,
    /// This relay: a loop.
    Loop,
    /// An authority that measures.
    Authority,
}

/// Where a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a thread's hands.
    Hand,
    /// Waits for a crypto thread.
    Engine,
    /// Held by the mix until its moment.
    Held,
    /// Waits for a relay link.
    Link,
    /// Waits for a client's slot.
    Client,
    /// Waits for a client that has left, and may come back.
    Away,
    /// Waits for a client's line to take it.
    Line,
    /// Waits for a service.
    Service,
}

/// How a packet left well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Written to a relay link.
    SentToRelay,
    /// Written to a client link.
    SentToClient,
    /// Taken by the service `connect`.
    Session,
    /// Taken by the service `ping`.
    Ping,
    /// A loop of this relay, come home.
    Loop,
    /// Written back to the authority that measures by it.
    SentToAuthority,
}

/// Why a connection to the port was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No handshake: other bytes, another protocol, an unknown key.
    Handshake,
    /// Too many connections.
    Full,
    /// A relay that the consensus does not list.
    UnknownRelay,
    /// A client at a relay that is no entry.
    NotAnEntry,
    /// Cells that are none.
    Malformed,
    /// The link ended within a cell.
    Truncated,
    /// A request for documents that was none.
    Request,
}

/// Why a datagram of a session was dropped at this exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The policy does not allow its target.
    Policy,
    /// Its target's name has no address.
    Unresolved,
    /// A queue was full.
    Full,
    /// Too many exchanges or questions at a time.
    Exhausted,
    /// It came from somebody to whom nothing was sent.
    Stranger,
    /// It fits no packet.
    TooLarge,
    /// The system did not send it.
    Failed,
    /// Its session was over.
    Session,
    /// It should have been a question for the resolver, and is none.
    Malformed,
}

/// How a question for the resolver was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// From the operator's own table.
    Own,
    /// By the resolver.
    Resolver,
    /// Not at all, since the policy or the kind of question forbids it.
    Refused,
    /// Not at all, since no resolver answered.
    Failed,
}

/// Bytes of one kind of traffic, which is on no link.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    /// Away from this relay.
    pub(crate) out: IntCounter,
    /// To this relay.
    pub(crate) home: IntCounter,
}

/// All counters of this process.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    received: [IntCounter; 5],
    in_flight: [IntGauge; 8],
    exits: [IntCounter; 6],
    dropped: [IntCounter; DropReason::ALL.len()],
    /// Packets dropped on purpose, with the label `fault`; only in a program built for that is it shown.
    faults: IntCounter,
    refused: [IntCounter; 7],
    lost_datagrams: [IntCounter; 9],
    answers: [IntCounter; 4],
    /// Datagrams that went to the internet.
    pub(crate) datagrams_out: IntCounter,
    /// Datagrams that came from there, for clients.
    pub(crate) datagrams_home: IntCounter,
    /// Open exchanges of datagrams.
    pub(crate) exchanges: IntGauge,
    /// Moment of departure minus the moment that was drawn, in seconds.
    pub(crate) departure_error: Histogram,
    /// Outgoing relay links that are up.
    pub(crate) links_out: IntGauge,
    /// Incoming relay links.
    pub(crate) links_in: IntGauge,
    /// Client links.
    pub(crate) client_links: IntGauge,
    /// Slots in which a client's line did not take a cell.
    pub(crate) slots_missed: IntCounter,
    /// Bytes of cells read from links, filler included.
    pub(crate) bytes_read: IntCounter,
    /// Bytes of cells written to links, filler included.
    pub(crate) bytes_written: IntCounter,
    /// Bytes between this exit and the internet: those of streams, datagrams and questions.
    pub(crate) internet: Traffic,
    /// Bytes of documents that went out and that were fetched.
    pub(crate) documents: Traffic,
    /// What was beyond what the operator allows.
    pub(crate) beyond: Beyond,
    /// Open sessions.
    pub(crate) sessions: IntGauge,
    /// Open streams.
    pub(crate) streams: IntGauge,
    /// Replay tags remembered.
    pub(crate) replay_tags: IntGauge,
    /// Those of one key period that fit.
    pub(crate) replay_tags_limit: IntGauge,
    /// Names of sessions remembered.
    pub(crate) session_tags: IntGauge,
    /// Epoch of the newest consensus.
    pub(crate) epoch: IntGauge,
    /// Its layer, if it is a mix in use; else 0.
    pub(crate) layer: IntGauge,
    /// 1 if that consensus lists this relay.
    pub(crate) listed: IntGauge,
    /// Loops that came home, and that did not.
    pub(crate) loops_home: IntCounter,
    pub(crate) loops_lost: IntCounter,
    /// 1 while so many do not that somebody may keep packets away.
    pub(crate) loop_alarm: IntGauge,
}

impl Metrics {
    /// Counters at zero.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Self::register().map(Arc::new).map_err(|error| {
            let message = format!("counters cannot be made: {error}");
            Error::Protocol(mizzle_protocol::Error::new(ErrorKind::Misuse, message))
        })
    }

    fn register() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, label: &str| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            prometheus::Result::Ok(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let received = counters("mizzle_packets_received_total", "Packets taken on", "from")?;
        let sent = counters("mizzle_packets_sent_total", "Packets written to a link", "to")?;
        let delivered = counters("mizzle_packets_delivered_total", "Packets taken by a service", "service")?;
        let dropped = counters("mizzle_packets_dropped_total", "Packets that ended here", "reason")?;
        let refused = counters("mizzle_connections_refused_total", "Connections not kept", "reason")?;
        let datagrams = counters("mizzle_datagrams_total", "Datagrams of sessions", "direction")?;
        let lost =
            counters("mizzle_datagrams_dropped_total", "Datagrams of sessions that ended here", "reason")?;
        let answers = counters("mizzle_questions_total", "Questions for the resolver", "answer")?;
        let bytes = counters("mizzle_link_bytes_total", "Bytes of cells on links", "direction")?;
        let beyond =
            counters("mizzle_bandwidth_refused_total", "What was beyond what the operator allows", "limit")?;
        let internet =
            counters("mizzle_internet_bytes_total", "Bytes between this exit and the internet", "direction")?;
        let documents = counters("mizzle_document_bytes_total", "Bytes of documents", "direction")?;
        let loops = counters("mizzle_loops_total", "Loops of this relay whose fate is known", "fate")?;
        let in_flight =
            IntGaugeVec::new(Opts::new("mizzle_packets_in_flight", "Packets here now"), &["place"])?;
        registry.register(Box::new(in_flight.clone()))?;
        let departure_error = Histogram::with_opts(
            HistogramOpts::new(
                "mizzle_departure_error_seconds",
                "Departure of a held packet beyond its drawn delay",
            )
            .buckets(vec![1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.25]),
        )?;
        registry.register(Box::new(departure_error.clone()))?;

        let of = |counters: &IntCounterVec, label: &str| counters.get_metric_with_label_values(&[label]);
        let place = |label: &str| in_flight.get_metric_with_label_values(&[label]);
        let faults = match cfg!(feature = "faults") {
            true => of(&dropped, "fault")?,
            false => IntCounter::new("faults", "None")?,
        };
        let mut reasons = Vec::new();
        for reason in DropReason::ALL {
            reasons.push(of(&dropped, reason.label())?);
        }
        let dropped = reasons
            .try_into()
            .map_err(|_| prometheus::Error::Msg("a drop reason without a counter".to_owned()))?;
        Ok(Self {
            received: [
                of(&received, "relay")?,
                of(&received, "client")?,
                of(&received, "service")?,
                of(&received, "loop")?,
                of(&received, "authority")?,
            ],
            in_flight: [
                place("hand")?,
                place("engine")?,
                place("held")?,
                place("link")?,
                place("client")?,
                place("away")?,
                place("line")?,
                place("service")?,
            ],
            exits: [
                of(&sent, "relay")?,
                of(&sent, "client")?,
                of(&delivered, "session")?,
                of(&delivered, "ping")?,
                of(&delivered, "loop")?,
                of(&sent, "authority")?,
            ],
            dropped,
            faults,
            refused: [
                of(&refused, "handshake")?,
                of(&refused, "full")?,
                of(&refused, "unknown_relay")?,
                of(&refused, "not_an_entry")?,
                of(&refused, "malformed")?,
                of(&refused, "truncated")?,
                of(&refused, "request")?,
            ],
            lost_datagrams: [
                of(&lost, "policy")?,
                of(&lost, "unresolved")?,
                of(&lost, "full")?,
                of(&lost, "exhausted")?,
                of(&lost, "stranger")?,
                of(&lost, "too_large")?,
                of(&lost, "failed")?,
                of(&lost, "session")?,
                of(&lost, "malformed")?,
            ],
            answers: [
                of(&answers, "own")?,
                of(&answers, "resolver")?,
                of(&answers, "refused")?,
                of(&answers, "failed")?,
            ],
            datagrams_out: of(&datagrams, "out")?,
            datagrams_home: of(&datagrams, "home")?,
            exchanges: gauge("mizzle_exchanges", "Open exchanges of datagrams")?,
            departure_error,
            links_out: gauge("mizzle_links_out", "Outgoing relay links that are up")?,
            links_in: gauge("mizzle_links_in", "Incoming relay links")?,
            client_links: gauge("mizzle_client_links", "Client links")?,
            slots_missed: counter("mizzle_slots_missed_total", "Slots that a client's line did not take")?,
            bytes_read: of(&bytes, "read")?,
            bytes_written: of(&bytes, "written")?,
            internet: Traffic { out: of(&internet, "out")?, home: of(&internet, "home")? },
            documents: Traffic { out: of(&documents, "out")?, home: of(&documents, "home")? },
            beyond: Beyond {
                rate: of(&beyond, "rate")?,
                quota: of(&beyond, "quota")?,
                filler: of(&beyond, "filler")?,
                documents: of(&beyond, "documents")?,
            },
            sessions: gauge("mizzle_sessions", "Open sessions")?,
            streams: gauge("mizzle_streams", "Open streams")?,
            replay_tags: gauge("mizzle_replay_tags", "Replay tags remembered")?,
            replay_tags_limit: gauge("mizzle_replay_tags_limit", "Replay tags of a key period that fit")?,
            session_tags: gauge("mizzle_session_tags", "Names of sessions remembered")?,
            epoch: gauge("mizzle_consensus_epoch", "Epoch of the newest consensus")?,
            layer: gauge("mizzle_relay_layer", "Layer of a mix in the current key period; else 0")?,
            listed: gauge("mizzle_listed", "1 if the newest consensus lists this relay")?,
            loops_home: of(&loops, "home")?,
            loops_lost: of(&loops, "lost")?,
            loop_alarm: gauge(
                "mizzle_loop_alarm",
                "1 while so many loops are lost that packets may be kept away",
            )?,
            registry,
        })
    }

    /// Counts a connection that was not kept.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        let [handshake, full, unknown, entry, malformed, truncated, request] = &self.refused;
        match refusal {
            Refusal::Handshake => handshake,
            Refusal::Full => full,
            Refusal::UnknownRelay => unknown,
            Refusal::NotAnEntry => entry,
            Refusal::Malformed => malformed,
            Refusal::Truncated => truncated,
            Refusal::Request => request,
        }
        .inc();
    }

    /// Counts a datagram that was dropped.
    pub(crate) fn lose_datagram(&self, loss: Loss) {
        let [policy, unresolved, full, exhausted, stranger, large, failed, session, malformed] =
            &self.lost_datagrams;
        match loss {
            Loss::Policy => policy,
            Loss::Unresolved => unresolved,
            Loss::Full => full,
            Loss::Exhausted => exhausted,
            Loss::Stranger => stranger,
            Loss::TooLarge => large,
            Loss::Failed => failed,
            Loss::Session => session,
            Loss::Malformed => malformed,
        }
        .inc();
    }

    /// Counts a question for the resolver.
    pub(crate) fn answer(&self, answer: Answer) {
        let [own, resolver, refused, failed] = &self.answers;
        match answer {
            Answer::Own => own,
            Answer::Resolver => resolver,
            Answer::Refused => refused,
            Answer::Failed => failed,
        }
        .inc();
    }

    /// Packets taken on so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.iter().map(IntCounter::get).sum()
    }

    /// Packets passed on to relays so far: those of authorities that measure are nobody's cover.
    pub(crate) fn passed_on(&self) -> u64 {
        let [to_relays, ..] = &self.exits;
        to_relays.get()
    }

    /// Packets dropped so far for reasons that are losses: cover that has reached its end is none.
    pub(crate) fn lost(&self) -> u64 {
        let all: u64 = self.dropped.iter().chain([&self.faults]).map(IntCounter::get).sum();
        all.saturating_sub(self.reason(DropReason::Cover).get())
    }

    /// The reason for which most were lost, and how many.
    pub(crate) fn losses(&self) -> Option<(&'static str, u64)> {
        let reasons = DropReason::ALL.into_iter().filter(|&reason| reason != DropReason::Cover);
        let counted = reasons.map(|reason| (reason.label(), self.reason(reason).get()));
        counted.filter(|&(_, count)| count > 0).max_by_key(|&(_, count)| count)
    }

    /// Packets that are here now.
    pub(crate) fn in_flight(&self) -> i64 {
        self.in_flight.iter().map(IntGauge::get).sum()
    }

    /// Packets that are here now and can still leave: what waits for clients that have left cannot.
    pub(crate) fn can_leave(&self) -> i64 {
        self.in_flight() - self.away()
    }

    /// Packets that wait for clients that have left.
    pub(crate) fn away(&self) -> i64 {
        self.place(Place::Away).get()
    }

    /// Packets that wait for the slots of clients.
    pub(crate) fn for_clients(&self) -> i64 {
        self.place(Place::Client).get()
    }

    /// What counts for the quota so far, both directions together: cells on links, filler among them, an exit's own
    /// connections, and documents.
    pub(crate) fn bytes(&self) -> u64 {
        let Traffic { out, home } = &self.internet;
        let documents = &self.documents;
        let counters = [&self.bytes_read, &self.bytes_written, out, home, &documents.out, &documents.home];
        counters.into_iter().fold(0, |sum: u64, counter| sum.saturating_add(counter.get()))
    }

    /// All counters in Prometheus' text format.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory cannot fail, and the families were made here.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }

    fn place(&self, place: Place) -> &IntGauge {
        let [hand, engine, held, link, client, away, line, service] = &self.in_flight;
        match place {
            Place::Hand => hand,
            Place::Engine => engine,
            Place::Held => held,
            Place::Link => link,
            Place::Client => client,
            Place::Away => away,
            Place::Line => line,
            Place::Service => service,
        }
    }

    fn reason(&self, reason: DropReason) -> &IntCounter {
        let index = DropReason::ALL.iter().position(|&other| other == reason).unwrap_or(0);
        let [first, ..] = &self.dropped;
        self.dropped.get(index).unwrap_or(first)
    }
}

/// A packet within this relay, accounted for from its making to its end.
#[derive(Debug)]
pub(crate) struct Packet {
    /// The Sphinx packet, in the buffer that it came in.
    pub(crate) cell: Cell,
    /// Low byte of its key period.
    pub(crate) hint: u8,
    /// When it reached this relay.
    pub(crate) arrival: Instant,
    /// When it was to leave this relay; until that is known, its arrival.
    pub(crate) due: Instant,
    metrics: Arc<Metrics>,
    /// `None` once it has left the books.
    place: Option<Place>,
}

impl Packet {
    /// Takes a packet on.
    pub(crate) fn receive(
        metrics: &Arc<Metrics>,
        origin: Origin,
        hint: u8,
        cell: Cell,
        arrival: Instant,
    ) -> Self {
        let [relay, client, service, own, authority] = &metrics.received;
        match origin {
            Origin::Relay => relay,
            Origin::Client => client,
            Origin::Service => service,
            Origin::Loop => own,
            Origin::Authority => authority,
        }
        .inc();
        metrics.place(Place::Hand).inc();
        Self { cell, hint, arrival, due: arrival, metrics: metrics.clone(), place: Some(Place::Hand) }
    }

    /// The books that it is in.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Notes where it is now.
    pub(crate) fn put(&mut self, place: Place) {
        if let Some(before) = self.place.replace(place) {
            self.metrics.place(before).dec();
        }
        self.metrics.place(place).inc();
    }

    /// It left well.
    pub(crate) fn settle(mut self, exit: Exit) {
        let [relay, client, session, ping, own, authority] = &self.metrics.exits;
        match exit {
            Exit::SentToRelay => relay,
            Exit::SentToClient => client,
            Exit::Session => session,
            Exit::Ping => ping,
            Exit::Loop => own,
            Exit::SentToAuthority => authority,
        }
        .inc();
        self.leave();
    }

    /// It ends here.
    pub(crate) fn discard(mut self, reason: DropReason) {
        self.metrics.reason(reason).inc();
        self.leave();
    }

    /// It is lost on purpose.
    pub(crate) fn lose(mut self) {
        self.metrics.faults.inc();
        self.leave();
    }

    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.metrics.place(place).dec();
        }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // A client's line ends with the client. All other threads and tasks that end with packets in their
        // hands or queues do so because the relay stops.
        let reason = match self.place {
            None => return,
            Some(Place::Line) => DropReason::LinkDown,
            Some(_) => DropReason::Stopping,
        };
        self.metrics.reason(reason).inc();
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn total(metrics: &Metrics, name: &str) -> f64 {
        let text = String::from_utf8(metrics.text()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// The names of metrics in a text, without what Prometheus appends to those of histograms.
    fn named(text: &str) -> BTreeSet<&str> {
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let names = words.filter(|word| word.starts_with("mizzle_"));
        names
            .map(|name| {
                ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name)
            })
            .collect()
    }

    #[test]
    fn every_metric_is_on_the_board_or_in_the_rules_and_they_name_no_other() {
        let metrics = Metrics::new().unwrap();
        let text = String::from_utf8(metrics.text()).unwrap();
        let types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
        let here = types.iter().flat_map(|line| named(line)).collect::<BTreeSet<_>>();
        assert!(here.len() > 20, "{here:?}");
        let board: serde_json::Value =
            serde_json::from_str(include_str!("../packaging/grafana/mizzle-relay.json")).unwrap();
        let panels = board["panels"].as_array().unwrap().iter();
        let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
        let queries: Vec<_> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
        // Comments and words for people watch nothing.
        let words = |line: &&str| {
            ["#", "summary:", "description:"].iter().any(|start| line.trim_start().starts_with(start))
        };
        let rules = include_str!("../packaging/prometheus/mizzle-relay.rules.yml");
        let rules = rules.lines().filter(|line| !words(line));
        let shown: BTreeSet<_> = queries.into_iter().chain(rules).flat_map(named).collect();
        assert_eq!(here.difference(&shown).collect::<Vec<_>>(), Vec::<&&str>::new(), "nobody sees these");
        assert_eq!(shown.difference(&here).collect::<Vec<_>>(), Vec::<&&str>::new(), "no relay has these");
    }

    #[test]
    fn what_waits_for_a_client_that_left_cannot_leave() {
        let metrics = Metrics::new().unwrap();
        let make = || Packet::receive(&metrics, Origin::Relay, 0, Cell::default(), Instant::ZERO);
        let (mut waiting, held) = (make(), make());
        waiting.put(Place::Client);
        assert_eq!((metrics.in_flight(), metrics.can_leave()), (2, 2));
        waiting.put(Place::Away);
        assert_eq!((metrics.in_flight(), metrics.can_leave()), (2, 1));
        drop((waiting, held));
        assert_eq!(metrics.in_flight(), 0);
    }

    #[test]
    #[cfg(feature = "faults")]
    fn what_is_lost_on_purpose_has_a_reason_of_its_own() {
        let metrics = Metrics::new().unwrap();
        Packet::receive(&metrics, Origin::Relay, 0, Cell::default(), Instant::ZERO).lose();
        assert_eq!(total(&metrics, "mizzle_packets_dropped_total"), 1.0);
        assert_eq!(total(&metrics, "mizzle_packets_dropped_total{reason=\"fault\"}"), 1.0);
        assert_eq!((metrics.lost(), metrics.in_flight()), (1, 0));
    }

    #[test]
    fn the_books_balance_whatever_becomes_of_packets() {
        let metrics = Metrics::new().unwrap();
        let make = || Packet::receive(&metrics, Origin::Relay, 0, Cell::default(), Instant::ZERO);
        make().settle(Exit::SentToRelay);
        make().settle(Exit::Session);
        for reason in DropReason::ALL {
            make().discard(reason);
        }
        drop(make());
        let mut held = make();
        held.put(Place::Engine);
        held.put(Place::Held);
        let held = Some(held);
        assert_eq!(total(&metrics, "mizzle_packets_received_total"), 22.0);
        assert_eq!(total(&metrics, "mizzle_packets_sent_total"), 1.0);
        assert_eq!(total(&metrics, "mizzle_packets_delivered_total"), 1.0);
        assert_eq!(total(&metrics, "mizzle_packets_dropped_total"), 19.0);
        assert_eq!(total(&metrics, "mizzle_packets_dropped_total{reason=\"stopping\"}"), 2.0);
        assert_eq!(total(&metrics, "mizzle_packets_in_flight"), 1.0);
        assert_eq!(total(&metrics, "mizzle_packets_in_flight{place=\"held\"}"), 1.0);
        assert_eq!(metrics.lost(), 18);
        drop(held);
        assert_eq!(total(&metrics, "mizzle_packets_in_flight"), 0.0);
    }
}
