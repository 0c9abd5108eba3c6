//! PyTorch's checkpoints (`.bin`, `.pt`, `.pth`): what `torch.save` writes since PyTorch 1.6, and what it wrote
//! before (`torch/legacy.rs`).
//!
//! A file of today is a zip archive: `<folder>/data.pkl` says, as a Python pickle, which tensors there are, and
//! `<folder>/data/<key>` holds the values. The pickle is read by a machine that knows dictionaries, lists, numbers,
//! texts and tensors, and nothing that could run: see `torch/pickle.rs`. Names are the keys joined with `.`; whatever
//! is no tensor (a step counter, a learning rate) is left out. Of `{"state_dict": {…}}` take what is
//! [below](TensorMap::below) `state_dict.`.
//!
//! Tensors come out contiguous, whatever their strides were; tensors that share values each get their own copy.
//!
//! The bytes are not trusted: sizes, strides and offsets are checked before anything is copied, and what is allocated
//! stays within a small multiple of the file, also where the archive is compressed or the pickle refers to
//! one thing many times. An entry whose checksum is wrong is refused.

#[cfg(test)]
mod assembler;
mod legacy;
mod pickle;
mod program;
mod strided;
mod tree;

use std::borrow::Cow;
use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;

use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config};

use crate::limits::{Budget, Found, Reason, quoted, shown};
use crate::{Error, TensorMap};
use program::Program;
use strided::StridedTensor;

const FORMAT: &str = "PyTorch";
/// How much larger than its compressed bytes an entry may be …
const MAX_RATIO: u64 = 64;
/// … beyond this.
const RATIO_SLACK: u64 = 1 << 20;

/// Reads all tensors of a file.
pub fn read(path: &Path) -> Result<TensorMap, Error> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    parse(&bytes, path)
}

/// Reads all tensors of a file's bytes; `path` is for errors only.
pub fn parse(bytes: &[u8], path: &Path) -> Result<TensorMap, Error> {
    tensors(bytes).map_err(|reason| Error::Format { path: path.into(), format: FORMAT, reason })
}

fn tensors(bytes: &[u8]) -> Result<TensorMap, Reason> {
    if legacy::starts(bytes) {
        return legacy::tensors(bytes);
    }
    let mut budget = Budget::of_file(bytes.len());
    let mut archive = Archive::open(bytes)?;
    archive.check_byte_order(&mut budget)?;
    let program = archive.read("data.pkl", &mut budget)?;
    let outcome =
        pickle::run(&mut Program::new(&program), &mut budget).map_err(|e| format!("`data.pkl`, {e}"))?;
    let mut tensors = outcome.tensors(&mut budget)?;
    // One storage is in memory at a time: those who share it come after each other.
    tensors.sort_by(|(_, a), (_, b)| a.storage.key.cmp(b.storage.key));
    let mut found = Found::default();
    for group in tensors.chunk_by(|(_, a), (_, b)| a.storage.key == b.storage.key) {
        unpack(group, &mut archive, &mut budget, &mut found)?;
    }
    Ok(found.into_map())
}

