//! The keys that a configuration knows, and what was probably meant by one that it does not.

use mizzle_link::Result;
use toml::de::{DeTable, DeValue};

/// How the value of a key is written in the environment and in flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Flag,
    /// Separated by commas.
    List,
    /// `name=value`, separated by commas.
    Table,
}

/// Every key with the way in which it is written; those of the section `[exit]` with its name before them.
pub(super) const KEYS: [(&str, Kind); 28] = [
    ("network", Kind::Text),
    ("listen", Kind::Text),
    ("role", Kind::Text),
    ("state", Kind::Text),
    ("runtime", Kind::Text),
    ("replay_on_disk", Kind::Flag),
    ("replay_memory", Kind::Text),
    ("announce", Kind::List),
    ("family", Kind::Text),
    ("country", Kind::Text),
    ("outbound", Kind::Text),
    ("metrics", Kind::Text),
    ("exact_metrics", Kind::Flag),
    ("threads", Kind::Number),
    ("rate", Kind::Text),
    ("burst", Kind::Text),
    ("quota", Kind::Text),
    ("quota_reset", Kind::Number),
    ("heartbeat", Kind::Text),
    ("log", Kind::Text),
    ("hosts", Kind::Table),
    ("resolver", Kind::List),
    ("exit.enabled", Kind::Flag),
    ("exit.policy", Kind::Text),
    ("exit.ports", Kind::List),
    ("exit.reject", Kind::List),
    ("exit.notice", Kind::Text),
    ("exit.contact", Kind::Text),
];

/// All keys.
pub(super) fn all() -> impl Iterator<Item = (&'static str, Kind)> {
    KEYS.into_iter()
}

/// Fails at the first key of the file that nobody knows, with its line and the nearest one that is known.
/// Text that is no TOML passes: the parser says what is wrong with it.
pub(super) fn check(text: &str) -> Result<()> {
    let Ok(table) = DeTable::parse(text) else { return Ok(()) };
    check_table(text, "", table.get_ref())
}

fn check_table(text: &str, section: &str, table: &DeTable<'_>) -> Result<()> {
    let known: Vec<_> = all().filter_map(|(name, _)| name.strip_prefix(section)).collect();
    let own = |name: &&str| !name.contains('.');
    for (key, value) in table {
        let name: &str = key.get_ref();
        match value.get_ref() {
            DeValue::Table(inner) if section.is_empty() && name == "exit" => {
                check_table(text, "exit.", inner)?;
            }
            _ if known.iter().any(|&known| known == name && own(&known)) => {}
            _ if section.is_empty() && name == "exit" => {
                let line = line_of(text, key.span().start);
                let what = format!(
                    "line {line}: `exit` is a section: write [exit], and its keys in the lines below"
                );
                return Err(super::wrong(what));
            }
            _ => {
                let line = line_of(text, key.span().start);
                let sections = section.is_empty().then_some("exit");
                let known = known.iter().copied().filter(own).chain(sections);
                return Err(super::wrong(format!("line {line}: {}", unknown(section, name, known))));
            }
        }
    }
    Ok(())
}

fn line_of(text: &str, place: usize) -> usize {
    text.get(..place).unwrap_or_default().matches('\n').count() + 1
}

/// The sentence about a key that nobody knows.
pub(super) fn unknown<'a>(section: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<_> = known.collect();
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    let nearest = known.iter().copied().min_by_key(|other| distance(other));
    match nearest.filter(|other| distance(other) <= (other.len() / 3).max(2)) {
        Some(nearest) => format!("unknown key `{section}{name}`: did you mean `{section}{nearest}`?"),
        None => format!("unknown key `{section}{name}`: the keys are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        check(text).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn a_section_is_told_from_a_value() {
        assert_eq!(
            complaint("exit = 1\n"),
            "line 1: `exit` is a section: write [exit], and its keys in the lines below"
        );
    }

    #[test]
    fn the_nearest_key_is_named_with_the_line() {
        assert_eq!(
            complaint("role = \"mix\"\n\nlisen = 1\n"),
            "line 3: unknown key `lisen`: did you mean `listen`?"
        );
        assert_eq!(
            complaint("[exit]\nport = []\n"),
            "line 2: unknown key `exit.port`: did you mean `exit.ports`?"
        );
        assert_eq!(
            complaint("exit = { rejetc = [] }"),
            "line 1: unknown key `exit.rejetc`: did you mean `exit.reject`?"
        );
        assert_eq!(complaint("[exti]\nports = []\n"), "line 1: unknown key `exti`: did you mean `exit`?");
        // A key of another section is no key here.
        assert!(complaint("ports = []").contains("unknown key `ports`"));
        assert!(complaint("quantum_flux = 1").contains("the keys are network, listen"));
    }

    #[test]
    fn known_keys_and_free_names_of_hosts_pass() {
        assert_eq!(complaint("role = 1\nhosts = { \"a.test\" = \"::1\" }\n[exit]\nenabled = true\n"), "");
        assert_eq!(complaint("not toml at all ["), "");
    }
}
