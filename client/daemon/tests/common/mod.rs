//! What stands for the running client in tests of commands.

use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// A control socket in this folder, which tells whoever asks of a connected client with its port at `address`.
pub(crate) fn tell_of(address: SocketAddr, folder: &Path) {
    let none = json!({"full": 0, "timed_out": 0, "truncated": 0, "malformed": 0});
    let mut status = serde_json::to_value(mizzle_client::Status::default()).unwrap();
    status["connected"] = json!(true);
    status["socks_refused"] = none.clone();
    status["control_refused"] = none;
    status["listeners"] = json!([address.to_string()]);
    let socket = UnixListener::bind(folder.join("control.sock")).unwrap();
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let mut stream = stream.unwrap();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
            writeln!(stream, "{status}").unwrap();
        }
    });
}
