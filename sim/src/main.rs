//! The simulator's command line.

use clap::{Parser, Subcommand};
use mizzle_protocol::path::Parameters;
use mizzle_sim::cover::{Scenario, run};
use mizzle_sim::table;
use mizzle_sim::world::Shape;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// A whole Mizzle network in virtual time.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Let clients send cover through nine mixes, and compare what comes out with theory.
    Run {
        /// How many clients.
        #[arg(long, default_value_t = 100)]
        clients: usize,
        /// Virtual seconds to measure.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Where all randomness comes from: the same seed gives the same run.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Mixes in each layer.
        #[arg(long, default_value_t = 3)]
        width: usize,
        /// Mean delay of each mix, in milliseconds.
        #[arg(long, default_value_t = 20)]
        mean_delay: u64,
        /// Longest delay that a mix accepts, in milliseconds. The closed forms know of no such limit.
        #[arg(long, default_value_t = 200)]
        max_delay: u64,
        /// Time on each link, in milliseconds.
        #[arg(long, default_value_t = 0)]
        link_delay: u64,
        /// Share of packets that each link between relays loses.
        #[arg(long, default_value_t = 0.0)]
        loss: f64,
        /// Build and unwrap real Sphinx packets: the same figures, about a hundred times slower.
        #[arg(long)]
        sphinx: bool,
        /// Also write the report to this file, as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Let one client download and ask over good and bad networks: goodput and latency, the same figures each
    /// time. All of it takes some minutes.
    Table {
        /// Only rows with this loss, in percent.
        #[arg(long)]
        loss: Option<u32>,
        /// Only rows with this mean delay, in milliseconds.
        #[arg(long)]
        delay: Option<u32>,
        /// Only rows with this many packets per second.
        #[arg(long)]
        rate: Option<u32>,
    },
}

fn main() -> ExitCode {
    match simulate(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True if every packet is accounted for.
fn simulate(verb: Verb) -> Result<bool, Box<dyn std::error::Error>> {
    let (clients, seconds, seed, width, mean_delay, max_delay, link_delay, loss, sphinx, json) = match verb {
        Verb::Run {
            clients,
            seconds,
            seed,
            width,
            mean_delay,
            max_delay,
            link_delay,
            loss,
            sphinx,
            json,
        } => (clients, seconds, seed, width, mean_delay, max_delay, link_delay, loss, sphinx, json),
        Verb::Table { loss, delay, rate } => return print_table(loss, delay, rate),
    };
    let parameters = Parameters {
        mean_delay: Duration::from_millis(mean_delay),
        max_delay: Duration::from_millis(max_delay),
        ..Parameters::default()
    };
    let link_delay = Duration::from_millis(link_delay);
    let shape = Shape { parameters, width, clients, link_delay, loss, ..Shape::default() };
    let report = run(&Scenario { shape, time: Duration::from_secs(seconds), seed, sphinx })?;
    write!(std::io::stdout(), "{}", report.table())?;
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    if !report.balances() {
        eprintln!("error: packets are missing from the account: this is a defect of the simulator");
    }
    Ok(report.balances())
}

/// The rows of the table that are asked for. False: there is none.
fn print_table(
    loss: Option<u32>,
    delay: Option<u32>,
    rate: Option<u32>,
) -> Result<bool, Box<dyn std::error::Error>> {
    let wanted = |asked: Option<u32>, value| asked.is_none_or(|asked| asked == value);
    let mut cells = table::conditions();
    cells.retain(|cell| wanted(loss, cell.loss) && wanted(delay, cell.delay) && wanted(rate, cell.rate));
    if cells.is_empty() {
        let (losses, delays, rates) = (table::LOSSES, table::DELAYS, table::RATES);
        eprintln!(
            "error: the table has no such row: losses are {losses:?}, delays {delays:?}, rates {rates:?}"
        );
        return Ok(false);
    }
    let mut text = table::head();
    for (cell, figures) in cells.iter().zip(table::measure_all(&cells)?) {
        text += &table::row(*cell, &figures);
    }
    write!(std::io::stdout(), "{text}")?;
    Ok(true)
}

const EXAMPLES: &str = "\
Examples:
  mizzle-sim run --clients 300 --seconds 60 --seed 7 --max-delay 2000
  mizzle-sim table --loss 5 --delay 20";
