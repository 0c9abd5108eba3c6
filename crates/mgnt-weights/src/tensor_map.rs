use std::collections::BTreeMap;

use half::{bf16, f16};

use crate::Error;

/// Type of a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 8-bit unsigned.
    U8,
    /// 16-bit unsigned (tokens).
    U16,
    /// 32-bit unsigned.
    U32,
    /// 8-bit signed.
    I8,
    /// 16-bit signed.
    I16,
    /// 32-bit signed.
    I32,
    /// 64-bit signed.
    I64,
    /// Half precision.
    F16,
    /// Brain float.
    Bf16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
}

impl DType {
    /// Whether values have a fraction.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::Bf16 | DType::F32 | DType::F64)
    }

    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            DType::U8 | DType::I8 => 1,
            DType::U16 | DType::I16 | DType::F16 | DType::Bf16 => 2,
            DType::U32 | DType::I32 | DType::F32 => 4,
            DType::I64 | DType::F64 => 8,
        }
    }

    /// Bytes of a tensor of that shape, if they can be counted.
    pub(crate) fn bytes_of(self, shape: &[usize]) -> Option<usize> {
        shape.iter().try_fold(self.size(), |n, &d| n.checked_mul(d))
    }
}

/// One tensor: a type, a shape, and little-endian values in row-major order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl NamedTensor {
    /// A tensor from raw little-endian bytes; `name` is for the error only.
    pub fn new(name: &str, dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Self, Error> {
        let expected = dtype.bytes_of(&shape).ok_or_else(|| Error::Length {
            name: name.into(),
            shape: shape.clone(),
            expected: usize::MAX,
            got: bytes.len(),
        })?;
        if expected != bytes.len() {
            return Err(Error::Length { name: name.into(), shape, expected, got: bytes.len() });
        }
        Ok(Self { dtype, shape, bytes })
    }

    /// Type of the values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Length of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Raw little-endian bytes, row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The values as `f32`, whatever number type they have.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::F32 => self.values(f32::from_le_bytes),
            DType::F64 => self.values(|b| f64::from_le_bytes(b) as f32),
            DType::F16 => self.values(|b| f16::from_le_bytes(b).to_f32()),
            DType::Bf16 => self.values(|b| bf16::from_le_bytes(b).to_f32()),
            _ => self.iter_i64().into_iter().flatten().map(|v| v as f32).collect(),
        }
    }

    /// The values as `f64`, whatever number type they have.
    pub fn to_f64(&self) -> Vec<f64> {
        match self.dtype {
            DType::F64 => self.values(f64::from_le_bytes),
            DType::F32 | DType::F16 | DType::Bf16 => self.to_f32().into_iter().map(f64::from).collect(),
            _ => self.iter_i64().into_iter().flatten().map(|v| v as f64).collect(),
        }
    }

    /// The first value that is not finite in `f32`.
    fn not_finite(&self) -> Option<f32> {
        fn first<const W: usize>(bytes: &[u8], read: impl Fn([u8; W]) -> f32) -> Option<f32> {
            let is_wrong = |&number: &[u8; W]| !read(number).is_finite();
            // All of a block without a branch, which the compiler makes wide.
            let mut blocks = bytes.as_chunks::<W>().0.chunks(1024);
            let block =
                blocks.find(|block| block.iter().fold(false, |any, number| any | is_wrong(number)))?;
            block.iter().find(|number| is_wrong(number)).map(|&number| read(number))
        }
        match self.dtype {
            DType::F32 => first(&self.bytes, f32::from_le_bytes),
            DType::F64 => first(&self.bytes, |b| f64::from_le_bytes(b) as f32),
            DType::F16 => first(&self.bytes, |b| f16::from_le_bytes(b).to_f32()),
            DType::Bf16 => first(&self.bytes, |b| bf16::from_le_bytes(b).to_f32()),
            _ => None,
        }
    }

    /// The tensor itself, where it may be weights: integers are an error. `name` is for the error only.
    pub fn require_float(&self, name: &str) -> Result<&Self, Error> {
        match self.dtype.is_float() {
            true => Ok(self),
            false => {
                Err(Error::Type { name: name.into(), expected: "a floating-point type", got: self.dtype })
            }
        }
    }

    /// The same numbers with dimension `axes[i]` in the place of dimension `i`, as NumPy's `transpose` has it. A linear layer's
    /// weight is `[in, out]` here and `[out, in]` in PyTorch: `permuted(name, &[1, 0])`. `name` is for the error only.
    pub fn permuted(&self, name: &str, axes: &[usize]) -> Result<Self, Error> {
        let rank = self.shape.len();
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..rank) {
            return Err(Error::Axes { name: name.into(), rank, got: axes.to_vec() });
        }
        let mut strides = vec![1; rank];
        for i in (1..rank).rev() {
            strides[i - 1] = strides[i] * self.shape[i];
        }
        let shape: Vec<usize> = axes.iter().map(|&axis| self.shape[axis]).collect();
        let strides: Vec<usize> = axes.iter().map(|&axis| strides[axis]).collect();
        let size = self.dtype.size();
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for number in 0..self.bytes.len() / size {
            let (mut rest, mut from) = (number, 0);
            for (length, stride) in shape.iter().zip(&strides).rev() {
                from += rest % length * stride;
                rest /= length;
            }
            bytes.extend_from_slice(&self.bytes[from * size..][..size]);
        }
        Ok(Self { dtype: self.dtype, shape, bytes })
    }

    /// The same numbers in another float type, rounded to nearest; integers stay what they are. `name` is for the error only.
    ///
    /// Fails where that would make a finite number infinite.
    pub fn to_float(self, name: &str, dtype: DType) -> Result<Self, Error> {
        if self.dtype == dtype || !self.dtype.is_float() {
            return Ok(self);
        }
        // From f64, which holds every float type; half's own way from there to halves passes over the last bits.
        let values = self.to_f64();
        let bytes = match dtype {
            DType::F16 => values.iter().flat_map(|&v| f16::from_f32(to_odd(v)).to_le_bytes()).collect(),
            DType::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(to_odd(v)).to_le_bytes()).collect(),
            DType::F32 => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
            DType::F64 => values.iter().flat_map(|&v| v.to_le_bytes()).collect(),
            _ => return Ok(self),
        };
        let rounded = Self { dtype, shape: self.shape, bytes };
        let mut pairs = values.iter().zip(rounded.to_f32());
        match pairs.find(|(value, rounded)| value.is_finite() && rounded.is_infinite()) {
            Some((&value, _)) => Err(Error::Beyond { name: name.into(), value, to: dtype }),
            None => Ok(rounded),
        }
    }

    /// The values of an integer tensor; `None` for a float tensor.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        Some(self.iter_i64()?.collect())
    }

    /// The values of an integer tensor one by one, without a copy of all; `None` of floats.
    pub fn iter_i64(&self) -> Option<Box<dyn Iterator<Item = i64> + '_>> {
        Some(match self.dtype {
            DType::U8 => Box::new(self.each(|bytes| i64::from(u8::from_le_bytes(bytes)))),
            DType::U16 => Box::new(self.each(|bytes| i64::from(u16::from_le_bytes(bytes)))),
            DType::U32 => Box::new(self.each(|bytes| i64::from(u32::from_le_bytes(bytes)))),
            DType::I8 => Box::new(self.each(|bytes| i64::from(i8::from_le_bytes(bytes)))),
            DType::I16 => Box::new(self.each(|bytes| i64::from(i16::from_le_bytes(bytes)))),
            DType::I32 => Box::new(self.each(|bytes| i64::from(i32::from_le_bytes(bytes)))),
            DType::I64 => Box::new(self.each(i64::from_le_bytes)),
            DType::F16 | DType::Bf16 | DType::F32 | DType::F64 => return None,
        })
    }

    fn each<const W: usize, T>(&self, read: impl Fn([u8; W]) -> T) -> impl Iterator<Item = T> {
        self.bytes.as_chunks::<W>().0.iter().map(move |&bytes| read(bytes))
    }

    fn values<const W: usize, T>(&self, read: impl Fn([u8; W]) -> T) -> Vec<T> {
        self.each(read).collect()
    }
}

