//! The simulator's command line.

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use mizzle_protocol::level::Levels;
use mizzle_sim::adversary::matching::{WATCHERS, Watcher};
use mizzle_sim::check::{Finding, check};
use mizzle_sim::council::{Campaign, LIES, Lie, Trial};
use mizzle_sim::hiding::{Effort, Hidden, Secret, hide};
use mizzle_sim::page::page;

use mizzle_sim::report::Report;
use mizzle_sim::run::{run_all, seconds};
use mizzle_sim::scenario::{CORRUPT_AND_FLOWS, EXAMPLE, Scenario};
use mizzle_sim::tune::{Answer, Speed, Wish, measured_bits, tune};
use mizzle_sim::{levels, promises, published, real, shadow, sweep, table};
use std::io::Write as _;
use std::path::{Path, PathBuf};
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
        /// Also start it as real processes on this machine, at rest, and compare: fails if they differ.
        #[arg(long, conflicts_with_all = ["csv", "html"])]
        real: bool,
        #[command(flatten)]
        into: Into,
    },
    /// Run every combination of some keys' values, and print some figures of each.
    Sweep {
        /// A file that says what to simulate; without, all is at its default.
        file: Option<PathBuf>,
        /// A key and its values, with commas between them; between lists, semicolons. May be repeated.
        #[arg(long, value_name = "KEY=V1,V2", required = true)]
        over: Vec<String>,
        /// A key of the scenario and its value, stronger than the file.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Figures whose names contain this. May be repeated.
        #[arg(long, value_name = "PART", default_values_t = SHOWN.map(str::to_owned))]
        show: Vec<String>,
        #[command(flatten)]
        into: Into,
    },
    /// Run two scenarios, and print their figures beside each other, with what differs by more than both intervals.
    Compare {
        /// A file, or `-` for the defaults.
        first: PathBuf,
        /// The other one.
        second: PathBuf,
        /// A key of both scenarios and its value, stronger than the files.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        #[command(flatten)]
        into: Into,
    },
    /// Say what a network must be for what is wanted, and simulate it; refuse, by what binds, what cannot be had.
    Tune {
        /// Clients, at rest.
        #[arg(long, required_unless_present = "levels")]
        users: Option<usize>,
        /// Milliseconds that half of all packets take in the mixes at most, one way.
        #[arg(long, value_name = "MS", required_unless_present = "levels")]
        latency: Option<f64>,
        /// GB (10⁹ bytes) that a client sends and receives in a day, at rest.
        #[arg(long, value_name = "GB", required_unless_present = "levels")]
        traffic: Option<f64>,
        /// kB/s (10³ bytes) that an application downloads, at the least.
        #[arg(long, value_name = "KB/S", default_value_t = 0.0)]
        download: f64,
        /// kB/s that it uploads, at the least.
        #[arg(long, value_name = "KB/S", default_value_t = 0.0)]
        upload: f64,
        /// Share of each layer's mixes that are corrupt, beside someone who sees all links.
        #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
        corrupt: f64,
        /// Bits of not knowing which packet is which, at least.
        #[arg(long)]
        bits: Option<f64>,
        /// From whom the client of a flow shall be hidden: links (who sees them all), links-and-exit, or entry-and-exit. The rates
        /// are then found by simulations, which take some minutes.
        #[arg(long, value_name = "WATCHER", requires_all = ["flow", "seconds"], value_parser = watcher)]
        adversary: Option<Watcher>,
        /// Bytes of that flow.
        #[arg(long, value_name = "BYTES", requires = "adversary")]
        flow: Option<u64>,
        /// Seconds before which half of such flows shall not be identified.
        #[arg(long, value_name = "S", requires = "adversary")]
        seconds: Option<f64>,
        /// Make the rates of the product's own levels from what they promise, and fail if they are not what it ships; takes some
        /// minutes.
        #[arg(long, exclusive = true)]
        levels: bool,
        #[command(flatten)]
        into: Into,
    },
    /// Look how well each step of the levels hides who is behind a flow; takes some minutes.
    Levels {
        /// Only this level.
        #[arg(long)]
        level: Option<String>,
        /// Also write the rows to this file, as JSON, as the client has them.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Find figures anew that others have published, and print theirs and ours; fails if one is not as expected.
    Published {
        /// Only the figure of this name. May be repeated.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// A key of all the scenarios and its value, for example seeds=20.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Look whether the product's machines do what they say; fails, with the names of the checks that do.
    Check {
        /// Where all randomness comes from.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Write a scenario down for another simulator, which runs the real programs.
    Export {
        /// Which: there is `shadow`, version 3.
        #[arg(value_enum)]
        to: Simulator,
        /// A file that says what to simulate; without, all is at its default.
        file: Option<PathBuf>,
        /// A key of the scenario and its value, stronger than the file.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Folder for the files; they name it, so it must stay where it is.
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
    /// Let authorities agree on documents while some of them lie, messages are lost and processes are killed; fails
    /// if there could ever be two documents of one number.
    Council {
        /// How many authorities there are; up to a third of them lie.
        #[arg(long, default_value_t = 4)]
        authorities: usize,
        /// How many trials.
        #[arg(long, default_value_t = 100)]
        trials: u64,
        /// The first trial's seed; each has one more than the one before.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// What the liars do; without, another thing each.
        #[arg(long, value_parser = lie)]
        lie: Option<mizzle_sim::council::Lie>,
        /// Share of messages that are lost.
        #[arg(long, default_value_t = 0.0)]
        loss: f64,
        /// How often each honest authority is killed and started again, in the mean.
        #[arg(long, default_value_t = 0.0)]
        restarts: f64,
        /// Documents of each trial.
        #[arg(long, default_value_t = 4)]
        documents: u64,
        /// Also write what came of it to this file, as JSON.
        #[arg(long, value_name = "FILE")]
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

/// Other simulators.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Simulator {
    Shadow,
}

/// Where else the results go.
#[derive(clap::Args)]
struct Into {
    /// Also write the reports to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the figures to this file, as comma-separated values.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Also write a page with charts to this file; it needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
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
        Verb::Run { file, set, real: true, into } => {
            compare_with_real(&Scenario::load(file.as_deref(), &set)?, into.json.as_deref())
        }
        Verb::Run { file, set, real: false, into } => {
            let scenario = Scenario::load(file.as_deref(), &set)?;
            let reports = simulate_all(&[scenario])?;
            for report in &reports {
                write!(std::io::stdout(), "{}", report.table())?;
            }
            into.write("A simulated Mizzle network", &["scenario".to_owned()], &reports)?;
            Ok(balance(&reports))
        }
        Verb::Export { to: Simulator::Shadow, file, set, into } => {
            let path = shadow::export(&Scenario::load(file.as_deref(), &set)?, &into)?;
            writeln!(std::io::stdout(), "run it with: shadow {}", path.display())?;
            Ok(true)
        }
        Verb::Sweep { file, over, set, show, into } => {
            let points = sweep::points(file.as_deref(), &set, &over)?;
            let scenarios: Vec<_> = points.iter().map(|point| point.scenario.clone()).collect();
            let reports = simulate_all(&scenarios)?;
            let names: Vec<_> = points.iter().map(sweep::Point::name).collect();
            into.write(&format!("Sweep over {}", over.join(", ")), &names, &reports)?;
            write!(std::io::stdout(), "{}", sweep::table(&points, &reports, &show, &SHOWN)?)?;
            Ok(balance(&reports))
        }
        Verb::Compare { first, second, set, into } => {
            let load = |path: &PathBuf| {
                Scenario::load(Some(path.as_path()).filter(|path| *path != Path::new("-")), &set)
            };
            let reports = simulate_all(&[load(&first)?, load(&second)?])?;
            let names = [first, second].map(|path| path.display().to_string());
            if let ([one, other], [first, second]) = (reports.as_slice(), &names) {
                write!(std::io::stdout(), "{}", sweep::comparison((first, one), (second, other)))?;
            }
            into.write(&format!("{} and {}", names[0], names[1]), &names, &reports)?;
            Ok(balance(&reports))
        }
        Verb::Tune { levels: true, .. } => print_promises(),
        Verb::Tune {
            users,
            latency,
            traffic,
            download,
            upload,
            corrupt,
            bits,
            adversary,
            flow,
            seconds,
            into,
            ..
        } => {
            let (Some(users), Some(latency_ms), Some(gigabytes_a_day)) = (users, latency, traffic) else {
                return Err("say --users, --latency and --traffic".into());
            };
            if corrupt > 0.0 && adversary.is_some() {
                return Err(format!("--corrupt and --adversary: {CORRUPT_AND_FLOWS}").into());
            }
            let speed = Speed { download, upload };
            let wish = Wish { users, latency_ms, gigabytes_a_day, corrupt, bits, speed };
            let secret = adversary.zip(flow).zip(seconds);
            match secret.map(|((watcher, flow), seconds)| Secret { watcher, flow, seconds }) {
                None => print_answer(&tune(&wish)?, &into),
                Some(secret) => {
                    let hidden = hide(&wish, &secret, Effort::default(), |tried| eprintln!("tried {tried}"))?;
                    print_hidden(&hidden, &secret)?;
                    print_answer(&hidden.answer, &into)
                }
            }
        }
        Verb::Levels { level, json } => print_levels(level.as_deref(), json.as_deref()),
        Verb::Published { only, set } => print_published(&only, &set),
        Verb::Check { seed } => print_findings(&check(seed)?),
        Verb::Council { authorities, trials, seed, lie, loss, restarts, documents, json } => {
            let trial = Trial { authorities, seed, documents, lie, loss, restarts };
            let campaign = Campaign::run(&trial, trials)?;
            write!(std::io::stdout(), "{}", campaign.table())?;
            if let Some(path) = json {
                std::fs::write(&path, serde_json::to_string_pretty(&campaign)?)
                    .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            }
            Ok(campaign.trials_broken == 0)
        }
        Verb::Example => {
            write!(std::io::stdout(), "{EXAMPLE}")?;
            Ok(true)
        }
        Verb::Table { loss, delay, rate } => print_table(loss, delay, rate),
    }
}

/// A scenario beside real processes. False: they differ.
fn compare_with_real(scenario: &Scenario, json: Option<&Path>) -> Result<bool, Box<dyn std::error::Error>> {
    let comparison = real::run(scenario)?;
    write!(std::io::stdout(), "{}", comparison.table())?;
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&comparison)?)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(comparison.passes())
}

/// The answer to a wish, and what a simulation of it finds. False: they differ.
fn print_answer(answer: &Answer, into: &Into) -> Result<bool, Box<dyn std::error::Error>> {
    let [p50, p95, p99] = answer.latencies_ms;
    let mut out = std::io::stdout();
    writeln!(out, "mean delay      {:.2} ms in each of three mixes", answer.mean_delay_ms)?;
    writeln!(
        out,
        "latency         {p50:.0} ms p50, {p95:.0} ms p95, {p99:.0} ms p99, one way, without the links"
    )?;
    writeln!(
        out,
        "rates           {:.2}/s out, of these {:.1} % loops and as many drops; {:.2}/s home",
        answer.send_rate,
        answer.loop_share * 100.0,
        answer.receive_rate
    )?;
    writeln!(
        out,
        "width           {} mixes in each layer, which hold {:.1} packets each",
        answer.width, answer.pool
    )?;
    writeln!(out, "entropy         {:.2} bits for a packet, expected", answer.bits)?;
    let scenario = answer.scenario()?;
    let reports = simulate_all(std::slice::from_ref(&scenario))?;
    let Some(report) = reports.first() else { return Ok(false) };
    let (bits, half) = measured_bits(report);
    let senders = report.figure("entropy of senders, bits");
    writeln!(out, "simulated       {bits:.2} ± {half:.2} bits for a packet")?;
    if let Some(senders) = senders {
        let most = libm::log2(answer.wish.users as f64);
        writeln!(
            out,
            "                {:.2} bits for its sender, of {most:.2} that {} users can have",
            senders.mean, answer.wish.users
        )?;
    }
    writeln!(out, "                by {}", command(&answer.words()))?;
    into.write("A tuned network", &["tuned".to_owned()], &reports)?;
    let agrees = answer.agrees_with(report);
    if !agrees {
        eprintln!("error: the simulation does not find what was expected: trust what it found");
    }
    Ok(agrees && balance(&reports))
}

/// What keeps a secret, and what was seen of it.
fn print_hidden(hidden: &Hidden, secret: &Secret) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "slots           filled as in {}", hidden.level.name())?;
    writeln!(out, "hidden          {}", hidden.found.in_words(secret))?;
    writeln!(out, "verified        {}", hidden.verified.in_words(secret))?;
    writeln!(out, "                by {}", command(&hidden.words))
}

