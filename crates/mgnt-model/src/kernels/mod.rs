//! A block as devices compute it that have kernels for it: what stands between two products is one pass over memory.
//!
//! By a backend's operations it is several (a softmax four, over scores of which all but one are in `f32`), or, where the backend
//! fuses, as many as it can join. This module says what a kernel computes and in which order; who has a device's kernels
//! implements [`Kernels`] (`mgnt-kernels` does, for CUDA) and hands them to
//! [`NestedTransformer::with_kernels`](crate::NestedTransformer::with_kernels).

mod by_kernels;
mod dropped;
mod learned;
mod on_tape;
mod operations;
pub mod philox;

use std::fmt::Debug;

use burn::nn::LayerNorm;
use burn::tensor::{DType, Int, Tensor};

use crate::precision::full;

pub(crate) use by_kernels::{Biases, ByKernels};
pub use dropped::Dropped;
pub(crate) use learned::{Learned, LearnedBlock, LearnedHead, share, shared_norm};
pub(crate) use on_tape::{OnTape, key_of_pass};
pub use operations::Operations;

/// What every LayerNorm adds to the variance, as those of the published models do.
pub const NORM_EPSILON: f64 = 1e-12;

/// Kernels of a device, each a product with what belongs to it, or one pass. Rows are R = B * A, of B samples with A active
/// positions each; products take operands of one type and sum in `f32`.
pub trait Kernels: Debug + Send + Sync {
    /// `x [R, n]` times the first n rows and `outputs` columns of `weight`, which may be the view of a transposed one; in as
    /// many parts P of n as the device likes, which are not summed yet: `[P, R, outputs]`. A single part is of type `to`, or of
    /// `f32`; several are of `f32`.
    fn product(&self, x: Tensor<2>, weight: Tensor<2>, outputs: usize, to: DType) -> Tensor<3>;

    /// The type in which [`heads`](Self::heads) and [`gelu`](Self::gelu) take biases best where operands and results are of the
    /// type `of`; they take `f32` as well.
    fn bias_type(&self, of: DType) -> DType;

    /// Queries, keys and values from `x [R, n]`, the first n rows of `weight [_, 3 W]` and `bias [3 W]`, in the type of the
    /// buffers: queries `[B, heads, A, head width]`; keys and values into the buffers `[B, heads, room, head width]`, positions
    /// `from` to `from + A`, and zeros behind those. Returns queries and both buffers; what is before stays. A bias may be rounded to
    /// that type.
    fn heads(
        &self,
        x: Tensor<2>,
        weight: Tensor<2>,
        bias: Tensor<1>,
        keys: Tensor<4>,
        values: Tensor<4>,
        from: usize,
    ) -> Heads;

    /// Softmax attention of `queries [B, heads, A, head width]` over the first `positions` of keys and values, scores
    /// divided by the root of the head width, the softmax in `f32`: `[R, heads * head width]` in the type of the operands.
    fn attend(&self, queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, positions: usize) -> Tensor<2>;

    /// [`heads`](Self::heads) behind the first `from` positions of the buffers, and [`attend`](Self::attend) of the queries to all of
    /// the context: `[R, heads * head width]`, and the buffers, of which the first `keep` positions are the context's. Those
    /// behind are anything.
    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    fn attend_anew(
        &self,
        x: Tensor<2>,
        weight: Tensor<2>,
        bias: Tensor<1>,
        keys: Tensor<4>,
        values: Tensor<4>,
        from: usize,
        // Here all that is fresh goes into the buffers.
        _keep: usize,
    ) -> Attended {
        let ([batch, ..], [rows, _]) = (keys.dims(), x.dims());
        let Heads { queries, keys, values } = self.heads(x, weight, bias, keys, values, from);
        let mixed = self.attend(queries, keys.clone(), values.clone(), from + rows / batch);
        Attended { mixed, keys, values }
    }

    /// Tanh gelu of the product of `x [R, n]` with the first n rows and `outputs` columns of `weight`, and as many of `bias`
    /// added: `[R, outputs]` in type `to`. A bias may be rounded to that type.
    fn gelu(&self, x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>, outputs: usize, to: DType) -> Tensor<2>;

    /// LayerNorm of the residual stream `[R, D]` with a branch, its `parts [P, R, D]` and `bias [D]`, added, in `f32`: in type
    /// `to` as the next product takes it, and the stream as it goes `on`.
    fn add_norm(&self, stream: Stream, branch: Option<Branch>, norm: Scales, on: GoesOn, to: DType)
    -> Normed;

