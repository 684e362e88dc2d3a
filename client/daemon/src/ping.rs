//! `mizzle ping`: how long the network takes beyond the delays that were asked for.

use crate::control::{Answer, ControlClient, PingTimes, Request};
use crate::say;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

/// Sends the pings and prints what they took. Fails when none came home.
pub(crate) async fn run(
    control: &mut ControlClient,
    count: u32,
    exit: Option<String>,
    csv: Option<&Path>,
) -> Result<(), Box<dyn Error>> {
    control.send(&Request::Ping { count, exit }).await?;
    let mut times: Vec<PingTimes> = Vec::new();
    let mut lost = 0;
    let mut last_error = None;
    loop {
        match control.receive().await? {
            Some(Answer::Ping(ping)) => times.push(ping),
            Some(Answer::Error { error }) => {
                lost += 1;
                last_error = Some(error);
            }
            Some(Answer::Done { .. }) => break,
            Some(Answer::Status(_)) => {}
            None => return Err("the client stopped while pings were under way".into()),
        }
    }
    if let Some(path) = csv {
        std::fs::write(path, table(&times))
            .map_err(|error| format!("cannot write {} ({error})", path.display()))?;
    }
    if times.is_empty() && count > 0 {
        return Err(format!("no ping came home: {}", last_error.unwrap_or_default()).into());
    }
    say(&summary(&times, lost));
    Ok(())
}

/// One line a ping, in microseconds.
fn table(times: &[PingTimes]) -> String {
    let mut text = String::from("slot_us,delays_us,arrival_us,home_us,excess_us\n");
    for ping in times {
        let PingTimes { slot, delays, arrival, home } = ping;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{slot},{delays},{arrival},{home},{}", ping.excess());
    }
    text
}

fn summary(times: &[PingTimes], lost: u32) -> String {
    let quantiles = |value: fn(&PingTimes) -> i64| {
        let mut values: Vec<i64> = times.iter().map(value).collect();
        values.sort_unstable();
        let at = |share: usize| {
            let index = (values.len() * share / 100).min(values.len().saturating_sub(1));
            values.get(index).copied().unwrap_or_default() as f64 / 1e3
        };
        format!("p50 {:.2} ms, p95 {:.2} ms", at(50), at(95))
    };
    let round = |ping: &PingTimes| i64::try_from(ping.home.saturating_sub(ping.slot)).unwrap_or(i64::MAX);
    format!(
        "{} pings home, {lost} lost\nbeyond the delays asked for, one way: {}\nround trip: {}\n",
        times.len(),
        quantiles(PingTimes::excess),
        quantiles(round),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_summary_show_what_the_network_added() {
        let times: Vec<PingTimes> = (0..100)
            .map(|i| PingTimes { slot: 1_000, delays: 60_000, arrival: 61_000 + 1_000 * i, home: 201_000 })
            .collect();
        assert!(
            table(&times)
                .starts_with("slot_us,delays_us,arrival_us,home_us,excess_us\n1000,60000,61000,201000,0\n")
        );
        let text = summary(&times, 2);
        assert!(
            text.contains("100 pings home, 2 lost") && text.contains("p50 50.00 ms, p95 95.00 ms"),
            "{text}"
        );
        assert!(summary(&[], 0).contains("0 pings"));
    }
}
