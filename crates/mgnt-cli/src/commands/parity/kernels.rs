//! Each kernel of a device against what it is defined to compute, by operations of the CPU.

use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use mgnt_model::kernels::{
    AdamW, Aim, Branch, Dropped, Embedded, Entropy, GoesOn, Heads, Kernels, Parameter, Samples, Scales,
    Stream,
};
use mgnt_weights::TensorMap;

use crate::commands::probe::answers::insert;

// Sizes that fill no vector, plane or tile.
const BATCH: usize = 2;
const ACTIVE: usize = 37;
const ROWS: usize = BATCH * ACTIVE;
const FROM: usize = 5;
const ROOM: usize = 48;
const HEADS: usize = 3;
const HEAD_WIDTH: usize = 24;
const WIDTH: usize = 260;
const HIDDEN: usize = 328;

/// What each kernel answers to the same numbers, by its name.
pub fn answers(
    kernels: &dyn Kernels,
    compute: FloatDType,
    device: &Device,
) -> anyhow::Result<Vec<(&'static str, TensorMap)>> {
    let numbers = Numbers { compute: compute.into(), device };
    let mut all = Vec::new();
    let mut told = |name, tensors: TensorMap| all.push((name, tensors));

    let mut products = TensorMap::new();
    // Of the last a device may take the sums in parts.
    for (name, inputs) in [("short", WIDTH), ("long", 1024)] {
        let (x, weight) = (numbers.halves([ROWS, inputs], 1), numbers.halves([1100, 400], 2));
        let x = x * (1.0 / (inputs as f64).sqrt());
        let parts = kernels.product(x.clone(), weight.clone(), HIDDEN, DType::F32);
        insert(&mut products, name, parts.sum_dim(0))?;
        let parts = kernels.product(x, weight, HIDDEN, numbers.compute);
        insert(&mut products, &format!("{name}, rounded"), parts.sum_dim(0))?;
    }
    let transposed = numbers.halves([400, 300], 2).transpose();
    let x = numbers.halves([ROWS, WIDTH], 1) * (1.0 / (WIDTH as f64).sqrt());
    insert(&mut products, "transposed", kernels.product(x, transposed, HIDDEN, DType::F32).sum_dim(0))?;
    told("product", products);

    let mut heads = TensorMap::new();
    let of_buffers = [BATCH, HEADS, ROOM, HEAD_WIDTH];
    let outputs = 3 * HEADS * HEAD_WIDTH;
    let input = |seed| numbers.halves([ROWS, WIDTH], seed) * (1.0 / (WIDTH as f64).sqrt());
    let Heads { queries, keys, values } = kernels.heads(
        input(3),
        numbers.halves([300, outputs], 19),
        numbers.full([outputs], 4),
        numbers.halves(of_buffers, 5),
        numbers.halves(of_buffers, 6),
        FROM,
    );
    for (name, tensor) in [("queries", queries), ("keys", keys.clone()), ("values", values)] {
        insert(&mut heads, name, tensor)?;
    }
    // Buffers that somebody holds stay as they are.
    let (weight, bias) = (numbers.halves([300, outputs], 17), numbers.full([outputs], 18));
    let again = kernels.heads(input(2), weight, bias, keys.clone(), keys.clone(), FROM);
    for (name, tensor) in [("held", keys), ("other keys", again.keys), ("other values", again.values)] {
        insert(&mut heads, name, tensor)?;
    }
    told("heads", heads);

    let mut attention = TensorMap::new();
    let queries = numbers.halves([BATCH, HEADS, ACTIVE, HEAD_WIDTH], 7);
    let (keys, values) = (numbers.halves(of_buffers, 8), numbers.halves(of_buffers, 9));
    insert(&mut attention, "mixed", kernels.attend(queries, keys, values, FROM + ACTIVE))?;
    // Heads that a device may attend by at once, more queries and positions than one tile, and fewer; of values that do not cancel
    // out, since scores are rounded in the definition alone.
    for (heads, active, positions, width) in [(2, 70, 150usize, 32), (1, 5, 40, 128), (3, 129, 129, 16)] {
        let queries = numbers.halves([BATCH, heads, active, width], 50) * 0.5;
        let [keys, values] =
            [51, 52].map(|seed| numbers.halves([BATCH, heads, positions.next_multiple_of(16), width], seed));
        let mixed = kernels.attend(queries, keys, values.abs(), positions);
        insert(&mut attention, &format!("mixed of {width}"), mixed)?;
    }
    for (heads, from, active, keep, width) in
        [(2, 90, 70, 130, 32), (1, 0, 40, 0, 128), (3, 64, 129, 193, 16), (2, 70, 5, 70, 64)]
    {
        let outputs = 3 * heads * width;
        let x = numbers.halves([BATCH * active, WIDTH], 56) * (0.5 / (WIDTH as f64).sqrt());
        let weight = numbers.halves([300, outputs], 57);
        let room = (from + active).next_multiple_of(16);
        let [keys, values] = [58, 59].map(|seed| numbers.halves([BATCH, heads, room, width], seed).abs());
        let held = keys.clone();
        let bias = numbers.full([outputs], 60).abs() * 2.0;
        let all = kernels.attend_anew(x, weight, bias, keys, values, from, keep);
        insert(&mut attention, &format!("anew of {width}"), all.mixed)?;
        insert(&mut attention, &format!("held of {width}"), held)?;
        for (name, buffer) in [("keys", all.keys), ("values", all.values)] {
            if keep > 0 {
                insert(&mut attention, &format!("{name} of {width}"), buffer.narrow(2, 0, keep))?;
            }
        }
    }
    told("attention", attention);

    let mut gelu = TensorMap::new();
    for (name, to) in [("hidden", numbers.compute), ("full", DType::F32)] {
        let (weight, bias) = (numbers.halves([300, 400], 10), numbers.full([400], 11));
        insert(&mut gelu, name, kernels.gelu(input(1), weight, bias, HIDDEN, to))?;
    }
    told("gelu", gelu);

    let scales =
        || Scales { gamma: numbers.full([WIDTH], 14), beta: numbers.full([WIDTH], 15), epsilon: 1e-12 };
    let mut norms = TensorMap::new();
    let halves = GoesOn::to_products_of(numbers.compute);
    for (on, parts) in [(GoesOn::Through, 1), (GoesOn::Past, 4), (GoesOn::Past, 0), (halves, 2), (halves, 0)]
    {
        let branch = (parts > 0).then(|| Branch {
            parts: numbers.full([parts, ROWS, WIDTH], 12),
            bias: numbers.full([WIDTH], 13),
        });
        let stream = Stream::from(numbers.full([ROWS, WIDTH], 16));
        let normed = kernels.add_norm(stream, branch, scales(), on, numbers.compute);
        insert(&mut norms, &format!("stream of {parts}, {on:?}"), normed.stream.full())?;
        insert(&mut norms, &format!("input of {parts}, {on:?}"), normed.input)?;
    }
    // A branch that was rounded, and a stream whose halves are of one size, so that neither may be left out.
    if halves == GoesOn::InHalves {
        let half = |seed| numbers.halves([ROWS, WIDTH], seed);
        let stream = Stream { first: half(20), rest: Some(half(25)) };
        let normed = |on| {
            let branch = Branch { parts: half(26).unsqueeze(), bias: numbers.full([WIDTH], 13) };
            kernels.add_norm(stream.clone(), Some(branch), scales(), on, numbers.compute)
        };
        insert(&mut norms, "input of halves", normed(halves).input)?;
        let (whole, joined) = (normed(GoesOn::Through).stream.full(), normed(halves).stream.full());
        // Where what rounding leaves is not there, this is far from one.
        insert(&mut norms, "what halves lose", (joined - whole.clone()) * 64.0 + 1.0)?;
        insert(&mut norms, "stream of halves", whole)?;
    }
    told("LayerNorm", norms);

    let mut embedded = TensorMap::new();
    for on in [GoesOn::Past, GoesOn::Through, halves] {
        let whole = |times: usize, of: usize| {
            let numbers: Vec<i32> = (0..ROWS).map(|row| (row * times % of) as i32).collect();
            Tensor::<1, Int>::from_data(TensorData::new(numbers, [ROWS]), (device, DType::I32))
        };
        let rows = Embedded {
            tokens: whole(31, 101),
            positions: whole(7, ACTIVE),
            of_token: numbers.halves([101, WIDTH], 54),
            of_position: numbers.halves([ACTIVE, WIDTH], 55),
        };
        let normed = kernels.embed(rows, scales(), on, numbers.compute);
        insert(&mut embedded, &format!("stream, {on:?}"), normed.stream.full())?;
        insert(&mut embedded, &format!("input, {on:?}"), normed.input)?;
    }
    told("embedding", embedded);

    // Numbers of codes that fill a warp's shares, and that do not.
    let mut drawn = TensorMap::new();
    for (name, codes, temperature) in
        [("drawn", 320, 1.0), ("drawn at a temperature", 333, 0.7), ("of few", 5, 1.5)]
    {
        let logits = numbers.full([ROWS, codes], 48) * 2.0;
        // Up to one, which no sum of probabilities is above.
        let uniform = (0..ROWS).map(|row| row as f32 / (ROWS - 1) as f32).collect::<Vec<_>>();
        let uniform = Tensor::from_data(TensorData::new(uniform, [ROWS, 1]), device);
        let (codes, logarithms) = kernels.draw(logits, uniform, temperature);
        insert(&mut drawn, &format!("{name}: codes"), codes.float())?;
        insert(&mut drawn, &format!("{name}: logarithms"), logarithms)?;
    }
    // Rows that no code can be drawn from.
    for (name, logit) in
        [("no numbers", f32::NAN), ("nothing", f32::NEG_INFINITY), ("too much", f32::INFINITY)]
    {
        let logits = Tensor::full([2, 40], logit, device);
        let (codes, logarithms) = kernels.draw(logits, Tensor::full([2, 1], 0.5, device), 1.0);
        // Differences are shares of the largest, which is the first code.
        insert(&mut drawn, &format!("of {name}: codes"), codes.float() + 1.0)?;
        insert(&mut drawn, &format!("of {name}: logarithms"), logarithms.is_nan().float())?;
    }
    told("draw", drawn);

    // Some scores are equal, and some samples have more places than a cube has units.
    let mut decided = TensorMap::new();
    for (masked, count) in [(40usize, 7usize), (300, 299), (9, 1)] {
        let scores: Vec<f32> = (0..BATCH * masked).map(|i| (i * 37 % 23) as f32 - 11.0).collect();
        let codes: Vec<i32> = (0..BATCH * masked).map(|i| (i * 13 % 101) as i32).collect();
        let places: Vec<i32> = (0..BATCH * masked).map(|i| (i % masked) as i32).collect();
        let whole = |data: Vec<i32>| {
            Tensor::<2, Int>::from_data(TensorData::new(data, [BATCH, masked]), (device, DType::I32))
        };
        let scores = Tensor::from_data(TensorData::new(scores, [BATCH, masked]), device);
        let [codes, places] = kernels.decide(scores, whole(codes), whole(places), count);
        insert(&mut decided, &format!("codes of {masked}"), codes.float())?;
        insert(&mut decided, &format!("places of {masked}"), places.float())?;
    }
    told("decide", decided);

    let mut moved = TensorMap::new();
    let all_of = |seed| numbers.full([ROWS * WIDTH], seed);
    let how = AdamW { rate: 1e-2, decay: 0.05, beta1: 0.9, beta2: 0.96, epsilon: 1e-8, step: 3, clip: 0.7 };
    let (value, first, second) = (all_of(40), all_of(41), all_of(42).abs());
    let held = value.clone();
    let after = kernels.adamw(Parameter { value, first, second }, all_of(43), how);
    for (name, tensor) in
        [("value", after.value), ("first", after.first), ("second", after.second), ("held", held)]
    {
        insert(&mut moved, name, tensor)?;
    }
    told("AdamW", moved);

    // Lengths that no vector divides among others, and more of them than a launch takes at once.
    let lengths = [ROWS * WIDTH, 1, 700_000, 77, 2, 4096, 5, 130, 12];
    // Of one size whatever their lengths are, so that a sum of squares misses the shortest, too.
    let of_each = |seed: usize| {
        let scaled = |(&length, seed)| numbers.full([length], seed) * (4.0 / (length as f64).sqrt());
        lengths.iter().zip(seed..).map(scaled)
    };
    let mut gathered = TensorMap::new();
    for count in [0, 1, 4, lengths.len()] {
        if let Some(squares) = kernels.squares(of_each(50).take(count).collect()) {
            insert(&mut gathered, &format!("squares of {count}"), squares)?;
        }
        let pairs: Vec<_> = of_each(60).zip(of_each(70)).take(count).map(|(a, b)| [a, b]).collect();
        let held: Vec<_> = pairs.iter().map(|[average, _]| average.clone()).collect();
        let averaged = kernels.averaged(pairs, 0.9);
        for (index, (averaged, held)) in averaged.into_iter().zip(held).enumerate() {
            insert(&mut gathered, &format!("average {index} of {count}"), averaged)?;
            insert(&mut gathered, &format!("held {index} of {count}"), held)?;
        }
    }
    told("squares and averages of many", gathered);
    Ok(all)
}

