//! A training on the terminal: a board that renews itself where standard error is one, plain lines where not.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mgnt_train::Line;

use super::screen::Shown;
use super::words::{short, spoken};

/// What is shown of a run.
pub struct Dashboard {
    rows: Rows,
    board: Option<Board>,
}

/// The board's bars, the last four of which are lines of text.
struct Board {
    screen: MultiProgress,
    bar: ProgressBar,
    rows: Vec<ProgressBar>,
    _shown: Shown,
}

/// The newest of everything.
#[derive(Default)]
struct Rows {
    pace: String,
    training: String,
    held_out: String,
    optimizer: String,
    saved: Option<usize>,
}

/// Figures of the optimiser, which have a row of their own.
const OPTIMIZER: [&str; 3] = ["lambda", "gradient_norm", "adversarial_weight"];

impl Dashboard {
    /// A board where standard error is a terminal.
    pub fn new() -> Self {
        let board = std::io::stderr().is_terminal().then(Board::new);
        Self { rows: Rows::default(), board }
    }

    /// A run begins, or goes on after `step` steps.
    pub fn started(&mut self, step: usize, steps: usize) {
        if let Some(board) = &self.board {
            board.bar.set_length(steps as u64);
            board.bar.set_position(step as u64);
        }
    }

    /// Steps were done.
    pub fn trained(&mut self, line: &Line) {
        self.rows.pace = pace(line);
        self.rows.training = figures(&line.figures, "", |name| !OPTIMIZER.contains(&name));
        let rate = line.learning_rate.map(|rate| format!("learning rate {}", short(rate)));
        let others = figures(&line.figures, "", |name| OPTIMIZER.contains(&name));
        self.rows.optimizer = rate.into_iter().chain([others]).collect::<Vec<_>>().join("  ");
        match &self.board {
            Some(board) => board.show(line.step, &self.rows),
            None => tell!("{}", self.rows.line(line)),
        }
    }

    /// Held-out data was looked at.
    pub fn validated(&mut self, line: &Line) {
        self.rows.held_out = figures(&line.figures, "validation_", |_| true);
        match &self.board {
            Some(board) => board.show(line.step, &self.rows),
            None => tell!("step {}/{}  held out: {}", line.step, line.steps, self.rows.held_out),
        }
    }

    /// A checkpoint is on disk.
    pub fn saved(&mut self, step: usize) {
        self.rows.saved = Some(step);
        if let Some(board) = &self.board {
            board.show(step, &self.rows);
        }
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        match &self.board {
            Some(board) => board.screen.suspend(|| tell!("{line}")),
            None => tell!("{line}"),
        }
    }
}

impl Drop for Dashboard {
    /// Leaves the board's last state on the screen.
    fn drop(&mut self) {
        if let Some(board) = &self.board {
            board.bar.abandon();
            board.rows.iter().for_each(ProgressBar::abandon);
        }
    }
}

impl Board {
    fn new() -> Self {
        let screen = MultiProgress::new();
        let shown = Shown::new(&screen);
        let styled = |template: &str| {
            let bar = screen.add(ProgressBar::no_length());
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
            }
            bar
        };
        let bar = styled("{wide_bar:.cyan} {pos}/{len} steps  {percent:>3} %  {elapsed}");
        bar.enable_steady_tick(Duration::from_millis(500));
        let names = ["pace", "training", "held out", "optimizer"];
        let rows = names.map(|name| styled(&format!("{name:>9}  {{wide_msg}}"))).into();
        Self { screen, bar, rows, _shown: shown }
    }

    fn show(&self, step: usize, rows: &Rows) {
        self.bar.set_position(step as u64);
        let saved = rows.saved.map_or(String::new(), |step| format!("  saved at {step}"));
        let texts = [
            format!("{}{saved}", rows.pace),
            rows.training.clone(),
            rows.held_out.clone(),
            rows.optimizer.clone(),
        ];
        self.rows.iter().zip(texts).for_each(|(row, text)| row.set_message(text));
    }
}

impl Rows {
    /// All of a step in one line.
    fn line(&self, line: &Line) -> String {
        format!("step {}/{}  {}  {}  {}", line.step, line.steps, self.training, self.optimizer, self.pace)
    }
}

/// Tokens a second, time left, memory.
fn pace(line: &Line) -> String {
    let mut parts = Vec::new();
    if let Some(pace) = line.tokens_a_second {
        parts.push(format!("{} tokens/s", short(pace)));
    }
    if let Some(seconds) = line.seconds_a_step {
        parts.push(format!("{seconds:.2} s/step"));
        parts.push(format!("left {}", spoken(seconds * (line.steps - line.step) as f64)));
    }
    if let Some(memory) = line.memory {
        parts.push(format!("memory {:.2} GiB", memory as f64 / f64::from(1 << 30)));
    }
    parts.join("  ")
}

/// Names without `prefix`, and values; sub-models as `p = 4`.
fn figures(figures: &BTreeMap<String, f64>, prefix: &str, wanted: impl Fn(&str) -> bool) -> String {
    let chosen = figures.iter().filter(|(name, _)| wanted(name));
    let texts = chosen.map(|(name, value)| {
        let name = name.strip_prefix(prefix).unwrap_or(name);
        match name.strip_prefix("loss_p") {
            Some(p) => format!("p{p} {value:.3}"),
            None => format!("{} {}", name.replace('_', " "), short(*value)),
        }
    });
    texts.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let figures = [("lambda", 0.5), ("loss", 12.5), ("loss_p1", 5.25), ("loss_p8", 5.5)];
        Line {
            step: 300,
            steps: 600,
            time: 0.0,
            learning_rate: Some(1e-3),
            seconds_a_step: Some(2.0),
            tokens_a_second: Some(2048.0),
            memory: Some(3 << 29),
            figures: figures.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }

    #[test]
    fn a_step_in_one_line() {
        let mut board = Dashboard { rows: Rows::default(), board: None };
        board.trained(&line());
        assert_eq!(
            board.rows.line(&line()),
            "step 300/600  loss 12.5  p1 5.250  p8 5.500  learning rate 1e-3  lambda 0.5  2048 tokens/s  2.00 s/step  \
             left 10 min  memory 1.50 GiB"
        );
    }
}
