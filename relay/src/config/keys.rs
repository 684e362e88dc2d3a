//! The keys that a configuration knows, and what was probably meant by one that it does not.

use super::example::line_of;
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
pub(super) const KEYS: [(&str, Kind); 29] = [
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
    ("loops", Kind::Number),
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
    let own = |(name, kind): (&'static str, Kind)| {
        name.strip_prefix(section).filter(|name| !name.contains('.')).map(|name| (name, kind))
    };
    let known: Vec<_> = all().filter_map(own).collect();
    for (key, value) in table {
        let name: &str = key.get_ref();
        let kind = known.iter().find(|(known, _)| *known == name).map(|&(_, kind)| kind);
        let what = match (kind, value.get_ref()) {
            (None, DeValue::Table(inner)) if section.is_empty() && name == EXIT => {
                check_table(text, "exit.", inner)?;
                continue;
            }
            (None, _) if section.is_empty() && name == EXIT => {
                let example = line_of("exit.enabled").unwrap_or_default();
                format!("`exit` is a section: write it like\n[exit]\n{example}")
            }
            (None, _) => {
                let sections = section.is_empty().then_some(EXIT);
                unknown(section, name, known.iter().map(|&(name, _)| name).chain(sections))
            }
            (Some(Kind::Table), DeValue::Table(_)) => continue,
            (Some(Kind::Table), _) => written_like(section, name, "a table"),
            (Some(_), value) if is_section(value) => written_like(section, name, "no section"),
            (Some(_), _) => continue,
        };
        let line = text.get(..key.span().start).unwrap_or_default().matches('\n').count() + 1;
        return Err(super::wrong(format!("line {line}: {what}")));
    }
    Ok(())
}

/// True for `[name]`, and for `[[name]]`, which is a list of sections.
fn is_section(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(_) => true,
        DeValue::Array(list) => list.iter().any(|entry| matches!(entry.get_ref(), DeValue::Table(_))),
        _ => false,
    }
}

/// The sentence about a key that is written as what it is not.
fn written_like(section: &str, name: &str, what: &str) -> String {
    let example = line_of(&format!("{section}{name}")).unwrap_or_default();
    format!("`{section}{name}` is {what}: write it like {example}")
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

/// The only section.
const EXIT: &str = "exit";

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        check(text).map_or_else(|error| error.to_string(), |()| String::new())
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
    fn a_section_given_as_a_value_and_a_value_given_as_a_section_are_told_how_they_are_written() {
        for (text, what) in [
            ("exit = 1", "line 1: `exit` is a section: write it like\n[exit]\nenabled = false"),
            ("exit = true", "`exit` is a section"),
            ("role = \"mix\"\n[[exit]]\nenabled = true", "line 2: `exit` is a section"),
            (
                "hosts = 1",
                "line 1: `hosts` is a table: write it like hosts = { \"name.test\" = \"192.0.2.80\" }",
            ),
            ("[[hosts]]", "`hosts` is a table"),
            ("[role]\nmix = true", "line 1: `role` is no section: write it like role = \"mix\""),
            ("role.name = \"mix\"", "`role` is no section"),
            ("[[threads]]\nnumber = 1", "`threads` is no section: write it like threads = 0"),
            ("[announce]\nfirst = \"192.0.2.7:1\"", "`announce` is no section: write it like announce = ["),
            ("[[announce]]\naddress = \"192.0.2.7:1\"", "`announce` is no section"),
            ("[exit.ports]\nweb = 80", "line 1: `exit.ports` is no section: write it like ports = ["),
            (
                "[exit]\nenabled = { really = true }",
                "line 2: `exit.enabled` is no section: write it like enabled = false",
            ),
        ] {
            assert!(complaint(text).contains(what), "{text}: {}", complaint(text));
        }
        // Values of the wrong kind that are no sections are the parser's.
        for text in
            ["announce = []", "announce = [1]", "role = []", "threads = \"two\"", "[hosts]\n\"a.test\" = 1"]
        {
            assert_eq!(complaint(text), "");
        }
    }

    #[test]
    fn known_keys_and_free_names_of_hosts_pass() {
        assert_eq!(complaint("role = 1\nhosts = { \"a.test\" = \"::1\" }\n[exit]\nenabled = true\n"), "");
        assert_eq!(complaint("not toml at all ["), "");
    }
}
