//! The real program in a network that demands a newer one. (spec: DOC-8)

#![allow(clippy::unwrap_used, reason = "a test")]

use mizzle_link::shelf::Shelf;
use mizzle_link::{
    Acceptor, Alpn, AuthorityEntry, Clock, Identity, MirrorEntry, NetworkFile, http, seeded_rng,
};
use mizzle_protocol::consensus::{Consensus, ProtocolNumber, ServiceKeys, Signed};
use mizzle_protocol::id::Epoch;
use mizzle_protocol::path::Parameters;
use mizzle_protocol::time::UnixTime;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_not_speak_what_the_network_demands_ends_with_its_own_exit_code_and_says_why() {
    let mut rng = seeded_rng().unwrap();
    let (authority, mirror) = (Identity::generate(&mut rng), Identity::generate(&mut rng));
    let (now, parameters) = (Clock::new().now().unix(), Parameters::local());
    let valid_after = UnixTime(now.0 - 1);
    let consensus = Consensus {
        method: 1,
        network: "test".into(),
        epoch: Epoch(1),
        valid_after,
        fresh_until: valid_after + parameters.epoch,
        valid_until: valid_after + parameters.epoch * Consensus::LIFE_EPOCHS,
        previous: None,
        origin: valid_after,
        required: vec![ProtocolNumber { protocol: 2, version: 9 }],
        recommended: Vec::new(),
        relays: Vec::new(),
        not_running: Vec::new(),
        pool: None,
        made: None,
        later: Default::default(),
        parameters,
    };
    let mut signed = Signed::new(&consensus);
    signed.sign(authority.authority(), |bytes| authority.sign(bytes));
    let shelf = Shelf::new(&signed, Arc::new(consensus), ServiceKeys::new().to_bytes());

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let file = NetworkFile {
        name: "test".into(),
        threshold: 1,
        open_exits: false,
        authorities: vec![AuthorityEntry { id: authority.authority(), address }],
        mirrors: vec![MirrorEntry { id: mirror.id(), address }],
    };
    let acceptor = Acceptor::new(&mirror, &[Alpn::Documents]).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(accepted) = acceptor.accept(stream).await else { continue };
            let answer = async |request: http::Request| {
                let found = shelf.answer(&request.path, Clock::new().now());
                found.unwrap_or_else(|| http::Response::text(404, "no"))
            };
            let _ = http::serve(accepted.stream, &http::Limits::default(), answer).await;
        }
    });

    let folder = tempfile::tempdir().unwrap();
    let network = folder.path().join("network.toml");
    std::fs::write(&network, file.to_toml().unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mizzle"));
    command.args(["up", "--socks", "127.0.0.1:0", "--network"]).arg(&network);
    command.arg("--state").arg(folder.path().join("state")).env("HOME", folder.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("requires packet/9") && said.contains("upgrade"), "{said}");
    assert!(output.stdout.is_empty());
}
