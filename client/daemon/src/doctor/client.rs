//! What the running client says of itself, and how it answers.

use super::reach;
use crate::config::Settings;
use crate::control::{Answer, ControlClient, DaemonStatus, PingTimes, Request};
use crate::listener::{Address, Application};
use mizzle_client::{ClockSkew, ExitChoice, NetworkFile};
use mizzle_link::findings::{Finding, Verdict};
use std::fmt::Display;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Why a client gives no status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// None runs.
    Gone(String),
    /// One runs, and does not do what it should.
    Stuck(String),
}

/// What the client in this state directory says.
pub(super) async fn status(state: &Path) -> Result<DaemonStatus, Silence> {
    let stuck = |why: &str| Silence::Stuck(format!("it runs, but {why}"));
    let silent = || stuck("does not answer: perhaps it is stopped or overloaded");
    let mut control = ControlClient::connect(state).await.map_err(|error| match error.kind() {
        ErrorKind::TimedOut => silent(),
        _ => Silence::Gone(format!("none runs with the state directory {} ({error})", state.display())),
    })?;
    match control.ask(&Request::Status).await {
        Ok(Some(Answer::Status(status))) => Ok(*status),
        Ok(Some(Answer::Error { error })) => Err(stuck(&format!("says: {error}"))),
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(silent()),
        _ => Err(stuck("gives no status: perhaps it is of another version")),
    }
}

/// Everything about a client that runs.
pub(super) async fn all(
    settings: &Settings,
    status: &DaemonStatus,
    network: Option<&NetworkFile>,
) -> Vec<Finding> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut findings = vec![Finding::pass("client", "runs"), connected(status)];
    if status.client.connected {
        findings.push(consensus(status, now));
        let (times, error) = ping(&settings.state).await;
        findings.push(way(&times, error));
        findings.push(clock(&times, status.client.clock.as_ref()));
    } else {
        findings.push(consensus(status, now));
        findings.push(clock(&[], status.client.clock.as_ref()));
        findings.push(reach::reach(network, &reach::way(settings)).await);
    }
    let told: Vec<Address> = status.listeners.iter().filter_map(|text| text.parse().ok()).collect();
    for listener in if told.is_empty() { &settings.socks } else { &told } {
        findings.push(port(listener).await);
    }
    if let Some(address) = status.dns.as_deref().and_then(|text| text.parse().ok()) {
        findings.push(names(address).await);
    }
    findings.extend(status.client.exit_choice.as_ref().map(exits));
    findings.push(refused(status));
    findings.push(crate::budget::finding(&status.budget, status.client.reason.as_deref()));
    findings
}

/// Whether there are exits where the user wants them.
fn exits(choice: &ExitChoice) -> Finding {
    let ExitChoice { country, exits, exits_in_all, .. } = choice;
    match choice.bits {
        None => Finding::fail(
            "exits",
            format!("none of the {exits_in_all} exits says that it is in {country}: nothing is carried"),
            "choose another country, or all, by the key `exit_country`",
        ),
        Some(_) => {
            Finding::pass("exits", format!("{exits} of {exits_in_all} say that they are in {country}"))
        }
    }
}

fn connected(status: &DaemonStatus) -> Finding {
    match (&status.client.connected, &status.client.reason) {
        (true, _) => Finding::pass("connected", "the client is connected"),
        (false, reason) => Finding::fail(
            "connected",
            reason.clone().unwrap_or_else(|| "the client is not connected, and does not say why".into()),
            "see the lines below; it goes on trying by itself",
        ),
    }
}

/// The document that says who is in the network; it ends while the network, or this clock, is wrong.
fn consensus(status: &DaemonStatus, now: u64) -> Finding {
    match status.client.consensus_valid_until {
        None => Finding::fail("consensus", "the client has no consensus yet", "see `reach` below"),
        Some(until) if until <= now => Finding::fail(
            "consensus",
            format!("the newest one ended {} s ago by this computer's clock", now - until),
            "check date and time of this computer; if they are right, the network has no newer one",
        ),
        Some(until) => Finding::pass("consensus", format!("valid for another {} s", until - now)),
    }
}

async fn ping(state: &Path) -> (Vec<PingTimes>, Option<String>) {
    let mut times = Vec::new();
    let mut last = None;
    let pings = async {
        let mut control = ControlClient::connect(state).await?;
        control.send(&Request::Ping { count: PINGS, exit: None }).await?;
        loop {
            match control.receive().await? {
                Some(Answer::Ping(ping)) => times.push(ping),
                Some(Answer::Error { error }) => last = Some(error),
                _ => return Ok::<_, std::io::Error>(()),
            }
        }
    };
    match timeout(PING_PATIENCE, pings).await {
        Ok(Err(error)) => last = Some(error.to_string()),
        Err(_) => last = Some("no answer in time".into()),
        Ok(Ok(())) => {}
    }
    (times, last)
}

