//! The figures of a log, sorted into plots.

use mgnt_train::watch::History;

use crate::output::curves::{Axes, Curve, colour, curves};
use crate::output::page::Page;

/// A plot of figures that belong together.
struct Chart {
    title: &'static str,
    value: &'static str,
    from_zero: bool,
    /// Names in the log; one that ends with `*` takes all that begin like it.
    figures: &'static [&'static str],
}

/// A part of the page.
struct Part {
    heading: &'static str,
    charts: &'static [Chart],
}

const fn chart(title: &'static str, value: &'static str, figures: &'static [&'static str]) -> Chart {
    Chart { title, value, from_zero: false, figures }
}

const fn from_zero(title: &'static str, value: &'static str, figures: &'static [&'static str]) -> Chart {
    Chart { title, value, from_zero: true, figures }
}

const PARTS: &[Part] = &[
    Part {
        heading: "Losses",
        charts: &[
            chart("Sub-models, held-out pictures", "cross-entropy, nats", &["validation_loss_p*"]),
            chart("Sub-models, training", "smoothed cross-entropy, nats", &["loss_p*"]),
            chart("Held-out pictures, rebuilt", "PSNR, dB", &["validation_psnr"]),
            chart("Held-out pictures, rebuilt", "SSIM", &["validation_ssim"]),
            chart("Held-out pictures, rebuilt", "rFID", &["validation_rfid"]),
            chart("Error of pixels", "mean, of a range of 1", &["l1", "l2", "validation_l1"]),
            chart("Distance to the codes", "loss", &["codebook"]),
            chart("Entropy of the codes, less is better", "loss", &["entropy"]),
            chart("Perceptual loss", "distance", &["perceptual"]),
            chart("What is minimised", "loss", &["loss"]),
        ],
    },
    Part {
        heading: "Codebook",
        charts: &[
            from_zero("Codes in use", "share of the codebook", &["codes_used", "validation_codes_used"]),
            from_zero("Spread over codes", "perplexity", &["perplexity", "validation_perplexity"]),
        ],
    },
    Part {
        heading: "Adversary",
        charts: &[
            chart("Losses", "loss", &["generator", "discriminator"]),
            chart("What the discriminator says", "logit, mean", &["logits_real", "logits_rebuilt"]),
            chart("Weight of the adversarial term", "factor", &["adversarial_weight"]),
            chart("LeCAM", "penalty", &["lecam"]),
        ],
    },
    Part {
        heading: "Schedules and pace",
        charts: &[
            from_zero("Learning rate", "learning rate", &["learning_rate"]),
            from_zero("Lambda: weight of the truth against the teacher", "lambda", &["lambda"]),
            chart("Gradient before clipping", "global norm", &["gradient_norm"]),
            from_zero("Tokens a second", "tokens a second", &["tokens_a_second"]),
            from_zero("Seconds a step", "seconds", &["seconds_a_step"]),
            from_zero("Memory of the process", "GiB", &["memory"]),
        ],
    },
];

/// Figures that are no curve.
const LEFT_OUT: [&str; 1] = ["time"];

/// Adds a plot of every figure: those that are known by their place, any other in the last part.
pub fn add(page: &mut Page, history: &History) -> anyhow::Result<()> {
    let mut shown: Vec<&str> = LEFT_OUT.into();
    for part in PARTS {
        let mut drawings = Vec::new();
        for chart in part.charts {
            let names: Vec<&str> = history.names().filter(|name| chart.takes(name)).collect();
            shown.extend(&names);
            drawings.extend(drawing(&names, chart.title, chart.value, chart.from_zero, history)?);
        }
        section(page, part.heading, &drawings);
    }
    let rest = history.names().filter(|name| !shown.contains(name));
    let drawings = rest.filter_map(|name| drawing(&[name], name, "value", false, history).transpose());
    section(page, "Other figures", &drawings.collect::<anyhow::Result<Vec<_>>>()?);
    Ok(())
}

/// Names of a run's held-out figures.
pub fn held_out(history: &History) -> impl Iterator<Item = &str> {
    history.names().filter(|name| name.starts_with("validation_"))
}

/// Adds a plot of every held-out figure that another run has, too, with a curve for each run.
pub fn beside(
    page: &mut Page,
    name: &str,
    history: &History,
    others: &[(String, History)],
) -> anyhow::Result<()> {
    let mut drawings = Vec::new();
    for figure in held_out(history) {
        let runs =
            std::iter::once((name, history)).chain(others.iter().map(|(name, run)| (name.as_str(), run)));
        let curve = |(index, (name, run)): (usize, (&str, &History))| {
            let points: Vec<_> =
                run.figure(figure).iter().map(|(step, value)| (*step as f64, *value)).collect();
            (!points.is_empty()).then(|| Curve { name: name.to_owned(), points, colour: colour(index) })
        };
        let drawn: Vec<Curve> = runs.enumerate().filter_map(curve).collect();
        if drawn.len() > 1 {
            let axes = Axes { title: &label(figure), value: "", from_zero: false };
            drawings.push(curves(&axes, &drawn)?);
        }
    }
    section(page, "Beside other runs", &drawings);
    Ok(())
}

