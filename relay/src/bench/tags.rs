//! What replay tags take when they come one by one, as a relay's do: memory of the process, and time.

use crate::machine;
use crate::replay::TagLog;
use mizzle_link::{Error, Result, seeded_rng};
use mizzle_protocol::id::{Period, ReplayTag};
use mizzle_protocol::mix::ReplayFilter;
use prometheus::IntGauge;
use rand_core::Rng;
use serde::Serialize;

/// What was measured.
#[derive(Serialize)]
pub(super) struct Tags {
    tags: usize,
    /// Of the memory that they were put into.
    limit: usize,
    /// Resident memory of this process, without them and with them.
    rss_before_mb: f64,
    rss_mb: f64,
    bytes_a_tag: f64,
    /// Processor time of one thread, their log included.
    nanoseconds_a_tag: f64,
}

/// Remembers so many tags in a memory for `limit`, with their log below the folder for temporary files.
pub(super) fn measure(tags: usize, limit: usize) -> Result<Tags> {
    let failed = |error| Error::io("make a folder for the log of replay tags", error);
    let folder = std::env::temp_dir().join(format!("mizzle-tags-{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(failed)?;
    let measured = insert(&folder, tags, limit);
    std::fs::remove_dir_all(&folder).map_err(failed)?;
    measured
}

fn insert(folder: &std::path::Path, tags: usize, limit: usize) -> Result<Tags> {
    let gauge =
        IntGauge::new("tags", "tags").map_err(|error| Error::io("count", std::io::Error::other(error)))?;
    let log = TagLog::new(folder, "tags", limit, gauge);
    let (mut rng, mut tag) = (seeded_rng()?, [0; 32]);
    let before = machine::resident_memory();
    log.set_live(&[Period(0)])?;
    let took = crate::speed::time(1, || {
        for _ in 0..tags {
            rng.fill_bytes(&mut tag);
            // One in a million is taken for another, as a relay's is.
            match log.insert(Period(0), ReplayTag(tag)) {
                Err(error) if error.kind() != mizzle_protocol::ErrorKind::Replayed => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    })?;
    let after = machine::resident_memory();
    let each = |total: f64| total / tags.max(1) as f64;
    Ok(Tags {
        tags,
        limit,
        rss_before_mb: before as f64 / 1e6,
        rss_mb: after as f64 / 1e6,
        bytes_a_tag: each(after.saturating_sub(before) as f64),
        nanoseconds_a_tag: each(took.as_secs_f64() * 1e9),
    })
}