fn way(times: &[PingTimes], error: Option<String>) -> Finding {
    let mut trips: Vec<u64> = times.iter().map(|ping| ping.home.saturating_sub(ping.slot)).collect();
    trips.sort_unstable();
    let home = trips.len();
    match trips.get(home / 2) {
        None => Finding::fail(
            "way",
            format!("no ping came home: {}", error.unwrap_or_default()),
            "wait a minute and look again; if it stays, the network's relays are at fault",
        ),
        Some(median) => {
            let what = format!("{home} of {PINGS} pings came home, in {} ms", median / 1_000);
            match home < PINGS as usize {
                true => Finding::warn("way", what, "some loss is mended by itself; much makes it slow"),
                false => Finding::pass("way", what),
            }
        }
    }
}

/// Compares with the exits' clocks: a packet is there after it left, and seconds later at most. Without a ping, what the
/// client has heard from relays and read in documents has to do.
fn clock(times: &[PingTimes], told: Option<&ClockSkew>) -> Finding {
    let mut excess: Vec<i64> = times.iter().map(PingTimes::excess).collect();
    excess.sort_unstable();
    let Some(median) = excess.get(excess.len() / 2) else {
        if let Some(told) = told {
            return Finding::fail("clock", told.to_string(), SET);
        }
        return Finding::skip("clock", "not looked at: it needs a ping that came home");
    };
    let seconds = median / 1_000_000;
    match seconds.unsigned_abs() < CLOCK_TOLERANCE {
        true => Finding::pass("clock", "agrees with the exits' clocks"),
        false => Finding::fail(
            "clock",
            format!(
                "is {} s {} the exits' clocks",
                seconds.unsigned_abs(),
                if seconds < 0 { "ahead of" } else { "behind" }
            ),
            SET,
        ),
    }
}

/// Asks a port what any application asks first.
async fn port(address: &Address) -> Finding {
    let ask = async {
        let mut stream = Application::connect(address).await?;
        stream.write_all(&[5, 1, 2]).await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        Ok(answer == [5, 2])
    };
    answers("port", address, "a proxy", ask).await
}

