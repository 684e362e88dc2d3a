//! A document for a person to read.

use mizzle_protocol::consensus::{Consensus, ListedRelay, Signed};
use mizzle_protocol::id::to_hex;
use mizzle_protocol::level::LEVELS;
use mizzle_protocol::mix::Role;
use mizzle_protocol::time::{Instant, UnixTime};
use std::fmt::Write as _;

/// The document in plain words. Nothing of it has been verified unless the caller did.
pub(crate) fn show(signed: &Signed, consensus: &Consensus, now: Instant) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = describe(&mut text, signed, consensus, now);
    text
}

fn describe(text: &mut String, signed: &Signed, consensus: &Consensus, now: Instant) -> std::fmt::Result {
    let parameters = &consensus.parameters;
    writeln!(text, "network        {}", consensus.network)?;
    writeln!(text, "epoch          {}", consensus.epoch.0)?;
    writeln!(text, "hash           {}", to_hex(&signed.hash().0))?;
    let previous = consensus.previous.map_or("none: the first document".into(), |hash| to_hex(&hash.0));
    writeln!(text, "previous       {previous}")?;
    for authority in signed.signers() {
        writeln!(text, "signed by      {}", authority.to_hex())?;
    }
    writeln!(text, "valid after    {}", time(consensus.valid_after, now))?;
    writeln!(text, "fresh until    {}", time(consensus.fresh_until, now))?;
    writeln!(text, "valid until    {}", time(consensus.valid_until, now))?;
    let live: Vec<_> = consensus.live_periods(now).iter().map(|period| period.0.to_string()).collect();
    writeln!(text, "key period     {} (taken now: {})", consensus.period(now).0, live.join(", "))?;
    writeln!(
        text,
        "parameters     payload {} B, mean delay {:?}, largest {:?}",
        parameters.geometry.payload(),
        parameters.mean_delay,
        parameters.max_delay
    )?;
    for level in LEVELS {
        let steps = parameters.levels.steps(level);
        let steps: Vec<_> = steps
            .iter()
            .map(|pace| format!("{}/s out, {}/s home", pace.send_rate, pace.receive_rate))
            .collect();
        writeln!(text, "{:<14} {}", level.name(), steps.join("; "))?;
    }
    writeln!(
        text,
        "clocks         epoch {:?}, key period {:?}, overlap {:?}, SURB life {:?}",
        parameters.epoch, parameters.key_period, parameters.overlap, parameters.surb_life
    )?;
    for (what, numbers) in [("required", &consensus.required), ("recommended", &consensus.recommended)] {
        let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
        writeln!(text, "{what:<14} {}", numbers.join(" "))?;
    }
    let pool = consensus.pool.map_or("not measured".into(), |pool| format!("{pool} packets a mix, at most"));
    writeln!(text, "pool           {pool}")?;
    writeln!(text, "relays         {} run", consensus.relays.len())?;
    let mut relays: Vec<&ListedRelay> = consensus.relays.iter().collect();
    relays.sort_by_key(|relay| (role(consensus, relay, now), relay.id));
    for relay in relays {
        let addresses: Vec<_> = relay.addresses.iter().map(ToString::to_string).collect();
        let periods: Vec<_> = relay.periods.iter().map(|at| at.period.0.to_string()).collect();
        writeln!(
            text,
            "  {:<6} {}  {}  periods {}  weight {}{}",
            role(consensus, relay, now),
            relay.id.to_hex(),
            addresses.join(" "),
            periods.join(","),
            relay.weight,
            relay.country.map(|country| format!("  country {country}")).unwrap_or_default()
        )?;
    }
    if !consensus.not_running.is_empty() {
        writeln!(text, "not running    {}", consensus.not_running.len())?;
    }
    for relay in &consensus.not_running {
        writeln!(text, "  {}  {}", relay.id.to_hex(), relay.reason)?;
    }
    Ok(())
}

fn role(consensus: &Consensus, relay: &ListedRelay, now: Instant) -> String {
    match relay.at(consensus.period(now)).or(relay.periods.first()).map(|at| at.role) {
        Some(Role::Mix(layer)) => format!("mix {layer}"),
        Some(Role::Entry) => "entry".into(),
        Some(Role::Exit) => "exit".into(),
        None => "none".into(),
    }
}

/// A moment as Unix seconds, and how far away it is.
fn time(moment: UnixTime, now: Instant) -> String {
    let now = now.unix().0;
    match moment.0.checked_sub(now) {
        Some(ahead) => format!("{} (in {ahead} s)", moment.0),
        None => format!("{} ({} s ago)", moment.0, now - moment.0),
    }
}
