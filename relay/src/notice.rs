//! The page for people who look up an exit's address: what runs here, and whom they can write to.
//!
//! Plain HTTP on a port of its own, since it is for any browser; it says nothing that is not public.

use crate::metrics::{Metrics, Refusal};
use mizzle_link::http::{self, Limits, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Answers every request with the page, until it is dropped.
pub(crate) async fn serve(listener: TcpListener, contact: String, metrics: Arc<Metrics>) {
    let page: Arc<[u8]> = page(&contact).into_bytes().into();
    let open = Arc::new(Semaphore::new(READERS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(permit) = open.clone().try_acquire_owned() else {
            metrics.refuse(Refusal::Full);
            continue;
        };
        let page = page.clone();
        tokio::spawn(async move {
            let limits = Limits { body: 0, time: Duration::from_secs(10), requests: 8 };
            // Scanners send anything: what is no request of a browser is nobody's business.
            let _ = http::serve(stream, &limits, async |_| Response::document(HTML, page.clone())).await;
            drop(permit);
        });
    }
}

fn page(contact: &str) -> String {
    let mut safe = String::new();
    for character in contact.chars() {
        match character {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            character if character.is_control() => {}
            character => safe.push(character),
        }
    }
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>An exit of a Mizzle network</title>
<style>body {{ max-width: 40em; margin: 3em auto; padding: 0 1em; font: 1.1em/1.5 sans-serif }}</style>
<h1>This is an exit of a Mizzle network</h1>
<p>You see this page because something came to you from this address. It did not begin here: this machine is an
exit of a mixnet, a network that gives people privacy. It passes connections on for people whom it cannot
name.</p>
<p>Packets reach it through several relays of other operators, sealed for each in turn and delayed at random.
So it knows what to connect to, and not for whom. There are no records of who it was, and there cannot be any.</p>
<p>If you have received attacks or spam from here: you can refuse connections from this address, and its operator
can refuse to connect to yours. Please write to:</p>
<p><strong>{safe}</strong></p>
</html>
"#
    )
}

const HTML: &str = "text/html; charset=utf-8";
const READERS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn a_browser_is_told_what_this_is_and_whom_to_write_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::new().unwrap();
        tokio::spawn(serve(listener, "abuse@example.org <b>\"x\"".to_owned(), metrics));
        for path in ["/", "/robots.txt"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let response = http::get(&mut stream, path, &Limits::default()).await.unwrap();
            let text = String::from_utf8(response.body.to_vec()).unwrap();
            assert_eq!(response.status, 200);
            assert!(text.contains("exit of a mixnet"));
            assert!(text.contains("<strong>abuse@example.org &lt;b&gt;&quot;x&quot;</strong>"), "{text}");
        }
    }
}
