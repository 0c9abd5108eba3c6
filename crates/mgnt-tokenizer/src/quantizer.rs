//! The nearest of a learned codebook, its losses, and how the codebook is used.

use burn::module::{Module, Param, ParamId};
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::products::Products;

/// A codebook `[V, D]`.
#[derive(Module, Debug)]
pub struct Quantizer {
    codebook: Param<Tensor<2>>,
    #[module(skip)]
    products: Products,
}

/// What quantizing a batch for training gives; losses are `[1]`.
#[derive(Debug)]
pub struct Quantized {
    /// Codes in the place of latents, `[R, D]`; gradients pass straight through to the latents.
    pub codes: Tensor<2>,
    /// Numbers of the codes, `[R]`.
    pub indices: Tensor<1, Int>,
    /// Mean squared distance of codes to held latents: moves the codebook.
    pub codebook_loss: Tensor<1>,
    /// Mean squared distance of latents to held codes: moves the encoder.
    pub commitment_loss: Tensor<1>,
    /// Mean entropy of each latent's soft assignment less the entropy of their mean: low where each latent is
    /// sure and all codes are used.
    pub entropy_loss: Tensor<1>,
}

/// In the place of a code's number where there is none.
pub(crate) const NO_CODE: i32 = -1;

/// Temperature of the soft assignment in the entropy loss (MaskGIT's and MAGVIT's).
const ENTROPY_TEMPERATURE: f64 = 0.01;

impl Quantizer {
    /// A random codebook, drawn when it is first asked for.
    pub fn new(codes: usize, width: usize, device: &Device) -> Self {
        let shape = [codes, width];
        let init = move |device: &Device, tracked: bool| {
            let codebook = Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device);
            if tracked { codebook.require_grad() } else { codebook }
        };
        Self {
            codebook: Param::uninitialized(ParamId::new(), init, device.clone(), true, shape.into()),
            products: Products::default(),
        }
    }

    /// With distances as exact as `f32` on tensor cores too.
    pub(crate) fn with_exact_products(mut self) -> Self {
        self.products = Products::InParts;
        self
    }

    /// Number of codes and their width.
    pub fn dims(&self) -> [usize; 2] {
        self.codebook.dims()
    }

    /// Numbers `[R]` of the codes nearest to `latents [R, D]`; ties go to the lowest.
    pub fn nearest(&self, latents: Tensor<2>) -> Tensor<1, Int> {
        self.distances(latents).argmin(1).flatten(0, 1)
    }

    /// As [`nearest`](Self::nearest), with [`NO_CODE`] for latents that are not at finite distances from all codes: by what is
    /// no number, any code would be as near.
    pub(crate) fn nearest_if_finite(&self, latents: Tensor<2>) -> Tensor<1, Int> {
        let distances = self.distances(latents);
        // A sum is no number where one of its terms is none.
        let is_lost = distances.clone().sum_dim(1).is_finite().bool_not();
        distances.argmin(1).mask_fill(is_lost, NO_CODE).flatten(0, 1)
    }

    /// Codes `[R, D]` of their numbers `[R]`.
    pub fn lookup(&self, indices: Tensor<1, Int>) -> Tensor<2> {
        self.codebook.val().select(0, indices)
    }

    /// Quantizes `latents [R, D]` for training.
    pub fn forward_train(&self, latents: Tensor<2>) -> Quantized {
        let distances = self.distances(latents.clone());
        let indices = distances.clone().argmin(1).flatten(0, 1);
        let codes = self.lookup(indices.clone());
        let mean_square = |a: Tensor<2>, b: Tensor<2>| {
            let difference = a - b;
            (difference.clone() * difference).mean()
        };
        Quantized {
            codebook_loss: mean_square(codes.clone(), latents.clone().detach()),
            commitment_loss: mean_square(latents.clone(), codes.clone().detach()),
            entropy_loss: entropy_loss(distances),
            codes: latents.clone() + (codes - latents).detach(),
            indices,
        }
    }

    /// Squared Euclidean distances `[R, V]`.
    fn distances(&self, latents: Tensor<2>) -> Tensor<2> {
        let codebook = self.codebook.val();
        let square = |t: Tensor<2>| (t.clone() * t).sum_dim(1);
        square(latents.clone()) - self.products.matmul(latents, codebook.clone().transpose()) * 2.0
            + square(codebook).transpose()
    }

    /// Replaces the codes numbered in `dead` by latents of this batch, picked at random from the seed.
    /// The parameter keeps its identity, so that optimiser state still finds it.
    pub fn revive(self, dead: &[usize], latents: &[f32], seed: u64) -> Self {
        let [codes, width] = self.dims();
        let rows = latents.len() / width;
        if dead.is_empty() || rows == 0 {
            return self;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut is_new, mut values) = (vec![false; codes * width], vec![0.0; codes * width]);
        for &code in dead.iter().filter(|&&code| code < codes) {
            let (row, place) = (rng.random_range(0..rows), code * width..(code + 1) * width);
            is_new[place.clone()].fill(true);
            values[place].copy_from_slice(&latents[row * width..(row + 1) * width]);
        }
        let codebook = self.codebook.map(|old| {
            let options = (&old.device(), old.dtype());
            let is_new = Tensor::from_data(TensorData::new(is_new, [codes, width]), options.0);
            let values = Tensor::from_data(TensorData::new(values, [codes, width]), options);
            let new = old.clone().mask_where(is_new, values).detach();
            if old.is_require_grad() { new.require_grad() } else { new }
        });
        Self { codebook, ..self }
    }
}

