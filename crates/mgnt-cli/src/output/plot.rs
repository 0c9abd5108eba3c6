//! Plots, as SVG.

use anyhow::{Result, anyhow};
use mgnt_decode::Ledger;
use plotters::coord::Shift;
use plotters::prelude::*;

/// A colour for each size, dark for the full model.
fn colour(p: usize) -> RGBColor {
    match p {
        1 => RGBColor(24, 60, 108),
        2 => RGBColor(43, 118, 184),
        4 => RGBColor(92, 173, 214),
        _ => RGBColor(166, 216, 235),
    }
}

const GREY: RGBColor = RGBColor(190, 190, 190);

/// Iterations that have their numbers below the bars, at most.
const NUMBERED: usize = 24;

/// Planned compute of each iteration: a bar coloured by the sub-model, before the bar of the full model without a
/// cache.
pub fn compute(ledger: &Ledger, baseline: &Ledger) -> Result<String> {
    drawn((820, 460), |area| {
        let iterations = ledger.iterations.len();
        let highest =
            baseline.iterations.iter().chain(&ledger.iterations).map(|l| l.gflops).fold(0.0, f64::max);
        let title = format!(
            "{}: {:.2} GFLOPs a picture, {:.2}x less than 1x{iterations} without a cache",
            ledger.schedule, ledger.gflops, ledger.less_compute
        );
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 17))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(-0.6..iterations as f64 - 0.4, 0.0..1.08 * highest)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .x_desc("iteration")
            .y_desc("GFLOPs")
            .x_labels(iterations.min(NUMBERED))
            .x_label_formatter(&|x| format!("{x:.0}"))
            .draw()?;
        let bar = |i: usize, gflops: f64, inset: f64, style: ShapeStyle| {
            let (left, right) = (i as f64 - 0.5 + inset, i as f64 + 0.5 - inset);
            Rectangle::new([(left, 0.0), (right, gflops)], style)
        };
        chart
            .draw_series(
                baseline.iterations.iter().map(|l| bar(l.iteration, l.gflops, 0.06, GREY.mix(0.45).filled())),
            )?
            .label("full model, no cache")
            .legend(|(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], GREY.mix(0.45).filled()));
        let mut sizes: Vec<usize> = ledger.iterations.iter().map(|line| line.p).collect();
        sizes.sort_unstable();
        sizes.dedup();
        for p in sizes.into_iter().rev() {
            let lines = ledger.iterations.iter().filter(|line| line.p == p);
            chart
                .draw_series(lines.map(|l| bar(l.iteration, l.gflops, 0.16, colour(p).filled())))?
                .label(format!("sub-model p = {p}"))
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour(p).filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(GREY)
            .draw()?;
        Ok(())
    })
}

/// A measured strategy in a plot of cost and value.
pub struct Point {
    /// Name.
    pub name: String,
    /// GFLOPs of a picture.
    pub gflops: f64,
    /// What was measured; lower is better.
    pub value: f64,
}

/// Points that all have their names in a plot; of more, those on the front have.
const LABELLED: usize = 12;

/// Value against compute, with the front of those that no other beats in both. Refuses to draw no points.
pub fn front(points: &[Point], value: &str) -> Result<String> {
    // Axes that reach from nowhere to nowhere would be divided for ever.
    if points.is_empty() || points.iter().any(|p| !(p.gflops.is_finite() && p.value.is_finite())) {
        return Err(anyhow!("the plot of {value} could not be drawn: expected points of numbers"));
    }
    let highest = |of: fn(&Point) -> f64| points.iter().map(of).fold(f64::MIN, f64::max);
    let lowest = points.iter().map(|p| p.value).fold(f64::MAX, f64::min);
    let room = ((highest(|p| p.value) - lowest) * 0.12).max(1e-3);
    drawn((820, 520), |area| {
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{value} against compute"), ("sans-serif", 17))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(
                0.0..1.12 * highest(|p| p.gflops),
                lowest - room..highest(|p| p.value) + room,
            )?;
        chart.configure_mesh().x_desc("GFLOPs a picture").y_desc(value).draw()?;
        let best = best(points);
        let line = best.iter().map(|point| (point.gflops, point.value));
        chart.draw_series(LineSeries::new(line, RGBColor(43, 118, 184).stroke_width(2)))?;
        chart.draw_series(points.iter().map(|point| {
            let on_front = is_among(point, &best);
            // The others would be written over each other where a search measured many.
            let name = if on_front || points.len() <= LABELLED { point.name.clone() } else { String::new() };
            let fill = if on_front { RGBColor(24, 60, 108) } else { GREY };
            EmptyElement::at((point.gflops, point.value))
                + Circle::new((0, 0), 4, fill.filled())
                + Text::new(name, (7, -6), ("sans-serif", 12))
        }))?;
        Ok(())
    })
}

