//! Raw requests to the page, each refusal by its reason. (spec: PAGE-1 to PAGE-5)

use super::*;
use crate::budget::{Budget, BudgetSettings};
use mizzle_client::{Client, Config};
use mizzle_link::{Clock, NetworkFile};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A client that has no network, and its page.
struct Setup {
    address: SocketAddr,
    daemon: Arc<Daemon>,
    state: tempfile::TempDir,
    /// The page's path, and its cookie, once it was entered.
    room: String,
    cookie: String,
}

async fn set_up() -> Setup {
    let state = tempfile::tempdir().unwrap();
    let network = NetworkFile {
        name: "test".into(),
        threshold: 1,
        open_exits: true,
        authorities: Vec::new(),
        mirrors: Vec::new(),
    };
    let client = Client::start(Config::new(network, state.path())).await.unwrap();
    let (page, listener) = listen(Some(PagePlace::At("127.0.0.1:0".parse().unwrap()))).await.unwrap();
    let address = page.unwrap();
    let budget = Budget::open(&BudgetSettings::default(), state.path(), Clock::new().now()).unwrap();
    let daemon = Arc::new(Daemon {
        client,
        associations: Default::default(),
        dns: None,
        questions: Default::default(),
        control: Default::default(),
        generation: Default::default(),
        listeners: Vec::new(),
        stopped: Default::default(),
        budget: budget.into(),
        history: Default::default(),
        page,
        page_refusals: Default::default(),
    });
    let site = Site::open(address, state.path(), Arc::clone(&daemon)).unwrap();
    tokio::spawn(serve(listener, Some(site)));
    Setup { address, daemon, state, room: String::new(), cookie: String::new() }
}

