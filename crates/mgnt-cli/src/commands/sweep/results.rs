//! What a sweep shows of its rows: a table, a plot, a list for spreadsheets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use mgnt_decode::Strategy;

use super::log::Row;
use crate::output::plot::Point;

/// The rows that may be held against each other, a list a plan, of one row for each of `seeds`: of all `rows`, each with its
/// plan, those of plans that were measured with all of them. The plans are in the order in which they were first measured.
///
/// A plan has the names that this run `given` it, or else its newest; where two would have the same, with the options in
/// which they differ.
pub(super) fn compared(
    rows: &[(String, &Row)],
    seeds: &BTreeSet<u64>,
    given: &[(String, String)],
) -> Vec<Vec<Row>> {
    let mut seen = BTreeSet::new();
    let mut compared = Vec::new();
    for (plan, _) in rows.iter().filter(|(plan, _)| seen.insert(plan)) {
        let newest_first = || rows.iter().rev().filter(|(other, _)| other == plan).map(|(_, row)| *row);
        let of_seed = |seed: &u64| newest_first().find(|row| row.seed == *seed).cloned();
        let Some(mut all_seeds) = seeds.iter().map(of_seed).collect::<Option<Vec<Row>>>() else { continue };
        let mut names: Vec<&str> = Vec::new();
        for (_, name) in given.iter().filter(|(other, _)| other == plan) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        if names.is_empty() {
            names.extend(newest_first().next().map(|row| row.name.as_str()));
        }
        let name = names.join(" = ");
        all_seeds.iter_mut().for_each(|row| row.name.clone_from(&name));
        compared.push(all_seeds);
    }
    tell_apart(&mut compared);
    compared
}

/// Adds to names that several plans have the options in which these differ.
fn tell_apart(compared: &mut [Vec<Row>]) {
    let mut named: BTreeMap<String, Vec<&mut Vec<Row>>> = BTreeMap::new();
    for rows in compared {
        named.entry(rows[0].name.clone()).or_default().push(rows);
    }
    for (name, mut alike) in named.into_iter().filter(|(_, alike)| alike.len() > 1) {
        let options: Vec<_> = alike.iter().map(|rows| options(&rows[0])).collect();
        for (rows, own) in alike.iter_mut().zip(&options) {
            let mut words = vec![name.clone()];
            for (i, (option, value)) in own.iter().enumerate() {
                if options.iter().any(|other| other.get(i).is_none_or(|(_, other)| other != value)) {
                    words.push(format!("{option} {value}"));
                }
            }
            rows.iter_mut().for_each(|row| row.name = words.join(", "));
        }
    }
}

/// The options of a row's strategy and their values, as RON; none where another version wrote it.
fn options(row: &Row) -> Vec<(&'static str, String)> {
    let Ok(strategy) = ron::from_str::<Strategy>(&row.strategy) else { return Vec::new() };
    let written = [
        ("cache", ron::to_string(&strategy.cache)),
        ("mask schedule", ron::to_string(&strategy.mask)),
        ("guidance", ron::to_string(&strategy.guidance)),
        ("unconditional", ron::to_string(&strategy.unconditional)),
        ("temperature", ron::to_string(&strategy.token_temperature)),
        ("choice temperature", ron::to_string(&strategy.choice_temperature)),
        ("order", ron::to_string(&strategy.order)),
        ("top-k", ron::to_string(&strategy.top_k)),
        ("top-p", ron::to_string(&strategy.top_p)),
    ];
    let written = written.into_iter().filter_map(|(option, value)| Some((option, value.ok()?)));
    [("schedule", strategy.models.to_string())].into_iter().chain(written).collect()
}

/// A point a plan: the mean over its rows.
pub(super) fn points(compared: &[Vec<Row>]) -> Vec<Point> {
    let point = |rows: &Vec<Row>| Point {
        name: rows[0].name.clone(),
        gflops: rows[0].gflops,
        value: rows.iter().map(|row| row.fid).sum::<f64>() / rows.len() as f64,
    };
    compared.iter().map(point).collect()
}

