/// Raster places of a grid in the order of the Halton sequence: base 2 gives the row, base 3 the column; the
/// sequence starts at index 1, and places met before are skipped (Halton-MaskGIT).
pub fn halton(rows: usize, columns: usize) -> Vec<usize> {
    let mut seen = vec![false; rows * columns];
    let mut places = Vec::with_capacity(seen.len());
    let mut index = 1;
    while places.len() < seen.len() {
        let row = cell(index, 2, rows);
        let column = cell(index, 3, columns);
        let place = row * columns + column;
        if !seen[place] {
            seen[place] = true;
            places.push(place);
        }
        index += 1;
    }
    places
}

/// `floor(size * radical inverse of index)`, in integers: the digits mirrored at the point are a fraction
/// `numerator / base^digits`.
fn cell(mut index: u64, base: u64, size: usize) -> usize {
    let (mut numerator, mut denominator) = (0u128, 1u128);
    while index > 0 {
        numerator = numerator * u128::from(base) + u128::from(index % base);
        denominator *= u128::from(base);
        index /= base;
    }
    (numerator * size as u128 / denominator) as usize
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn goldens_of_three_grids() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/sampler/sampler.safetensors");
        let map = mgnt_weights::safetensors::read(&path).unwrap();
        for size in [8, 16, 32] {
            let golden = map.integers(&format!("halton/{size}x{size}/flat")).unwrap();
            let ours: Vec<i64> = halton(size, size).into_iter().map(|p| p as i64).collect();
            assert_eq!(ours, golden, "{size}");
        }
    }

    #[test]
    fn complete_and_without_repeats_up_to_64() {
        for size in 1..=64 {
            let mut places = halton(size, 65 - size);
            places.sort_unstable();
            assert!(places.iter().copied().eq(0..size * (65 - size)));
        }
        let mut square = halton(64, 64);
        square.sort_unstable();
        assert!(square.iter().copied().eq(0..64 * 64));
    }
}
