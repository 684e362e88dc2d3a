//! `up --check`: a file through the mixnet, by curl, and the evidence of the way it took.

use crate::boot::Network;
use crate::error::{Error, Result};
use crate::origin::{Content, Seen, TEN_MEGABYTES};
use crate::plan::{Host, ORIGIN_NAME, Plan, Role};
use crate::progress::{Progress, say};
use crate::{evidence, namespace};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What curl says of a transfer.
pub(crate) struct Transfer {
    first_byte: Duration,
    total: Duration,
    bytes: u64,
}

/// Fetches 10 MB, compares it with what the origin has, and prints how it came. The network goes on.
pub(crate) async fn run(network: &mut Network, booted: Duration, progress: &Progress) -> Result<()> {
    refused_without_exit(&network.plan)?;
    let before = evidence::accounts(&network.plan);
    let page = fetch(network, "/1k", 1_000, progress).await?;
    let file = fetch(network, "/10m", TEN_MEGABYTES, progress).await?;
    let after = evidence::accounts(&network.plan);
    let exits = exits_seen(&network.plan)?;
    progress.finish();
    say(&format!("boot         {:.1} s to a client that is ready", booted.as_secs_f64()));
    say(&format!("page         1 KB, first byte after {:.0} ms", page.first_byte.as_secs_f64() * 1e3));
    say(&format!("file         {:.1} MB, bit-exact (SHA-256)", file.bytes as f64 / 1e6));
    say(&format!("first byte   {:.0} ms", file.first_byte.as_secs_f64() * 1e3));
    say(&format!("rate         {:.2} MB/s", file.bytes as f64 / 1e6 / file.total.as_secs_f64()));
    for (role, line) in evidence::path(&network.plan, &before, &after, &exits) {
        say(&format!("{role:<12} {line}"));
    }
    say("origin       saw these exits only; a request past them is refused");
    Ok(())
}

/// A request to the origin that comes from no exit must be refused, else the check would prove nothing.
fn refused_without_exit(plan: &Plan) -> Result<()> {
    let url = format!("http://{}/1k", plan.only(Role::Origin)?.listen());
    let words =
        ["curl", "-sS", "--noproxy", "*", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", &url];
    let output =
        curl(plan, plan.only(Role::Client)?, &words)?.output().map_err(Error::system("cannot run curl"))?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "403" => Ok(()),
        answer => Err(Error::Wrong(format!("the origin answered a stranger with {answer} instead of 403"))),
    }
}

async fn fetch(network: &mut Network, path: &str, size: u64, progress: &Progress) -> Result<Transfer> {
    let client = network.plan.only(Role::Client)?.clone();
    let target = client.dir.join("fetched");
    let url = format!("http://{ORIGIN_NAME}:{}{path}", network.plan.only(Role::Origin)?.listen().port());
    let (socks, file) = (network.plan.socks.to_string(), target.display().to_string());
    let words = [
        "curl",
        "-sS",
        "--fail",
        "--max-time",
        "300",
        "--socks5-hostname",
        &socks,
        "-o",
        &file,
        "-w",
        FORMAT,
        &url,
    ];
    progress.now(&format!("curl fetches {url} through the mixnet"));
    let mut child = curl(&network.plan, &client, &words)?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::system("cannot run curl"))?;
    while child.try_wait().map_err(Error::system("cannot wait for curl"))?.is_none() {
        if let Some(error) = network.ended() {
            let _ = child.kill().and_then(|()| child.wait());
            return Err(error);
        }
        let arrived = std::fs::metadata(&target).map_or(0, |data| data.len());
        progress.briefly(&format!(
            "{:.1} of {:.1} MB through the mixnet",
            arrived as f64 / 1e6,
            size as f64 / 1e6
        ));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let output = child.wait_with_output().map_err(Error::system("cannot wait for curl"))?;
    let failed = |what: String| Error::Process { what, log: client.log() };
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(format!("{path} did not come through the mixnet ({reason})")));
    }
    let transfer = parse(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| failed("curl said nothing of the transfer".to_owned()))?;
    if digest(&target)? != Content::digest(size) {
        return Err(failed(format!(
            "{path} came altered: {} of {size} bytes, SHA-256 differs",
            transfer.bytes
        )));
    }
    let _ = std::fs::remove_file(target);
    Ok(transfer)
}

/// The exits that the origin has answered; an error if somebody else was among them.
fn exits_seen(plan: &Plan) -> Result<Vec<&Host>> {
    let seen = Seen::load(&plan.seen)?;
    let exit = |address: &IpAddr| plan.of(Role::Exit).find(|host| IpAddr::V4(host.address) == *address);
    let exits: Vec<_> = seen.served.keys().filter_map(exit).collect();
    if exits.is_empty() || exits.len() != seen.served.len() {
        return Err(Error::Wrong("the origin saw other peers than the exits".to_owned()));
    }
    Ok(exits)
}

fn curl(plan: &Plan, at: &Host, words: &[&str]) -> Result<Command> {
    let words: Vec<_> = words.iter().map(OsString::from).collect();
    let mut command = namespace::command(plan, at, &words)?;
    // The person's own proxies must not interfere.
    for name in ["http_proxy", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    Ok(command)
}

fn parse(text: &str) -> Option<Transfer> {
    let mut fields = text.split_whitespace();
    let mut seconds = || fields.next()?.parse().ok().map(Duration::from_secs_f64);
    Some(Transfer { first_byte: seconds()?, total: seconds()?, bytes: fields.next()?.parse().ok()? })
}

fn digest(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::system("cannot read what curl fetched"))?;
    Ok(mizzle_protocol::id::to_hex(&Sha256::digest(bytes)))
}

const FORMAT: &str = "%{time_starttransfer} %{time_total} %{size_download}";
