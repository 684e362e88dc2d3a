//! `mizzle browse`: a browser with a profile that lasts as long as it does, whose only way out is the running client.
//! (spec: DAILY-9 to DAILY-11)
//!
//! Two walls: settings by which the browser itself goes nowhere else, and, where the system allows it, the network of
//! `mizzle run` around it, in which there is nowhere else to go.

mod chromium;
mod find;
mod firefox;
mod profile;

use crate::config::Flags;
use crate::door::Door;
use crate::listener::{Address, Application, Listener};
use crate::run::{self, Guest};
use crate::service;
use find::{Browser, Kind};
use profile::Profile;
use std::error::Error;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::process::Command;
use tokio::sync::Semaphore;

/// What a person says to `browse`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BrowseFlags {
    /// The page to begin with [default: none]
    #[arg(value_parser = page, default_value = "about:blank", hide_default_value = true)]
    url: String,
    /// Which browser: chromium, firefox, or a program of their kind [default: whichever is found, in this order]
    #[arg(long, env = "MIZZLE_BROWSER", value_name = "BROWSER")]
    browser: Option<String>,
    /// Without a window, for tests
    #[arg(long)]
    headless: bool,
}

/// Runs the browser to its end; its exit code is the browser's.
pub(crate) async fn run(flags: &Flags, browse: &BrowseFlags) -> Result<ExitCode, Box<dyn Error>> {
    let browser = find::find(browse.browser.as_deref(), std::env::var_os("PATH").as_deref())?;
    if !browse.headless && !has_display(|name| std::env::var_os(name)) {
        return Err("there is no display to open a window on: neither DISPLAY nor WAYLAND_DISPLAY is set; use `browse` \
                    in a desktop session"
            .into());
    }
    let place = std::env::temp_dir();
    profile::sweep(&place);
    let profile = Profile::create(&place)
        .map_err(|error| format!("cannot make a profile in {} ({error})", place.display()))?;
    let ended = match confinement().await {
        None => {
            let command = prepare(&browser, &profile, run::PORT, browse)?;
            run::run_guest(flags, &command, Guest::Browser).await
        }
        Some(why) => unconfined(flags, &browser, &profile, browse, &why).await,
    };
    profile.remove().await;
    ended
}

/// True if a variable names a display; `variable` reads one.
fn has_display(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    DISPLAYS.iter().any(|name| variable(name).is_some_and(|display| !display.is_empty()))
}

/// Why no network can be made for the browser; `None` if it can.
async fn confinement() -> Option<String> {
    let tried = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--", "ip", "link", "set", "lo", "up"])
        .output()
        .await;
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Some(run::obstacle().unwrap_or(said))
        }
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// By its settings alone, through a port of its own.
async fn unconfined(
    flags: &Flags,
    browser: &Browser,
    profile: &Profile,
    browse: &BrowseFlags,
    why: &str,
) -> Result<ExitCode, Box<dyn Error>> {
    if rustix::process::geteuid().is_root() {
        return Err(
            "a browser should not run as root, and here it could only so: use `browse` as yourself".into()
        );
    }
    tracing::warn!(
        "this system makes no network for a single program ({why}): the browser's settings keep it in the mixnet, \
         and nothing stops it should they fail"
    );
    let mut signals = run::signals()?;
    let door = Arc::new(Door::find(flags).await?);
    let listener = Listener::open(&Address::Tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))).await?;
    let Address::Tcp(address) = listener.address()? else { return Err("no port was opened".into()) };
    let command = prepare(browser, profile, address.port(), browse)?;
    let Some((program, arguments)) = command.split_first() else { return Err("no browser was named".into()) };
    let mut child = Command::new(program)
        .args(arguments)
        .spawn()
        .map_err(|error| format!("cannot start the browser ({error})"))?;
    let places = Arc::new(Semaphore::new(PLACES));
    let serve = service::serve(&listener, &places, |application| carry(application, Arc::clone(&door)));
    tokio::select! {
        () = serve => Err("the browser's port has ended".into()),
        status = run::end(&mut child, &mut signals) => Ok(ExitCode::from(run::code(status?))),
    }
}

async fn carry(mut application: Application, door: Arc<Door>) -> Result<(), String> {
    application.reset_on_close().map_err(|error| error.to_string())?;
    let stream = door.introduce(&mut application).await?;
    if let Err(error) = service::carry_bytes(application, stream).await {
        tracing::debug!("a connection was cut: {}", error.kind());
    }
    Ok(())
}

