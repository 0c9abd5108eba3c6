//! Draws that depend on a seed and a place, and on nothing else.

/// A number that looks random and that seed, purpose and index alone decide (SplitMix64's mixing, three times).
pub(crate) fn priority(seed: u64, purpose: u64, index: u64) -> u64 {
    let mix = |mut z: u64| {
        z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    mix(mix(mix(seed) ^ purpose) ^ index)
}

/// `count` of the numbers below `of`, each at most once, in rising order: those of the smallest priority.
pub(crate) fn drawn(seed: u64, purpose: u64, count: usize, of: usize) -> Vec<usize> {
    let mut ranked: Vec<(u64, usize)> = (0..of).map(|i| (priority(seed, purpose, i as u64), i)).collect();
    if count < of {
        ranked.select_nth_unstable(count);
        ranked.truncate(count);
    }
    let mut chosen: Vec<usize> = ranked.into_iter().map(|(_, i)| i).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_is_a_set_and_any_number_is_as_likely() {
        let mut seen = [0u32; 50];
        for seed in 0..4000 {
            let chosen = drawn(seed, 1, 10, 50);
            assert_eq!(chosen.len(), 10);
            assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            chosen.iter().for_each(|&i| seen[i] += 1);
        }
        // 800 expected, with a deviation of 25.
        assert!(seen.iter().all(|&n| (680..920).contains(&n)), "{seen:?}");
        assert_eq!(drawn(7, 1, 10, 50), drawn(7, 1, 10, 50));
        assert_ne!(drawn(7, 1, 10, 50), drawn(7, 2, 10, 50));
        assert_eq!(drawn(7, 1, 5, 3), [0, 1, 2]);
    }
}
