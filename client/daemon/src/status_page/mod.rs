//! The status page: what `mizzle status` says, for a browser on this computer, with a switch for the level.
//! (spec: PAGE-1 to PAGE-6)

mod admission;
mod history;
mod view;

pub(crate) use history::{History, RecentLoops, SAMPLE};

use crate::budget::{DEFAULT_PAGE, PagePlace};
use crate::control::{Answer, Daemon};
use admission::{Admission, Admitted, Denied, form_value};
use mizzle_link::Error;
use mizzle_link::http::{self, JSON, Limits, Method, Request, Response};
use mizzle_protocol::ErrorKind;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use view::View;

/// The page of one running client.
#[derive(Debug)]
pub(crate) struct Site {
    admission: Admission,
    daemon: Arc<Daemon>,
}

/// Opens the page's port. At the usual place another client may have it: then this one goes without, and says so. At
/// a place that somebody named, that is an error.
pub(crate) async fn listen(
    place: Option<PagePlace>,
) -> Result<(Option<SocketAddr>, Option<TcpListener>), String> {
    let address = match place {
        Some(PagePlace::Off) => return Ok((None, None)),
        Some(PagePlace::At(address)) => address,
        None => DEFAULT_PAGE,
    };
    let opened = TcpListener::bind(address).await.and_then(|listener| Ok((listener.local_addr()?, listener)));
    match (opened, place) {
        (Ok((address, listener)), _) => Ok((Some(address), Some(listener))),
        (Err(error), None) => {
            tracing::warn!(
                "there is no status page, since {address} cannot be opened ({error}): name another by `page`"
            );
            Ok((None, None))
        }
        (Err(error), Some(_)) => Err(format!(
            "cannot open the status page at {address} ({error}): choose another address with --page"
        )),
    }
}

/// Answers until the future is dropped. Without a page, there is nothing to answer.
pub(crate) async fn serve(listener: Option<TcpListener>, site: Option<Site>) {
    let (Some(listener), Some(site)) = (listener, site) else { return std::future::pending().await };
    let site = Arc::new(site);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a connection to the status page: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let refusals = &site.daemon.page_refusals;
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            refusals.full.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            if let Err(error) =
                http::serve(stream, &LIMITS, async |request| site.answer(&request).await).await
            {
                site.daemon.page_refusals.count_failure(&error);
            }
            drop(place);
        });
    }
}

impl Site {
    /// With fresh secrets: whatever opened an earlier page does not open this one.
    pub(crate) fn open(address: SocketAddr, state: &Path, daemon: Arc<Daemon>) -> Result<Self, String> {
        Ok(Self { admission: Admission::open(address, state)?, daemon })
    }

    async fn answer(&self, request: &Request) -> Response {
        let admitted = match self.admission.admit(request) {
            Ok(admitted) => admitted,
            Err(denied) => {
                self.daemon.page_refusals.count(denied);
                return guarded(Response::text(403, format!("{}\n", denied.sentence())), "");
            }
        };
        let path = match admitted {
            Admitted::Entered => return self.welcome(),
            Admitted::Inside(path) => path,
        };
        match (request.method, path.as_str()) {
            (Method::Get, "") => match self.view().await {
                Ok(view) => page(|nonce| view.page(nonce, &self.admission.form(), &self.admission.home())),
                Err(error) => guarded(Response::text(503, error), ""),
            },
            (Method::Get, "status.json") => {
                let json = self.view().await.map(|view| serde_json::to_vec(&view).unwrap_or_default());
                guarded(
                    json.map_or_else(
                        |error| Response::text(503, error),
                        |json| Response::document(JSON, json),
                    ),
                    "",
                )
            }
            (Method::Post, "level") => {
                let level = form_value(&request.body, "level").unwrap_or_default();
                self.changed(self.daemon.set_level(level, None))
            }
            (Method::Post, "new-identity") => {
                self.changed(self.daemon.new_identity().await.map_err(|error| error.to_string()))
            }
            (Method::Get, "level" | "new-identity") => {
                guarded(Response::text(405, "what changes something is done by POST\n"), "")
            }
            _ => guarded(Response::text(404, "there is no such page\n"), ""),
        }
    }

    /// A page that leads on, rather than a redirection: a browser that was sent here by another program would follow
    /// that without its new cookie, as something that comes from outside.
    fn welcome(&self) -> Response {
        let home = self.admission.home();
        let html = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Mizzle</title>\
             <meta http-equiv=\"refresh\" content=\"0;url={home}\"><p><a href=\"{home}\">Open the page</a></p></html>\n"
        );
        guarded(Response::document(HTML, html.into_bytes()), "").with("Set-Cookie", self.admission.cookie())
    }

    fn changed(&self, result: Result<(), String>) -> Response {
        match result {
            Ok(()) => guarded(Response::text(303, ""), "").with("Location", self.admission.home()),
            Err(error) => guarded(Response::text(400, format!("{error}\n")), ""),
        }
    }

    async fn view(&self) -> Result<View, String> {
        let status = match self.daemon.now().await {
            Answer::Status(status) => status,
            Answer::Error { error } => return Err(error),
            _ => return Err("the client gives no status".into()),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(View::new(&status, &self.daemon.history.lock().unwrap_or_else(PoisonError::into_inner), now))
    }
}