/// A number as `f32`, whose last bit is set where it is not exact, so that a second rounding, to a shorter type, gives what
/// a single one would (Boldo and Melquiond, 2008).
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) == value || !near.is_finite() {
        return near;
    }
    // Of the two neighbours that the number lies between, the one that is odd: the nearer, or the one toward zero of it.
    let beyond = f64::from(near).abs() > value.abs();
    f32::from_bits((near.to_bits() - u32::from(beyond)) | 1)
}

/// Tensors by name, with the file's free-text metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorMap {
    tensors: BTreeMap<String, NamedTensor>,
    metadata: BTreeMap<String, String>,
}

/// Names and tensors in name order; the free text is dropped.
impl IntoIterator for TensorMap {
    type Item = (String, NamedTensor);
    type IntoIter = std::collections::btree_map::IntoIter<String, NamedTensor>;

    fn into_iter(self) -> Self::IntoIter {
        self.tensors.into_iter()
    }
}

/// Of two tensors of one name the last stays.
impl FromIterator<(String, NamedTensor)> for TensorMap {
    fn from_iter<I: IntoIterator<Item = (String, NamedTensor)>>(tensors: I) -> Self {
        Self { tensors: tensors.into_iter().collect(), metadata: BTreeMap::new() }
    }
}

impl TensorMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: impl Into<String>, tensor: NamedTensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// Adds `f32` values; fails where `shape` needs another number of them.
    pub fn insert_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<(), Error> {
        self.insert_values(name, DType::F32, shape, values)
    }

    /// Adds `f64` values.
    pub fn insert_f64(&mut self, name: &str, shape: &[usize], values: &[f64]) -> Result<(), Error> {
        self.insert_values(name, DType::F64, shape, values)
    }

    /// Adds `i32` values.
    pub fn insert_i32(&mut self, name: &str, shape: &[usize], values: &[i32]) -> Result<(), Error> {
        self.insert_values(name, DType::I32, shape, values)
    }

    /// Adds `u16` values.
    pub fn insert_u16(&mut self, name: &str, shape: &[usize], values: &[u16]) -> Result<(), Error> {
        self.insert_values(name, DType::U16, shape, values)
    }

    fn insert_values<T: bytemuck::NoUninit>(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        values: &[T],
    ) -> Result<(), Error> {
        const { assert!(cfg!(target_endian = "little"), "values are written as they lie in memory") };
        let bytes = bytemuck::cast_slice(values).to_vec();
        self.insert(name, NamedTensor::new(name, dtype, shape.to_vec(), bytes)?);
        Ok(())
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Result<&NamedTensor, Error> {
        self.tensors.get(name).ok_or_else(|| Error::Missing { name: name.into() })
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<NamedTensor> {
        self.tensors.remove(name)
    }

    /// The tensor of that name if it has exactly this shape and a float type, as `f32`.
    pub fn f32_of_shape(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let tensor = self.get(name)?;
        if tensor.shape() != shape {
            return Err(Error::Shape {
                name: name.into(),
                expected: shape.to_vec(),
                got: tensor.shape().to_vec(),
            });
        }
        Ok(tensor.require_float(name)?.to_f32())
    }

    /// The values of an integer tensor.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>, Error> {
        let tensor = self.get(name)?;
        tensor.to_i64().ok_or_else(|| Error::Type {
            name: name.into(),
            expected: "integers",
            got: tensor.dtype(),
        })
    }

    /// Names and tensors in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &NamedTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Fails at the first value that is not finite in `f32`.
    pub fn check_finite(&self) -> Result<(), Error> {
        for (name, tensor) in self.iter() {
            if let Some(value) = tensor.not_finite() {
                return Err(Error::NotFinite { name: name.into(), value });
            }
        }
        Ok(())
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Free text of the file, by key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Sets one entry of the free text.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.insert(key.into(), value.into());
    }

    /// The tensors whose names start with `prefix`, without it; the rest is dropped. The free text is kept.
    pub fn below(self, prefix: &str) -> Self {
        let tensors = self
            .tensors
            .into_iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor)))
            .collect();
        Self { tensors, metadata: self.metadata }
    }

    pub(crate) fn from_parts(
        tensors: BTreeMap<String, NamedTensor>,
        metadata: BTreeMap<String, String>,
    ) -> Self {
        Self { tensors, metadata }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_types_change_and_integers_stay() {
        let mut map = TensorMap::new();
        map.insert_f32("x", &[3], &[1.0, -0.333_333_34, 70000.0]).unwrap();
        map.insert_f32("infinite", &[2], &[f32::NEG_INFINITY, f32::NAN]).unwrap();
        map.insert_i32("i", &[1], &[7]).unwrap();
        let [x, infinite, i] = ["x", "infinite", "i"].map(|name| map.remove(name).unwrap());
        let half = x.clone().to_float("x", DType::Bf16).unwrap();
        assert_eq!((half.dtype(), half.bytes().len()), (DType::Bf16, 6));
        assert_eq!(half.to_f32()[..2], [1.0, -0.333_984_38]);
        assert_eq!(x.clone().to_float("x", DType::F64).unwrap().to_f32(), x.to_f32());
        assert_eq!(i.clone().to_float("i", DType::F16).unwrap(), i);
        let error = x.to_float("x", DType::F16).unwrap_err().to_string();
        assert_eq!(error, "tensor `x`: 7e4 is beyond what F16 can hold");
        let infinite = infinite.to_float("infinite", DType::F16).unwrap().to_f32();
        assert!(infinite[0] == f32::NEG_INFINITY && infinite[1].is_nan());
    }

    #[test]
    fn dimensions_change_places_as_in_numpy() {
        let numbers: Vec<i32> = (0..24).collect();
        let mut map = TensorMap::new();
        map.insert_i32("x", &[2, 3, 4], &numbers).unwrap();
        let x = map.get("x").unwrap();
        let turned = x.permuted("x", &[2, 0, 1]).unwrap();
        assert_eq!(turned.shape(), [4, 2, 3]);
        // np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1).ravel()[:8]
        assert_eq!(turned.to_i64().unwrap()[..8], [0, 4, 8, 12, 16, 20, 1, 5]);
        assert!(turned.iter_i64().unwrap().eq(turned.to_i64().unwrap()));
        assert_eq!(turned.permuted("x", &[1, 2, 0]).unwrap(), *x);
        for wrong in [&[0, 1][..], &[0, 1, 1], &[0, 1, 3], &[0, 1, 2, 3]] {
            let error = x.permuted("x", wrong).unwrap_err().to_string();
            assert_eq!(error, format!("tensor `x`: expected each of 3 dimensions once, got {wrong:?}"));
        }
    }

    #[test]
    fn the_first_number_that_is_not_finite_is_found() {
        let of = |dtype, wrong: f64, at: usize| {
            let mut values = vec![1.0; 3000];
            values[at] = wrong;
            let bytes = values.iter().flat_map(|value: &f64| value.to_le_bytes()).collect();
            let doubles = NamedTensor::new("x", DType::F64, vec![3000], bytes).unwrap();
            let mut map = TensorMap::new();
            // Of a number that is not finite no type is too short.
            map.insert("x", doubles.to_float("x", dtype).unwrap());
            map.check_finite()
        };
        for dtype in [DType::F16, DType::Bf16, DType::F32, DType::F64] {
            of(dtype, 2.0, 0).unwrap();
            for at in [0, 1023, 1024, 2999] {
                let error = of(dtype, f64::NEG_INFINITY, at).unwrap_err().to_string();
                assert_eq!(error, "tensor `x`: expected finite values, got -inf", "{dtype:?} {at}");
                assert!(of(dtype, f64::NAN, at).is_err(), "{dtype:?} {at}");
            }
        }
        // Beyond what `f32` holds.
        assert!(of(DType::F64, 1e300, 5).is_err());
    }

    #[test]
    fn integers_come_one_by_one() {
        for (dtype, bytes, expected) in [
            (DType::U8, vec![7, 255], [7, 255]),
            (DType::U16, vec![1, 2, 255, 255], [513, 65_535]),
            (DType::U32, [1u32.to_le_bytes(), u32::MAX.to_le_bytes()].concat(), [1, 4_294_967_295]),
            (DType::I8, vec![5, 0xfe], [5, -2]),
            (DType::I16, vec![0, 1, 0xff, 0xff], [256, -1]),
            (DType::I32, [(-3i32).to_le_bytes(), 4i32.to_le_bytes()].concat(), [-3, 4]),
            (DType::I64, [(-3i64).to_le_bytes(), (1i64 << 40).to_le_bytes()].concat(), [-3, 1 << 40]),
        ] {
            let tensor = NamedTensor::new("x", dtype, vec![2], bytes).unwrap();
            assert!(tensor.iter_i64().unwrap().eq(expected), "{dtype:?}");
            assert_eq!(tensor.to_i64().unwrap(), expected);
        }
        assert!(NamedTensor::new("x", DType::F16, vec![1], vec![0, 0]).unwrap().iter_i64().is_none());
    }

    #[test]
    fn tensors_are_renamed_on_the_way_from_map_to_map() {
        let mut map = TensorMap::new();
        map.insert_i32("b", &[1], &[1]).unwrap();
        map.insert_i32("a", &[1], &[2]).unwrap();
        let renamed: TensorMap =
            map.into_iter().map(|(name, tensor)| (format!("net.{name}"), tensor)).collect();
        assert_eq!(renamed.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["net.a", "net.b"]);
        assert_eq!(renamed.below("net.").integers("b").unwrap(), [1]);
    }

    #[test]
    fn halves_are_rounded_to_nearest_once() {
        let of = |values: &[f64], dtype| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let tensor = NamedTensor::new("x", DType::F64, vec![values.len()], bytes).unwrap();
            tensor.to_float("x", dtype).unwrap().to_f64()
        };
        // A hair above and below the middle of two neighbours, and the middle, which goes to the even one.
        for (dtype, steps) in [(DType::Bf16, 128.0), (DType::F16, 1024.0)] {
            for place in 0..4 {
                let (low, high) = (1.0 + f64::from(place) / steps, 1.0 + f64::from(place + 1) / steps);
                let middle = f64::midpoint(low, high);
                let even = if place % 2 == 0 { low } else { high };
                for hair in [2f64.powi(-23), 2f64.powi(-40), 2f64.powi(-52)] {
                    for sign in [1.0, -1.0] {
                        let values = [middle - hair, middle, middle + hair].map(|value| sign * value);
                        assert_eq!(
                            of(&values, dtype),
                            [low, even, high].map(|value| sign * value),
                            "{hair:e}"
                        );
                    }
                }
            }
        }
        // Of every f32 between two neighbours, as their own types have it.
        let singles: Vec<f32> = (0x3f80_0000..=0x3f81_0000u32).map(f32::from_bits).collect();
        let bytes = singles.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = NamedTensor::new("x", DType::F32, vec![singles.len()], bytes).unwrap();
        let rounded = tensor.to_float("x", DType::Bf16).unwrap().to_f32();
        for (value, rounded) in singles.into_iter().zip(rounded) {
            let nearest = if value.to_bits() <= 0x3f80_8000 { 1.0 } else { 1.007_812_5 };
            assert_eq!(rounded, nearest, "{value:e}");
        }
        assert_eq!(of(&[1e-300, -1e-300, 0.0, -0.0], DType::F16), [0.0, -0.0, 0.0, -0.0]);
        assert_eq!(of(&[65519.999], DType::F16), [65504.0]);
    }

    #[test]
    fn what_is_not_finite_is_named() {
        let mut map = TensorMap::new();
        map.insert_i32("i", &[1], &[7]).unwrap();
        map.insert_f32("a", &[2], &[f32::MAX, f32::MIN_POSITIVE]).unwrap();
        map.check_finite().unwrap();
        map.insert_f64("b", &[2], &[0.0, -1e300]).unwrap();
        let error = map.check_finite().unwrap_err().to_string();
        assert_eq!(error, "tensor `b`: expected finite values, got -inf");
    }

    #[test]
    fn values_come_back_in_every_type() {
        let half = |v: f32| f16::from_f32(v).to_le_bytes().to_vec();
        let tensor = NamedTensor::new("x", DType::F16, vec![2], [half(1.5), half(-2.0)].concat()).unwrap();
        assert_eq!(tensor.to_f32(), [1.5, -2.0]);
        assert_eq!(tensor.to_i64(), None);
        let mut map = TensorMap::new();
        map.insert_u16("t", &[3], &[0, 7, 65535]).unwrap();
        assert_eq!(map.integers("t").unwrap(), [0, 7, 65535]);
        assert_eq!(map.get("t").unwrap().to_f64(), [0.0, 7.0, 65535.0]);
        let error = map.f32_of_shape("t", &[3]).unwrap_err().to_string();
        assert_eq!(error, "tensor `t`: expected a floating-point type, got U16");
    }

    #[test]
    fn a_level_can_be_taken_off() {
        let mut map = TensorMap::new();
        map.insert_u16("a.b.c", &[1], &[1]).unwrap();
        map.insert_u16("a.bc", &[1], &[2]).unwrap();
        map.set_metadata("kind", "test");
        let below = map.below("a.b.");
        assert_eq!(below.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["c"]);
        assert_eq!(below.metadata().len(), 1);
    }

    #[test]
    fn shape_and_length_must_agree() {
        let error = TensorMap::new().insert_f32("w", &[2, 3], &[0.0; 5]).unwrap_err();
        assert_eq!(error.to_string(), "tensor `w`: shape [2, 3] needs 24 bytes, got 20");
        let huge = NamedTensor::new("w", DType::F64, vec![usize::MAX, 2], vec![]);
        assert!(huge.is_err());
    }
}
