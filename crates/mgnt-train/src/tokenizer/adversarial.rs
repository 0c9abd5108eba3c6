//! Losses of the game between a tokenizer and its discriminator, over logits `[n]`; all give `[1]`.

use burn::tensor::Tensor;
use burn::tensor::activation::{relu, softplus};
use serde::{Deserialize, Serialize};

/// What both sides minimise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdversarialLoss {
    /// Cross-entropy, the tokenizer's with the sign that keeps its gradient where the discriminator is sure
    /// (Goodfellow et al., 2014; StyleGAN2's, MaskGIT's and MAGVIT's).
    NonSaturating,
    /// Logits beyond one are of no more interest to the discriminator (Lim and Ye, 2017; VQGAN's).
    Hinge,
}

impl AdversarialLoss {
    /// The discriminator's loss.
    pub fn discriminator(self, real: Tensor<1>, rebuilt: Tensor<1>) -> Tensor<1> {
        match self {
            Self::NonSaturating => softplus(-real, 1.0).mean() + softplus(rebuilt, 1.0).mean(),
            Self::Hinge => (relu(-real + 1.0).mean() + relu(rebuilt + 1.0).mean()) * 0.5,
        }
    }

    /// The tokenizer's loss.
    pub fn generator(self, rebuilt: Tensor<1>) -> Tensor<1> {
        match self {
            Self::NonSaturating => softplus(-rebuilt, 1.0).mean(),
            Self::Hinge => -rebuilt.mean(),
        }
    }
}

/// Long-run means of the discriminator's logits, from which LeCAM's regularisation holds new ones back (Tseng et al.,
/// CVPR 2021): where data is scarce, the discriminator would else learn its pictures by heart.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Lecam {
    means: Option<Means>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Means {
    real: f64,
    rebuilt: f64,
}

/// Decay of the long-run means (the published code's).
const DECAY: f64 = 0.99;

impl Lecam {
    /// The penalty: squares of how far real logits lie above the long-run mean of rebuilt ones, and rebuilt ones below
    /// that of real ones. Zero before the first update.
    pub fn penalty(&self, real: Tensor<1>, rebuilt: Tensor<1>) -> Tensor<1> {
        let Some(means) = self.means else { return real.sum().mul_scalar(0.0) };
        let above = relu(real - means.rebuilt);
        let below = relu(-rebuilt + means.real);
        (above.clone() * above).mean() + (below.clone() * below).mean()
    }

    /// Takes in the mean logits of a step.
    pub fn update(&mut self, real: f64, rebuilt: f64) {
        let blend = |old: f64, new: f64| DECAY * old + (1.0 - DECAY) * new;
        self.means = Some(match self.means {
            Some(old) => Means { real: blend(old.real, real), rebuilt: blend(old.rebuilt, rebuilt) },
            None => Means { real, rebuilt },
        });
    }

    /// Its state in words for a checkpoint.
    pub fn memory(&self) -> [u64; 3] {
        match self.means {
            Some(means) => [1, means.real.to_bits(), means.rebuilt.to_bits()],
            None => [0; 3],
        }
    }

    /// The state that [`Self::memory`] gave.
    pub fn from_memory(memory: [u64; 3]) -> Self {
        let [known, real, rebuilt] = memory;
        let means = Means { real: f64::from_bits(real), rebuilt: f64::from_bits(rebuilt) };
        Self { means: (known == 1).then_some(means) }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn logits(values: &[f32]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    fn close(got: Tensor<1>, expected: f64) {
        let got = f64::from(got.into_scalar::<f32>());
        assert!((got - expected).abs() < 1e-6, "{got} {expected}");
    }

    #[test]
    fn losses_by_hand() {
        let (real, rebuilt) = (logits(&[0.5, 2.0]), logits(&[-0.5, 1.0]));
        let loss = AdversarialLoss::Hinge;
        // Half of (0.5 + 0) / 2 and of (0.5 + 2) / 2.
        close(loss.discriminator(real.clone(), rebuilt.clone()), 0.75);
        close(loss.generator(rebuilt.clone()), -0.25);
        let softplus = |x: f64| x.exp().ln_1p();
        let loss = AdversarialLoss::NonSaturating;
        let expected = (softplus(-0.5) + softplus(-2.0) + softplus(-0.5) + softplus(1.0)) / 2.0;
        close(loss.discriminator(real, rebuilt.clone()), expected);
        close(loss.generator(rebuilt), (softplus(0.5) + softplus(-1.0)) / 2.0);
    }

    /// A logit that a float's exponential cannot take.
    #[test]
    fn sure_logits_stay_finite() {
        let loss = AdversarialLoss::NonSaturating;
        close(loss.generator(logits(&[-200.0])), 200.0);
        close(loss.discriminator(logits(&[200.0]), logits(&[-200.0])), 0.0);
    }

    #[test]
    fn lecam_by_hand() {
        let (real, rebuilt) = (logits(&[1.0, -3.0]), logits(&[0.5, 4.0]));
        let mut lecam = Lecam::default();
        close(lecam.penalty(real.clone(), rebuilt.clone()), 0.0);
        lecam.update(2.0, -1.0);
        // Real above -1: 2 and 0. Rebuilt below 2: 1.5 and 0.
        close(lecam.penalty(real, rebuilt), (4.0 + 2.25) / 2.0);
        lecam.update(3.0, 0.0);
        assert_eq!(lecam.means.map(|m| m.real), Some(0.99 * 2.0 + (1.0 - 0.99) * 3.0));
        assert_eq!(Lecam::from_memory(lecam.memory()), lecam);
        assert_eq!(Lecam::from_memory(Lecam::default().memory()), Lecam::default());
    }
}