    /// LayerNorm of the sum of a token's row and a position's, in `f32`: in type `to` as the first product takes it, and the
    /// stream as it goes `on`.
    fn embed(&self, embedded: Embedded, norm: Scales, on: GoesOn, to: DType) -> Normed;

    /// `x [R, n]`, rounded to the type of `weight`, times its first n rows and `outputs` columns: `[1, R, outputs]` in that type. It
    /// may be on a tape, and copies no part of the weight.
    fn dense(&self, x: Tensor<2>, weight: Tensor<2>, outputs: usize) -> Tensor<3>;

    /// As [`dense`](Self::dense), of three `weights [3, _, _]`, side by side: `[1, R, 3 outputs]`.
    fn dense_of_three(&self, x: Tensor<2>, weights: Tensor<3>, outputs: usize) -> Tensor<3>;

    /// A parameter on a tape, in type `to`, for all sub-models of a step: their gradients may be added up in one place.
    fn shared_matrix(&self, parameter: Tensor<2>, to: DType) -> Tensor<2> {
        parameter.cast(to)
    }

    /// As [`shared_matrix`](Self::shared_matrix), in its own type.
    fn shared_vector(&self, parameter: Tensor<1>) -> Tensor<1> {
        parameter
    }

    /// Three of one shape, one behind the other.
    fn shared_matrices(&self, parameters: [Tensor<2>; 3], to: DType) -> Tensor<3> {
        Tensor::stack::<3>(parameters.to_vec(), 0).cast(to)
    }

    /// The same of vectors, in their own type.
    fn shared_vectors(&self, parameters: [Tensor<1>; 3]) -> Tensor<2> {
        Tensor::stack(parameters.to_vec(), 0)
    }

    /// Rows of `table [V, D]` by `numbers [R]`: `[R, D]`. It may be on a tape.
    fn rows_of(&self, table: Tensor<2>, numbers: Tensor<1, Int>) -> Tensor<2> {
        table.select(0, numbers)
    }

    /// As [`rows_of`](Self::rows_of), of rows no two of which are alike.
    fn picked(&self, x: Tensor<2>, rows: Tensor<1, Int>) -> Tensor<2> {
        x.select(0, rows)
    }

    /// The `sums [1, R, V]` of a product and the first V of a bias, which is of `f32`: `[R, V]` in that. It may be on a tape.
    fn with_bias(&self, sums: Tensor<3>, bias: Tensor<1>) -> Tensor<2> {
        let [_, _, columns] = sums.dims();
        full(sums).squeeze_dim(0) + bias.narrow(0, 0, columns).unsqueeze()
    }

    /// A code for each row of `logits [R, V]`: the first up to which `softmax(logits / temperature)` sums to more than
    /// `uniform [R, 1]`, and the logarithm of its probability without the temperature; both `[R, 1]`.
    fn draw(&self, logits: Tensor<2>, uniform: Tensor<2>, temperature: f64) -> (Tensor<2, Int>, Tensor<2>);

    /// `codes` and `positions`, both `[B, M]`, in the order in which places are decided: those of the `count` highest of
    /// `scores [B, M]`, the highest first, then the others as they stood. Places of equal scores come as they stood.
    fn decide(
        &self,
        scores: Tensor<2>,
        codes: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        count: usize,
    ) -> [Tensor<2, Int>; 2];

    /// Heads of the `sums [1, R, 3 W]` of three products and the first W of each one's bias, of `biases [3, _]`, and attention as
    /// [`attend`](Self::attend) has it, for samples that attend over themselves alone; of a type throughout, that of the sums. It
    /// may be on a tape, of which nothing but the weights has the size of scores. Of the weights some may be dropped, as rows of
    /// those of each sample, head and active position.
    fn attention(
        &self,
        sums: Tensor<3>,
        biases: Tensor<2>,
        dropped: Option<Dropped>,
        of: Samples,
    ) -> Tensor<2>;

    /// Tanh gelu of the `sums [1, R, F]` of a product and the first F of its bias, `[R, F]` in the type of the sums. It may be on a tape.
    fn hidden(&self, sums: Tensor<3>, bias: Tensor<1>) -> Tensor<2>;

