//! The simulator's command line.

use clap::{Parser, Subcommand};
use mizzle_sim::run::run;
use mizzle_sim::scenario::{EXAMPLE, Scenario};
use mizzle_sim::table;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// A whole Mizzle network in virtual time.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a scenario, once for each seed, and print what came out beside what theory says.
    Run {
        /// A file that says what to simulate; without, all is at its default.
        file: Option<PathBuf>,
        /// A key of the scenario and its value, stronger than the file.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Also write the report to this file, as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Print a scenario with every key at its default, and what each means.
    Example,
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
    match verb {
        Verb::Run { file, set, json } => {
            let scenario = Scenario::load(file.as_deref(), &set)?;
            let report = run(&scenario, &scenario.shape()?, |_| ())?;
            write!(std::io::stdout(), "{}", report.table())?;
            if let Some(path) = json {
                std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
            }
            if !report.balances() {
                eprintln!("error: packets are missing from the account: this is a defect of the simulator");
            }
            Ok(report.balances())
        }
        Verb::Example => {
            write!(std::io::stdout(), "{EXAMPLE}")?;
            Ok(true)
        }
        Verb::Table { loss, delay, rate } => print_table(loss, delay, rate),
    }
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
  mizzle-sim run --set clients.count=1000 --set seconds=10
  mizzle-sim example > scenario.toml; mizzle-sim run scenario.toml
  mizzle-sim table --loss 5 --delay 20";
