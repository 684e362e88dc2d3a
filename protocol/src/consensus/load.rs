//! How exactly documents say how much relays carry, and how many packets mixes hold. (spec: LOAD-1, LOAD-2)

/// A count as relays report it, and documents publish ρ: rounded down to two binary digits, 1, 2, 3, 4, 6, 8, 12, …
pub fn coarse(count: u32) -> u32 {
    let digits = u32::BITS - count.leading_zeros();
    let dropped = digits.saturating_sub(2);
    count >> dropped << dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_rounded_down_to_two_binary_digits() {
        let rounded: Vec<_> = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 1_000, u32::MAX].map(coarse).to_vec();
        assert_eq!(rounded, [0, 1, 2, 3, 4, 4, 6, 6, 8, 8, 12, 768, 3 << 30]);
        assert!((0..5_000).all(|count| coarse(coarse(count)) == coarse(count)));
    }
}