    /// LayerNorm of the residual stream, where there is one, with the `sums [1, R, D]` of a branch and its bias added, of which
    /// some may be dropped, in `f32`. It may be on a tape. Of `parameters [3, D]` the first is the bias, and then come the
    /// LayerNorm's gamma and beta. The stream goes on in type `to`, or in `f32`.
    fn normed(
        &self,
        stream: Option<LearnedStream>,
        sums: Tensor<3>,
        parameters: Tensor<2>,
        dropped: Option<Dropped>,
        to: DType,
    ) -> LearnedStream;

    /// What dropout multiplies `[rows, columns]` by, in `f32` and off any tape: [`Dropped::factors`].
    fn factors(&self, dropped: &Dropped, rows: usize, columns: usize) -> Tensor<2> {
        dropped.factors(rows, columns)
    }

    /// Cross-entropy of `logits [R, V]`, which may be on a tape, in `f32`.
    fn cross_entropy(&self, logits: Tensor<2>, aim: Aim) -> Entropy;

    /// The sum of the squares of all numbers of `tensors`, each of its own length, in `f32`, `[1]`; `None` of no tensor.
    fn squares(&self, tensors: Vec<Tensor<1>>) -> Option<Tensor<1>>;

    /// A parameter after a step of AdamW, all in `f32`.
    fn adamw(&self, parameter: Parameter, gradient: Tensor<1>, how: AdamW) -> Parameter;

    /// `decay average + (1 - decay) value` of each pair of an average and a value, in `f32`, each pair of its own length.
    fn averaged(&self, pairs: Vec<[Tensor<1>; 2]>, decay: f64) -> Vec<Tensor<1>>;
}

/// What rows of logits are held against; none of it on a tape.
#[derive(Debug, Clone)]
pub struct Aim {
    /// Codes, `[R]`.
    pub targets: Tensor<1, Int>,
    /// Shares of the mean, `[R]`.
    pub weights: Tensor<1>,
    /// Share of the truth that all codes have alike.
    pub smoothing: f64,
    /// Probabilities `[R, V]` that count beside the truth, those of a row one in all, and their share.
    pub teacher: Option<(Tensor<2>, f64)>,
}

/// What [`Kernels::cross_entropy`] returns.
#[derive(Debug)]
pub struct Entropy {
    /// What is minimised, `[1]`; on the tape of the logits.
    pub loss: Tensor<1>,
    /// Of the truth alone, `[1]`, off the tape.
    pub truth: Tensor<1>,
    /// Softmax of the logits, `[R, V]`, off the tape.
    pub probabilities: Tensor<2>,
}

/// A parameter's n numbers, without a tape, and what AdamW knows of them.
#[derive(Debug)]
pub struct Parameter {
    /// `[n]`.
    pub value: Tensor<1>,
    /// Moving average of its gradients, `[n]`.
    pub first: Tensor<1>,
    /// Of their squares, `[n]`.
    pub second: Tensor<1>,
}

/// A step of AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019).
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Learning rate.
    pub rate: f64,
    /// Share of a parameter that goes at a rate of one.
    pub decay: f32,
    /// Of the first average what stays.
    pub beta1: f32,
    /// Of the second.
    pub beta2: f32,
    /// Beside the root of the second.
    pub epsilon: f32,
    /// 1 at first.
    pub step: usize,
    /// What gradients are multiplied by.
    pub clip: f32,
}

impl AdamW {
    /// What stays of a parameter, its share of the first average, and what the second is multiplied by.
    pub fn factors(&self) -> [f32; 3] {
        // Beyond this there is nothing left of a beta.
        let step = i32::try_from(self.step).unwrap_or(i32::MAX);
        let [first, second] = [self.beta1, self.beta2].map(|beta| 1.0 - beta.powi(step));
        let kept = 1.0 - self.rate * f64::from(self.decay);
        [kept as f32, (self.rate / f64::from(first)) as f32, 1.0 / second]
    }
}

/// What [`Kernels::attention`] attends within.
#[derive(Debug, Clone, Copy)]
pub struct Samples {
    /// How many there are.
    pub count: usize,
    /// Heads of each.
    pub heads: usize,
}

/// What [`Kernels::heads`] returns.
#[derive(Debug)]
pub struct Heads {
    /// `[B, heads, A, head width]`.
    pub queries: Tensor<4>,
    /// `[B, heads, room, head width]`.
    pub keys: Tensor<4>,
    /// `[B, heads, room, head width]`.
    pub values: Tensor<4>,
}

