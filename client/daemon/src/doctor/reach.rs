//! Whether this network lets a client through to relays, and if not, who stands in the way: nobody, a portal, or the
//! upstream proxy. By the handshakes that every client makes, and nothing in the clear. (spec: DAILY-7, CLIENT-6)

use crate::config::Settings;
use mizzle_client::NetworkFile;
use mizzle_link::findings::Finding;
use mizzle_link::{Alpn, Error, Fault, Way, dial_by};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The way that the client's connections take.
pub(super) fn way(settings: &Settings) -> Way {
    Way { source: settings.outbound, upstream: settings.upstream.clone() }
}

/// Connects to relays that every client of this network connects to.
pub(super) async fn reach(network: Option<&NetworkFile>, way: &Way) -> Finding {
    let Some(network) = network else {
        return Finding::skip("reach", "not looked at: it needs the network file");
    };
    if let (Some(source), Some(error)) = (way.source, way.source_fault()) {
        return Finding::fail(
            "reach",
            format!("nothing can leave by the address {source} of `outbound` ({error})"),
            "give an address that this computer has, or leave the key out",
        );
    }
    let mut attempts = JoinSet::new();
    for mirror in network.mirrors.iter().take(MIRRORS) {
        let (way, address, id) = (way.clone(), mirror.address, mirror.id);
        attempts.spawn(async move {
            timeout(PATIENCE, dial_by(&way, address, id, None, Alpn::Documents))
                .await
                .map(|link| link.map(drop))
        });
    }
    let (mut reached, mut strangers, mut fault, tried) = (0, 0, None, attempts.len());
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok(Ok(Ok(()))) => reached += 1,
            Ok(Ok(Err(Error::Upstream(told)))) => fault = Some(told),
            Ok(Ok(Err(error))) => strangers += usize::from(error.is_stranger()),
            _ => {}
        }
    }
    let finding = judge(tried, reached, strangers, fault);
    match &way.upstream {
        // Without its password.
        Some(upstream) => Finding { what: format!("through {upstream}: {}", finding.what), ..finding },
        None => finding,
    }
}

fn judge(tried: usize, reached: usize, strangers: usize, fault: Option<Fault>) -> Finding {
    match (reached, fault) {
        (1.., _) => {
            Finding::pass("reach", format!("{reached} of {tried} relays prove who they are from here"))
        }
        (0, Some(fault)) => Finding::fail("reach", fault.to_string(), fault.advice()),
        (0, None) if strangers > 0 => Finding::fail(
            "reach",
            format!(
                "something else answers in place of {strangers} of {tried} relays: a captive portal, it seems"
            ),
            "open http://example.com in a browser without the proxy, and sign in on the page to which this network \
             leads it; what you do there goes past the mixnet. If no page comes, something on the way breaks TLS \
             open: ask who runs this network",
        ),
        (0, None) => Finding::fail(
            "reach",
            format!("none of {tried} relays takes a connection from here"),
            "is this computer online? If this network demands a proxy, name it by the key `upstream`",
        ),
    }
}

const MIRRORS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(6);

#[cfg(test)]
mod tests {
    use super::*;
    use mizzle_link::findings::Verdict;
    use mizzle_link::{Acceptor, Identity, seeded_rng};
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn network(id: &str, address: SocketAddr) -> NetworkFile {
        let text = format!(
            "name = \"n\"\nthreshold = 1\nauthorities = []\n[[mirrors]]\nid = \"{id}\"\naddress = \"{address}\"\n"
        );
        toml::from_str(&text).unwrap()
    }

    async fn look(network: &NetworkFile, upstream: Option<&str>) -> (Verdict, String) {
        let way = Way { source: None, upstream: upstream.map(|text| text.parse().unwrap()) };
        let finding = reach(Some(network), &way).await;
        (finding.verdict, format!("{}; {}", finding.what, finding.advice))
    }

    #[tokio::test]
    async fn an_address_that_is_not_of_this_computer_is_named() {
        let file = network(&"00".repeat(32), "127.0.0.1:9".parse().unwrap());
        let way = Way { source: Some("192.0.2.7".parse().unwrap()), upstream: None };
        let finding = reach(Some(&file), &way).await;
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.what.contains("`outbound`"), "{}", finding.what);
    }

    #[tokio::test]
    async fn a_relay_is_reached_or_not() {
        let identity = Identity::generate(&mut seeded_rng().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut file = network(&identity.id().to_hex(), listener.local_addr().unwrap());
        let acceptor = Acceptor::new(&identity, &Alpn::ALL).unwrap();
        let relay = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let _ = acceptor.accept(stream).await;
            }
        });
        assert_eq!(look(&file, None).await.0, Verdict::Pass);
        // Through a proxy that is not there, not even what can be reached is reached.
        let (verdict, text) = look(&file, Some("http://ann:secret@127.0.0.1:9")).await;
        assert_eq!(verdict, Verdict::Fail);
        assert!(
            text.starts_with("through http://127.0.0.1:9: the upstream proxy") && !text.contains("secret"),
            "{text}"
        );
        relay.abort();
        let _ = relay.await;
        let (verdict, text) = look(&file, None).await;
        assert!(verdict == Verdict::Fail && text.contains("online"), "{text}");
        file.mirrors.clear();
        assert_eq!(look(&file, None).await.0, Verdict::Fail);
        assert_eq!(reach(None, &Way::default()).await.verdict, Verdict::Skip);
    }

    #[tokio::test]
    async fn a_portal_is_named_with_what_to_do() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let file = network(&"00".repeat(32), listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; 4096];
            assert!(stream.read(&mut bytes).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://portal.test/\r\n\r\n").await.unwrap();
            // The rest of what was said must not turn the close into a reset.
            let _ = stream.read(&mut bytes).await;
        });
        let (verdict, text) = look(&file, None).await;
        assert_eq!(verdict, Verdict::Fail);
        assert!(text.contains("portal") && text.contains("http://example.com"), "{text}");
    }
}