impl Setup {
    /// What the page answers to these bytes, in which HOST stands for its address.
    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.replace("HOST", &self.address.to_string()).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str, more: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: HOST\r\n{more}\r\n")).await
    }

    fn entrance(&self) -> String {
        let url = admission::entrance(self.state.path(), self.address).unwrap();
        url.strip_prefix(&format!("http://{}", self.address)).unwrap().to_owned()
    }

    async fn enter(&mut self) -> String {
        let answer = self.get(&self.entrance(), "").await;
        let set = answer.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).unwrap();
        self.cookie = set.split(';').next().unwrap().to_owned();
        self.room = set.split("Path=").nth(1).unwrap().split(';').next().unwrap().to_owned();
        answer
    }

    async fn post(&self, path: &str, fields: &str, body: &str) -> String {
        let (room, cookie, length) = (&self.room, &self.cookie, body.len());
        self.send(&format!(
            "POST {room}{path} HTTP/1.1\r\nHost: HOST\r\nCookie: {cookie}\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    async fn form(&self) -> String {
        let page = self.get(&self.room, &format!("Cookie: {}\r\n", self.cookie)).await;
        page.split("data-form=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    }

    async fn level(&self) -> String {
        match self.daemon.now().await {
            Answer::Status(status) => match status.client.step_wanted {
                Some(_) => "changing".into(),
                None => status.client.level,
            },
            other => panic!("{other:?}"),
        }
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn the_token_opens_the_page_once_and_the_cookie_from_then_on() {
    let mut page = set_up().await;
    let entrance = page.entrance();
    let answer = page.enter().await;
    assert!(answer.contains("; HttpOnly; SameSite=Strict\r\n") && status(&answer) == "200", "{answer}");
    assert!(answer.contains(&format!("url={}", page.room)));
    // Once.
    assert_eq!(status(&page.get(&entrance, "").await), "403");
    assert_ne!(page.entrance(), entrance);
    let cookie = format!("Cookie: other=1; {}\r\n", page.cookie);
    let answer = page.get(&page.room, &cookie).await;
    assert!(status(&answer) == "200" && answer.contains("Not connected"), "{answer}");
    for guard in [
        "Content-Security-Policy: default-src 'none'; base-uri 'none'; frame-ancestors 'none'; style-src 'nonce-",
        "Referrer-Policy: no-referrer\r\n",
        "Cache-Control: no-store\r\n",
        "X-Content-Type-Options: nosniff\r\n",
        "Connection: close\r\n",
    ] {
        assert!(answer.contains(guard), "{guard}: {answer}");
    }
    assert!(!answer.to_ascii_lowercase().contains("access-control"), "{answer}");
    let nonce = answer.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert_eq!(answer.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
    assert!(!page.get(&page.room, &cookie).await.contains(nonce), "a nonce serves one answer");
    let json = page.get(&format!("{}status.json", page.room), &cookie).await;
    let body: serde_json::Value = serde_json::from_str(json.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["state"], "connecting");
    assert_eq!(status(&page.get(&format!("{}other", page.room), &cookie).await), "404");
}

#[tokio::test]
async fn the_tokens_file_is_its_owners_alone_and_gone_with_the_page() {
    use std::os::unix::fs::PermissionsExt;
    let page = set_up().await;
    let file = page.state.path().join(admission::FILE);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let other = tempfile::tempdir().unwrap();
    let one = Admission::open(page.address, other.path()).unwrap();
    let text = std::fs::read_to_string(other.path().join(admission::FILE)).unwrap();
    assert_ne!(text, std::fs::read_to_string(&file).unwrap());
    drop(one);
    assert!(!other.path().join(admission::FILE).exists());
}

#[tokio::test]
async fn without_the_token_and_with_a_wrong_one_there_is_nothing_to_see() {
    let mut page = set_up().await;
    page.enter().await;
    let wrong = "0".repeat(64);
    let cookie = format!("Cookie: mizzle={wrong}\r\n");
    let room = page.room.clone();
    for (path, fields) in [
        ("/", ""),
        (room.as_str(), ""),
        (room.as_str(), cookie.as_str()),
        (room.as_str(), "Cookie: mizzle=\r\n"),
        ("/enter/", ""),
        (&format!("/enter/{wrong}"), ""),
        ("/favicon.ico", ""),
    ] {
        let answer = page.get(path, fields).await;
        assert!(status(&answer) == "403" && answer.contains("mizzle page"), "{path}: {answer}");
        assert!(!answer.contains("Set-Cookie") && answer.contains("no-store"), "{answer}");
    }
    // The right cookie opens only the room that it is bound to.
    assert_eq!(status(&page.get("/", &format!("Cookie: {}\r\n", page.cookie)).await), "403");
    assert_eq!(page.daemon.page_refusals.now().strangers, 8);
}

#[tokio::test]
async fn a_foreign_host_sees_nothing_even_with_the_cookie() {
    let mut page = set_up().await;
    page.enter().await;
    let port = page.address.port();
    let hosts = [format!("evil.test:{port}"), "127.0.0.1".into(), format!("localhost:{port}"), String::new()];
    let mut requests: Vec<String> = hosts.map(|host| format!("Host: {host}\r\n")).into();
    requests.extend([String::new(), "Host: HOST\r\nHost: HOST\r\n".into()]);
    for host in &requests {
        let answer =
            page.send(&format!("GET {} HTTP/1.1\r\n{host}Cookie: {}\r\n\r\n", page.room, page.cookie)).await;
        assert_eq!(status(&answer), "403", "{host}");
    }
    assert_eq!(page.daemon.page_refusals.now().hosts, requests.len() as u64);
    // Nor does it spend the token.
    let entrance = page.entrance();
    page.send(&format!("GET {entrance} HTTP/1.1\r\nHost: evil.test\r\n\r\n")).await;
    assert_eq!(page.entrance(), entrance);
}

#[tokio::test]
async fn only_the_page_itself_changes_something() {
    let mut page = set_up().await;
    page.enter().await;
    let form = page.form().await;
    let fast = format!("form={form}&level=fast");
    for (fields, body) in [
        ("", fast.as_str()),
        ("Origin: http://evil.test\r\n", &fast),
        ("Origin: http://127.0.0.1:1\r\n", &fast),
        ("Origin: null\r\n", &fast),
        ("Origin: null\r\nSec-Fetch-Site: same-site\r\n", &fast),
        ("Origin: null\r\nSec-Fetch-Site: cross-site\r\n", &fast),
        ("Origin: http://HOST\r\n", "level=fast"),
        ("Origin: http://HOST\r\n", "form=00&level=fast"),
    ] {
        assert_eq!(status(&page.post("level", fields, body).await), "403", "{fields}{body}");
    }
    assert_eq!(page.daemon.page_refusals.now().origins, 8);
    // A link or a picture changes nothing.
    for change in ["level", "new-identity"] {
        let path = format!("{}{change}?{fast}", page.room);
        let answer = page.get(&path, &format!("Cookie: {}\r\n", page.cookie)).await;
        assert_eq!(status(&answer), "404");
        let path = format!("{}{change}", page.room);
        assert_eq!(status(&page.get(&path, &format!("Cookie: {}\r\n", page.cookie)).await), "405");
    }
    assert_eq!(page.level().await, "balanced");

    let own = "Origin: http://HOST\r\n";
    assert_eq!(status(&page.post("level", own, &format!("form={form}&level=paranoid")).await), "400");
    let answer = page.post("level", own, &fast).await;
    assert!(status(&answer) == "303" && answer.contains(&format!("Location: {}\r\n", page.room)), "{answer}");
    // There is no entry that could grant it; that it is wanted shows.
    while page.level().await == "balanced" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = page.daemon.generation.isolation(0, b"");
    let unscripted = "Origin: null\r\nSec-Fetch-Site: same-origin\r\n";
    assert_eq!(status(&page.post("new-identity", unscripted, &format!("form={form}")).await), "303");
    assert_ne!(page.daemon.generation.isolation(0, b""), before);
}

#[tokio::test]
async fn what_is_too_large_too_slow_or_no_request_is_cut_off() {
    let page = set_up().await;
    // A head that does not end where it must, and a body that is announced: no byte more is waited for.
    let head = "GET / HTTP/1.1\r\nX: ";
    assert_eq!(status(&page.send(&format!("{head}{}", "x".repeat(8_192 - head.len()))).await), "413");
    let announced = "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1025\r\n\r\n";
    assert_eq!(status(&page.send(announced).await), "413");
    assert_eq!(status(&page.send("\x16\x03\x01 hello\r\n\r\n").await), "400");
    assert_eq!(status(&page.send("DELETE / HTTP/1.1\r\nHost: HOST\r\n\r\n").await), "405");
    assert_eq!(page.daemon.page_refusals.now().malformed, 4);
    // Half a request, for longer than one may take.
    let begun = std::time::Instant::now();
    assert_eq!(page.send("GET / HTTP/1.1\r\nHost: HOST\r\n").await, "");
    assert!(begun.elapsed() >= LIMITS.time);
    assert_eq!(page.daemon.page_refusals.now().timed_out, 1);
}

#[tokio::test]
async fn connections_are_bounded() {
    let page = set_up().await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        idle.push(TcpStream::connect(page.address).await.unwrap());
    }
    // Closed at once; how that looks depends on what had been sent.
    let mut more = TcpStream::connect(page.address).await.unwrap();
    let _ = more.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = more.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    assert_eq!(page.daemon.page_refusals.now().full, 1);
    drop(idle);
}

#[tokio::test]
async fn a_named_place_that_is_taken_is_an_error() {
    let page = set_up().await;
    let error = listen(Some(PagePlace::At(page.address))).await.unwrap_err();
    assert!(error.contains("--page"), "{error}");
    assert!(matches!(listen(Some(PagePlace::Off)).await, Ok((None, None))));
}