/// The points that no other beats in both compute and value, by compute.
pub fn best(points: &[Point]) -> Vec<&Point> {
    let mut sorted: Vec<&Point> = points.iter().collect();
    sorted.sort_by(|a, b| a.gflops.total_cmp(&b.gflops).then(a.value.total_cmp(&b.value)));
    let mut lowest = f64::INFINITY;
    sorted.retain(|point| {
        let better = point.value < lowest;
        lowest = lowest.min(point.value);
        better
    });
    sorted
}

/// Whether the point itself, and not one of its name, is among those.
pub fn is_among(point: &Point, best: &[&Point]) -> bool {
    best.iter().any(|best| std::ptr::eq(*best, point))
}

pub(super) fn drawn(
    size: (u32, u32),
    draw: impl FnOnce(DrawingArea<SVGBackend, Shift>) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let failed = |e: Box<dyn std::error::Error>| anyhow!("the plot could not be drawn: {e}");
        area.fill(&WHITE).map_err(|e| failed(e.into()))?;
        draw(area).map_err(failed)?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use mgnt_decode::Strategy;
    use mgnt_model::{ModelConfig, Preset};

    use super::*;

    #[test]
    fn a_bar_for_every_iteration() {
        let config = ModelConfig::preset(Preset::L);
        let ledger = |strategy: Strategy| Ledger::new(&strategy.plan(&config).unwrap(), 1);
        let nested = ledger(Strategy::parse("8x3,4x3,2x3,1x3").unwrap());
        let svg = compute(&nested, &ledger(Strategy::baseline(12))).unwrap();
        // Two bars an iteration, and the legend's five.
        assert!(svg.matches("<rect").count() >= 2 * 12 + 5, "{}", svg.matches("<rect").count());
        assert!(svg.contains("632.13 GFLOPs a picture, 3.08x less") && svg.contains("sub-model p = 8"));
        // Numbers of many would overlap.
        let many = compute(&ledger(Strategy::parse("8x60,1x40").unwrap()), &ledger(Strategy::baseline(100)));
        let numbers = many.unwrap().lines().filter(|line| line.parse::<usize>().is_ok()).count();
        assert!((10..=24).contains(&numbers), "{numbers}");
    }

    #[test]
    fn the_front_holds_what_no_other_beats() {
        let point = |name: &str, gflops, value| Point { name: name.into(), gflops, value };
        let points = [
            point("dear", 9.0, 1.0),
            point("worse", 5.0, 3.0),
            point("good", 4.0, 2.0),
            point("cheap", 1.0, 8.0),
            point("good", 6.0, 4.0),
        ];
        let names: Vec<_> = best(&points).iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["cheap", "good", "dear"]);
        let marked: Vec<_> = points.iter().filter(|point| is_among(point, &best(&points))).collect();
        assert_eq!(marked.iter().map(|p| p.gflops).collect::<Vec<_>>(), [9.0, 4.0, 1.0]);
        assert!(front(&points, "FID").unwrap().matches("<circle").count() == 5);
        assert!(front(&[], "FID").is_err() && front(&[point("none", 1.0, f64::NAN)], "FID").is_err());
    }
}
