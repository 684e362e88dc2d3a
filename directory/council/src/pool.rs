//! How many packets the mixes hold, by what relays report of their traffic.
//!
//! A packet hides among those that its mix holds at the time, ρ in the mean. Relays report how many packets a second
//! they carry, so coarsely that no stream shows in it; the authorities publish ρ, as what it can be at the most: some
//! of the packets may be an observer's own. (spec: LOAD-2)

use mizzle_protocol::consensus::coarse;
use std::time::Duration;

/// ρ, from the layer and the report of each mix that is listed, and the mean of its delays.
///
/// Every packet passes each layer once, so the layer that reports the least counts, and what it carries is shared among
/// the mixes of the widest layer. `None` if a mix has not reported, or a layer is empty.
pub fn pool(
    mixes: impl IntoIterator<Item = (u8, Option<u32>)>,
    layers: usize,
    mean_delay: Duration,
) -> Option<u32> {
    let mut sums = vec![(0u64, 0u64); layers];
    for (layer, rate) in mixes {
        let (sum, count) = sums.get_mut(usize::from(layer).checked_sub(1)?)?;
        *sum = sum.saturating_add(u64::from(rate?));
        *count += 1;
    }
    let least = sums.iter().map(|(sum, _)| *sum).min()?;
    let widest = sums.iter().map(|(_, count)| *count).max().filter(|count| *count > 0)?;
    if sums.iter().any(|(_, count)| *count == 0) {
        return None;
    }
    let held = u128::from(least) * mean_delay.as_micros() / 1_000_000 / u128::from(widest);
    Some(coarse(u32::try_from(held).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_that_carries_the_least_counts_and_the_widest_shares_it() {
        let ms = Duration::from_millis(20);
        let even = [(1, 1_000), (2, 1_000), (3, 600), (3, 400)].map(|(layer, rate)| (layer, Some(rate)));
        // 1 000 a second for 20 ms are 20 packets; among two mixes.
        assert_eq!(pool(even, 3, ms), Some(8));
        // One that boasts changes nothing: its packets would pass the other layers, too.
        let boasting =
            [(1, 1_000), (2, 900_000), (3, 600), (3, 400)].map(|(layer, rate)| (layer, Some(rate)));
        assert_eq!(pool(boasting, 3, ms), Some(8));
        assert_eq!(pool([(1, Some(5)), (2, None), (3, Some(5))], 3, ms), None);
        assert_eq!(pool([(1, Some(5)), (3, Some(5))], 3, ms), None);
        assert_eq!(pool([(1, Some(5)), (4, Some(5))], 3, ms), None);
        assert_eq!(pool([], 3, ms), None);
        assert_eq!(pool([(1, Some(0)), (2, Some(9)), (3, Some(9))], 3, ms), Some(0));
    }
}
