//! Writes the seeds of all targets: `cargo run -p mizzle-fuzz-targets --example seeds`. Those that are called
//! `found_…` are left as they are.

use mizzle_fuzz_targets::TARGETS;
use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds");
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for seed in (target.seeds)() {
            fs::write(folder.join(seed.name), seed.bytes)?;
        }
    }
    Ok(())
}