/// What the kernels that may be on a tape answer on a device with one, and their gradients, by their names.
pub fn gradients(
    kernels: &dyn Kernels,
    compute: FloatDType,
    device: &Device,
) -> anyhow::Result<Vec<(&'static str, TensorMap)>> {
    let numbers = Numbers { compute: compute.into(), device };
    let outputs = 3 * HEADS * HEAD_WIDTH;
    let mut all = Vec::new();
    let mut told = |name, tensors| all.push((name, tensors));

    // Of sub-models: weights and biases have more than is used of them.
    let of_one = numbers.full([300, 400], 32).require_grad();
    let x = (numbers.full([ROWS, WIDTH], 31) * (1.0 / (WIDTH as f64).sqrt())).detach().require_grad();
    let weight = kernels.shared_matrix(of_one.clone(), numbers.compute);
    // A smaller sub-model's is added, which uses less of the weight.
    let less = kernels.dense(x.clone().narrow(1, 0, 128), weight.clone(), HIDDEN / 2);
    let result = kernels.dense(x.clone(), weight, HIDDEN);
    let result = Tensor::cat(vec![result, less], 2);
    told("dense", answer("dense", &numbers, result, &[&x, &of_one], &[])?);
    let x = (numbers.halves([ROWS, WIDTH], 33) * (1.0 / (WIDTH as f64).sqrt())).detach().require_grad();
    let weights = [34, 35, 36].map(|seed| numbers.full([300, 400], seed).require_grad());
    let shared = kernels.shared_matrices(weights.clone(), numbers.compute);
    let less = kernels.dense_of_three(x.clone().narrow(1, 0, 128), shared.clone(), HIDDEN / 2);
    let result = kernels.dense_of_three(x.clone(), shared, HIDDEN);
    let result = Tensor::cat(vec![less, result], 2);
    let [a, b, c] = &weights;
    told("dense of three", answer("dense of three", &numbers, result, &[&x, a, b, c], &[])?);

    // Scores of which some keep their weight: the gradient of large ones is lost in a half's rounding.
    for (name, share) in [("attention", 0.0), ("attention with dropout", 0.3)] {
        let sums = (numbers.halves([1, ROWS, outputs], 21) * 0.5).detach().require_grad();
        let biases = [22, 37, 38].map(|seed| numbers.full([outputs], seed).require_grad());
        let dropped = (share > 0.0).then(|| Dropped { key: numbers.full([2], 30), site: 7, share });
        let of = Samples { count: BATCH, heads: HEADS };
        let shared = kernels.shared_vectors(biases.clone());
        let less = sums.clone().narrow(2, 0, outputs / HEADS);
        let less = kernels.attention(less, shared.clone(), None, Samples { count: BATCH, heads: 1 });
        let result = kernels.attention(sums.clone(), shared, dropped, of);
        let result = Tensor::cat(vec![result, less], 1);
        told(name, answer(name, &numbers, result, &[&sums], &[&biases])?);
    }

    // Columns that fill vectors, and that do not.
    let factors = [(28, WIDTH), (29, 257)].map(|(site, columns)| {
        let dropped = Dropped { key: numbers.full([2], 57), site, share: 0.3 };
        kernels.factors(&dropped, ROWS, columns)
    });
    let x = numbers.full([ROWS, WIDTH + 257], 58).require_grad();
    let result = x.clone() * Tensor::cat(factors.to_vec(), 1);
    told("dropout", answer("dropout", &numbers, result, &[&x], &[])?);

    // Codes that fill vectors, and that do not.
    for (name, codes, share) in [("cross-entropy", 328, 0.0), ("cross-entropy with a teacher", 333, 0.25)] {
        let logits = numbers.full([ROWS, codes], 45).require_grad();
        let taught = softmax(numbers.full([ROWS, codes], 46).inner(), 1);
        let targets: Vec<i32> = (0..ROWS).map(|row| (row * 31 % codes) as i32).collect();
        let aim = Aim {
            targets: Tensor::from_data(TensorData::new(targets, [ROWS]), device),
            weights: numbers.full([ROWS], 47).abs(),
            smoothing: 0.1,
            teacher: (share > 0.0).then_some((taught, share)),
        };
        let Entropy { loss, truth, probabilities } = kernels.cross_entropy(logits.clone(), aim);
        let mut tensors = answer(name, &numbers, loss, &[&logits], &[])?;
        insert(&mut tensors, "truth", truth)?;
        insert(&mut tensors, "probabilities", probabilities)?;
        told(name, tensors);
    }

    let sums = numbers.halves([1, ROWS, HIDDEN], 23).require_grad();
    let bias = numbers.full([400], 24).require_grad();
    let shared = kernels.shared_vector(bias.clone());
    let less = kernels.hidden(sums.clone().narrow(2, 0, HIDDEN / 2), shared.clone());
    let result = Tensor::cat(vec![kernels.hidden(sums.clone(), shared), less], 1);
    told("gelu", answer("gelu", &numbers, result, &[&sums], &[&[bias]])?);

    // A number that most rows have, as the mask token is, some that none has, and more columns than a cube takes.
    let table = numbers.full([ROWS, WIDTH], 61).require_grad();
    let whole = |number: fn(usize) -> usize, count: usize| {
        let data: Vec<i32> = (0..count).map(|row| number(row) as i32).collect();
        Tensor::<1, Int>::from_data(TensorData::new(data, [count]), (device, DType::I32))
    };
    let of_all = whole(|row| if row % 3 == 0 { row * 31 % (ROWS - 1) / 2 * 2 } else { ROWS - 1 }, 1999);
    let result = kernels.rows_of(table.clone(), of_all);
    told("rows of a table", answer("rows of a table", &numbers, result, &[&table], &[])?);
    let result = kernels.picked(table.clone(), whole(|row| row * 31 % ROWS, ROWS / 2));
    told("picked rows", answer("picked rows", &numbers, result, &[&table], &[])?);

    let sums = numbers.halves([1, ROWS, HIDDEN], 62).require_grad();
    let bias = numbers.full([400], 63).require_grad();
    let shared = kernels.shared_vector(bias.clone());
    let less = kernels.with_bias(sums.clone().narrow(2, 0, HIDDEN / 2), shared.clone());
    let result = Tensor::cat(vec![kernels.with_bias(sums.clone(), shared), less], 1);
    told("logits", answer("logits", &numbers, result, &[&sums], &[&[bias]])?);

    // Rows that a device's cubes each take one of, or several in turn; of which a cube has one at a time, or some.
    for (name, share, rows, width) in [
        ("LayerNorm", 0.0, ROWS, WIDTH),
        ("LayerNorm with dropout", 0.3, ROWS, WIDTH),
        ("LayerNorm of many rows", 0.3, 1999, 1028),
        ("LayerNorm of many short rows", 0.3, 4999, 120),
    ] {
        let sums = numbers.halves([1, rows, width], 25).require_grad();
        let parameters = [26, 27, 28].map(|seed| numbers.full([width], seed).require_grad());
        let shared = kernels.shared_vectors(parameters.clone());
        let dropped = (share > 0.0).then(|| Dropped { key: numbers.full([2], 49), site: 3, share });
        let stream = numbers.full([rows, width], 29).into();
        let (branch, to) = (sums.clone(), numbers.compute);
        let stream = kernels.normed(Some(stream), branch, shared.clone(), dropped, 1e-12, to);
        // Both a product and the next LayerNorm have something for what came out.
        let weight = numbers.halves([width, width], 55) * (1.0 / (width as f64).sqrt());
        let branch = kernels.dense(stream.input.clone(), weight, width);
        let stream = kernels.normed(Some(stream), branch, shared.clone(), None, 1e-12, DType::F32);
        // And one of a branch alone.
        let alone = kernels.normed(None, sums.clone(), shared, None, 1e-12, DType::F32);
        let result = Tensor::cat(vec![stream.input, alone.input], 0);
        let [bias, gamma, beta] = parameters;
        told(name, answer(name, &numbers, result, &[&sums], &[&[bias], &[gamma], &[beta]])?);
    }
    Ok(all)
}

