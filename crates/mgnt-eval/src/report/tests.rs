use mgnt_data::{PrepareOptions, prepare, synthetic};
use mgnt_weights::{TensorMap, safetensors};

use super::*;
use crate::{Activations, Meter};

fn side(path: &str, pictures: Option<u64>) -> Side {
    Side {
        path: path.into(),
        kind: "pictures".into(),
        sha256: "0123456789abcdef".into(),
        pictures,
        found: None,
        crop: None,
        resize: None,
    }
}

#[test]
fn a_part_of_a_store_is_told_with_the_whole_and_the_crop() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, store) = (folder.path().join("pictures"), folder.path().join("store"));
    synthetic::write_folder(&pictures, 2, 16, 1).unwrap();
    let options = PrepareOptions { size: 16, ..PrepareOptions::default() };
    prepare(&pictures, &options, &store, &mut |_, _| {}).unwrap();
    let of = |path: &Path, count: usize| {
        let source = Source::open(path).unwrap().thinned(count).unwrap();
        Side::new(&source, &measured(count, 0.0, false)).unwrap()
    };
    let part = of(&store, 3);
    assert_eq!((part.pictures, part.found), (Some(3), Some(16)));
    let text = part.to_string();
    let words = ["3 of 16 pictures of ", "; crop: centre square, Lanczos)"];
    assert!(text.starts_with(words[0]) && text.ends_with(words[1]), "{text}");
    let whole = of(&pictures, 16);
    assert!(whole.to_string().starts_with("16 pictures of ") && whole.crop.is_none(), "{whole}");
}

#[test]
fn few_pictures_and_partial_features_are_named() {
    let of = |dims, count| Protocol::warnings_for(dims, "6726825d0af5", count, Some(50_000));
    assert!(of(2048, Some(50_000)).is_empty() && of(2048, None).is_empty());
    let other = Protocol::warnings_for(2048, "0123", None, None);
    assert!(other[0].contains("is not pt_inception"), "{other:?}");
    let both = of(768, Some(400));
    assert!(both[0].contains("ONLY 400") && both[1].contains("compare only with"), "{both:?}");
}

fn network(folder: &Path) -> Inception {
    let path = folder.join("none.safetensors");
    safetensors::write(&path, &TensorMap::new()).unwrap();
    Inception::load(&path, &burn::tensor::Device::flex()).unwrap()
}

fn measured(count: usize, shift: f32, spatial: bool) -> Measured {
    let mut meter = Meter::new(Dims::D64, count);
    // Of another count, other pictures: the kernel distance of copies would be below zero.
    let features = (0..count * 64).map(|i| (((i + count) * i % 977) as f32).sin() + shift).collect();
    let spatial = spatial.then(|| (0..count * 3).map(|i| (i as f32).cos()).collect());
    meter.add(&Activations { features, spatial, logits: None }).unwrap();
    meter.finish().unwrap()
}

#[test]
fn what_is_not_known_is_left_out_and_every_choice_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let protocol =
        || Protocol::new(&network(folder.path()), Dims::D64, side("data/val", None), side("made", Some(20)));
    let (real, fake) = (measured(30, 0.0, true), measured(20, 0.2, true));
    let whole = Report::new(&real, &fake, protocol()).unwrap();
    assert!(whole.fid > 0.0 && whole.kid.unwrap().mean > 0.0 && whole.sfid.is_some());
    assert!(whole.inception_score.is_none());
    let line = whole.markdown();
    for part in [
        "FID-64 **",
        "sFID",
        "KID",
        "coverage",
        "20 pictures of made",
        "data/val",
        "none.safetensors",
        "resize pytorch-fid",
        "100 subsets of 20",
        "k = 3",
        "30 real and 20 fake",
        "compare only with",
        "ONLY 20",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(!line.contains('\n') && !line.contains("IS **"));

    let statistics = Measured { sample: None, spatial: None, ..real.clone() };
    let part = Report::new(&statistics, &fake, protocol()).unwrap();
    assert_eq!((part.fid, part.sfid, part.kid, part.coverage), (whole.fid, None, None, None));
    assert!(part.protocol.kernel.is_none() && !part.to_string().contains("KID"));
    let few = Report::new(&real, &measured(4, 0.2, true), protocol()).unwrap();
    assert!(few.kid.is_none() && few.precision.is_none());
    assert!(few.protocol.inception_score.is_none());
    // Of as many pictures on both sides, no more than a subset's: one value, which has no deviation.
    let same = Report::new(&real, &measured(30, 0.2, true), protocol()).unwrap();
    let line = same.markdown();
    assert!(same.kid.unwrap().deviation.is_none() && line.contains("one value of all 30"), "{line}");
    assert!(!line.contains("+-"), "{line}");
    let error = Report::new(&measured(1, 0.0, true), &fake, protocol()).unwrap_err().to_string();
    assert_eq!(error, "pictures of the first set: expected at least 2, got 1");

    // Published statistics beside pictures that were resized as pytorch-fid does.
    use ResizeOfStatistics::{Told, Untold, Usual};
    for (resize, part) in [
        (Some(Usual(Resize::Tf1)), Some("--resize tf1")),
        (Some(Untold), Some("does not say")),
        (Some(Told(Resize::PytorchFid)), None),
        (None, None),
    ] {
        let mut mixed = protocol();
        mixed.real.resize = resize;
        let warnings = mixed.warnings();
        let warning = warnings.iter().find(|warning| warning.starts_with("data/val"));
        assert_eq!(warning.is_some(), part.is_some(), "{warnings:?}");
        assert!(
            warning.is_none_or(|warning| part.is_some_and(|part| warning.contains(part))),
            "{warnings:?}"
        );
    }
    let mut many = protocol();
    many.fake.pictures = Some(50_000);
    let line = Report::new(&real, &fake, many).unwrap().markdown();
    assert!(line.contains("ADM's evaluator") && !whole.markdown().contains("ADM's evaluator"), "{line}");
    let score = crate::InceptionScore { mean: 9.0, deviation: 0.5, splits: 10 };
    let scored = Measured { inception_score: Some(score), ..fake.clone() };
    let line = Report::new(&real, &scored, protocol()).unwrap().markdown();
    assert!(
        line.contains("IS **9.000 +- 0.500**")
            && line.contains("IS: 10 chunks of the pictures, drawn (seed 0)"),
        "{line}"
    );
}
