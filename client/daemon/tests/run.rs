//! `mizzle run` against a client that is the test: real namespaces, so these need Linux with user namespaces,
//! `unshare`, `ip`, `mount` and `bash`. (spec: DAILY-4, DAILY-6)

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::tell_of;
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, QTYPE, ResourceRecord, TYPE};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;
use tempfile::TempDir;

/// A control socket that tells of a port, and a port that answers a line with itself in brackets; after the line
/// `slowly`, it first waits, then counts what follows, and sends the count. Questions for names it answers by
/// 192.0.2.1, or by forty addresses if the name begins with `long`.
fn client() -> (TempDir, u16, Receiver<usize>) {
    let (sender, heard) = std::sync::mpsc::sync_channel(1);
    let state = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in port.incoming() {
            let mut stream = stream.unwrap();
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut line = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                if reader.fill_buf().unwrap().first() == Some(&5) {
                    return answer(reader, &mut stream);
                }
                reader.read_line(&mut line).unwrap();
                if line == "slowly\n" {
                    std::thread::sleep(Duration::from_millis(300));
                    let mut rest = Vec::new();
                    // A cut leaves what came before it.
                    let _ = reader.read_to_end(&mut rest);
                    sender.send(rest.len()).unwrap();
                }
                writeln!(stream, "[{}]", line.trim()).unwrap();
            });
        }
    });
    tell_of(address, state.path());
    (state, address.port(), heard)
}

