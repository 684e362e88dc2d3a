//! Which key periods this relay has keys and tags of. (spec: RELAY-4, RELAY-5)

use crate::keys::Keys;
use crate::replay::TagLog;
use mizzle_link::Result;
use mizzle_protocol::id::Period;

/// Has keys and tags of exactly these periods. What is over goes first, so that a file system that it has filled has
/// room again for what comes; and keys go before their tags, as keys without tags would open recorded packets. What is
/// kept already serves on when nothing new can be written.
pub(super) fn keep(keys: &mut Keys, logs: [&TagLog; 2], wanted: &[Period]) -> Result<()> {
    keys.forget_others(wanted)?;
    logs.iter().try_for_each(|log| log.forget_others(wanted))?;
    let made = keys.set(wanted);
    // Tags live as long as their key: a clock that is set back and forth must not part them.
    logs.iter().try_for_each(|log| log.set_live(wanted))?;
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RelayRole;
    use crate::keys::{PACKET_TAGS, SESSION_TAGS};
    use crate::small_file_system;
    use mizzle_protocol::id::ReplayTag;
    use mizzle_protocol::mix::ReplayFilter;
    use std::io::Write;

    #[test]
    fn a_full_file_system_costs_no_keys_and_has_room_again() {
        let name = "membership::periods::tests::a_full_file_system_costs_no_keys_and_has_room_again";
        small_file_system::with(name, fill_and_go_on);
    }

    fn fill_and_go_on(folder: &std::path::Path) {
        let gauge = || prometheus::IntGauge::new("tags", "tags").unwrap();
        let packets = TagLog::new(folder, PACKET_TAGS, 100_000, gauge());
        let sessions = TagLog::new(folder, SESSION_TAGS, 100_000, gauge());
        let mut keys = Keys::new(folder, RelayRole::Exit);
        let logs = [&packets, &sessions];
        keep(&mut keys, logs, &[Period(1), Period(2)]).unwrap();
        let mut number = 0_u64;
        let mut remember = |period| {
            number += 1;
            let mut tag = [0; 32];
            tag[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            packets.insert(period, ReplayTag(tag))
        };
        while remember(Period(1)).is_ok() {}
        assert!(
            std::fs::File::create(folder.join("more"))
                .and_then(|mut file| file.write_all(&[0; 4096]))
                .is_err()
        );
        std::fs::remove_file(folder.join("more")).unwrap();
        keep(&mut keys, logs, &[Period(2), Period(3)]).unwrap();
        assert!(keys.of(Period(3)).is_some() && remember(Period(3)).is_ok() && remember(Period(2)).is_ok());
        let mut other = std::fs::File::create(folder.join("something else")).unwrap();
        while other.write_all(&[0; 4096]).is_ok() {}
        let to_come: Vec<_> = (3..10).map(Period).collect();
        assert!(keep(&mut keys, logs, &to_come).is_err());
        assert!(keys.of(Period(3)).is_some() && remember(Period(3)).is_ok());
        assert!(keys.of(Period(2)).is_none() && remember(Period(2)).is_err());
    }
}