fn entropy_loss(distances: Tensor<2>) -> Tensor<1> {
    let affinity = distances * (-1.0 / ENTROPY_TEMPERATURE);
    let probabilities = softmax(affinity.clone(), 1);
    let each = -(probabilities.clone() * log_softmax(affinity, 1)).sum_dim(1).mean();
    let mean = probabilities.mean_dim(0);
    let all = -(mean.clone() * (mean + 1e-5).log()).sum();
    each - all
}

/// How often each code was used.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeUsage {
    counts: Vec<u64>,
}

impl CodeUsage {
    /// No code used yet, of `codes`.
    pub fn new(codes: usize) -> Self {
        Self { counts: vec![0; codes] }
    }

    /// Uses counted before, by code.
    pub fn from_counts(counts: Vec<u64>) -> Self {
        Self { counts }
    }

    /// Uses by code.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Counts one use each; numbers out of range are not counted.
    pub fn add(&mut self, indices: impl IntoIterator<Item = usize>) {
        for index in indices {
            if let Some(count) = self.counts.get_mut(index) {
                *count += 1;
            }
        }
    }

    /// Share of the codes used at least once.
    pub fn used(&self) -> f64 {
        self.counts.iter().filter(|&&count| count > 0).count() as f64 / self.counts.len().max(1) as f64
    }

    /// Exponential of the entropy of the use: the number of codes if all are used alike.
    pub fn perplexity(&self) -> f64 {
        let total: u64 = self.counts.iter().sum();
        let shares = self.counts.iter().filter(|&&c| c > 0).map(|&c| c as f64 / total as f64);
        if total == 0 { 0.0 } else { (-shares.map(|p| p * p.ln()).sum::<f64>()).exp() }
    }

    /// Codes never used.
    pub fn dead(&self) -> Vec<usize> {
        (0..self.counts.len()).filter(|&i| self.counts[i] == 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantizer(device: &Device) -> Quantizer {
        let codebook = Tensor::from_floats([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], device);
        Quantizer { codebook: Param::from_tensor(codebook), products: Products::default() }
    }

    fn one(tensor: Tensor<1>) -> f32 {
        tensor.into_scalar::<f32>()
    }

    #[test]
    fn the_nearest_by_hand() {
        let device = Device::flex();
        let latents = Tensor::from_floats([[0.9, 0.1], [0.1, 1.4], [0.5, 0.0], [-3.0, -1.0]], &device);
        let indices = quantizer(&device).nearest(latents).into_data().convert::<i64>();
        assert_eq!(indices.try_into_vec::<i64>().unwrap(), [1, 2, 0, 0]);
    }

    #[test]
    fn losses_and_where_their_gradients_go() {
        let device = Device::flex().autodiff();
        let quantizer = quantizer(&device);
        let latents = Tensor::<2>::from_floats([[0.8, 0.0], [0.0, 1.0]], &device).require_grad();
        let out = quantizer.forward_train(latents.clone());
        // Nearest: code 1 (distance 0.04), then code 0 (1.0, lower than code 2 at 1.0 as well).
        assert!((one(out.codebook_loss.clone()) - 1.04 / 4.0).abs() < 1e-6);
        assert!((one(out.commitment_loss.clone()) - 1.04 / 4.0).abs() < 1e-6);
        let grads = out.codebook_loss.backward();
        assert!(latents.grad(&grads).is_none_or(|g| g.abs().sum().into_scalar::<f32>() == 0.0));
        assert!(quantizer.codebook.val().grad(&grads).unwrap().abs().sum().into_scalar::<f32>() > 0.0);
        let grads = out.commitment_loss.backward();
        // 2 (latent - code) / 4.
        let moved = latents.grad(&grads).unwrap().into_data().try_into_vec::<f32>().unwrap();
        assert!(moved.iter().zip([-0.1, 0.0, 0.0, 0.5]).all(|(a, b)| (a - b).abs() < 1e-6), "{moved:?}");
        let codebook = quantizer.codebook.val().grad(&grads);
        assert!(codebook.is_none_or(|g| g.abs().sum().into_scalar::<f32>() == 0.0));
        let grads = out.codes.sum().backward();
        let straight = latents.grad(&grads).unwrap().into_data().try_into_vec::<f32>().unwrap();
        assert_eq!(straight, [1.0; 4]);
    }

    #[test]
    fn entropy_falls_when_codes_are_sure_and_spread() {
        let device = Device::flex();
        let far = 10.0;
        let spread = Tensor::from_floats([[0.0, far], [far, 0.0]], &device);
        let alike = Tensor::from_floats([[0.0, far], [0.0, far]], &device);
        assert!((one(entropy_loss(spread)) + 2.0f32.ln()).abs() < 1e-3);
        assert!(one(entropy_loss(alike)).abs() < 1e-3);
        // Two temperatures of 0.01 apart: neither sure nor unsure.
        let sure = 1.0 / (1.0 + (-2.0f32).exp());
        let each = -(sure * sure.ln() + (1.0 - sure) * (1.0 - sure).ln());
        let near = Tensor::from_floats([[0.0, 0.02], [0.02, 0.0]], &device);
        assert!((one(entropy_loss(near)) - (each - 2.0f32.ln())).abs() < 1e-3);
    }

    #[test]
    fn usage_and_revival() {
        let mut usage = CodeUsage::new(4);
        usage.add([0, 0, 2, 2, 9]);
        assert_eq!((usage.used(), usage.dead()), (0.5, vec![1, 3]));
        assert!((usage.perplexity() - 2.0).abs() < 1e-12);

        let device = Device::flex();
        let before = quantizer(&device);
        let id = before.codebook.id;
        let after = before.revive(&[1], &[7.0, 8.0], 0);
        assert_eq!(after.codebook.id, id);
        let values = after.codebook.val().into_data().try_into_vec::<f32>().unwrap();
        assert_eq!(values, [0.0, 0.0, 7.0, 8.0, 0.0, 2.0]);
    }
}