/// `mizzle page`: the address that opens the page of the client in this state directory.
pub(crate) async fn command(state: &Path, address: Option<SocketAddr>, open: bool) -> Result<(), String> {
    let address =
        address.ok_or("the running client has no status page: start it with another --page than off")?;
    let entrance = admission::entrance(state, address)?;
    if !open {
        crate::say(&format!("{entrance}\n"));
        return Ok(());
    }
    // Other users see the arguments of every process, and could be faster: so the browser gets a file of this user's.
    let file = state.join(LEAD);
    let html = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>Mizzle</title>\
         <meta http-equiv=\"refresh\" content=\"0;url={entrance}\"><a href=\"{entrance}\">Open the page</a>\n"
    );
    mizzle_link::write_atomically(&file, html.as_bytes()).map_err(|error| error.to_string())?;
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = tokio::process::Command::new(opener);
    // What it says when there is no browser is about programs that nobody asked for.
    command.arg(&file).stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let opened = command.status().await;
    match opened {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("`{opener}` opens no browser here: open this address yourself: {entrance}")),
    }
}

/// A document with styles and scripts of its own, which alone may run in it.
fn page(html: impl FnOnce(&str) -> String) -> Response {
    let mut bytes = [0; 16];
    if let Err(error) = getrandom::fill(&mut bytes) {
        return guarded(Response::text(503, format!("the system gives no randomness ({error})\n")), "");
    }
    let nonce = mizzle_protocol::id::to_hex(&bytes);
    let own = format!(
        "; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; form-action 'self'"
    );
    guarded(Response::document(HTML, html(&nonce).into_bytes()), &own)
}

/// What every answer says to the browser: to load nothing but what `own` names, to keep nothing, to tell nobody.
fn guarded(response: Response, own: &str) -> Response {
    let policy = format!("default-src 'none'; base-uri 'none'; frame-ancestors 'none'{own}");
    response
        .with("Content-Security-Policy", policy)
        .with("Referrer-Policy", "no-referrer")
        .with("Cache-Control", "no-store")
        .with("X-Content-Type-Options", "nosniff")
        .with("X-Frame-Options", "DENY")
        .with("Cross-Origin-Opener-Policy", "same-origin")
        .with("Cross-Origin-Resource-Policy", "same-origin")
}

/// Requests that were refused, by reason.
#[derive(Debug, Default)]
pub(crate) struct PageRefusals {
    full: AtomicU64,
    timed_out: AtomicU64,
    malformed: AtomicU64,
    hosts: AtomicU64,
    strangers: AtomicU64,
    origins: AtomicU64,
}

/// What they say at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PageRefused {
    /// Connections beyond the bound.
    pub(crate) full: u64,
    /// No request in time, or an answer that nobody took.
    pub(crate) timed_out: u64,
    /// No request, or one that is too large.
    pub(crate) malformed: u64,
    /// Another host was named.
    pub(crate) hosts: u64,
    /// Neither token nor cookie.
    pub(crate) strangers: u64,
    /// A change asked for by another page, or by a form that is not ours.
    pub(crate) origins: u64,
}

impl PageRefusals {
    fn count(&self, denied: Denied) {
        match denied {
            Denied::Host => &self.hosts,
            Denied::Stranger => &self.strangers,
            Denied::Origin | Denied::Form => &self.origins,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    fn count_failure(&self, error: &Error) {
        match (error, error.kind()) {
            (Error::TimedOut { .. }, _) => &self.timed_out,
            (_, ErrorKind::Malformed | ErrorKind::Exhausted | ErrorKind::Refused) => &self.malformed,
            // A browser that went away.
            _ => return,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    /// The counts.
    pub(crate) fn now(&self) -> PageRefused {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PageRefused {
            full: read(&self.full),
            timed_out: read(&self.timed_out),
            malformed: read(&self.malformed),
            hosts: read(&self.hosts),
            strangers: read(&self.strangers),
            origins: read(&self.origins),
        }
    }
}

impl PageRefused {
    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.full + self.timed_out + self.malformed + self.hosts + self.strangers + self.origins
    }
}

const HTML: &str = "text/html; charset=utf-8";
/// The file that leads a browser to the page.
const LEAD: &str = "page.html";
/// A browser opens six; more than two browsers' worth is none of theirs.
const CONNECTIONS: usize = 16;
const LIMITS: Limits = Limits { body: 1024, time: Duration::from_secs(5), requests: 1 };
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests;
