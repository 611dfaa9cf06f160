//! Periods of strings: `d` is a period of `s` if `s[i] == s[i + d]` wherever both are in `s`.

/// The smallest period of `bytes`, if it is at most half its length.
pub fn smallest_period(bytes: &[u8]) -> Option<usize> {
    let (&first, len) = (bytes.first()?, bytes.len());
    (1..=len / 2).find(|&period| bytes[period] == first && bytes[..len - period] == bytes[period..])
}

/// The longest range around `[start, end)` that has `period`, which `[start, end)` has.
pub fn run_around(bytes: &[u8], start: usize, end: usize, period: usize) -> (usize, usize) {
    let before = bytes[..start].iter().rev().zip(bytes[..start + period].iter().rev()).take_while(|(left, right)| left == right).count();
    let after = bytes[end..].iter().zip(&bytes[end - period..]).take_while(|(left, right)| left == right).count();
    (start - before, end + after)
}

/// Where the least rotation of `bytes` begins, the first if there are several. Linear, as Shiloach 1981: of two candidates, the one that
/// loses a comparison takes all places compared with it.
pub fn least_rotation(bytes: &[u8]) -> usize {
    let len = bytes.len();
    let (mut left, mut right, mut agreeing) = (0, 1, 0);
    while left < len && right < len && agreeing < len {
        let (a, b) = (bytes[(left + agreeing) % len], bytes[(right + agreeing) % len]);
        if a == b {
            agreeing += 1;
            continue;
        }
        if a > b {
            left += agreeing + 1;
        } else {
            right += agreeing + 1;
        }
        if left == right {
            right += 1;
        }
        agreeing = 0;
    }
    left.min(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn periods_and_rotations_equal_their_definitions(bytes in prop::collection::vec(0_u8..3, 1..14)) {
            let has = |range: &[u8], period: usize| (period..range.len()).all(|index| range[index] == range[index - period]);
            prop_assert_eq!(smallest_period(&bytes), (1..=bytes.len() / 2).find(|period| has(&bytes, *period)));
            let rotated = |start: usize| -> Vec<u8> { bytes[start..].iter().chain(&bytes[..start]).copied().collect() };
            let least = (0..bytes.len()).map(rotated).min().unwrap();
            prop_assert_eq!(rotated(least_rotation(&bytes)), least);
            for start in 0..bytes.len() {
                for end in start + 2..=bytes.len() {
                    if let Some(period) = smallest_period(&bytes[start..end]) {
                        let first = (0..=start).find(|first| has(&bytes[*first..end], period)).unwrap();
                        let last = (end..=bytes.len()).rev().find(|last| has(&bytes[start..*last], period)).unwrap();
                        prop_assert_eq!(run_around(&bytes, start, end, period), (first, last));
                    }
                }
            }
        }
    }
}
