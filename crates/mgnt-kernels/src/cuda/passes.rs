//! The kernels as operations of a backend, which Burn routes to the device of their tensors. Where it fuses, it has to know
//! what comes out before they run.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use mgnt_model::kernels::GoesOn;

use crate::cuda::{attend, decide, draw, embed, gelu, heads, norm, product};

#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait Passes: Backend {
    #[fusion(dtype = *to, shape = shapes::product(x, outputs, parts))]
    fn product(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        outputs: usize,
        parts: usize,
        to: DType,
    ) -> FloatTensor<Self>;

    #[fusion(meta = shapes::heads)]
    fn heads(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        from: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(meta = shapes::attend_anew)]
    fn attend_anew(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        from: usize,
        keep: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(dtype = queries, shape = shapes::attend(queries))]
    fn attend(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        positions: usize,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = *to, shape = shapes::gelu(x, outputs))]
    fn gelu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        outputs: usize,
        to: DType,
    ) -> FloatTensor<Self>;

    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(meta = shapes::add_norm)]
    fn add_norm(
        stream: FloatTensor<Self>,
        rest: FloatTensor<Self>,
        parts: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        is_in_halves: bool,
        has_branch: bool,
        on: GoesOn,
        to: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(meta = shapes::embed)]
    fn embed(
        tokens: IntTensor<Self>,
        positions: IntTensor<Self>,
        of_token: FloatTensor<Self>,
        of_position: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        on: GoesOn,
        to: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = shapes::draw)]
    fn draw(
        logits: FloatTensor<Self>,
        uniform: FloatTensor<Self>,
        temperature: f32,
    ) -> (IntTensor<Self>, FloatTensor<Self>);

    #[fusion(meta = shapes::decide)]
    fn decide(
        scores: FloatTensor<Self>,
        codes: IntTensor<Self>,
        positions: IntTensor<Self>,
        count: usize,
    ) -> (IntTensor<Self>, IntTensor<Self>);
}

impl Passes for CubeBackend {
    fn product(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        outputs: usize,
        parts: usize,
        to: DType,
    ) -> FloatTensor<Self> {
        product::product(x, weight, outputs, parts, to)
    }

    fn heads(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        from: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        heads::heads(x, weight, bias, keys, values, from)
    }

    fn attend_anew(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        from: usize,
        keep: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        heads::attend_anew(x, weight, bias, keys, values, from, keep)
    }

    fn attend(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        positions: usize,
    ) -> FloatTensor<Self> {
        attend::attend(queries, keys, values, positions)
    }

    fn gelu(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        outputs: usize,
        to: DType,
    ) -> FloatTensor<Self> {
        gelu::gelu(x, weight, bias, outputs, to)
    }

    fn add_norm(
        stream: FloatTensor<Self>,
        rest: FloatTensor<Self>,
        parts: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        is_in_halves: bool,
        has_branch: bool,
        on: GoesOn,
        to: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        norm::add_norm(
            norm::Stream { first: stream, rest, is_in_halves },
            norm::Branch { parts, bias, is_there: has_branch },
            norm::Scales { gamma, beta },
            on,
            to,
        )
    }

    fn embed(
        tokens: IntTensor<Self>,
        positions: IntTensor<Self>,
        of_token: FloatTensor<Self>,
        of_position: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        on: GoesOn,
        to: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let norm = norm::Scales { gamma, beta };
        embed::embed([tokens, positions], [of_token, of_position], norm, on, to)
    }

    fn draw(
        logits: FloatTensor<Self>,
        uniform: FloatTensor<Self>,
        temperature: f32,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        draw::draw(logits, uniform, temperature)
    }

    fn decide(
        scores: FloatTensor<Self>,
        codes: IntTensor<Self>,
        positions: IntTensor<Self>,
        count: usize,
    ) -> (IntTensor<Self>, IntTensor<Self>) {
        decide::decide(scores, codes, positions, count)
    }
}

/// What comes out, by what goes in.
#[cfg(feature = "fusion")]
mod shapes {
    use burn::backend::fusion::custom::TensorSpec;
    use burn::tensor::{DType, Shape};
    use mgnt_model::kernels::GoesOn;

    use crate::cuda::norm::next_type;

    pub fn product(x: &Shape, outputs: &usize, parts: &usize) -> Shape {
        [*parts, x[0], *outputs].into()
    }

    pub fn heads(
        x: &TensorSpec,
        _weight: &TensorSpec,
        _bias: &TensorSpec,
        keys: &TensorSpec,
        values: &TensorSpec,
        _from: &usize,
    ) -> (TensorSpec, TensorSpec, TensorSpec) {
        let (batch, heads, width) = (keys.shape[0], keys.shape[1], keys.shape[3]);
        let queries = TensorSpec::new([batch, heads, x.shape[0] / batch, width].into(), keys.dtype);
        (queries, keys.clone(), values.clone())
    }

    pub fn attend_anew(
        x: &TensorSpec,
        _weight: &TensorSpec,
        _bias: &TensorSpec,
        keys: &TensorSpec,
        values: &TensorSpec,
        _from: &usize,
        _keep: &usize,
    ) -> (TensorSpec, TensorSpec, TensorSpec) {
        let mixed = TensorSpec::new([x.shape[0], keys.shape[1] * keys.shape[3]].into(), keys.dtype);
        (mixed, keys.clone(), values.clone())
    }

    pub fn attend(queries: &Shape) -> Shape {
        [queries[0] * queries[2], queries[1] * queries[3]].into()
    }

    pub fn draw(logits: &TensorSpec, uniform: &TensorSpec, _temperature: &f32) -> (TensorSpec, TensorSpec) {
        let rows = logits.shape[0];
        let codes = TensorSpec::new([rows, 1].into(), crate::cuda::draw::CODES);
        (codes, TensorSpec::new([rows, 1].into(), uniform.dtype))
    }

    pub fn decide(
        _scores: &TensorSpec,
        codes: &TensorSpec,
        positions: &TensorSpec,
        _count: &usize,
    ) -> (TensorSpec, TensorSpec) {
        (codes.clone(), positions.clone())
    }

    pub fn gelu(x: &Shape, outputs: &usize) -> Shape {
        [x[0], *outputs].into()
    }

    #[allow(clippy::too_many_arguments, reason = "as many as the operation has")]
    pub fn add_norm(
        stream: &TensorSpec,
        _rest: &TensorSpec,
        _parts: &TensorSpec,
        _bias: &TensorSpec,
        _gamma: &TensorSpec,
        _beta: &TensorSpec,
        _is_in_halves: &bool,
        _has_branch: &bool,
        on: &GoesOn,
        to: &DType,
    ) -> (TensorSpec, TensorSpec) {
        let of = |dtype| TensorSpec::new(stream.shape.clone(), dtype);
        (of(next_type(*on, *to)), of(*to))
    }

    #[allow(clippy::too_many_arguments, reason = "as many as the operation has")]
    pub fn embed(
        tokens: &TensorSpec,
        _positions: &TensorSpec,
        of_token: &TensorSpec,
        _of_position: &TensorSpec,
        _gamma: &TensorSpec,
        _beta: &TensorSpec,
        on: &GoesOn,
        to: &DType,
    ) -> (TensorSpec, TensorSpec) {
        let of = |dtype| TensorSpec::new([tokens.shape[0], of_token.shape[1]].into(), dtype);
        (of(next_type(*on, *to)), of(*to))
    }
}
