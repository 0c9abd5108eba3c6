//! What the kernels that may be on a tape answer, and the gradients of that.

use burn::tensor::activation::softmax;
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use mgnt_model::kernels::{Aim, Dropped, Entropy, Kernels, Samples};
use mgnt_weights::TensorMap;

use super::{BATCH, Case, HEADS, HIDDEN, Numbers, OUTPUTS, ROWS, WIDTH};
use crate::commands::probe::answers::insert;

/// The cases on a device with a tape.
pub const GRADIENTS: &[Case] = &[
    Case { name: "dense", single: false, answer: dense },
    Case { name: "dense of three", single: false, answer: dense_of_three },
    Case { name: "attention", single: false, answer: |kernels, numbers| attention(kernels, numbers, 0.0) },
    Case {
        name: "attention with dropout",
        single: false,
        answer: |kernels, numbers| attention(kernels, numbers, 0.3),
    },
    Case { name: "dropout", single: true, answer: dropout },
    // Codes that fill vectors, and that do not.
    Case {
        name: "cross-entropy",
        single: true,
        answer: |kernels, numbers| cross_entropy(kernels, numbers, 328, 0.0),
    },
    Case {
        name: "cross-entropy with a teacher",
        single: true,
        answer: |kernels, numbers| cross_entropy(kernels, numbers, 333, 0.25),
    },
    Case { name: "gelu", single: false, answer: gelu },
    Case { name: "rows of a table", single: true, answer: rows_of_a_table },
    Case { name: "picked rows", single: true, answer: picked_rows },
    Case { name: "logits", single: false, answer: logits },
    // Rows that a device's cubes each take one of, or several in turn; of which a cube has one at a time, or some.
    Case {
        name: "LayerNorm",
        single: false,
        answer: |kernels, numbers| layer_norm(kernels, numbers, 0.0, [ROWS, WIDTH]),
    },
    Case {
        name: "LayerNorm with dropout",
        single: false,
        answer: |kernels, numbers| layer_norm(kernels, numbers, 0.3, [ROWS, WIDTH]),
    },
    Case {
        name: "LayerNorm of many rows",
        single: false,
        answer: |kernels, numbers| layer_norm(kernels, numbers, 0.3, [1999, 1028]),
    },
    Case {
        name: "LayerNorm of many short rows",
        single: false,
        answer: |kernels, numbers| layer_norm(kernels, numbers, 0.3, [4999, 120]),
    },
];

/// Of sub-models: weights and biases have more than is used of them.
fn dense(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let of_one = numbers.full([300, 400], 32).require_grad();
    let x = (numbers.full([ROWS, WIDTH], 31) * (1.0 / (WIDTH as f64).sqrt())).detach().require_grad();
    let weight = kernels.shared_matrix(of_one.clone(), numbers.compute);
    // A smaller sub-model's is added, which uses less of the weight.
    let less = kernels.dense(x.clone().narrow(1, 0, 128), weight.clone(), HIDDEN / 2);
    let result = kernels.dense(x.clone(), weight, HIDDEN);
    let result = Tensor::cat(vec![result, less], 2);
    answer(numbers, result, &[&x, &of_one], &[])
}

fn dense_of_three(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let x = (numbers.halves([ROWS, WIDTH], 33) * (1.0 / (WIDTH as f64).sqrt())).detach().require_grad();
    let weights = [34, 35, 36].map(|seed| numbers.full([300, 400], seed).require_grad());
    let shared = kernels.shared_matrices(weights.clone(), numbers.compute);
    let less = kernels.dense_of_three(x.clone().narrow(1, 0, 128), shared.clone(), HIDDEN / 2);
    let result = kernels.dense_of_three(x.clone(), shared, HIDDEN);
    let result = Tensor::cat(vec![less, result], 2);
    let [a, b, c] = &weights;
    answer(numbers, result, &[&x, a, b, c], &[])
}

/// Scores of which some keep their weight: the gradient of large ones is lost in a half's rounding.
fn attention(kernels: &dyn Kernels, numbers: &Numbers, share: f64) -> anyhow::Result<TensorMap> {
    let sums = (numbers.halves([1, ROWS, OUTPUTS], 21) * 0.5).detach().require_grad();
    let biases = [22, 37, 38].map(|seed| numbers.full([OUTPUTS], seed).require_grad());
    let dropped = (share > 0.0).then(|| Dropped { key: numbers.full([2], 30), site: 7, share });
    let of = Samples { count: BATCH, heads: HEADS };
    let shared = kernels.shared_vectors(biases.clone());
    let less = sums.clone().narrow(2, 0, OUTPUTS / HEADS);
    let less = kernels.attention(less, shared.clone(), None, Samples { count: BATCH, heads: 1 });
    let result = kernels.attention(sums.clone(), shared, dropped, of);
    let result = Tensor::cat(vec![result, less], 1);
    answer(numbers, result, &[&sums], &[&biases])
}

/// Columns that fill vectors, and that do not.
fn dropout(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let factors = [(28, WIDTH), (29, 257)].map(|(site, columns)| {
        let dropped = Dropped { key: numbers.full([2], 57), site, share: 0.3 };
        kernels.factors(&dropped, ROWS, columns)
    });
    let x = numbers.full([ROWS, WIDTH + 257], 58).require_grad();
    let result = x.clone() * Tensor::cat(factors.to_vec(), 1);
    answer(numbers, result, &[&x], &[])
}

