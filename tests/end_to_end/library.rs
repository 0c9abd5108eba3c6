//! What the crates say to who builds on them, where it takes a process whose devices no other test uses.

use burn::tensor::{Device, FloatDType};
use mgnt_eval::Inception;
use mgnt_model::{ModelConfig, NestedTransformer, Preset};
use mgnt_tokenizer::{ImageTokenizer, ImageTokenizerConfig, VideoTokenizer, VideoTokenizerConfig};

use crate::inception_stem::stem;

/// No other test of this binary has a device of its own, so that one may be configured, which is for the whole process.
#[test]
fn a_device_whose_floats_are_halves_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("stem.safetensors");
    stem(&weights);
    let mut device = Device::flex();
    device.configure(FloatDType::BF16).unwrap();
    let model = ModelConfig { layers: 1, width: 16, hidden: 32, ..ModelConfig::preset(Preset::B) };
    let (image, video) = (ImageTokenizerConfig::maskgit(), VideoTokenizerConfig::ucf101_base());
    for device in [device.clone(), device.autodiff()] {
        let refusals = [
            NestedTransformer::init(&model, 1, &device).unwrap_err().to_string(),
            ImageTokenizer::init(&image, 1, &device).unwrap_err().to_string(),
            VideoTokenizer::init(&video, 1, &device).unwrap_err().to_string(),
            Inception::load(&weights, &device).unwrap_err().to_string(),
        ];
        for refusal in refusals {
            assert!(refusal.contains("floats of BF16") && refusal.contains("need F32"), "{refusal}");
        }
    }
}
