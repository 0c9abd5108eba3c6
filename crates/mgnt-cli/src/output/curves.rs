//! Curves over the steps of a run, as SVG.

use anyhow::Result;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::plot::drawn;
use super::words::short;

/// One line of a plot.
#[derive(Clone)]
pub struct Curve {
    /// Name in the legend.
    pub name: String,
    /// Step and value.
    pub points: Vec<(f64, f64)>,
    /// Its colour.
    pub colour: RGBColor,
}

/// What is plotted against the steps.
pub struct Axes<'a> {
    /// Title of the plot.
    pub title: &'a str,
    /// What is counted, with its unit.
    pub value: &'a str,
    /// Whether the value's axis begins at zero.
    pub from_zero: bool,
}

/// Told apart without regard to red and green (Okabe and Ito), the first darkest.
const COLOURS: [RGBColor; 7] = [
    RGBColor(24, 60, 108),
    RGBColor(64, 156, 212),
    RGBColor(230, 159, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(110, 110, 110),
];
const GREY: RGBColor = RGBColor(190, 190, 190);
/// The largest value that is plotted: of larger ones an axis would overflow.
const LARGEST: f64 = 1e300;
/// Points of a line, at most: more are finer than the plot's pixels.
const POINTS: usize = 360;
/// Labels of an axis, at most.
const LABELS: usize = 7;
/// Lines of fewer points have each of them marked.
const MARKED: usize = 40;

/// The colour of the line number `index`.
pub fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// Draws curves; there must be one with a point. Values that leave no room for an axis are drawn at its end.
pub fn curves(axes: &Axes, curves: &[Curve]) -> Result<String> {
    let clamped = |curve: &Curve| Curve {
        points: curve.points.iter().map(|&(step, value)| (step, value.clamp(-LARGEST, LARGEST))).collect(),
        ..curve.clone()
    };
    let curves: &[Curve] = &curves.iter().map(clamped).collect::<Vec<_>>();
    let values = || curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
    let (mut low, mut high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
    let last = curves.iter().flat_map(|curve| &curve.points).map(|point| point.0).fold(1.0, f64::max);
    // A constant stands in the middle.
    let room = if high > low { 0.06 * (high - low) } else { 0.1 * high.abs().max(1e-3) };
    (low, high) = (if axes.from_zero { 0.0 } else { low - room }, high + room);
    let falls =
        curves.iter().any(|c| matches!((c.points.first(), c.points.last()), (Some(a), Some(b)) if a.1 > b.1));
    let ticks = Ticks::new(low, high);
    drawn((640, 380), |area| {
        let mut chart = ChartBuilder::on(&area)
            .caption(axes.title, ("sans-serif", 20))
            .margin(12)
            .margin_right(24)
            .x_label_area_size(48)
            .y_label_area_size(78)
            .build_cartesian_2d(0.0..last, low..high)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(GREY.mix(0.4))
            .x_labels(LABELS)
            .y_labels(LABELS)
            .x_desc("step")
            .y_desc(axes.value)
            .label_style(("sans-serif", 16))
            .axis_desc_style(("sans-serif", 16))
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| ticks.label(*y))
            .draw()?;
        for curve in curves {
            let points = thinned(&curve.points);
            let colour = curve.colour;
            if points.len() < MARKED {
                chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
            }
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                .label(curve.name.clone())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(3)));
        }
        if curves.len() > 1 {
            // Below a curve whose axis begins at zero there is room.
            let place = match falls && !axes.from_zero {
                true => SeriesLabelPosition::UpperRight,
                false => SeriesLabelPosition::LowerRight,
            };
            chart
                .configure_series_labels()
                .position(place)
                .label_font(("sans-serif", 16))
                .background_style(WHITE.mix(0.85))
                .border_style(GREY)
                .draw()?;
        }
        Ok(())
    })
}

/// Labels of an axis.
struct Ticks {
    /// Decimals that tell them apart, where short numbers do not.
    decimals: Option<usize>,
}

impl Ticks {
    /// Of an axis from `low` to `high`.
    fn new(low: f64, high: f64) -> Self {
        let places = RangedCoordf64::from(low..high).key_points(LABELS);
        let alike = places.windows(2).any(|pair| short(pair[0]) == short(pair[1]));
        let decimals = places.windows(2).next().filter(|_| alike).map(|pair: &[f64]| {
            // A step is 1, 2 or 5 times a power of ten, but for its rounding.
            (-(1.000_001 * (pair[1] - pair[0])).log10().floor()).max(0.0) as usize
        });
        Self { decimals }
    }

    fn label(&self, value: f64) -> String {
        match self.decimals {
            Some(decimals) => format!("{value:.decimals$}"),
            None => short(value),
        }
    }
}

/// At most [`POINTS`] points, each the mean of neighbours.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / chunk.len() as f64, sum.1 / chunk.len() as f64)
    };
    points.chunks(together).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_points_become_means() {
        let points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), 2.0)).collect();
        let thin = thinned(&points);
        assert_eq!(thin.len(), 334);
        assert_eq!(thin[0], (1.0, 2.0));
        assert_eq!(thinned(&points[..3]), points[..3]);
    }

    #[test]
    fn labels_of_a_narrow_axis_are_told_apart() {
        let label = |low, high, value| Ticks::new(low, high).label(value);
        assert_eq!(label(4.42, 4.44, 4.43), "4.430");
        assert_eq!(label(4.42, 4.44, 4.435), "4.435");
        assert_eq!(label(0.0, 6.0, 4.0), "4");
        assert_eq!(label(12_345.0, 12_346.0, 12_345.5), "12345.5");
    }

    /// An axis up to the largest numbers has no end: its ticks were looked for without one.
    #[test]
    fn the_largest_numbers_are_drawn_too() {
        let points = vec![(1.0, -1.7e308), (2.0, 1.0), (3.0, f64::MAX)];
        let curve = Curve { name: "norm".into(), points, colour: colour(0) };
        let axes = Axes { title: "norm", value: "norm", from_zero: false };
        assert!(curves(&axes, &[curve]).unwrap().contains("</svg>"));
    }

    #[test]
    fn every_curve_is_drawn_and_named() {
        let curve = |name: &str, index, points| Curve { name: name.into(), points, colour: colour(index) };
        let axes = Axes { title: "loss", value: "nats", from_zero: false };
        let two = [
            curve("p = 1", 0, vec![(1.0, 6.0), (2.0, 5.0)]),
            curve("p = 8", 3, vec![(1.0, 6.1), (2.0, 5.5), (3.0, 5.4)]),
        ];
        let svg = curves(&axes, &two).unwrap();
        assert!(svg.contains("p = 1") && svg.contains("p = 8") && svg.contains("nats"));
        assert_eq!(svg.matches("<circle").count(), 5);
        // A single constant value has an axis too.
        let svg = curves(&axes, &[curve("one", 0, vec![(5.0, 0.25)])]).unwrap();
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
