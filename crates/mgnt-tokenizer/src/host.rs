//! Between tensors and the host's bytes and tokens.

use burn::tensor::kind::Basic;
use burn::tensor::{Device, Element, Int, Tensor, TensorData};
use mgnt_weights::module::numbers;

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
///
/// Fails where some are not finite.
pub(crate) fn to_bytes<const R: usize>(tensor: Tensor<R>) -> Result<Vec<Vec<u8>>, Error> {
    let dims = tensor.dims();
    let cells = dims[2..].iter().product::<usize>();
    let values = tensor.reshape([dims[0], 3, cells]).swap_dims(1, 2);
    let values: Vec<f32> = read(values)?;
    let mut is_finite = true;
    // Clamped here and not on the device, which may make a number of what is none.
    let mut byte = |&value: &f32| {
        is_finite &= value.is_finite();
        (value.clamp(0.0, 1.0) * 255.0).round() as u8
    };
    let items = values.chunks(3 * cells).map(|item| item.iter().map(&mut byte).collect()).collect();
    if is_finite { Ok(items) } else { Err(Error::NotFinite { what: "pictures" }) }
}

/// Numbers of codes, of [`Quantizer::nearest_if_finite`](crate::quantizer::Quantizer::nearest_if_finite), `each` for a picture
/// or video.
pub(crate) fn to_tokens(indices: Tensor<1, Int>, each: usize) -> Result<Vec<Vec<u16>>, Error> {
    let tokens = found(read(indices)?)?;
    Ok(tokens.chunks(each).map(<[u16]>::to_vec).collect())
}

/// Fails where latents have no code.
pub(crate) fn check_found(indices: &Tensor<1, Int>) -> Result<(), Error> {
    found(read(indices.clone())?).map(drop)
}

fn found(indices: Vec<i64>) -> Result<Vec<u16>, Error> {
    let tokens = indices.into_iter().map(|index| u16::try_from(index).ok());
    tokens.collect::<Option<_>>().ok_or(Error::NotFinite { what: "latents" })
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
    let wrong =
        read::<G, Int, i64>(indices.clone())?.into_iter().find(|&index| index < 0 || index >= codes as i64);
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

/// A tensor's numbers in order.
fn read<const R: usize, K: Basic, E: Element>(tensor: Tensor<R, K>) -> Result<Vec<E>, Error> {
    numbers(tensor).map_err(Error::Device)
}
