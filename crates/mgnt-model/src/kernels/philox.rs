//! Philox4x32-10, a generator without a state (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).

/// How often words are mixed.
pub const ROUNDS: usize = 10;
/// What two words are multiplied by in a round.
pub const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What is added to the key for the next round.
pub const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// Four random words for each counter.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = counter;
    let [mut first, mut second] = key;
    for _ in 0..ROUNDS {
        let [of_a, of_c] =
            [(a, MULTIPLIERS[0]), (c, MULTIPLIERS[1])].map(|(x, y)| u64::from(x) * u64::from(y));
        (a, b, c, d) =
            ((of_c >> 32) as u32 ^ b ^ first, of_c as u32, (of_a >> 32) as u32 ^ d ^ second, of_a as u32);
        first = first.wrapping_add(WEYL[0]);
        second = second.wrapping_add(WEYL[1]);
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_paper_s_library() {
        // Known answers of Random123.
        for (counter, key, words) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), words);
        }
    }
}
