//! The page that a demonstration leaves.

use mgnt_decode::{Ledger, Line};
use mgnt_model::ModelConfig;

use super::compared::Compared;
use super::shipped::GUIDANCE;
use crate::output::page::Page;

/// What stands on it.
pub struct Parts<'a> {
    pub trained: (&'a ModelConfig, &'a Compared),
    pub shipped: Option<(&'a ModelConfig, &'a Compared)>,
    /// Held-out pictures above what the tokenizer makes of them, as PNG.
    pub rebuilt: &'a [u8],
    pub reconstruction_psnr: f64,
    /// Time of the whole demonstration, where it was made in one go.
    pub seconds: Option<f64>,
}

impl Parts<'_> {
    /// The page as HTML.
    pub fn page(&self) -> String {
        let mut page = Page::new("mgnt: nested transformers with decode-time scaling");
        let (config, compared) = self.trained;
        page.paragraph(&format!(
            "One set of weights holds the sub-models {:?}: sub-model p has 1/p of the heads and hidden units. Everything \
             below is decoded from the same seeds, by the full model in every iteration (1x12) and by small sub-models \
             first with a cache of keys and values ({}).",
            config.sub_models, compared.figures.schedule.schedule,
        ));
        if let Some((config, compared)) = self.shipped {
            page.heading("Photos");
            page.paragraph(&format!(
                "A transformer of {:.2} M parameters that comes with mgnt, trained on two processor cores on Imagenette \
                 at 64 px; assets/imagenette64/README.md says how long, and what it cannot do. Both decodes have guidance \
                 {GUIDANCE}, which takes two copies of each picture.",
                config.parameters() as f64 / 1e6
            ));
            decodes(&mut page, compared);
        }
        page.heading("Drawn shapes");
        let took = self.seconds.map(|seconds| format!("; the whole demonstration took {seconds:.0} s"));
        page.paragraph(&format!(
            "A tokenizer and a transformer of {:.2} M parameters, trained here on {} classes of drawn shapes{}.",
            config.parameters() as f64 / 1e6,
            config.classes,
            took.unwrap_or_default(),
        ));
        decodes(&mut page, compared);
        page.figure(
            self.rebuilt,
            "png",
            &format!(
                "Held-out pictures, and what the tokenizer rebuilds of them (PSNR {:.2} dB)",
                self.reconstruction_psnr
            ),
        );
        page.finish()
    }
}

/// Pictures, compute and times of both decodes.
fn decodes(page: &mut Page, compared: &Compared) {
    let figures = &compared.figures;
    let (baseline, schedule) = (&figures.baseline, &figures.schedule);
    page.figure(
        &compared.grid,
        "png",
        "Generated pictures: rows of the baseline, each above the schedule's from the same seeds",
    );
    page.figure(
        &compared.animation,
        "gif",
        "The schedule at work: iteration i by sub-model p; grey cells are still masked",
    );
    let row = |name: &str, ledger: &Ledger| {
        vec![
            name.to_owned(),
            format!("{:.4}", ledger.gflops),
            format!("{:.2}x", ledger.less_compute),
            format!("{:.1}", ledger.milliseconds.unwrap_or(0.0) / ledger.batch as f64),
        ]
    };
    page.table(
        "Compute and time of one picture",
        &["decode", "GFLOPs", "less compute", "ms"],
        &[row("1x12, no cache", baseline), row(&format!("{}, cache", schedule.schedule), schedule)],
    );
    page.table(
        "What the pictures say without a network to judge them",
        &["measure", "value"],
        &[
            vec!["faster in wall clock".into(), format!("{:.2}x", figures.faster)],
            vec![
                "tokens that both decodes agree on, from the same seeds".into(),
                format!("{:.1} %", 100.0 * figures.code_agreement),
            ],
            vec![
                "the same for two pictures of one class".into(),
                format!("{:.1} %", 100.0 * figures.agreement_by_chance),
            ],
        ],
    );
    let lines = |ledger: &Ledger| -> Vec<Vec<String>> {
        let line = |l: &Line| {
            vec![
                format!("{}{}", l.iteration, if l.refresh { " *" } else { "" }),
                l.p.to_string(),
                l.processed.to_string(),
                l.revealed.to_string(),
                format!("{:.4}", l.gflops),
                format!("{:.1}", l.milliseconds.unwrap_or(0.0) / ledger.batch as f64),
            ]
        };
        ledger.iterations.iter().map(line).collect()
    };
    let head = ["iteration", "p", "tokens processed", "revealed", "GFLOPs", "ms"];
    page.table("The schedule, iteration by iteration (* = cache made anew)", &head, &lines(schedule));
    page.table("The baseline", &head, &lines(baseline));
}