/// A result, and the gradients of what went in. Parameters are in groups that are held against each other as one: the bias of keys
/// moves all scores of a query alike, so that its gradient is roundings alone.
fn answer<const R: usize, const D: usize>(
    name: &str,
    numbers: &Numbers,
    result: Tensor<R>,
    inputs: &[&Tensor<D>],
    parameters: &[&[Tensor<1>]],
) -> anyhow::Result<TensorMap> {
    let mut tensors = TensorMap::new();
    let back = numbers.full(result.dims(), 20);
    insert(&mut tensors, "result", result.clone().inner())?;
    let gradients = (result.cast(FloatDType::F32) * back).sum().backward();
    let missing = || anyhow::anyhow!("{name}: no gradient");
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

/// Numbers between -2 and 2, the same on every device.
struct Numbers<'a> {
    compute: DType,
    device: &'a Device,
}

impl Numbers<'_> {
    /// In the type of products, rounded on the host.
    fn halves<const D: usize>(&self, shape: [usize; D], seed: usize) -> Tensor<D> {
        let data = drawn(shape, seed).convert_dtype(self.compute);
        Tensor::from_data(data, (self.device, self.compute))
    }

    fn full<const D: usize>(&self, shape: [usize; D], seed: usize) -> Tensor<D> {
        Tensor::from_data(drawn(shape, seed), self.device)
    }
}

fn drawn<const D: usize>(shape: [usize; D], seed: usize) -> TensorData {
    let count: usize = shape.iter().product();
    let number = |i: usize| 2.0 * ((i * (2 * seed + 1)) as f32 * 0.37 + seed as f32).sin();
    TensorData::new((0..count).map(number).collect::<Vec<f32>>(), shape)
}
