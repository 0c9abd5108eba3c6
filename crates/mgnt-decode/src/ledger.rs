//! What was planned beside what was measured.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Plan;

/// Planned compute and measured time of a decode, iteration by iteration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// The model schedule, as written.
    pub schedule: String,
    /// Samples decoded together; FLOPs and bytes below are of one.
    pub batch: usize,
    /// A line an iteration.
    pub iterations: Vec<Line>,
    /// GFLOPs of one sample.
    pub gflops: f64,
    /// GFLOPs of one sample with the full model in every iteration and no cache.
    pub baseline_gflops: f64,
    /// `baseline_gflops / gflops`.
    pub less_compute: f64,
    /// Time of all iterations, where they ran.
    pub milliseconds: Option<f64>,
    /// The part of it after the logits: drawing, scoring and deciding; absent where it was not waited for.
    pub sampling_milliseconds: Option<f64>,
}

/// One iteration of a ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// 0-based.
    pub iteration: usize,
    /// Downscaling factor of the sub-model.
    pub p: usize,
    /// Whether the cache was made anew.
    pub refresh: bool,
    /// Positions processed.
    pub processed: usize,
    /// Tokens masked at its start.
    pub masked: usize,
    /// Tokens decided in it.
    pub revealed: usize,
    /// GFLOPs of one sample.
    pub gflops: f64,
    /// Bytes of one sample's buffers of keys and values for the next iteration, as planned, in f32.
    pub cache_bytes: u64,
    /// Bytes of the buffers that were held after it for the whole batch, by the shapes and type of its
    /// tensors, where it ran.
    pub cache_held: Option<u64>,
    /// Measured time of the whole batch, where it ran and was waited for.
    pub milliseconds: Option<f64>,
}

impl Ledger {
    /// The planned side, for `batch` samples.
    pub fn new(plan: &Plan, batch: usize) -> Self {
        let iterations = plan
            .iterations()
            .iter()
            .map(|i| Line {
                iteration: i.index,
                p: i.sub_model.p(),
                refresh: i.refresh,
                processed: i.active,
                masked: i.masked,
                revealed: i.decided,
                gflops: i.flops as f64 / 1e9,
                cache_bytes: i.cache_bytes,
                cache_held: None,
                milliseconds: None,
            })
            .collect();
        Self {
            schedule: plan.strategy().models.to_string(),
            batch,
            iterations,
            gflops: plan.flops() as f64 / 1e9,
            baseline_gflops: plan.baseline_flops() as f64 / 1e9,
            less_compute: plan.baseline_flops() as f64 / plan.flops() as f64,
            milliseconds: None,
            sampling_milliseconds: None,
        }
    }

    /// Enters the bytes of the cache that an iteration left, and its time and the part of that after the logits, where
    /// they were waited for.
    pub(crate) fn record(
        &mut self,
        iteration: usize,
        cache_held: u64,
        time: Option<Duration>,
        sampling: Option<Duration>,
    ) {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let line = &mut self.iterations[iteration];
        (line.cache_held, line.milliseconds) = (Some(cache_held), time.map(milliseconds));
        if let Some(time) = time {
            *self.milliseconds.get_or_insert(0.0) += milliseconds(time);
        }
        if let Some(sampling) = sampling {
            *self.sampling_milliseconds.get_or_insert(0.0) += milliseconds(sampling);
        }
    }

    /// Enters the time of all iterations together, where no single one was waited for.
    pub(crate) fn end(&mut self, time: Duration) {
        self.milliseconds.get_or_insert(time.as_secs_f64() * 1e3);
    }