/// Whether what listens at `address` answers as this client's port would.
async fn answers(
    name: &'static str,
    address: impl Display,
    what: &str,
    ask: impl Future<Output = std::io::Result<bool>>,
) -> Finding {
    let why = match timeout(PATIENCE, ask).await {
        Ok(Ok(true)) => return Finding::pass(name, format!("{address} answers as {what}")),
        Ok(Ok(false)) => "another program answers there".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    Finding::fail(
        name,
        format!("{address} does not answer as {what} of this client ({why})"),
        "restart the client: mizzle down, then mizzle up",
    )
}

/// Asks the port for names what it answers by itself, so that no exit hears of it: an operation that it does not have.
async fn names(address: SocketAddr) -> Finding {
    let ask = async {
        let own = if address.is_ipv4() {
            IpAddr::from(Ipv4Addr::UNSPECIFIED)
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((own, 0)).await?;
        socket.connect(address).await?;
        socket.send(&UNKNOWN_OPERATION).await?;
        let mut answer = [0; 512];
        let count = socket.recv(&mut answer).await?;
        let [high, low, ..] = UNKNOWN_OPERATION;
        let told = answer.get(..count).unwrap_or_default();
        let refused = |flags: u8, code: u8| flags & IS_ANSWER != 0 && code & CODE == NOT_IMPLEMENTED;
        Ok(matches!(told, [a, b, flags, code, ..] if [*a, *b] == [high, low] && refused(*flags, *code)))
    };
    answers("names", address, "a resolver", ask).await
}

fn refused(status: &DaemonStatus) -> Finding {
    let refused = status.socks_refused;
    let (verdict, advice) = match (refused.full, refused.malformed) {
        _ if refused.crowded > 0 => (
            Verdict::Warn,
            "programs want more at once than the client or an exit can carry: close some, or try again in a minute",
        ),
        (0, 0) => return Finding::pass("programs", "all that connected made themselves understood"),
        (0, _) => {
            (Verdict::Warn, "a program takes the port for something else: set it as SOCKS5 or HTTP proxy")
        }
        _ => (Verdict::Warn, "allow more at once by the key `connections`"),
    };
    let what = format!(
        "{} connections were no request, {} found no place, {} no session",
        refused.malformed, refused.full, refused.crowded
    );
    Finding { name: "programs", verdict, what, advice: advice.into() }
}

const PATIENCE: Duration = Duration::from_secs(3);
const IS_ANSWER: u8 = 0x80;
const CODE: u8 = 0x0f;
const NOT_IMPLEMENTED: u8 = 4;
/// The head of a DNS message: a number, operation 2 (RFC 1035, section 4.1.1), and nothing in it.
const UNKNOWN_OPERATION: [u8; 12] = [0x4d, 0x7a, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const PINGS: u32 = 5;
const PING_PATIENCE: Duration = Duration::from_secs(20);
const SET: &str = "set date and time of this computer, best by the network time protocol";
/// Seconds. Beyond that, keys and documents are taken for those of another time.
const CLOCK_TOLERANCE: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{Question, Unasked};

    fn pings(excess: i64, count: usize) -> Vec<PingTimes> {
        let arrival = 2_000_000_000_u64.checked_add_signed(excess).unwrap();
        vec![PingTimes { slot: 1_999_900_000, delays: 100_000, arrival, home: 2_000_150_000 }; count]
    }

    #[test]
    fn a_clock_that_is_wrong_either_way_is_told() {
        assert_eq!(clock(&[], None).verdict, Verdict::Skip);
        assert_eq!(clock(&pings(40_000, 5), None).verdict, Verdict::Pass);
        let told = "{\"seconds\": -7200, \"agree\": 3, \"asked\": 3, \"proven\": true}";
        let told: ClockSkew = serde_json::from_str(told).unwrap();
        let finding = clock(&[], Some(&told));
        assert!(finding.verdict == Verdict::Fail && finding.what.contains("2 h behind"), "{finding:?}");
        // Who comes home tells it more exactly.
        assert_eq!(clock(&pings(40_000, 5), Some(&told)).verdict, Verdict::Pass);
        let ahead = clock(&pings(-120_000_000, 5), None);
        assert!(ahead.verdict == Verdict::Fail && ahead.what.contains("120 s ahead"), "{ahead:?}");
        let behind = clock(&pings(120_000_000, 5), None);
        assert!(behind.verdict == Verdict::Fail && behind.what.contains("120 s behind"), "{behind:?}");
    }

    #[test]
    fn a_country_without_exits_is_a_failure() {
        let choice = |exits: usize, bits: &str| -> ExitChoice {
            let text = format!(
                "{{\"country\": \"JP\", \"exits\": {exits}, \"exits_in_all\": 3, \"share\": 0.5, \"bits\": {bits}}}"
            );
            serde_json::from_str(&text).unwrap()
        };
        let none = exits(&choice(0, "null"));
        assert!(none.verdict == Verdict::Fail && none.what.contains("JP"), "{none:?}");
        assert_eq!(exits(&choice(1, "1.6")).verdict, Verdict::Pass);
    }

    #[test]
    fn loss_is_told_and_no_answer_is_a_failure() {
        assert_eq!(way(&pings(0, 5), None).verdict, Verdict::Pass);
        assert_eq!(way(&pings(0, 4), Some("lost".into())).verdict, Verdict::Warn);
        let none = way(&[], Some("lost".into()));
        assert!(none.verdict == Verdict::Fail && none.what.contains("lost"));
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_told_from_one_that_hangs() {
        let state = tempfile::tempdir().unwrap();
        assert!(matches!(status(state.path()).await, Err(Silence::Gone(_))));
        let socket = tokio::net::UnixListener::bind(state.path().join("control.sock")).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = socket.accept().await.unwrap();
            stream.write_all(b"{\"done\":true}\n").await.unwrap();
        });
        assert!(matches!(status(state.path()).await, Err(Silence::Stuck(_))));
    }

    #[test]
    fn what_the_client_says_is_passed_on() {
        let mut status = DaemonStatus::default();
        status.client.reason = Some("no relay answers".into());
        assert!(connected(&status).verdict == Verdict::Fail && connected(&status).what == "no relay answers");
        assert_eq!(consensus(&status, 100).verdict, Verdict::Fail);
        status.client.consensus_valid_until = Some(100);
        assert_eq!(consensus(&status, 99).verdict, Verdict::Pass);
        assert_eq!(consensus(&status, 100).verdict, Verdict::Fail);
        status.client.connected = true;
        assert_eq!(connected(&status).verdict, Verdict::Pass);
        assert_eq!(refused(&status).verdict, Verdict::Pass);
        status.socks_refused.malformed = 1;
        assert!(refused(&status).advice.contains("SOCKS5"));
        status.socks_refused.full = 1;
        assert!(refused(&status).advice.contains("connections"));
        status.socks_refused.crowded = 1;
        assert!(refused(&status).advice.contains("more at once"));
    }

    #[tokio::test]
    async fn a_port_for_names_that_does_not_answer_as_one_is_told() {
        let answers = [(&b"\x4d\x7a\x90\x04\0\0\0\0\0\0\0\0"[..], Verdict::Pass), (b"hello", Verdict::Fail)];
        for (answer, verdict) in answers {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            tokio::spawn(async move {
                let (_, asker) = socket.recv_from(&mut [0; 64]).await.unwrap();
                socket.send_to(answer, asker).await.unwrap();
            });
            assert_eq!(names(address).await.verdict, verdict);
        }
        // The port of a client that runs refuses this operation by itself.
        let refused = Question::parse(&UNKNOWN_OPERATION).unwrap_err();
        assert!(matches!(refused, Unasked::Answered(told) if told[2] & 0x80 != 0 && told[3] & 0x0f == 4));
        let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(names(nobody).await.verdict, Verdict::Fail);
    }

    #[tokio::test]
    async fn a_port_that_is_no_proxy_is_told() {
        for (answer, verdict) in [(b"\x05\x02", Verdict::Pass), (b"HT", Verdict::Fail)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = Address::Tcp(listener.local_addr().unwrap());
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut [0; 3]).await.unwrap();
                stream.write_all(answer).await.unwrap();
            });
            assert_eq!(port(&address).await.verdict, verdict);
        }
    }
}