/// What [`Kernels::attend_anew`] returns.
#[derive(Debug)]
pub struct Attended {
    /// `[R, heads * head width]`.
    pub mixed: Tensor<2>,
    /// `[B, heads, room, head width]`.
    pub keys: Tensor<4>,
    /// `[B, heads, room, head width]`.
    pub values: Tensor<4>,
}

/// What [`Kernels::embed`] embeds.
#[derive(Debug)]
pub struct Embedded {
    /// `[R]`, rows of `of_token`.
    pub tokens: Tensor<1, Int>,
    /// `[R]`, rows of `of_position`; of the tokens' type.
    pub positions: Tensor<1, Int>,
    /// `[vocabulary, D]`.
    pub of_token: Tensor<2>,
    /// `[1 + N, D]`, of the same type.
    pub of_position: Tensor<2>,
}

/// A branch that is to be added to the residual stream.
#[derive(Debug)]
pub struct Branch {
    /// Parts of its product, `[P, R, D]`, in `f32` or a half.
    pub parts: Tensor<3>,
    /// `[D]`, `f32`.
    pub bias: Tensor<1>,
}

/// Parameters of a LayerNorm.
#[derive(Debug)]
pub struct Scales {
    /// What the normal is multiplied by, `[D]`.
    pub gamma: Tensor<1>,
    /// What is added then, `[D]`.
    pub beta: Tensor<1>,
}

impl From<&LayerNorm> for Scales {
    fn from(norm: &LayerNorm) -> Self {
        let gamma = norm.gamma.val();
        let beta = match &norm.beta {
            Some(beta) => beta.val(),
            None => Tensor::zeros_like(&gamma),
        };
        Self { gamma, beta }
    }
}

/// The residual stream of R rows: in `f32`, or in two halves of one type, of which the first is what products take. Together
/// they have 16 bits where they are of bf16, and 22 of f16; to write `f32` beside what products take is half as much again.
#[derive(Debug, Clone)]
pub struct Stream {
    /// `[R, D]`: itself in `f32`, or rounded to a half.
    pub first: Tensor<2>,
    /// `[R, D]`: what was lost by that, rounded to the same type.
    pub rest: Option<Tensor<2>>,
}

impl Stream {
    /// `[R, D]` in `f32`.
    pub fn full(self) -> Tensor<2> {
        match self.rest {
            Some(rest) => full(self.first) + full(rest),
            None => self.first,
        }
    }
}

impl From<Tensor<2>> for Stream {
    /// Of `[R, D]` in `f32`.
    fn from(first: Tensor<2>) -> Self {
        Self { first, rest: None }
    }
}

/// The residual stream of R rows on a tape.
#[derive(Debug, Clone)]
pub struct LearnedStream {
    /// `[R, D]` as products take it, on the tape: the stream's gradient is this one's, in `f32`.
    pub input: Tensor<2>,
    /// What it was before, where that is rounded.
    pub exact: Option<Scaled>,
}

/// What a LayerNorm gave, in `f32` and off the tape.
#[derive(Debug, Clone)]
pub struct Scaled {
    /// Before it was scaled, `[R, D]`.
    pub normal: Tensor<2>,
    /// `[3, D]`, of which the second scaled it and the third was added then.
    pub parameters: Tensor<2>,
}

impl From<Tensor<2>> for LearnedStream {
    /// Of `[R, D]` in `f32`.
    fn from(input: Tensor<2>) -> Self {
        Self { input, exact: None }
    }
}

/// How the residual stream goes on behind a LayerNorm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GoesOn {
    /// Past it, in `f32`: LayerNorms stand before the branches.
    Past,
    /// Through it, in `f32`: they stand behind.
    Through,
    /// Through it, in halves of the type that products take.
    InHalves,
}

impl GoesOn {
    /// Through a LayerNorm to products of type `to`, with the fewest bytes.
    pub fn to_products_of(to: DType) -> Self {
        if to == DType::F32 { Self::Through } else { Self::InHalves }
    }
}

/// What [`Kernels::add_norm`] returns: the residual stream, and what the next product takes.
#[derive(Debug)]
pub struct Normed {
    /// As it goes on.
    pub stream: Stream,
    /// `[R, D]`.
    pub input: Tensor<2>,
}