/// Rows as comma-separated values, below a line of names: of a plan and seed the newest, since a further name is a further row.
pub(super) fn csv(rows: &[(String, &Row)]) -> String {
    let mut csv =
        String::from("name,schedule,seed,samples,dims,gflops,less_compute,fid,images_per_second,strategy\n");
    let newest: BTreeMap<_, _> =
        rows.iter().enumerate().map(|(at, (plan, row))| ((plan, row.seed), at)).collect();
    let is_newest = |&(at, (plan, row)): &(usize, &(String, &Row))| newest[&(plan, row.seed)] == at;
    for (_, (_, row)) in rows.iter().enumerate().filter(is_newest) {
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
    use mgnt_decode::Guidance;

    use super::*;

    /// Names and means of what is compared of rows, whose plans are all but the last character of their strategies.
    fn means(rows: &[Row], seeds: &[u64], given: &[(&str, &str)]) -> Vec<(String, f64)> {
        let of = |row: &Row| row.strategy[..row.strategy.len().max(2) - 1].to_owned();
        let rows: Vec<_> = rows.iter().map(|row| (of(row), row)).collect();
        let given: Vec<_> = given.iter().map(|(plan, name)| (plan.to_string(), name.to_string())).collect();
        let compared = compared(&rows, &seeds.iter().copied().collect(), &given);
        assert!(compared.iter().all(|rows| rows.len() == seeds.len()));
        points(&compared).into_iter().map(|point| (point.name, point.value)).collect()
    }

    #[test]
    fn strategies_are_compared_on_the_same_seeds() {
        let rows = [
            Row::of("a", 0, 1.0),
            Row::of("b", 0, 5.0),
            Row::of("a", 1, 3.0),
            Row::of("a", 7, 100.0),
            Row::of("b", 7, 7.0),
        ];
        let named = |name: &str, value: f64| (format!("größer {name}"), value);
        assert_eq!(means(&rows, &[0], &[]), [named("a", 1.0), named("b", 5.0)]);
        // Of one strategy a seed is missing.
        assert_eq!(means(&rows, &[0, 1], &[]), [named("a", 2.0)]);
        assert_eq!(means(&rows, &[7, 0], &[]), [named("a", 50.5), named("b", 6.0)]);
    }

    #[test]
    fn a_plan_is_one_however_it_is_written_and_has_its_newest_name() {
        let rows = [Row::of("a1", 0, 1.0), Row::of("a2", 1, 3.0), Row::of("b1", 0, 5.0)];
        assert_eq!(means(&rows, &[0, 1], &[]), [("größer a2".into(), 2.0)]);
        let given = [("b", "x"), ("a", "mine"), ("a", "mine"), ("a", "yours")];
        assert_eq!(means(&rows, &[0], &given), [("mine = yours".into(), 1.0), ("x".into(), 5.0)]);
    }

    #[test]
    fn plans_of_one_name_are_told_apart() {
        let row = |strategy: Strategy| Row {
            name: "1x2".into(),
            ..Row::of(&ron::to_string(&strategy).unwrap(), 0, 1.0)
        };
        let plain = Strategy::parse("1x2").unwrap();
        let guided = plain.clone().with_guidance(Guidance::Constant(2.0));
        let rows = [plain.clone(), guided, Strategy { top_k: Some(3), ..plain }].map(row);
        let names: Vec<_> = means(&rows, &[0], &[]).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "1x2, guidance off, top-k None",
                "1x2, guidance constant(2.0), top-k None",
                "1x2, guidance off, top-k Some(3)"
            ]
        );
        assert_eq!(means(&rows[1..2], &[0], &[])[0].0, "1x2");
    }

    #[test]
    fn a_plan_and_seed_are_one_line() {
        let rows =
            [Row::of("a1", 0, 1.0), Row::of("a2", 1, 3.0), Row::of("a3", 0, 1.0), Row::of("b1", 0, 5.0)];
        let rows: Vec<_> = rows.iter().map(|row| (row.strategy[..1].to_owned(), row)).collect();
        let csv = csv(&rows);
        let names: Vec<&str> = csv.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
        assert_eq!(names, ["\"größer a2\"", "\"größer a3\"", "\"größer b1\""]);
    }

    #[test]
    fn quotes_in_a_field_are_doubled() {
        let row = Row { name: "a \"b\", c".into(), ..Row::of("s", 0, 1.0) };
        assert!(
            csv(&[(String::new(), &row)])
                .lines()
                .nth(1)
                .unwrap()
                .starts_with("\"a \"\"b\"\", c\",\"1x2\",0,4,64,1.5")
        );
    }
}
