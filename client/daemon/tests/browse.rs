//! `mizzle browse` against a client that is the test, with a browser that is a script: real namespaces, so these need
//! Linux with user namespaces, `unshare`, `ip`, `mount` and `bash`. (spec: DAILY-9 to DAILY-11)

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::tell_of;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use tempfile::TempDir;

struct Fixture {
    folder: TempDir,
    /// The words before the request, and the request.
    heard: Receiver<(Vec<u8>, Vec<u8>)>,
}

impl Fixture {
    /// A control socket that tells of a port, a port that takes what a browser asks for, and a browser.
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (sender, heard) = sync_channel(1);
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = port.accept().unwrap();
            // Whoever says less than this is an error, and not a test that hangs.
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut words = vec![0; 4 + 33 + 33];
            stream.read_exact(&mut words).unwrap();
            stream.write_all(&[5, 2, 1, 0]).unwrap();
            let mut request = vec![0; 4];
            stream.read_exact(&mut request).unwrap();
            sender.send((words, request)).unwrap();
            stream.write_all(b"answer\n").unwrap();
        });
        tell_of(address, folder.path());
        let browser = folder.path().join("chromium");
        std::fs::write(&browser, format!("#!/bin/bash\n{script}\n")).unwrap();
        std::fs::set_permissions(&browser, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(folder.path().join("tmp")).unwrap();
        Self { folder, heard }
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    fn browse(&self, page: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle"));
        command.arg("browse").arg("--state").arg(self.folder.path()).arg(page).stdin(Stdio::null());
        command.arg("--browser").arg(self.folder.path().join("chromium")).env("TMPDIR", self.place());
        command.env("DISPLAY", ":0");
        command
    }

    fn left(&self) -> usize {
        std::fs::read_dir(self.place()).unwrap().count()
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn without_a_display_it_says_so_and_begins_nothing() {
    let fixture = Fixture::new("echo begun");
    let output =
        fixture.browse("host.example").env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").output().unwrap();
    let text = text(&output);
    assert!(!output.status.success() && text.contains("DISPLAY") && !text.contains("begun"), "{text}");
    assert_eq!(fixture.left(), 0);
}

#[test]
fn a_browser_is_introduced_and_its_profile_gone_when_it_ends() {
    let fixture = Fixture::new(
        r#"printf '%s\n' "$@"; echo "proxies: ${ALL_PROXY}${http_proxy}${HTTPS_PROXY}"
        echo "home: $HOME"; ls "$HOME/.."; echo x > "$HOME/cookies"
        echo "routes: $(($(wc -l < /proc/self/net/route) - 1)), user $(id -u)"
        exec 3<>/dev/tcp/127.0.0.1/9150
        printf '\x05\x01\x00' >&3; head -c 2 <&3 | od -An -tx1; printf '\x05\x01\x00\x03' >&3; cat <&3
        exit 7"#,
    );
    let output = fixture.browse("host.example/x").output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(7), "{text}");
    let (words, request) = fixture.heard.recv().unwrap();
    assert_eq!((words[..5].to_vec(), request), (vec![5, 1, 2, 1, 32], vec![5, 1, 0, 3]), "{text}");
    for line in [
        "--proxy-server=socks5://127.0.0.1:9150",
        "--disable-quic",
        "https://host.example/x",
        "proxies: ",
        "profile",
        " 05 00",
        "answer",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    // The network has no way out, and the browser is nobody special in it.
    assert!(text.contains("routes: 0, user ") && !text.contains("user 0"), "{text}");
    assert!(text.contains(&format!("home: {}", fixture.place().display())));
    assert_eq!(fixture.left(), 0, "{text}");
}

#[test]
fn what_a_crash_left_goes_at_the_next_start_but_not_while_a_browser_lives() {
    let fixture = Fixture::new(r#"echo started; exec sleep 600"#);
    let mut first = fixture.browse("about:blank").stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(first.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    // The browser, before its parent is gone.
    let children = format!("/proc/{0}/task/{0}/children", first.id());
    let browser: i32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(fixture.left(), 1);
    // Its lock is the browser's, too.
    let other = Fixture::new("exit 0");
    let again = |expected: usize| {
        let output = other.browse("about:blank").env("TMPDIR", fixture.place()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(fixture.left(), expected);
    };
    again(1);
    let pid = rustix::process::Pid::from_raw(browser).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // The pipe ends with the browser.
    output.read_to_string(&mut line).unwrap();
    again(0);
}
