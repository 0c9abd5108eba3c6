//! What a sweep shows of its rows: a table, a plot, a list for spreadsheets.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::log::Row;
use crate::output::plot::Point;

/// The rows that may be held against each other: those of `seeds`, of strategies that were measured with all of them.
pub(super) fn compared<'a>(rows: &[&'a Row], seeds: &[u64]) -> Vec<&'a Row> {
    let all_seeds = |strategy: &str| {
        seeds.iter().all(|&seed| rows.iter().any(|row| row.seed == seed && row.strategy == strategy))
    };
    rows.iter().copied().filter(|row| seeds.contains(&row.seed) && all_seeds(&row.strategy)).collect()
}

/// A point a strategy: the mean over its rows.
pub(super) fn points(rows: &[&Row]) -> Vec<Point> {
    let mut strategies: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        // By strategy: two searches give the same names to different ones.
        strategies.entry(&row.strategy).or_default().push(row);
    }
    let point = |rows: Vec<&Row>| Point {
        name: rows[0].name.clone(),
        gflops: rows[0].gflops,
        value: rows.iter().map(|row| row.fid).sum::<f64>() / rows.len() as f64,
    };
    strategies.into_values().map(point).collect()
}

/// Rows as comma-separated values, below a line of names.
pub(super) fn csv(rows: &[&Row]) -> String {
    let mut csv =
        String::from("name,schedule,seed,samples,dims,gflops,less_compute,fid,images_per_second,strategy\n");
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            csv,
            "{},{},{},{},{},{:.6},{:.4},{:.6},{:.3},{}",
            quoted(&row.name),
            quoted(&row.schedule),
            row.seed,
            row.samples,
            row.dims,
            row.gflops,
            row.less_compute,
            row.fid,
            row.images_per_second,
            quoted(&row.strategy)
        );
    }
    csv
}

/// A field of a CSV file.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_are_compared_on_the_same_seeds() {
        let rows = [
            Row::of("a", 0, 1.0),
            Row::of("b", 0, 5.0),
            Row::of("a", 1, 3.0),
            Row::of("a", 7, 100.0),
            Row::of("b", 7, 7.0),
        ];
        let rows: Vec<&Row> = rows.iter().collect();
        let means = |seeds: &[u64]| -> Vec<(String, f64)> {
            points(&compared(&rows, seeds)).into_iter().map(|point| (point.name, point.value)).collect()
        };
        let named = |name: &str, value: f64| (format!("größer {name}"), value);
        assert_eq!(means(&[0]), [named("a", 1.0), named("b", 5.0)]);
        // Of one strategy a seed is missing.
        assert_eq!(means(&[0, 1]), [named("a", 2.0)]);
        assert_eq!(means(&[7, 0]), [named("a", 50.5), named("b", 6.0)]);
    }

    #[test]
    fn quotes_in_a_field_are_doubled() {
        let row = Row { name: "a \"b\", c".into(), ..Row::of("s", 0, 1.0) };
        assert!(csv(&[&row]).lines().nth(1).unwrap().starts_with("\"a \"\"b\"\", c\",\"1x2\",0,4,64,1.5"));
    }
}