/// What the product's levels promise, and the rates that the tuner makes of it. False: they are not what is shipped.
fn print_promises() -> Result<bool, Box<dyn std::error::Error>> {
    let mut out = std::io::stdout();
    let kept = promises::keep(Effort::default(), |tried| eprintln!("tried {tried}"))?;
    for one in &kept {
        writeln!(out, "{}", one.in_words())?;
    }
    let same = promises::levels(&kept)? == Levels::default();
    writeln!(
        out,
        "{}",
        if same { "These are the rates that are shipped." } else { "THE SHIPPED RATES ARE OTHERS." }
    )?;
    Ok(same)
}

/// The command that simulates this.
fn command(words: &[String]) -> String {
    let words: String = words.iter().map(|word| format!(" --set {word}")).collect();
    format!("mizzle-sim run{words}")
}

/// The watcher of this name.
fn watcher(name: &str) -> Result<Watcher, String> {
    let names = WATCHERS.map(Watcher::name).join(", ");
    Watcher::from_name(name).ok_or_else(|| format!("there is no such adversary: say one of {names}"))
}

fn lie(name: &str) -> Result<Lie, String> {
    let named = LIES.into_iter().find(|lie| lie.label() == name);
    named.ok_or_else(|| format!("there is no such lie: say one of {}", LIES.map(Lie::label).join(", ")))
}

