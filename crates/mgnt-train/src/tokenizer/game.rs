//! A step of the game: both sides' losses from one pass of the tokenizer, for one backward.

use burn::module::Module;
use burn::tensor::Tensor;
use mgnt_tokenizer::{ImageTokenizer, Rebuilt};

use super::{AdversarialWeight, Adversary, Discriminator, Lecam};
use crate::Error;
use crate::task::number;

/// Terms of a loss over pictures.
#[derive(Debug)]
pub(super) struct Terms {
    /// What is minimised, `[1]`.
    pub loss: Tensor<1>,
    /// Parts of it and other figures, by name.
    pub figures: Vec<(&'static str, Tensor<1>)>,
}

/// The losses of both sides together.
#[derive(Debug)]
pub(super) struct Played {
    pub terms: Terms,
    /// The discriminator's mean logits of real and of rebuilt pictures.
    pub logits: [f64; 2],
}

/// Names of the figures that a step of the game tells.
pub(super) const FIGURES: [&str; 6] =
    ["generator", "adversarial_weight", "discriminator", "logits_real", "logits_rebuilt", "lecam"];

/// Keeps the adaptive weight finite, and bounds it (VQGAN's).
const LEAST_NORM: f64 = 1e-4;
const LARGEST_WEIGHT: f64 = 1e4;

/// Plays a step; `error` gives the loss of rebuilt pictures without the game.
///
/// The gradients of the error and of the tokenizer's side over pixels are taken first, each on a tape of its own, so
/// that the weight can be set from them before their sum goes on through the decoder: the discriminator and a
/// perceptual network are walked backwards once. The discriminator learns from the same pictures, held.
pub(super) fn play(
    adversary: &Adversary,
    tokenizer: &ImageTokenizer,
    discriminator: &Discriminator,
    lecam: &Lecam,
    out: &Rebuilt,
    input: Tensor<4>,
    error: impl FnOnce(Tensor<4>) -> Result<Terms, Error>,
) -> Result<Played, Error> {
    let rebuilt = out.pictures.clone().detach();
    let (mut terms, by_error) = at_pixels(rebuilt.clone(), error)?;
    let judge = discriminator.clone().no_grad();
    let (generator, by_judge) = at_pixels(rebuilt.clone(), |pixels| {
        Ok(Terms { loss: adversary.loss.generator(judge.forward(pixels)), figures: Vec::new() })
    })?;
    let weight = match adversary.weight {
        AdversarialWeight::Fixed(weight) => weight,
        AdversarialWeight::Adaptive(weight) => {
            let norm = |gradient: &Tensor<4>| last_layer_norm(tokenizer, out, gradient.clone());
            let ratio = norm(&by_error)? / (norm(&by_judge)? + LEAST_NORM);
            weight * ratio.min(LARGEST_WEIGHT)
        }
    };
    // Has the gradient at the pixels that was just found, and no value of its own.
    let carrier = (out.pictures.clone() * (by_error + by_judge * weight)).sum();
    let carrier = carrier.clone() - carrier.detach();

    let (real, rebuilt) = (discriminator.forward(input), discriminator.forward(rebuilt));
    let judging = adversary.loss.discriminator(real.clone(), rebuilt.clone());
    let penalty = lecam.penalty(real.clone(), rebuilt.clone());
    let means = [real.mean().detach(), rebuilt.mean().detach()];
    terms.loss = carrier
        + terms.loss
        + generator.loss.clone() * weight
        + judging.clone()
        + penalty.clone() * adversary.lecam_weight;
    let [real, rebuilt] = means.clone();
    let weight = real.zeros_like() + weight;
    terms.figures.extend([
        ("generator", generator.loss),
        ("adversarial_weight", weight),
        ("discriminator", judging.detach()),
        ("logits_real", real),
        ("logits_rebuilt", rebuilt),
    ]);
    if adversary.lecam_weight > 0.0 {
        terms.figures.push(("lecam", penalty.detach()));
    }
    let [real, rebuilt] = means;
    Ok(Played { terms, logits: [number(real)?, number(rebuilt)?] })
}

/// Terms of held pictures without their tape, and the gradient of their loss over the pixels.
fn at_pixels(
    pictures: Tensor<4>,
    terms: impl FnOnce(Tensor<4>) -> Result<Terms, Error>,
) -> Result<(Terms, Tensor<4>), Error> {
    let pictures = pictures.require_grad();
    let Terms { loss, figures } = terms(pictures.clone())?;
    let gradients = loss.clone().backward();
    let gradient = pictures.grad(&gradients).unwrap_or_else(|| pictures.zeros_like().without_autodiff());
    let figures = figures.into_iter().map(|(name, value)| (name, value.detach())).collect();
    Ok((Terms { loss: loss.detach(), figures }, gradient))
}

/// Norm of the gradient of the decoder's last kernel, from that of its pixels.
fn last_layer_norm(tokenizer: &ImageTokenizer, out: &Rebuilt, gradient: Tensor<4>) -> Result<f64, Error> {
    let layer = tokenizer.last_layer();
    let pixels = layer.forward(out.last_input.clone().detach());
    let gradients = (pixels * gradient).sum().backward();
    let Some(gradient) = layer.weight.val().grad(&gradients) else { return Ok(0.0) };
    number((gradient.clone() * gradient).sum().sqrt())
}

#[cfg(test)]
mod tests {
    use burn::optim::GradientsParams;
    use burn::tensor::{Device, TensorData};
    use mgnt_tokenizer::{ImageTokenizerConfig, Shortcut};