/// Writes the profile, and gives the whole command, which begins with `env`.
fn prepare(
    browser: &Browser,
    profile: &Profile,
    port: u16,
    browse: &BrowseFlags,
) -> Result<Vec<OsString>, Box<dyn Error>> {
    let home = std::env::home_dir();
    let downloads = home.as_deref().map(|home| home.join("Downloads")).filter(|folder| folder.is_dir());
    let folder = profile.folder().join("profile");
    let written = match browser.kind {
        Kind::Chromium => chromium::write(&folder, downloads.as_deref()),
        Kind::Firefox => firefox::write(&folder, port, downloads.as_deref()),
    };
    written.map_err(|error| format!("cannot write the browser's profile ({error})"))?;
    let mut command = environment(profile, home.as_deref())?;
    command.push(browser.program.clone().into());
    command.extend(match browser.kind {
        Kind::Chromium => chromium::arguments(&folder, port, browse.headless),
        Kind::Firefox => firefox::arguments(&folder, browse.headless),
    });
    command.push((&browse.url).into());
    Ok(command)
}

/// Files outside of its folder the browser neither finds nor leaves; the variables that lead others to the client
/// hold a password that is not for it.
fn environment(profile: &Profile, home: Option<&Path>) -> Result<Vec<OsString>, Box<dyn Error>> {
    let mut words: Vec<OsString> = vec!["env".into()];
    for name in ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
        words.extend(["-u".into(), name.into(), "-u".into(), name.to_ascii_lowercase().into()]);
    }
    let mut set = |name: &str, value: &Path| {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        words.push(word);
    };
    for (name, below) in [
        ("HOME", "home"),
        ("XDG_CONFIG_HOME", "home/.config"),
        ("XDG_CACHE_HOME", "home/.cache"),
        ("XDG_DATA_HOME", "home/.local/share"),
        ("TMPDIR", "tmp"),
    ] {
        let folder = profile.folder().join(below);
        std::fs::create_dir_all(&folder)
            .map_err(|error| format!("cannot make {} ({error})", folder.display()))?;
        set(name, &folder);
    }
    // A display is reached by a file that lies in the home directory, unless a variable says where.
    let authority = home.map(|home| home.join(".Xauthority")).filter(|file| file.is_file());
    if let (None, Some(authority)) = (std::env::var_os("XAUTHORITY"), authority) {
        set("XAUTHORITY", &authority);
    }
    set("TZ", Path::new("UTC"));
    Ok(words)
}

/// An address of a page; one without a scheme is asked for by HTTPS. What is no page on the web (a file, a script)
/// becomes none.
fn page(text: &str) -> Result<String, String> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let odd = |letter: char| letter.is_whitespace() || letter.is_control();
    match scheme.as_deref() {
        _ if text.is_empty() || text.chars().any(odd) => Err("the address of a page has no spaces".into()),
        Some("http" | "https") => Ok(text.to_owned()),
        Some(_) => Err("only pages by http:// and https:// are opened".into()),
        None if text == "about:blank" => Ok(text.to_owned()),
        None => Ok(format!("https://{text}")),
    }
}

const PLACES: usize = 512;
const DISPLAYS: [&str; 2] = ["DISPLAY", "WAYLAND_DISPLAY"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_display_is_named_by_either_variable_and_not_by_an_empty_one() {
        let with = |name: &'static str, value: &'static str| {
            has_display(move |asked| (asked == name).then(|| value.into()))
        };
        assert!(with("DISPLAY", ":0") && with("WAYLAND_DISPLAY", "wayland-0"));
        assert!(!with("DISPLAY", "") && !with("TERM", "x"));
    }

    #[test]
    fn only_pages_of_the_web_are_opened() {
        assert_eq!(page("host.example/x").unwrap(), "https://host.example/x");
        assert_eq!(page("http://[2001:db8::1]:80/").unwrap(), "http://[2001:db8::1]:80/");
        assert_eq!(page("about:blank").unwrap(), "about:blank");
        // Neither an option of the browser's nor a file comes of it.
        assert_eq!(page("--no-sandbox").unwrap(), "https://--no-sandbox");
        assert_eq!(page("file:/etc/passwd").unwrap(), "https://file:/etc/passwd");
        for text in ["file:///etc/passwd", "chrome://settings", "", "a b", "a\n"] {
            assert!(page(text).is_err(), "{text}");
        }
    }
}
