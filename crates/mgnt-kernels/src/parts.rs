/// Parts of a product's sums that are taken side by side: as many as keep it busy where its tiles are few, which
/// take 128 rows and columns each (counted by the emulated driver), and a large one has 132 processors for them.
pub fn parts(rows: usize, inputs: usize, outputs: usize) -> usize {
    const TILE: usize = 128;
    const PROCESSORS: usize = 132;
    const LEAST: usize = 256;
    let tiles = rows.div_ceil(TILE) * outputs.div_ceil(TILE);
    let fits = |&parts: &usize| tiles * parts <= PROCESSORS && inputs.is_multiple_of(parts * LEAST);
    [4, 2].into_iter().find(fits).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn long_sums_of_few_tiles_are_taken_in_parts() {
        for (rows, inputs, outputs, expected) in [
            (257, 4096, 1024, 4),
            (257, 1024, 1024, 4),
            (257, 512, 1024, 2),
            (514, 4096, 1024, 2),
            (1028, 4096, 1024, 1),
            (257, 256, 1024, 1),
            (257, 2050, 1024, 1),
        ] {
            assert_eq!(parts(rows, inputs, outputs), expected, "{rows} x {inputs} x {outputs}");
        }
    }
}