    /// Takes in another part of the batch that was decoded at the same time: the slower one counts.
    pub(crate) fn beside(&mut self, other: &Ledger) {
        let slower = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a.max(b));
        self.batch += other.batch;
        self.milliseconds = slower(self.milliseconds, other.milliseconds);
        self.sampling_milliseconds = slower(self.sampling_milliseconds, other.sampling_milliseconds);
        for (line, other) in self.iterations.iter_mut().zip(&other.iterations) {
            line.cache_held = line.cache_held.zip(other.cache_held).map(|(a, b)| a + b);
            line.milliseconds = slower(line.milliseconds, other.milliseconds);
        }
    }

    /// Adds the times of another batch decoded by the same plan, where both have them; of bytes held the larger number counts.
    pub fn add(&mut self, other: &Ledger) {
        self.batch += other.batch;
        // The time of one batch alone is not that of both.
        let sum = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a + b);
        self.milliseconds = sum(self.milliseconds, other.milliseconds);
        self.sampling_milliseconds = sum(self.sampling_milliseconds, other.sampling_milliseconds);
        for (line, other) in self.iterations.iter_mut().zip(&other.iterations) {
            line.cache_held = line.cache_held.max(other.cache_held);
            line.milliseconds = sum(line.milliseconds, other.milliseconds);
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |t: Option<f64>| t.map_or("-".into(), |t| format!("{t:.1}"));
        writeln!(f, " i   p  tokens processed  masked  revealed     GFLOPs  cache MiB         ms")?;
        for line in &self.iterations {
            writeln!(
                f,
                "{:>2} {:>3}  {:>15}{}  {:>6}  {:>8} {:>10.4} {:>10.2} {:>10}",
                line.iteration,
                line.p,
                line.processed,
                if line.refresh { "*" } else { " " },
                line.masked,
                line.revealed,
                line.gflops,
                line.cache_bytes as f64 / f64::from(1 << 20),
                time(line.milliseconds),
            )?;
        }
        let revealed: usize = self.iterations.iter().map(|line| line.revealed).sum();
        writeln!(
            f,
            "sum {:>18}  {:>16} {:>12.2} {:>21}",
            "",
            revealed,
            self.gflops,
            time(self.milliseconds)
        )?;
        writeln!(
            f,
            "{:.2}x less compute than 1x{} without a cache ({:.2} GFLOPs); * = cache made anew",
            self.less_compute,
            self.iterations.len(),
            self.baseline_gflops
        )
    }
}

#[cfg(test)]
mod tests {
    use mgnt_model::{ModelConfig, Preset};

    use super::*;
    use crate::Strategy;

    #[test]
    fn totals_and_times() {
        let plan = Strategy::parse("8x3,4x3,2x3,1x3").unwrap().plan(&ModelConfig::preset(Preset::L)).unwrap();
        let mut ledger = Ledger::new(&plan, 4);
        assert_eq!((ledger.gflops * 100.0).round(), 63213.0);
        assert_eq!((ledger.less_compute * 100.0).round(), 308.0);
        let text = ledger.to_string();
        assert!(text.contains("3.08x less compute than 1x12 without a cache (1949.30 GFLOPs)"), "{text}");
        for i in 0..12 {
            ledger.record(i, 0, Some(Duration::from_millis(10)), Some(Duration::from_millis(1)));
        }
        ledger.end(Duration::from_millis(500));
        let twice = {
            let mut twice = ledger.clone();
            twice.add(&ledger);
            twice
        };
        assert!((twice.sampling_milliseconds.unwrap() - 24.0).abs() < 1e-9);
        assert_eq!((ledger.milliseconds, twice.milliseconds, twice.batch), (Some(120.0), Some(240.0), 8));
        assert_eq!(twice.iterations[3].milliseconds, Some(20.0));
        // Of a batch whose iterations were not waited for there is the whole alone.
        let mut resident = Ledger::new(&plan, 4);
        resident.end(Duration::from_millis(500));
        for (mut sum, other) in [(ledger.clone(), &resident), (resident.clone(), &ledger)] {
            sum.add(other);
            assert_eq!((sum.milliseconds, sum.sampling_milliseconds), (Some(620.0), None));
            assert!(sum.iterations.iter().all(|line| line.milliseconds.is_none()));
        }
    }
}