/// Speaks to a command that has a DNS message for an exit (PROXY-11).
fn answer(mut reader: impl Read, stream: &mut impl Write) {
    let mut head = [0; 3 + 2 * 33 + 1 + 10 + 2];
    reader.read_exact(&mut head).unwrap();
    assert_eq!((&head[..5], head[70..73].to_vec()), (&[5, 1, 2, 1, 32][..], vec![5, 0xd5, 0]));
    let mut message = vec![0; usize::from(u16::from_be_bytes([head[80], head[81]]))];
    reader.read_exact(&mut message).unwrap();
    let asked = Packet::parse(&message).unwrap();
    let question = asked.questions[0].clone();
    let mut reply = asked.into_reply();
    let many = if question.qname.to_string().starts_with("long") { 40 } else { 1 };
    if question.qtype == QTYPE::TYPE(TYPE::A) {
        reply.answers.extend((1..=many).map(|number| {
            let address = RData::A(A { address: 0xc000_0200 + number });
            ResourceRecord::new(question.qname.clone(), CLASS::IN, 60, address)
        }));
    }
    let reply = reply.build_bytes_vec_compressed().unwrap();
    stream.write_all(&[5, 2, 1, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
    stream.write_all(&(reply.len() as u16).to_be_bytes()).unwrap();
    stream.write_all(&reply).unwrap();
}

fn mizzle(state: &Path, program: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle"));
    command.arg("run").arg("--state").arg(state).arg("--").args(program);
    command.stdin(Stdio::null());
    command
}

fn run(state: &Path, script: &str) -> Output {
    mizzle(state, &["bash", "-c", script]).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_program_reaches_the_client_and_nothing_else() {
    let (state, port, _) = client();
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/9150; echo question >&3; cat <&3
         (exec 4<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo 'the computer itself'
         (exec 4<>/dev/tcp/192.0.2.1/80) 2>&1 | grep -m1 -o 'Network is unreachable'
         (exec 4<>/dev/udp/192.0.2.1/53) 2>&1 | grep -m1 -o 'Network is unreachable'
         grep -c . /proc/self/net/route
         sed -n 's/^nameserver //p' /etc/resolv.conf
         grep '^hosts:' /etc/nsswitch.conf
         echo $UID"
    );
    let output = run(state.path(), &script);
    let routes = text(&output.stdout).lines().nth(3).unwrap_or_default().to_owned();
    assert!(routes == "0" || routes == "1", "{output:?}");
    let user = String::from_utf8(Command::new("id").arg("-u").output().unwrap().stdout).unwrap();
    let expected = format!(
        "[question]\nNetwork is unreachable\nNetwork is unreachable\n{routes}\n127.0.0.1\nhosts: files dns\n{user}"
    );
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
    // Outside, all is as it was.
    assert_ne!(std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default().lines().next(), Some(HIDDEN));
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1, "only the control socket is left");
}

#[test]
fn a_program_that_resolves_names_itself_asks_an_exit() {
    let (state, ..) = client();
    let output = run(
        state.path(),
        "getent ahostsv4 short.test | sed -n 's/ *STREAM.*//p'
         getent ahostsv4 long.test | grep -c STREAM
         (exec 4<>/dev/udp/127.0.0.1/443; echo x >&4; sleep 0.1; echo x >&4) 2>&1 | grep -o 'Connection refused'",
    );
    // The second answer fits no datagram: it comes by TCP.
    let expected = "192.0.2.1\n40\nConnection refused\n";
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
}

#[test]
fn a_program_cannot_undo_what_was_shut() {
    let (state, ..) = client();
    let output = run(
        state.path(),
        "umount /etc/resolv.conf 2>/dev/null && echo shown
         ip link add other type dummy 2>/dev/null && echo added
         ip route add default dev lo 2>/dev/null && echo routed
         echo done",
    );
    assert_eq!(text(&output.stdout), "done\n", "{}", text(&output.stderr));
}

#[test]
fn exit_codes_are_the_programs() {
    let (state, ..) = client();
    // Over before its ports are taken, sometimes.
    for _ in 0..10 {
        assert_eq!(mizzle(state.path(), &["sh", "-c", "exit 7"]).output().unwrap().status.code(), Some(7));
    }
    assert_eq!(run(state.path(), "kill -KILL $$").status.code(), Some(128 + 9));
    assert_eq!(mizzle(state.path(), &["no-such-program"]).output().unwrap().status.code(), Some(127));
}

#[test]
fn signals_are_passed_on_and_the_program_decides() {
    let (state, ..) = client();
    for signal in ["TERM", "HUP", "USR1", "USR2"] {
        let script = format!("trap 'exit 9' {signal}; echo ready; for i in {{1..100}}; do sleep 0.1; done");
        let mut child =
            mizzle(state.path(), &["bash", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(9), "{signal}");
    }
}

#[test]
fn what_was_said_last_arrives() {
    let (state, _, heard) = client();
    let output = run(state.path(), "{ echo slowly; head -c 1000000 /dev/zero; } >/dev/tcp/127.0.0.1/9150");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(heard.recv_timeout(Duration::from_secs(10)), Ok(1_000_000));
}

#[test]
fn without_a_client_or_a_network_of_its_own_no_program_is_started() {
    let state = tempfile::tempdir().unwrap();
    let mark = state.path().join("mark");
    let output = mizzle(state.path(), &["touch", mark.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("start one with `mizzle up`"), "{output:?}");
    drop(state);
    let (state, ..) = client();
    let mark = state.path().join("mark");
    let forbid = format!(
        "echo 0 > /proc/sys/user/max_net_namespaces; exec {} run --state {} -- touch {}",
        env!("CARGO_BIN_EXE_mizzle"),
        state.path().display(),
        mark.display()
    );
    let output =
        Command::new("unshare").args(["--user", "--map-root-user", "sh", "-c", &forbid]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(text(&output.stderr).contains("sysctl -w user.max_net_namespaces"), "{output:?}");
    assert!(!mark.exists());
    // The inside alone starts nothing, either; in a user namespace, so that it could not harm this computer.
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", env!("CARGO_BIN_EXE_mizzle")])
        .args(["run-inside", "--user", "0", "--group", "0", "--anteroom"])
        .arg(state.path())
        .arg("--outside")
        .arg(own)
        .args(["--", "touch"])
        .arg(&mark)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(text(&output.stderr).contains("share this computer's network"), "{output:?}");
    assert!(!mark.exists());
}

const HIDDEN: &str = "# In `mizzle run` names are resolved by exits only.";