/// How the levels' steps hide, as a table.
fn print_levels(level: Option<&str>, json: Option<&Path>) -> Result<bool, Box<dyn std::error::Error>> {
    let steps: Vec<_> = levels::steps()
        .into_iter()
        .filter(|(known, _)| level.is_none_or(|wanted| known.name() == wanted))
        .collect();
    if steps.is_empty() {
        return Err("there is no such level: say strong, balanced or fast".into());
    }
    let bar = progress(levels::seconds(&steps, &levels::FLOWS)?)?;
    let rows = levels::measure(&steps, &levels::FLOWS, |seconds| bar.inc((seconds * 1e3) as u64))?;
    bar.finish_and_clear();
    write!(std::io::stdout(), "{}", levels::table(&rows))?;
    if let Some(path) = json {
        // A row a line, so that changes show.
        let lines: Result<Vec<_>, _> = rows.iter().map(serde_json::to_string).collect();
        std::fs::write(path, format!("[\n{}\n]\n", lines?.join(",\n")))?;
    }
    Ok(true)
}

/// True if all that is asked for is as expected.
fn print_published(only: &[String], set: &[String]) -> Result<bool, Box<dyn std::error::Error>> {
    let all = published::all();
    if let Some(unknown) = only.iter().find(|name| all.iter().all(|one| one.name != name.as_str())) {
        let names: Vec<_> = all.iter().map(|one| one.name).collect();
        return Err(
            format!("--only {unknown}: there is no such figure; there are {}", names.join(", ")).into()
        );
    }
    let wanted = |one: &published::Published| only.is_empty() || only.iter().any(|name| name == one.name);
    let chosen: Vec<_> = all.into_iter().filter(wanted).collect();
    let bar = progress(published::time(&chosen, set)?)?;
    let found = published::find(&chosen, set, |seconds| bar.inc((seconds * 1e3) as u64))?;
    bar.finish_and_clear();
    write!(std::io::stdout(), "{}", published::table(&found))?;
    Ok(found.iter().all(published::Found::agrees))
}