/// Copies the tensors of one storage out of it.
fn unpack(
    group: &[(String, StridedTensor<'_>)],
    archive: &mut Archive<'_>,
    budget: &mut Budget,
    found: &mut Found,
) -> Result<(), Reason> {
    let Some(((last_name, last), others)) = group.split_last() else { return Ok(()) };
    let values = archive
        .read(&format!("data/{}", last.storage.key), budget)
        .map_err(|e| format!("tensor {}: {e}", quoted(last_name)))?;
    for (name, tensor) in others {
        keep(name, tensor, Cow::Borrowed(&values), budget, found)?;
    }
    keep(last_name, last, Cow::Owned(values), budget, found)
}

fn keep(
    name: &str,
    tensor: &StridedTensor<'_>,
    values: Cow<'_, [u8]>,
    budget: &mut Budget,
    found: &mut Found,
) -> Result<(), Reason> {
    let named = |e: Reason| format!("tensor {}: {e}", quoted(name));
    budget.take(tensor.bytes().map_err(named)?).map_err(named)?;
    let bytes = tensor.contiguous(values).map_err(named)?;
    found.add(budget, name, tensor.storage.dtype, tensor.shape.clone(), bytes)
}

/// The zip archive, and the folder inside it that everything is in.
struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    folder: Vec<u8>,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, Reason> {
        if !bytes.starts_with(b"PK") {
            return Err("it is neither a zip archive nor in PyTorch's old format".into());
        }
        // PyTorch puts nothing before the archive, so no need to look for its start.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = ZipArchive::with_config(config, Cursor::new(bytes))
            .map_err(|e| format!("the zip archive is damaged: {}", shown(&e.to_string())))?;
        if zip.has_duplicate_names() {
            return Err("the zip archive has two entries of the same name".into());
        }
        let mut folders = zip.file_names_raw().filter_map(|name| {
            let folder = name.strip_suffix(b"data.pkl")?;
            let slashes = folder.iter().filter(|&&b| b == b'/').count();
            (folder.is_empty() || (slashes == 1 && folder.ends_with(b"/"))).then(|| folder.to_vec())
        });
        match (folders.next(), folders.next()) {
            (Some(folder), None) => {
                drop(folders);
                Ok(Self { zip, folder })
            }
            (None, _) if zip.file_names_raw().any(|name| name.ends_with(b".npy")) => {
                Err("it is an archive of NumPy's arrays (`.npz`), and none of weights".into())
            }
            (None, _) => Err("the zip archive has no `data.pkl`, so `torch.save` did not write it".into()),
            _ => Err("the zip archive has more than one `data.pkl`".into()),
        }
    }

    /// Newer files say how their values lie in memory.
    fn check_byte_order(&mut self, budget: &mut Budget) -> Result<(), Reason> {
        if self.index("byteorder").is_none() {
            return Ok(());
        }
        match self.read("byteorder", budget)?.trim_ascii() {
            b"little" => Ok(()),
            other => Err(format!("byte order `{}` is not read", shown(&String::from_utf8_lossy(other)))),
        }
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.zip.index_for_name_raw(&[self.folder.as_slice(), name.as_bytes()].concat())
    }

    /// The content of an entry. Its size is believed only as far as the compressed bytes make it likely.
    fn read(&mut self, name: &str, budget: &mut Budget) -> Result<Vec<u8>, Reason> {
        let damaged = |what: String| format!("entry {}: {what}", quoted(name));
        let index = self.index(name).ok_or_else(|| damaged("the archive does not have it".into()))?;
        let entry = self.zip.by_index(index).map_err(|e| damaged(shown(&e.to_string())))?;
        let (size, compressed) = (entry.size(), entry.compressed_size());
        if size > compressed.saturating_mul(MAX_RATIO).saturating_add(RATIO_SLACK) {
            return Err(damaged(format!("{compressed} bytes are said to unpack to {size}")));
        }
        let length = usize::try_from(size).map_err(|_| damaged("too large".into()))?;
        budget.take(length).map_err(damaged)?;
        let mut bytes = Vec::with_capacity(length);
        // One byte more than announced, so that a longer entry is noticed; at its end its checksum is compared.
        let got = entry.take(size.saturating_add(1)).read_to_end(&mut bytes);
        match got.map_err(|e| damaged(shown(&e.to_string())))? {
            got if got == length => Ok(bytes),
            _ => Err(damaged(format!("it does not have the announced {size} bytes"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use half::{bf16, f16};
    use zip::CompressionMethod;
    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::assembler::Assembler;
    use super::*;
    use crate::{DType, flax};

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
    }

    fn zipped(method: CompressionMethod, entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn stored(pickle: &[u8], values: &[f32]) -> Vec<u8> {
        let entries = [("m/data.pkl", pickle), ("m/data/0", bytemuck::cast_slice(values))];
        zipped(CompressionMethod::Stored, &entries)
    }

    fn of(bytes: &[u8]) -> Result<TensorMap, String> {
        parse(bytes, Path::new("x.bin")).map_err(|e| e.to_string())
    }

    fn refused(bytes: &[u8]) -> String {
        of(bytes).unwrap_err()
    }

    /// One tensor `a` over 6 values that are stored.
    fn one(offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
        let mut code = Assembler::new();
        code.op(b"}").text("a").tensor("0", 6, offset, shape, strides).op(b"s.");
        stored(code.bytes(), &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    }

    #[test]
    fn strides_and_offsets_are_resolved() {
        let values = |bytes: &[u8]| of(bytes).unwrap().get("a").unwrap().to_f32();
        assert_eq!(values(&one(0, &[2, 3], &[3, 1])), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(values(&one(0, &[3, 2], &[1, 3])), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(values(&one(4, &[2], &[1])), [4.0, 5.0]);
        assert_eq!(values(&one(1, &[2, 2], &[0, 2])), [1.0, 3.0, 1.0, 3.0]);
    }

    #[test]
    fn short_integers_are_read() {
        for (storage, bytes, dtype, expected) in [
            ("CharStorage", &[5, 0xfe][..], DType::I8, [5, -2]),
            ("ShortStorage", &[0, 1, 0xff, 0xff], DType::I16, [256, -1]),
        ] {
            let mut code = Assembler::new();
            code.op(b"}").text("a").tensor("0", 2, 0, &[2], &[1]).op(b"s.");
            let (mut pickle, of_floats) = (code.bytes().to_vec(), b"FloatStorage");
            let at = pickle.windows(of_floats.len()).position(|w| w == of_floats).unwrap();
            pickle.splice(at..at + of_floats.len(), storage.bytes());
            let entries = [("m/data.pkl", pickle.as_slice()), ("m/data/0", bytes)];
            let map = of(&zipped(CompressionMethod::Stored, &entries)).unwrap();
            let a = map.get("a").unwrap();
            assert_eq!((a.dtype(), a.to_i64().unwrap()), (dtype, expected.to_vec()));
        }
    }

    #[test]
    fn views_outside_their_storage_name_the_tensor() {
        for (offset, shape, strides) in [
            (1, &[2, 3][..], &[3, 1][..]),
            (6, &[1], &[1]),
            (0, &[2], &[6]),
            (i64::MAX, &[2], &[i64::MAX]),
            (0, &[i64::MAX, i64::MAX], &[0, 0]),
        ] {
            let message = refused(&one(offset, shape, strides));
            assert!(message.starts_with("x.bin: not a valid PyTorch file: tensor `a`: "), "{message}");
            assert!(message.contains("outside"), "{message}");
        }
        // A stride of nothing would make petabytes of six values.
        assert!(refused(&one(0, &[1 << 50], &[0])).contains("far more"));
        assert!(refused(&one(-1, &[1], &[1])).contains("offset -1"));
    }

    #[test]
    fn a_storage_must_be_there_and_whole() {
        let mut code = Assembler::new();
        code.op(b"}").text("a").tensor("0", 6, 0, &[2], &[1]).op(b"s.");
        assert!(refused(&stored(code.bytes(), &[0.0; 5])).contains("tensor `a`: its storage should have 6"));
        let none = zipped(CompressionMethod::Stored, &[("data.pkl", code.bytes())]);
        assert!(refused(&none).contains("tensor `a`: entry `data/0`"), "{}", refused(&none));
        let mut damaged = stored(code.bytes(), &[1.5; 6]);
        let at = damaged.windows(4).position(|w| w == 1.5f32.to_le_bytes()).unwrap();
        damaged[at] ^= 1;
        assert!(refused(&damaged).to_lowercase().contains("checksum"), "{}", refused(&damaged));
    }

    #[test]
    fn archives_that_torch_save_did_not_write() {
        assert!(refused(b"").contains("neither a zip"));
        assert!(refused(b"PK\x03\x04").contains("damaged"));
        let store = |entries: &[(&str, &[u8])]| zipped(CompressionMethod::Stored, entries);
        assert!(refused(&store(&[("x/y/data.pkl", b"}.")])).contains("no `data.pkl`"));
        assert!(refused(&store(&[("x/data.pkl", b"}."), ("y/data.pkl", b"}.")])).contains("more than one"));
        assert!(refused(&store(&[("x/data.pkl", b"}."), ("x/byteorder", b"big")])).contains("`big`"));
        assert!(refused(&stored(b"\x80\x02cos\nsystem\n.", &[])).contains("`os.system`"));
        assert!(of(&stored(b"}.", &[])).unwrap().is_empty());
    }

    #[test]
    fn bombs_are_refused_before_they_unpack() {
        let zeros = vec![0; 64 << 20];
        let bomb = zipped(CompressionMethod::Deflated, &[("x/data.pkl", &zeros)]);
        assert!(refused(&bomb).contains("said to unpack"), "{}", refused(&bomb));
        // One storage that a hundred thousand names share, of which each would get a copy.
        let mut code = Assembler::new();
        code.op(b"}").text("a").tensor("0", 65536, 0, &[65536], &[1]).op(b"q\0s");
        for i in 0..100_000 {
            code.text(&i.to_string()).op(b"h\0s");
        }
        assert!(refused(&stored(code.op(b".").bytes(), &[0.5; 65536])).contains("far more"));
    }

    #[test]
    fn an_honest_file_of_many_tiny_tensors_is_within_the_bounds() {
        let (mut code, mut entries) = (Assembler::new(), Vec::new());
        code.op(b"}(");
        for i in 0..20_000 {
            code.text(&format!("blocks.{i}.gate")).tensor(&i.to_string(), 1, 0, &[1], &[1]);
            for at in 0..20 {
                code.op(b"r").op(&(20 * i as u32 + at).to_le_bytes());
            }
            entries.push((format!("m/data/{i}"), (i as f32).to_le_bytes()));
        }
        code.op(b"u.");
        let mut all: Vec<(&str, &[u8])> = vec![("m/data.pkl", code.bytes())];
        all.extend(entries.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
        let map = of(&zipped(CompressionMethod::Stored, &all)).unwrap();
        assert_eq!(map.len(), 20_000);
        assert_eq!(map.get("blocks.777.gate").unwrap().to_f32(), [777.0]);
    }

    /// Python's pickle wrote these two in `torch.save`'s layout, through a stand-in for PyTorch. They hold the same
    /// tree: every type, shared and strided storages, parameters, and plain values around.
    #[test]
    fn every_kind_in_two_protocols() {
        let map = read(&golden("torch/every_kind_protocol2.pt")).unwrap();
        assert_eq!(map, read(&golden("torch/every_kind_protocol4_deflated.pt")).unwrap());
        let f32s = |name: &str| map.get(name).unwrap().to_f32();
        let run = |at: &[usize]| at.iter().map(|&v| v as f32).collect::<Vec<_>>();
        assert_eq!(f32s("model.plain"), run(&(0..24).collect::<Vec<_>>()));
        assert_eq!(f32s("model.column"), run(&[3, 7, 11, 15, 19, 23]));
        assert_eq!(f32s("model.expanded"), run(&[5, 6, 5, 6, 5, 6]));
        assert_eq!(f32s("model.window"), run(&[6, 7, 10, 11]));
        let transposed = (0..4).flat_map(|i| (0..6).map(move |j| i + 4 * j)).collect::<Vec<_>>();
        assert_eq!(f32s("model.transposed"), run(&transposed));
        assert_eq!(map.get("model.permuted").unwrap().shape(), [4, 2, 3]);
        assert_eq!(f32s("model.permuted")[..6], run(&[0, 4, 8, 12, 16, 20]));
        assert_eq!(f32s("model.parameter"), [1.5, 2.5]);
        let typed = |name: &str, dtype: DType| {
            let tensor = map.get(name).unwrap();
            assert_eq!(tensor.dtype(), dtype, "{name}");
            tensor.to_f64()
        };
        assert_eq!(typed("model.double", DType::F64), [std::f64::consts::PI]);
        assert_eq!(typed("model.half", DType::F16), [f16::from_f32(1.5).to_f64(), -2.0]);
        assert_eq!(typed("model.bf16", DType::Bf16), [1.0, bf16::from_f32(-3.140625).to_f64()]);
        assert_eq!(typed("model.int", DType::I32), [-1.0, 7.0]);
        assert_eq!(typed("model.byte", DType::U8), [0.0, 255.0]);
        assert_eq!(map.integers("model.long").unwrap(), [i64::MIN, 5]);
        assert_eq!(map.integers("model.scalar").unwrap(), [3]);
        assert_eq!(map.get("model.empty").unwrap().shape(), [0, 3]);
        assert_eq!(map.get("model.ones").unwrap().shape(), [1, 24, 1]);
        assert_eq!(f32s("optimizer.state.0.step"), [2.0]);
        assert_eq!(f32s("optimizer.state.0.exp_avg"), f32s("model.plain"));
        assert_eq!(map.integers("list.0").unwrap(), [4]);
        assert_eq!(map.len(), 16 + 3);
        assert_eq!(map.below("model.").len(), 16);
    }

    /// The port's tensor and the Flax tensor of the same weights; kernels are OIHW there and HWIO here.
    fn same(port: &TensorMap, flax: &TensorMap, port_name: &str, flax_name: &str) {
        let (a, b) = (port.get(port_name).unwrap(), flax.get(flax_name).unwrap());
        let &[h, w, i, o] = b.shape() else {
            assert_eq!(a, b, "{port_name}");
            return;
        };
        assert_eq!(a.shape(), [o, i, h, w], "{port_name}");
        let (a, b) = (a.to_f32(), b.to_f32());
        for (at, &value) in a.iter().enumerate() {
            let (x, y, c, k) = (at % w, at / w % h, at / (w * h) % i, at / (w * h * i));
            assert_eq!(value, b[((y * w + x) * i + c) * o + k], "{port_name} {at}");
        }
    }

    fn every_value(map: &TensorMap) -> Vec<u32> {
        let mut bits: Vec<u32> =
            map.iter().flat_map(|(_, tensor)| tensor.to_f32()).map(f32::to_bits).collect();
        bits.sort_unstable();
        bits
    }

    /// Written by PyTorch and by Flax.
    #[test]
    fn a_tokenizer_is_the_same_in_both_formats() {
        let port = read(&golden("maskgit-vqgan/pytorch_model.bin")).unwrap();
        let flax = flax::parameters(flax::read(&golden("maskgit-vqgan/checkpoint.msgpack")).unwrap());
        for (port_name, flax_name) in [
            ("encoder.conv_in.weight", "encoder/Conv_0/kernel"),
            ("encoder.conv_out.weight", "encoder/Conv_1/kernel"),
            ("encoder.conv_out.bias", "encoder/Conv_1/bias"),
            ("encoder.norm_out.weight", "encoder/GroupNorm_0/scale"),
            ("encoder.down.0.block.1.norm2.bias", "encoder/ResBlock_1/GroupNorm_1/bias"),
            ("decoder.conv_out.weight", "decoder/Conv_3/kernel"),
            ("decoder.mid.1.conv2.weight", "decoder/ResBlock_1/Conv_1/kernel"),
            ("decoder.up.1.block.0.nin_shortcut.weight", "decoder/ResBlock_4/Conv_2/kernel"),
            ("decoder.up.1.upsample_conv.weight", "decoder/Conv_2/kernel"),
            ("quantize.embedding.weight", "quantizer/codebook"),
        ] {
            same(&port, &flax, port_name, flax_name);
        }
        assert_eq!((port.len(), flax.len()), (114, 114));
        assert_eq!(every_value(&port), every_value(&flax));
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        for name in ["torch/every_kind_protocol2.pt", "torch/every_kind_protocol4_deflated.pt"] {
            let bytes = fs::read(golden(name)).unwrap();
            for length in 0..bytes.len() {
                assert!(of(&bytes[..length]).is_err(), "{name} {length}");
            }
        }
        // The pickle too, in an archive that is whole.
        let mut code = Assembler::new();
        code.op(b"}(").text("a").tensor("0", 6, 0, &[2, 3], &[3, 1]).op(b"u.");
        for length in 0..code.bytes().len() {
            assert!(of(&stored(&code.bytes()[..length], &[0.0; 6])).is_err(), "{length}");
        }
    }
}
