//! The corpora, replayed: what `fuzz/` runs on bytes that it makes up, on the seeds that are in the tree.

#![allow(clippy::unwrap_used, clippy::panic)]

use mizzle_fuzz_targets::{TARGETS, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The seeds of a target, by name.
fn committed(target: &Target) -> BTreeMap<String, Vec<u8>> {
    let folder = fuzz_folder().join("seeds").join(target.name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read = |file: fs::DirEntry| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap());
    files.map(|file| read(file.unwrap())).collect()
}

#[test]
fn every_seed_holds_what_its_target_asks() {
    let mut failed = Vec::new();
    for target in TARGETS {
        for (name, bytes) in committed(&target) {
            if catch_unwind(|| (target.run)(&bytes)).is_err() {
                failed.push(format!("fuzz/seeds/{}/{name}", target.name));
            }
        }
    }
    assert!(failed.is_empty(), "these fail: {failed:#?}");
}

#[test]
fn targets_take_bytes_that_end_anywhere() {
    for target in TARGETS {
        (target.run)(&[]);
        for seed in (target.seeds)() {
            let step = seed.bytes.len() / 16 + 1;
            (0..seed.bytes.len()).step_by(step).for_each(|end| (target.run)(&seed.bytes[..end]));
        }
    }
}

#[test]
fn the_seeds_are_those_that_the_example_writes() {
    for target in TARGETS {
        let mut committed = committed(&target);
        for seed in (target.seeds)() {
            let known = committed.remove(seed.name);
            let what = "write the seeds anew: cargo run -p mizzle-fuzz-targets --example seeds";
            assert!(known == Some(seed.bytes), "fuzz/seeds/{}/{}: {what}", target.name, seed.name);
        }
        // What a campaign found is kept under a name that says so.
        let strange: Vec<_> = committed.keys().filter(|name| !name.starts_with("found_")).collect();
        assert!(strange.is_empty(), "no generator writes these seeds of {}: {strange:?}", target.name);
    }
}

#[test]
fn every_target_has_a_program_and_the_seeds_stay_small() {
    let manifest = fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let programs: BTreeSet<_> =
        manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap()).collect();
    let names: BTreeSet<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names.len(), TARGETS.len());
    assert_eq!(programs, names);
    for name in names {
        let program = fs::read_to_string(fuzz_folder().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            program.contains(&format!("run(\"{name}\", bytes)")),
            "fuzz_targets/{name}.rs runs another target"
        );
    }
    let size: usize =
        TARGETS.iter().flat_map(|target| committed(target).into_values()).map(|seed| seed.len()).sum();
    assert!(size < 500_000, "the seeds have {size} bytes");
}
