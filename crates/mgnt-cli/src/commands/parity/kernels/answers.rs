//! What each kernel of a forward pass, of a draw and of an optimizer's step answers to the same numbers.

use burn::tensor::{DType, Int, Tensor, TensorData};
use mgnt_model::kernels::{AdamW, Branch, Embedded, GoesOn, Heads, Kernels, Parameter, Scales, Stream};
use mgnt_weights::TensorMap;

use super::{ACTIVE, BATCH, Case, FROM, HEAD_WIDTH, HEADS, HIDDEN, Numbers, OUTPUTS, ROWS, WIDTH};
use crate::commands::probe::answers::insert;

const ROOM: usize = 48;
/// Keys and values, with room for more positions than are told.
const OF_BUFFERS: [usize; 4] = [BATCH, HEADS, ROOM, HEAD_WIDTH];

/// The cases on a device as it is.
pub const ANSWERS: &[Case] = &[
    Case { name: "product", single: false, answer: product },
    Case { name: "heads", single: false, answer: heads },
    Case { name: "attention", single: false, answer: attention },
    Case { name: "gelu", single: false, answer: gelu },
    Case { name: "LayerNorm", single: false, answer: layer_norm },
    Case { name: "embedding", single: false, answer: embedding },
    Case { name: "draw", single: true, answer: draw },
    Case { name: "decide", single: true, answer: decide },
    Case { name: "AdamW", single: true, answer: adamw },
    Case { name: "squares and averages of many", single: true, answer: squares_and_averages },
];

fn product(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
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
    Ok(products)
}

fn heads(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let mut heads = TensorMap::new();
    let Heads { queries, keys, values } = kernels.heads(
        input(numbers, 3),
        numbers.halves([300, OUTPUTS], 19),
        numbers.full([OUTPUTS], 4),
        numbers.halves(OF_BUFFERS, 5),
        numbers.halves(OF_BUFFERS, 6),
        FROM,
    );
    for (name, tensor) in [("queries", queries), ("keys", keys.clone()), ("values", values)] {
        insert(&mut heads, name, tensor)?;
    }
    // Buffers that somebody holds stay as they are.
    let (weight, bias) = (numbers.halves([300, OUTPUTS], 17), numbers.full([OUTPUTS], 18));
    let again = kernels.heads(input(numbers, 2), weight, bias, keys.clone(), keys.clone(), FROM);
    for (name, tensor) in [("held", keys), ("other keys", again.keys), ("other values", again.values)] {
        insert(&mut heads, name, tensor)?;
    }
    Ok(heads)
}

fn attention(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let mut attention = TensorMap::new();
    let queries = numbers.halves([BATCH, HEADS, ACTIVE, HEAD_WIDTH], 7);
    let (keys, values) = (numbers.halves(OF_BUFFERS, 8), numbers.halves(OF_BUFFERS, 9));
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
    Ok(attention)
}

fn gelu(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let mut gelu = TensorMap::new();
    for (name, to) in [("hidden", numbers.compute), ("full", DType::F32)] {
        let (weight, bias) = (numbers.halves([300, 400], 10), numbers.full([400], 11));
        insert(&mut gelu, name, kernels.gelu(input(numbers, 1), weight, bias, HIDDEN, to))?;
    }
    Ok(gelu)
}

fn layer_norm(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let mut norms = TensorMap::new();
    let halves = GoesOn::to_products_of(numbers.compute);
    for (on, parts) in [(GoesOn::Through, 1), (GoesOn::Past, 4), (GoesOn::Past, 0), (halves, 2), (halves, 0)]
    {
        let branch = (parts > 0).then(|| Branch {
            parts: numbers.full([parts, ROWS, WIDTH], 12),
            bias: numbers.full([WIDTH], 13),
        });
        let stream = Stream::from(numbers.full([ROWS, WIDTH], 16));
        let normed = kernels.add_norm(stream, branch, scales(numbers), on, numbers.compute);
        insert(&mut norms, &format!("stream of {parts}, {on:?}"), normed.stream.full())?;
        insert(&mut norms, &format!("input of {parts}, {on:?}"), normed.input)?;
    }
    // A branch that was rounded, and a stream whose halves are of one size, so that neither may be left out.
    if halves == GoesOn::InHalves {
        let half = |seed| numbers.halves([ROWS, WIDTH], seed);
        let stream = Stream { first: half(20), rest: Some(half(25)) };
        let normed = |on| {
            let branch = Branch { parts: half(26).unsqueeze(), bias: numbers.full([WIDTH], 13) };
            kernels.add_norm(stream.clone(), Some(branch), scales(numbers), on, numbers.compute)
        };
        insert(&mut norms, "input of halves", normed(halves).input)?;
        let (whole, joined) = (normed(GoesOn::Through).stream.full(), normed(halves).stream.full());
        // Where what rounding leaves is not there, this is far from one.
        insert(&mut norms, "what halves lose", (joined - whole.clone()) * 64.0 + 1.0)?;
        insert(&mut norms, "stream of halves", whole)?;
    }
    Ok(norms)
}

