//! Who may see the status page: whoever can read a file of this user, in a browser that asks for it by its address.
//! (spec: PAGE-1 to PAGE-4)
//!
//! The file holds a token, which opens the page once: in exchange the browser gets a cookie, and the file the next
//! token. So nothing that opens the page stays in a history, a list of processes or a terminal; and the page works
//! without scripts, which a token behind `#` would need. Cookies know no ports: what is sent to one port of this
//! computer would go to every other. So the cookie is bound to a path that nobody guesses, and no other port is
//! asked for it.

use mizzle_link::http::{Method, Request};
use mizzle_link::write_atomically;
use mizzle_protocol::id::{from_hex, to_hex};
use mizzle_protocol::secret::Secret;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What is fresh at every start.
#[derive(Debug)]
pub(crate) struct Admission {
    address: SocketAddr,
    file: PathBuf,
    token: Mutex<Secret<32>>,
    cookie: Secret<32>,
    /// Stands in the page's forms: a request without it was not made there.
    form: Secret<32>,
    /// The path of everything but the entrance.
    room: String,
}

/// What a request may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// It has brought the token: the cookie, and the way to the page.
    Entered,
    /// It may see this path of the page's own, without its slash.
    Inside(String),
}

/// Why it may not have anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It names another host: some name may lead here, by somebody else's doing.
    Host,
    /// Neither the token nor the cookie.
    Stranger,
    /// A change that another page asks for.
    Origin,
    /// A change without the form's secret.
    Form,
}

impl Denied {
    /// In a sentence for whoever sees it.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Host => "This page is reached by its address only. Open it with: mizzle page",
            Self::Stranger => "This page opens with: mizzle page. An address that it printed opens it once.",
            Self::Origin => "Only the page itself may change something here.",
            Self::Form => "The page is out of date: load it again, then repeat what you did.",
        }
    }
}

impl Admission {
    /// With fresh secrets; writes the token's file.
    pub(crate) fn open(address: SocketAddr, state: &Path) -> Result<Self, String> {
        let (token, cookie, form) = (fresh()?, fresh()?, fresh()?);
        let room = to_hex(&fresh()?.expose()[..16]);
        let this =
            Self { address, file: state.join(FILE), token: Mutex::new(token.clone()), cookie, form, room };
        this.write(&token)?;
        Ok(this)
    }

    /// Judges a request, whatever it asks for.
    pub(crate) fn admit(&self, request: &Request) -> Result<Admitted, Denied> {
        // A name that somebody made lead to this address is not what our address looks like.
        if request.field("host") != Some(self.address.to_string().as_bytes()) {
            return Err(Denied::Host);
        }
        if let Some(given) = request.path.strip_prefix(ENTRANCE) {
            return match request.method == Method::Get && self.spend(given) {
                true => Ok(Admitted::Entered),
                false => Err(Denied::Stranger),
            };
        }
        let path = request.path.strip_prefix('/').and_then(|path| path.strip_prefix(self.room.as_str()));
        let path = path.and_then(|path| path.strip_prefix('/')).ok_or(Denied::Stranger)?;
        let cookies = request.field("cookie").and_then(|value| std::str::from_utf8(value).ok()).unwrap_or("");
        let pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
        if !pairs.into_iter().any(|(name, value)| name == COOKIE && same(value, &self.cookie)) {
            return Err(Denied::Stranger);
        }
        if request.method == Method::Post {
            self.judge_change(request)?;
        }
        Ok(Admitted::Inside(path.to_owned()))
    }

    /// A form of a page that sends no referrer has the origin `null`; that it is ours, the browser says by another
    /// field, which no page can set.
    fn judge_change(&self, request: &Request) -> Result<(), Denied> {
        let own = format!("http://{}", self.address);
        match request.field("origin") {
            Some(origin) if origin == own.as_bytes() => {}
            Some(b"null") if request.field("sec-fetch-site") == Some(b"same-origin") => {}
            _ => return Err(Denied::Origin),
        }
        match form_value(&request.body, "form") {
            Some(value) if same(value, &self.form) => Ok(()),
            _ => Err(Denied::Form),
        }
    }

    /// True if this is the token; then it is another from now on.
    fn spend(&self, given: &str) -> bool {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if !same(given, &token) {
            return false;
        }
        let Ok(next) = fresh() else { return false };
        // Nobody waits for this but whoever opens the page.
        if let Err(error) = self.write(&next) {
            tracing::warn!("the status page opens no second time before a restart: {error}");
        }
        *token = next;
        true
    }

    /// The value of `Set-Cookie`.
    pub(crate) fn cookie(&self) -> String {
        format!("{COOKIE}={}; Path=/{}/; HttpOnly; SameSite=Strict", to_hex(self.cookie.expose()), self.room)
    }

    /// The page's path.
    pub(crate) fn home(&self) -> String {
        format!("/{}/", self.room)
    }

    /// What the page's forms carry.
    pub(crate) fn form(&self) -> String {
        to_hex(self.form.expose())
    }

    fn write(&self, token: &Secret<32>) -> Result<(), String> {
        let text = to_hex(token.expose()) + "\n";
        write_atomically(&self.file, text.as_bytes()).map_err(|error| error.to_string())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        // What it held opens nothing any more.
        let _ = std::fs::remove_file(&self.file);
    }
}

/// The address that opens the page once, of the client that runs in this state directory.
pub(crate) fn entrance(state: &Path, address: SocketAddr) -> Result<String, String> {
    let path = state.join(FILE);
    let token = std::fs::read_to_string(&path)
        .map_err(|error| format!("cannot read the page's token in {} ({error})", path.display()))?;
    Ok(format!("http://{address}{ENTRANCE}{}", token.trim()))
}

/// The value of a field of a form; ours hold nothing that would be escaped.
pub(crate) fn form_value<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(body).ok()?;
    text.split('&')
        .find_map(|pair| pair.split_once('=').filter(|(known, _)| *known == name))
        .map(|(_, value)| value)
}

/// In constant time, as far as the secret is concerned.
fn same(given: &str, secret: &Secret<32>) -> bool {
    from_hex(given).is_ok_and(|bytes| Secret::new(bytes) == *secret)
}

fn fresh() -> Result<Secret<32>, String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("the system gives no randomness ({error})"))?;
    Ok(Secret::new(bytes))
}

/// Name of the token's file in the state directory.
pub(crate) const FILE: &str = "page-token";
const ENTRANCE: &str = "/enter/";
const COOKIE: &str = "mizzle";