/// True if all checks pass.
fn print_findings(findings: &[Finding]) -> Result<bool, Box<dyn std::error::Error>> {
    for finding in findings {
        let Finding { name, promise, measured, least, most } = finding;
        let word = if finding.passes() { "pass" } else { "FAIL" };
        writeln!(
            std::io::stdout(),
            "{word}  {name:<16} {measured:>9.4}  ({least:.4} to {most:.4})  {promise}"
        )?;
    }
    Ok(findings.iter().all(Finding::passes))
}

/// Runs the scenarios, and shows how far they are if someone looks.
fn simulate_all(scenarios: &[Scenario]) -> Result<Vec<Report>, Box<dyn std::error::Error>> {
    let bar = progress(scenarios.iter().map(seconds).sum())?;
    let reports = run_all(scenarios, |seconds| bar.inc((seconds * 1e3) as u64));
    bar.finish_and_clear();
    Ok(reports?)
}

/// Shows how much of so many virtual seconds is over.
fn progress(seconds: f64) -> Result<ProgressBar, Box<dyn std::error::Error>> {
    let bar = ProgressBar::new((seconds * 1e3) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {percent} % of virtual time, {eta} left")?);
    Ok(bar)
}

/// False, and a word about it, if a packet is missing.
fn balance(reports: &[Report]) -> bool {
    let balances = reports.iter().all(Report::balances);
    if !balances {
        eprintln!("error: packets are missing from the account: this is a defect of the simulator");
    }
    balances
}

impl Into {
    fn write(
        &self,
        title: &str,
        names: &[String],
        reports: &[Report],
    ) -> Result<(), Box<dyn std::error::Error>> {
        let put = |path: &Path, text: String| {
            std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        if let Some(path) = &self.json {
            put(path, serde_json::to_string_pretty(reports)?)?;
        }
        if let Some(path) = &self.csv {
            let parts = names.iter().zip(reports).map(|(name, report)| match reports.len() {
                1 => report.csv(),
                _ => format!("# {name}\n{}", report.csv()),
            });
            put(path, parts.collect::<Vec<_>>().join("\n"))?;
        }
        if let Some(path) = &self.html {
            let named: Vec<_> = names.iter().cloned().zip(reports.iter().cloned()).collect();
            put(path, page(title, &named))?;
        }
        Ok(())
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

/// What a sweep shows unless told otherwise.
const SHOWN: [&str; 4] =
    ["latency p50", "entropy of packets, bits", "entropy of senders, bits", "flows identified"];

const EXAMPLES: &str = "\
Examples:
  mizzle-sim run --set clients.count=1000 --set seconds=10
  mizzle-sim example > scenario.toml; mizzle-sim run scenario.toml --html report.html
  mizzle-sim sweep --over network.mean_delay_ms=10,20,50 --over clients.count=100,1000
  mizzle-sim compare - scenario.toml
  mizzle-sim tune --users 10000 --latency 53 --traffic 13.5 --corrupt 0.2 --bits 12
  mizzle-sim tune --users 10000 --latency 53 --traffic 60 --adversary links-and-exit --flow 1000000 --seconds 60
  mizzle-sim published --only layers-narrow
  mizzle-sim export shadow scenario.toml --set links.distance_ms=20 --into shadow
  mizzle-sim table --loss 5 --delay 20";