fn embedding(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let mut embedded = TensorMap::new();
    for on in [GoesOn::Past, GoesOn::Through, GoesOn::to_products_of(numbers.compute)] {
        let rows = Embedded {
            tokens: numbers.whole(ROWS, |row| row * 31 % 101),
            positions: numbers.whole(ROWS, |row| row * 7 % ACTIVE),
            of_token: numbers.halves([101, WIDTH], 54),
            of_position: numbers.halves([ACTIVE, WIDTH], 55),
        };
        let normed = kernels.embed(rows, scales(numbers), on, numbers.compute);
        insert(&mut embedded, &format!("stream, {on:?}"), normed.stream.full())?;
        insert(&mut embedded, &format!("input, {on:?}"), normed.input)?;
    }
    Ok(embedded)
}

/// Numbers of codes that fill a warp's shares, and that do not.
fn draw(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let mut drawn = TensorMap::new();
    for (name, codes, temperature) in
        [("drawn", 320, 1.0), ("drawn at a temperature", 333, 0.7), ("of few", 5, 1.5)]
    {
        let logits = numbers.full([ROWS, codes], 48) * 2.0;
        // Up to one, which no sum of probabilities is above.
        let uniform = (0..ROWS).map(|row| row as f32 / (ROWS - 1) as f32).collect::<Vec<_>>();
        let uniform = Tensor::from_data(TensorData::new(uniform, [ROWS, 1]), numbers.device);
        let (codes, logarithms) = kernels.draw(logits, uniform, temperature);
        insert(&mut drawn, &format!("{name}: codes"), codes.float())?;
        insert(&mut drawn, &format!("{name}: logarithms"), logarithms)?;
    }
    // Rows that no code can be drawn from.
    for (name, logit) in
        [("no numbers", f32::NAN), ("nothing", f32::NEG_INFINITY), ("too much", f32::INFINITY)]
    {
        let logits = Tensor::full([2, 40], logit, numbers.device);
        let (codes, logarithms) = kernels.draw(logits, Tensor::full([2, 1], 0.5, numbers.device), 1.0);
        // Differences are shares of the largest, which is the first code.
        insert(&mut drawn, &format!("of {name}: codes"), codes.float() + 1.0)?;
        insert(&mut drawn, &format!("of {name}: logarithms"), logarithms.is_nan().float())?;
    }
    Ok(drawn)
}

/// Some scores are equal, and some samples have more places than a cube has units.
fn decide(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
    let mut decided = TensorMap::new();
    for (masked, count) in [(40usize, 7usize), (300, 299), (9, 1)] {
        let scores: Vec<f32> = (0..BATCH * masked).map(|i| (i * 37 % 23) as f32 - 11.0).collect();
        let codes: Vec<i32> = (0..BATCH * masked).map(|i| (i * 13 % 101) as i32).collect();
        let places: Vec<i32> = (0..BATCH * masked).map(|i| (i % masked) as i32).collect();
        let whole = |data: Vec<i32>| {
            Tensor::<2, Int>::from_data(TensorData::new(data, [BATCH, masked]), (numbers.device, DType::I32))
        };
        let scores = Tensor::from_data(TensorData::new(scores, [BATCH, masked]), numbers.device);
        let [codes, places] = kernels.decide(scores, whole(codes), whole(places), count);
        insert(&mut decided, &format!("codes of {masked}"), codes.float())?;
        insert(&mut decided, &format!("places of {masked}"), places.float())?;
    }
    Ok(decided)
}

fn adamw(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
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
    Ok(moved)
}

fn squares_and_averages(kernels: &dyn Kernels, numbers: &Numbers) -> anyhow::Result<TensorMap> {
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
    Ok(gathered)
}

fn input(numbers: &Numbers, seed: usize) -> Tensor<2> {
    numbers.halves([ROWS, WIDTH], seed) * (1.0 / (WIDTH as f64).sqrt())
}

fn scales(numbers: &Numbers) -> Scales {
    Scales { gamma: numbers.full([WIDTH], 14), beta: numbers.full([WIDTH], 15) }
}