    use super::*;
    use crate::tokenizer::{AdversarialLoss, DiscriminatorConfig, Judges};

    struct Table {
        tokenizer: ImageTokenizer,
        discriminator: Discriminator,
        input: Tensor<4>,
    }

    fn table() -> Table {
        let device = Device::flex();
        let taped = device.clone().autodiff();
        let config = ImageTokenizerConfig {
            size: 16,
            filters: 8,
            multipliers: vec![1, 1],
            residual_blocks: 1,
            embedding: 8,
            codes: 16,
            groups: 4,
            shortcut: Shortcut::Input,
        };
        let values: Vec<f32> = (0..2 * 3 * 256).map(|i| (i * 37 % 101) as f32 / 101.0).collect();
        Table {
            tokenizer: ImageTokenizer::init(&config, 1, &taped).unwrap(),
            discriminator: Discriminator::init(&adversary(1.0, false).discriminator, 16, 1, &taped),
            input: Tensor::from_data(TensorData::new(values, [2, 3, 16, 16]), &device),
        }
    }

    fn adversary(weight: f64, adaptive: bool) -> Adversary {
        Adversary {
            discriminator: DiscriminatorConfig {
                filters: 4,
                multipliers: vec![2, 2],
                judges: Judges::Patches,
            },
            loss: AdversarialLoss::Hinge,
            weight: if adaptive {
                AdversarialWeight::Adaptive(weight)
            } else {
                AdversarialWeight::Fixed(weight)
            },
            from_step: 0,
            lecam_weight: 0.5,
        }
    }

    fn lecam() -> Lecam {
        let mut lecam = Lecam::default();
        lecam.update(0.3, -0.4);
        lecam
    }

    fn error(rebuilt: Tensor<4>, input: &Tensor<4>) -> Tensor<1> {
        (rebuilt - input.clone()).abs().mean() * 3.0
    }

    impl Table {
        fn play(&self, adversary: &Adversary, out: &Rebuilt) -> Played {
            let error = |rebuilt| {
                let loss = error(rebuilt, &self.input);
                Ok(Terms { figures: vec![("error", loss.clone())], loss })
            };
            let input = self.input.clone();
            play(adversary, &self.tokenizer, &self.discriminator, &lecam(), out, input, error).unwrap()
        }

