//! Which browser: by name, by path, or the first that is there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// How a browser is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chromium,
    Firefox,
}

/// A browser that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Browser {
    pub(super) program: PathBuf,
    pub(super) kind: Kind,
}

/// The browser that is wanted, in the folders of `path`.
pub(super) fn find(wanted: Option<&str>, path: Option<&OsStr>) -> Result<Browser, String> {
    let look = |kind, names: &[&str]| {
        let folders: Vec<PathBuf> = path.map(std::env::split_paths).into_iter().flatten().collect();
        let mut places = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        places.find(|place| is_program(place)).map(|program| Browser { program, kind })
    };
    match wanted {
        None => look(Kind::Chromium, &CHROMIUM).or_else(|| look(Kind::Firefox, &FIREFOX)).ok_or_else(|| {
            "neither Chromium nor Firefox is in any folder of PATH: install one, or name it by --browser"
                .into()
        }),
        Some("chromium") => look(Kind::Chromium, &CHROMIUM).ok_or_else(|| missing("Chromium")),
        Some("firefox") => look(Kind::Firefox, &FIREFOX).ok_or_else(|| missing("Firefox")),
        Some(other) => {
            let kind = kind(other).ok_or_else(|| {
                format!(
                    "{other} is neither of Chromium's kind nor of Firefox's: its settings are not known here"
                )
            })?;
            let found = match other.contains('/') {
                true => {
                    Some(Browser { program: other.into(), kind }).filter(|found| is_program(&found.program))
                }
                false => look(kind, &[other]),
            };
            found.ok_or_else(|| missing(other))
        }
    }
}

fn missing(name: &str) -> String {
    format!("{name} is not here: install it, or name another by --browser")
}

/// By the name of the program.
fn kind(program: &str) -> Option<Kind> {
    let name = Path::new(program).file_name()?.to_str()?.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match () {
        () if has(&["firefox", "librewolf"]) => Some(Kind::Firefox),
        () if has(&["chrom", "brave"]) => Some(Kind::Chromium),
        () => None,
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

const CHROMIUM: [&str; 4] = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
const FIREFOX: [&str; 2] = ["firefox", "firefox-esr"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_wanted_browser_is_found_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path().as_os_str());
        let install = |name: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
            file
        };
        assert!(find(None, path).unwrap_err().contains("--browser"));
        let firefox = Browser { program: install("firefox-esr"), kind: Kind::Firefox };
        assert_eq!(find(None, path).unwrap(), firefox);
        let chromium = Browser { program: install("chromium"), kind: Kind::Chromium };
        assert_eq!(find(None, path).unwrap(), chromium);
        assert_eq!(find(Some("firefox"), path).unwrap(), firefox);
        assert_eq!(find(chromium.program.to_str(), None).unwrap(), chromium);
        let brave = Browser { program: install("brave-browser"), kind: Kind::Chromium };
        assert_eq!(find(Some("brave-browser"), path).unwrap(), brave);
        for other in ["links", "/none/chromium", "librewolf"] {
            assert!(find(Some(other), path).unwrap_err().contains(other));
        }
    }
}