fn cross_entropy(
    kernels: &dyn Kernels,
    numbers: &Numbers,
    codes: usize,
    share: f64,
) -> anyhow::Result<TensorMap> {
    let logits = numbers.full([ROWS, codes], 45).require_grad();
    let taught = softmax(numbers.full([ROWS, codes], 46).inner(), 1);
    let targets: Vec<i32> = (0..ROWS).map(|row| (row * 31 % codes) as i32).collect();
    let aim = Aim {
        targets: Tensor::from_data(TensorData::new(targets, [ROWS]), numbers.device),
        weights: numbers.full([ROWS], 47).abs(),
        smoothing: 0.1,
        teacher: (share > 0.0).then_some((taught, share)),
    };
    let Entropy { loss, truth, probabilities } = kernels.cross_entropy(logits.clone(), aim);
    let mut tensors = answer(numbers, loss, &[&logits], &[])?;
    insert(&mut tensors, "truth", truth)?;
    insert(&mut tensors, "probabilities", probabilities)?;
    Ok(tensors)
}

fn gelu(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let sums = numbers.halves([1, ROWS, HIDDEN], 23).require_grad();
    let bias = numbers.full([400], 24).require_grad();
    let shared = kernels.shared_vector(bias.clone());
    let less = kernels.hidden(sums.clone().narrow(2, 0, HIDDEN / 2), shared.clone());
    let result = Tensor::cat(vec![kernels.hidden(sums.clone(), shared), less], 1);
    answer(numbers, result, &[&sums], &[&[bias]])
}

/// A number that most rows have, as the mask token is, some that none has, and more columns than a cube takes.
fn rows_of_a_table(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let table = numbers.full([ROWS, WIDTH], 61).require_grad();
    let number = |row: usize| if row.is_multiple_of(3) { row * 31 % (ROWS - 1) / 2 * 2 } else { ROWS - 1 };
    let result = kernels.rows_of(table.clone(), numbers.whole(1999, number));
    answer(numbers, result, &[&table], &[])
}

fn picked_rows(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let table = numbers.full([ROWS, WIDTH], 61).require_grad();
    let result = kernels.picked(table.clone(), numbers.whole(ROWS / 2, |row| row * 31 % ROWS));
    answer(numbers, result, &[&table], &[])
}

fn logits(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let sums = numbers.halves([1, ROWS, HIDDEN], 62).require_grad();
    let bias = numbers.full([400], 63).require_grad();
    let shared = kernels.shared_vector(bias.clone());
    let less = kernels.with_bias(sums.clone().narrow(2, 0, HIDDEN / 2), shared.clone());
    let result = Tensor::cat(vec![kernels.with_bias(sums.clone(), shared), less], 1);
    answer(numbers, result, &[&sums], &[&[bias]])
}

fn layer_norm(
    kernels: &dyn Kernels,
    numbers: &Numbers,
    share: f64,
    [rows, width]: [usize; 2],
) -> anyhow::Result<TensorMap> {
    let sums = numbers.halves([1, rows, width], 25).require_grad();
    let parameters = [26, 27, 28].map(|seed| numbers.full([width], seed).require_grad());
    let shared = kernels.shared_vectors(parameters.clone());
    let dropped = (share > 0.0).then(|| Dropped { key: numbers.full([2], 49), site: 3, share });
    let stream = numbers.full([rows, width], 29).into();
    let (branch, to) = (sums.clone(), numbers.compute);
    let stream = kernels.normed(Some(stream), branch, shared.clone(), dropped, to);
    // Both a product and the next LayerNorm have something for what came out.
    let weight = numbers.halves([width, width], 55) * (1.0 / (width as f64).sqrt());
    let branch = kernels.dense(stream.input.clone(), weight, width);
    let stream = kernels.normed(Some(stream), branch, shared.clone(), None, DType::F32);
    // And one of a branch alone.
    let alone = kernels.normed(None, sums.clone(), shared, None, DType::F32);
    let result = Tensor::cat(vec![stream.input, alone.input], 0);
    let [bias, gamma, beta] = parameters;
    answer(numbers, result, &[&sums], &[&[bias], &[gamma], &[beta]])
}

/// A result, and the gradients of what went in. Parameters are in groups that are held against each other as one: the bias of keys
/// moves all scores of a query alike, so that its gradient is roundings alone.
fn answer<const R: usize, const D: usize>(
    numbers: &Numbers,
    result: Tensor<R>,
    inputs: &[&Tensor<D>],
    parameters: &[&[Tensor<1>]],
) -> anyhow::Result<TensorMap> {
    let mut tensors = TensorMap::new();
    let back = numbers.full(result.dims(), 20);
    insert(&mut tensors, "result", result.clone().inner())?;
    let gradients = (result.cast(FloatDType::F32) * back).sum().backward();
    let missing = || anyhow::anyhow!("no gradient");
    for (index, input) in inputs.iter().enumerate() {
        let gradient = input.grad(&gradients).ok_or_else(missing)?;
        insert(&mut tensors, &format!("input {index}"), gradient)?;
    }
    for (index, together) in parameters.iter().enumerate() {
        let back: Option<Vec<_>> = together.iter().map(|parameter| parameter.grad(&gradients)).collect();
        insert(&mut tensors, &format!("parameter {index}"), Tensor::cat(back.ok_or_else(missing)?, 0))?;
    }
    Ok(tensors)
}
