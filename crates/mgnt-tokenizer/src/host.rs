//! Between tensors and the host's bytes and tokens.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::Error;

pub(crate) fn input(field: &'static str, expected: impl ToString, got: impl ToString) -> Error {
    Error::Input { field, expected: expected.to_string(), got: got.to_string() }
}

/// Bytes `[.., 3]` of some pictures or videos as values in 0 to 1, `[B, 3, ..]`.
pub(crate) fn to_tensor<const R: usize>(
    items: &[&[u8]],
    field: &'static str,
    dims: [usize; R],
    device: &Device,
) -> Result<Tensor<R>, Error> {
    let bytes: usize = dims[1..].iter().product();
    if let Some(wrong) = items.iter().find(|item| item.len() != bytes) {
        let sides: Vec<String> = dims[2..].iter().map(ToString::to_string).collect();
        return Err(input(field, format!("{}x3 bytes", sides.join("x")), format!("{} bytes", wrong.len())));
    }
    let mut values = Vec::with_capacity(items.len() * bytes);
    for item in items {
        for channel in 0..3 {
            values.extend(item.iter().skip(channel).step_by(3).map(|&v| f32::from(v) / 255.0));
        }
    }
    Ok(Tensor::from_data(TensorData::new(values, dims), device))
}

/// Values `[B, 3, ..]` as bytes `[.., 3]`, clamped to 0 to 1.
pub(crate) fn to_bytes<const R: usize>(tensor: Tensor<R>) -> Result<Vec<Vec<u8>>, Error> {
    let dims = tensor.dims();
    let cells = dims[2..].iter().product::<usize>();
    let values = tensor.clamp(0.0, 1.0).reshape([dims[0], 3, cells]).swap_dims(1, 2) * 255.0;
    let values = values.into_data().convert::<f32>().try_into_vec::<f32>();
    let values = values.map_err(|e| Error::Device(format!("{e:?}")))?;
    Ok(values.chunks(3 * cells).map(|item| item.iter().map(|v| v.round() as u8).collect()).collect())
}

/// Numbers of codes, `each` for a picture or video.
pub(crate) fn to_tokens(indices: Tensor<1, Int>, each: usize) -> Result<Vec<Vec<u16>>, Error> {
    let indices = read(indices)?;
    Ok(indices.chunks(each).map(|tokens| tokens.iter().map(|&t| t as u16).collect()).collect())
}

/// Tokens, `each` for a picture or video, as numbers of codes `[B each]`.
pub(crate) fn from_tokens(
    tokens: &[Vec<u16>],
    each: usize,
    codes: usize,
    device: &Device,
) -> Result<Tensor<1, Int>, Error> {
    for tokens in tokens {
        if tokens.len() != each {
            return Err(input("tokens", each, tokens.len()));
        }
        if let Some(token) = tokens.iter().find(|&&token| usize::from(token) >= codes) {
            return Err(input("token", format!("below {codes}"), token));
        }
    }
    let indices: Vec<i32> = tokens.iter().flatten().map(|&t| i32::from(t)).collect();
    let count = indices.len();
    Ok(Tensor::from_data(TensorData::new(indices, [count]), device))
}

/// Fails where a number is not that of a code, or there is none.
pub(crate) fn check_indices<const G: usize>(indices: &Tensor<G, Int>, codes: usize) -> Result<(), Error> {
    if indices.dims().contains(&0) {
        return Err(input("indices", "at least one", format!("shape {:?}", indices.dims())));
    }
    let wrong = read(indices.clone())?.into_iter().find(|&index| index < 0 || index >= codes as i64);
    wrong.map_or(Ok(()), |index| Err(input("indices", format!("0 to {}", codes - 1), index)))
}

/// Fails where a batch is not `[B, 3, ..]`, each at least 1.
pub(crate) fn check_channels<const R: usize>(field: &'static str, dims: [usize; R]) -> Result<(), Error> {
    if dims[1] == 3 && !dims.contains(&0) {
        return Ok(());
    }
    let sides = if R == 5 { "T, H, W" } else { "H, W" };
    Err(input(field, format!("shape [B, 3, {sides}]"), format!("{dims:?}")))
}

fn read<const G: usize>(indices: Tensor<G, Int>) -> Result<Vec<i64>, Error> {
    let indices = indices.into_data().convert::<i64>().try_into_vec::<i64>();
    indices.map_err(|e| Error::Device(format!("{e:?}")))
}
