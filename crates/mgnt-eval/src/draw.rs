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

/// Where number `index` below `of` stands in a shuffle of them all, of which nothing is kept.
///
/// Rounds of a Feistel network shuffle the numbers of an even number of bits; what leaves the range goes through it
/// again until it is back.
///
/// # Panics
/// Where `index` is not below `of`.
pub(crate) fn shuffled(seed: u64, purpose: u64, index: usize, of: usize) -> usize {
    const ROUNDS: u64 = 6;
    assert!(index < of, "{index} of {of}");
    let half = (usize::BITS - of.leading_zeros()).div_ceil(2);
    let low = (1u64 << half) - 1;
    let mut place = index as u64;
    loop {
        for round in 0..ROUNDS {
            let (left, right) = (place >> half, place & low);
            let key = priority(seed, purpose, round);
            place = right << half | (left ^ (priority(key, purpose, right) & low));
        }
        if place < of as u64 {
            return place as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_has_each_place_once_and_any_is_as_likely() {
        for of in [1, 2, 3, 20, 64, 65, 1000] {
            let mut places: Vec<usize> = (0..of).map(|i| shuffled(3, 1, i, of)).collect();
            assert!(of < 20 || !places.is_sorted());
            places.sort_unstable();
            assert!(places.into_iter().eq(0..of), "{of}");
        }
        let mut seen = [[0u32; 20]; 20];
        (0..8000).for_each(|seed| (0..20).for_each(|i| seen[i][shuffled(seed, 1, i, 20)] += 1));
        // 400 expected, with a deviation of 20.
        assert!(seen.as_flattened().iter().all(|&n| (300..500).contains(&n)), "{seen:?}");
    }

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