fn section(page: &mut Page, heading: &str, drawings: &[String]) {
    if !drawings.is_empty() {
        page.heading(heading);
        page.drawings(drawings);
    }
}

fn drawing(
    names: &[&str],
    title: &str,
    value: &str,
    from_zero: bool,
    history: &History,
) -> anyhow::Result<Option<String>> {
    let curve = |(index, name): (usize, &&str)| {
        let unit = if *name == "memory" { f64::from(1 << 30) } else { 1.0 };
        let points = history.figure(name).iter().map(|(step, value)| (*step as f64, value / unit)).collect();
        // The title says what losses of sub-models these are.
        let name = label(name);
        let name = name.split_once("loss, ").map_or(name.as_str(), |(_, p)| p).to_owned();
        Curve { name, points, colour: colour(index) }
    };
    let drawn: Vec<Curve> = names.iter().enumerate().map(curve).collect();
    if drawn.is_empty() {
        return Ok(None);
    }
    curves(&Axes { title, value, from_zero }, &drawn).map(Some)
}

impl Chart {
    fn takes(&self, name: &str) -> bool {
        self.figures.iter().any(|figure| match figure.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *figure,
        })
    }
}

/// A figure's name as it is read.
pub fn label(name: &str) -> String {
    let (held_out, name) = match name.strip_prefix("validation_") {
        Some(name) => ("held-out ", name),
        None => ("", name),
    };
    let name = match (name, name.strip_prefix("loss_p")) {
        (_, Some(p)) => format!("loss, p = {p}"),
        ("psnr", _) => "PSNR, dB".into(),
        ("ssim", _) => "SSIM".into(),
        ("rfid", _) => "rFID".into(),
        ("l1", _) => "absolute error".into(),
        ("l2", _) => "squared error".into(),
        ("logits_real", _) => "real pictures".into(),
        ("logits_rebuilt", _) => "rebuilt pictures".into(),
        (other, _) => other.replace('_', " "),
    };
    format!("{held_out}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_drawn_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("metrics.jsonl"),
            concat!(
                "{\"step\":5,\"steps\":9,\"time\":1.0,\"loss_p1\":6.0,\"loss_p8\":6.5,\"lambda\":1.0,\"odd\":2}\n",
                "{\"step\":9,\"steps\":9,\"time\":2.0,\"loss_p1\":5.0,\"loss_p8\":5.5,\"lambda\":0.0,\"odd\":3}\n",
            ),
        )
        .unwrap();
        let mut page = Page::new("run");
        add(&mut page, &History::read(folder.path()).unwrap()).unwrap();
        let html = page.finish();
        assert_eq!(html.matches("<svg").count(), 3);
        for part in ["p = 1", "p = 8", "Lambda", "Other figures", "odd", "nats"] {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("Codebook"), "an empty part is left out");
    }

    #[test]
    fn runs_stand_beside_each_other_where_both_have_a_figure() {
        let folder = tempfile::tempdir().unwrap();
        let history = |name: &str, figures: &str| {
            let run = folder.path().join(name);
            std::fs::create_dir(&run).unwrap();
            let line = format!("{{\"step\":5,\"steps\":9,\"time\":1.0,{figures}}}\n");
            std::fs::write(run.join("metrics.jsonl"), line).unwrap();
            History::read(&run).unwrap()
        };
        let own = history("a", "\"validation_loss_p1\":6.0,\"validation_loss_p8\":6.5,\"loss\":7.0");
        let other = ("plain".to_owned(), history("b", "\"validation_loss_p1\":6.1,\"loss\":7.0"));
        let mut page = Page::new("run");
        beside(&mut page, "nested", &own, &[other]).unwrap();
        let html = page.finish();
        assert_eq!(html.matches("<svg").count(), 1);
        assert!(html.contains("held-out loss, p = 1") && html.contains("nested") && html.contains("plain"));
    }

    #[test]
    fn labels() {
        assert_eq!(label("validation_loss_p4"), "held-out loss, p = 4");
        assert_eq!(label("validation_psnr"), "held-out PSNR, dB");
        assert_eq!(label("gradient_norm"), "gradient norm");
    }
}