        /// The last layer's gradient of a loss of rebuilt pictures, by a whole backward of its own.
        fn at_last_layer(&self, loss: impl FnOnce(Tensor<4>) -> Tensor<1>) -> Vec<f32> {
            let out = self.tokenizer.forward_train(self.input.clone()).rebuilt;
            let gradients = loss(out.pictures).backward();
            values(self.tokenizer.last_layer().weight.val().grad(&gradients).unwrap())
        }
    }

    fn values<const R: usize>(tensor: Tensor<R>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    fn figure(played: &Played, name: &str) -> f64 {
        let (_, value) = played.terms.figures.iter().find(|(n, _)| *n == name).unwrap();
        f64::from(value.clone().into_scalar::<f32>())
    }

    /// Gradients of both sides, parameter by parameter, against each side's own backward.
    #[test]
    fn one_backward_serves_both_sides() {
        let table = table();
        let adversary = adversary(0.7, false);
        let out = table.tokenizer.forward_train(table.input.clone()).rebuilt;
        let played = table.play(&adversary, &out);
        let value = f64::from(played.terms.loss.clone().into_scalar::<f32>());
        let sum = figure(&played, "error")
            + 0.7 * figure(&played, "generator")
            + figure(&played, "discriminator")
            + 0.5 * figure(&played, "lecam");
        assert!((value - sum).abs() < 1e-5, "{value} {sum}");
        let together = played.terms.loss.backward();

        let judge = table.discriminator.clone().no_grad();
        let alone = table.at_last_layer(|rebuilt| {
            error(rebuilt.clone(), &table.input) + adversary.loss.generator(judge.forward(rebuilt)) * 0.7
        });
        let got = values(table.tokenizer.last_layer().weight.val().grad(&together).unwrap());
        let largest = alone.iter().fold(0.0, |m: f32, g| m.max(g.abs()));
        assert!(largest > 0.0);
        for (got, alone) in got.iter().zip(&alone) {
            assert!((got - alone).abs() < 1e-5 * largest.max(1.0), "{got} {alone}");
        }

        let held = out.pictures.detach();
        let real = table.discriminator.forward(table.input.clone());
        let rebuilt = table.discriminator.forward(held);
        let alone = adversary.loss.discriminator(real.clone(), rebuilt.clone())
            + lecam().penalty(real, rebuilt) * 0.5;
        let alone = GradientsParams::from_grads(alone.backward(), &table.discriminator);
        let together = GradientsParams::from_grads(together, &table.discriminator);
        assert_eq!(alone.len(), together.len());
        let mut check = Check { alone, together, compared: 0 };
        table.discriminator.visit(&mut check);
        assert!(check.compared > 8, "{}", check.compared);
    }

    struct Check {
        alone: GradientsParams,
        together: GradientsParams,
        compared: usize,
    }

    impl burn::module::ModuleVisitor for Check {
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
            let get = |gradients: &GradientsParams| values(gradients.get::<D>(param.id).unwrap());
            for (a, b) in get(&self.alone).iter().zip(get(&self.together)) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
            self.compared += 1;
        }
    }

    #[test]
    fn the_adaptive_weight_is_the_ratio_of_norms_at_the_last_layer() {
        let table = table();
        let out = table.tokenizer.forward_train(table.input.clone()).rebuilt;
        let played = table.play(&adversary(0.8, true), &out);
        let norm = |gradient: Vec<f32>| gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let by_error = norm(table.at_last_layer(|rebuilt| error(rebuilt, &table.input)));
        let judge = table.discriminator.clone().no_grad();
        let by_judge = norm(table.at_last_layer(|rebuilt| -judge.forward(rebuilt).mean()));
        let expected = 0.8 * by_error / (by_judge + 1e-4);
        let got = figure(&played, "adversarial_weight");
        assert!((got / expected - 1.0).abs() < 1e-4, "{got} {expected}");
    }
}
