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
    let has_all = |rows: &Vec<Row>| rows.len() == seeds.len();
    let of_seeds = |rows: Vec<Row>| rows.into_iter().filter(|row| seeds.contains(&row.seed)).collect();
    told_apart(plans(rows, given)).into_iter().map(of_seeds).filter(has_all).collect()
}

/// Of each plan the newest row of each seed.
fn plans(rows: &[(String, &Row)], given: &[(String, String)]) -> Vec<Vec<Row>> {
    let mut seen = BTreeSet::new();
    let plans = rows.iter().map(|(plan, _)| plan).filter(|&plan| seen.insert(plan));
    let of_plan = |plan: &String| {
        let own = || rows.iter().filter(|(other, _)| other == plan).map(|(_, row)| *row);
        let mut names: Vec<&str> = Vec::new();
        for (_, name) in given.iter().filter(|(other, _)| other == plan) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        if names.is_empty() {
            names.extend(own().next_back().map(|row| row.name.as_str()));
        }
        let name = names.join(" = ");
        let newest: BTreeMap<u64, &Row> = own().map(|row| (row.seed, row)).collect();
        newest.into_values().map(|row| Row { name: name.clone(), ..row.clone() }).collect()
    };
    plans.map(of_plan).collect()
}

/// Adds to names that several plans have the options in which these differ.
fn told_apart(mut plans: Vec<Vec<Row>>) -> Vec<Vec<Row>> {
    let mut named: BTreeMap<String, Vec<&mut Vec<Row>>> = BTreeMap::new();
    for rows in &mut plans {
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
    plans
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

/// All rows as comma-separated values, below a line of names: one for a plan and seed, with the names of [`compared`].
pub(super) fn csv(rows: &[(String, &Row)], given: &[(String, String)]) -> String {
    let mut csv =
        String::from("name,schedule,seed,samples,dims,gflops,less_compute,fid,images_per_second,strategy\n");
    for row in told_apart(plans(rows, given)).concat() {
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
            [Row::of("a1", 0, 1.0), Row::of("a2", 1, 3.0), Row::of("a3", 0, 2.5), Row::of("b1", 0, 5.0)];
        let rows: Vec<_> = rows.iter().map(|row| (row.strategy[..1].to_owned(), row)).collect();
        let lines = |given: &[(String, String)]| {
            let of = |line: &str| {
                let fields: Vec<_> = line.split(',').collect();
                [fields[0], fields[2], fields[7]].join(" ")
            };
            csv(&rows, given).lines().skip(1).map(of).collect::<Vec<_>>()
        };
        let expected = ["\"größer a3\" 0 2.500000", "\"größer a3\" 1 3.000000", "\"größer b1\" 0 5.000000"];
        assert_eq!(lines(&[]), expected);
        let given = [("a", "x"), ("a", "y")].map(|(plan, name)| (plan.to_owned(), name.to_owned()));
        assert_eq!(lines(&given), expected.map(|line| line.replace("größer a3", "x = y")));
    }

    #[test]
    fn quotes_in_a_field_are_doubled() {
        let row = Row { name: "a \"b\", c".into(), ..Row::of("s", 0, 1.0) };
        assert!(
            csv(&[(String::new(), &row)], &[])
                .lines()
                .nth(1)
                .unwrap()
                .starts_with("\"a \"\"b\"\", c\",\"1x2\",0,4,64,1.5")
        );
    }
}
