use mgnt_weights::{DType, NamedTensor, safetensors};

use burn::tensor::Distribution;

use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Weights by the formula of the golden case, rounded from f64.
fn formula(name: &str, shape: &[usize]) -> Vec<f32> {
    let hash =
        name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let fan_in: usize = shape.iter().skip(1).product();
    (0..shape.iter().product::<usize>() as u64)
        .map(|i| {
            let mut z = hash.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let s = 2.0 * ((z >> 40) as f64 / f64::from(1u32 << 24)) - 1.0;
            let value = if name.ends_with("conv.weight") || name == "fc.weight" {
                s * (6.0 / fan_in as f64).sqrt()
            } else if name.ends_with("bn.weight") || name.ends_with("running_var") {
                1.0 + 0.25 * s
            } else {
                0.1 * s
            };
            value as f32
        })
        .collect()
}

fn formula_weights() -> TensorMap {
    let text = std::fs::read_to_string(root().join("tests/golden/inception/tensor_shapes.txt")).unwrap();
    let mut map = TensorMap::new();
    for line in text.lines() {
        let (name, shape) = line.split_once(char::is_whitespace).unwrap();
        let numbers = shape.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
        let shape: Vec<usize> = numbers.map(|n| n.parse().unwrap()).collect();
        map.insert_f32(name, &shape, &formula(name, &shape)).unwrap();
    }
    map
}

#[test]
fn formula_network_against_the_published_one() {
    let weights = formula_weights();
    let case = safetensors::read(&root().join("tests/golden/inception/case.safetensors")).unwrap();
    for (name, probe) in case.iter() {
        if let Some(name) = name.strip_prefix("probe/") {
            assert_eq!(weights.get(name).unwrap().to_f32()[..probe.shape()[0]], probe.to_f32(), "{name}");
        }
    }
    let network =
        Inception::from_tensors(weights, Path::new("formula"), String::new(), &Device::flex()).unwrap();
    let image = case.get("small_32x48/image_u8").unwrap();
    let picture = Picture::new(image.shape()[1], image.shape()[0], image.bytes().to_vec()).unwrap();
    let pictures = [picture];
    let close = |got: &[f32], name: &str| {
        let expected = case.get(&format!("small_32x48/{name}")).unwrap().to_f32();
        let worst =
            got.iter().zip(&expected).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max);
        assert!(got.len() == expected.len() && worst < 1e-4, "{name}: {worst}");
    };
    let check = |network: &Inception| {
        for dims in [Dims::D64, Dims::D192, Dims::D768] {
            let said = network.activations(&pictures, dims).unwrap();
            assert_eq!((said.spatial.is_some(), said.logits), (dims == Dims::D768, None));
            close(&said.features, &format!("features_{}", dims.count()));
        }
        let said = network.activations(&pictures, Dims::D2048).unwrap();
        close(&said.features, "pool_2048");
        close(&said.logits.unwrap(), "logits_unbiased");
        assert_eq!(said.spatial.unwrap().len(), 2023);
    };
    check(&network);
    check(&network.side_by_side().unwrap());
}

#[test]
fn what_is_said_of_some_pictures_alone_is_said_of_none() {
    let said = |first: f32, spatial: Option<Vec<f32>>| Activations {
        features: vec![first],
        spatial,
        logits: Some(vec![first]),
    };
    let mut all = Activations::default();
    all.extend(said(1.0, Some(vec![7.0])));
    all.extend(Activations::default());
    assert_eq!(all, said(1.0, Some(vec![7.0])));
    all.extend(said(2.0, Some(vec![8.0])));
    assert_eq!(all.spatial, Some(vec![7.0, 8.0]));
    all.extend(said(3.0, None));
    all.extend(said(4.0, Some(vec![9.0])));
    assert_eq!((all.features.len(), all.spatial, all.logits.map(|all| all.len())), (4, None, Some(4)));
}

#[test]
fn spatial_features_have_the_channels_of_a_place_side_by_side() {
    let values: Vec<f32> = (0..2 * 9 * 4).map(|i| i as f32).collect();
    let x = Tensor::<4>::from_data(TensorData::new(values, [2, 9, 2, 2]), &Device::flex());
    let got = super::values(first_channels(x)).unwrap();
    assert_eq!(got.len(), 2 * 28);
    assert_eq!(got[..8], [0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 1.0]);
    assert_eq!(got[28], 36.0);
}

/// The maps of a file that ends after `Mixed_6e` are three, with the means that are its features.
#[test]
fn maps_have_the_features_as_their_means() {
    let mut weights = TensorMap::new();
    for (name, tensor) in formula_weights().iter().filter(|(name, _)| !name.starts_with("Mixed_7")) {
        weights.insert(name, tensor.clone());
    }
    let network =
        Inception::from_tensors(weights, Path::new("formula"), String::new(), &Device::flex()).unwrap();
    let rgb: Vec<u8> = (0..SIDE * SIDE * 3).map(|i| (i * 7 % 251) as u8).collect();
    let input = Resize::PytorchFid.apply(&rgb, SIDE, SIDE);
    let input = Tensor::from_data(TensorData::new(input, [1, 3, SIDE, SIDE]), &Device::flex());
    let maps = network.maps(input).unwrap();
    assert_eq!(maps.len(), 3);
    let picture = [Picture::new(SIDE, SIDE, rgb).unwrap()];
    for (map, dims) in maps.into_iter().zip(Dims::ALL) {
        let means = values(mean(map)).unwrap();
        assert_eq!(means, network.activations(&picture, dims).unwrap().features);
    }
}

/// Each stage with the least side that it takes, and one below. 64 px leave a map of 2 x 2 after `Mixed_6e`.
#[test]
fn maps_end_where_the_input_is_too_small() {
    let network =
        Inception::from_tensors(formula_weights(), Path::new("formula"), String::new(), &Device::flex())
            .unwrap();
    let sides = [(8, 0), (10, 0), (11, 1), (26, 1), (27, 2), (32, 2), (42, 2), (43, 3), (64, 3), (75, 4)];
    for (side, count) in sides {
        let input = Tensor::<4>::zeros([1, 3, side, side + 1], &Device::flex());
        assert_eq!(network.maps(input).unwrap().len(), count, "{side} px");
    }
}

/// On a device that rounds nothing, parts make up the same convolutions but for the order of their sums.
#[test]
fn exact_products_are_the_products() {
    let load = || {
        Inception::from_tensors(formula_weights(), Path::new("formula"), String::new(), &Device::flex())
            .unwrap()
    };
    Device::flex().seed(1);
    let input = Tensor::random([1, 3, 80, 80], Distribution::Uniform(-1.0, 1.0), &Device::flex());
    let (plain, exact) =
        (load().maps(input.clone()).unwrap(), load().with_exact_products().maps(input).unwrap());
    assert_eq!(plain.len(), 4);
    for (plain, exact) in plain.into_iter().zip(exact) {
        let largest = plain.clone().abs().max().into_scalar::<f32>();
        let off = (plain - exact).abs().max().into_scalar::<f32>() / largest;
        assert!(off > 0.0 && off < 1e-5, "{off}");
    }
}

/// sFID's features are those of ADM's `mixed_6/conv`: the first branch of `Mixed_6d`, and of no block beside it.
#[test]
fn spatial_features_are_of_the_first_branch_of_mixed_6d() {
    let mut weights = formula_weights();
    let channels = weights.remove("Mixed_6d.branch1x1.bn.weight").unwrap().shape()[0];
    weights.insert_f32("Mixed_6d.branch1x1.bn.weight", &[channels], &vec![0.0; channels]).unwrap();
    let bias: Vec<f32> = (0..channels).map(|i| i as f32 - 2.0).collect();
    weights.insert_f32("Mixed_6d.branch1x1.bn.bias", &[channels], &bias).unwrap();
    let network =
        Inception::from_tensors(weights, Path::new("formula"), String::new(), &Device::flex()).unwrap();
    let grey = Picture::new(8, 8, vec![90; 8 * 8 * 3]).unwrap();
    let spatial = network.activations(&[grey], Dims::D768).unwrap().spatial.unwrap();
    assert_eq!(spatial.len(), 2023);
    for place in spatial.chunks(7) {
        assert_eq!(place, [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
    }
}

#[test]
fn photos_with_partial_weights() {
    let shared = root().join("../shared/data/inception");
    let weights = shared.join("inception_v3_nsfwjs_to_mixed_6e.f32.safetensors");
    if !weights.exists() {
        println!("skipped: the shared weights are not here");
        return;
    }
    let network = Inception::load(&weights, &Device::flex()).unwrap();
    let golden = safetensors::read(&shared.join("golden.safetensors")).unwrap();
    let images = golden.get("val_images").unwrap();
    let pictures: Vec<Picture> = (images.bytes().chunks_exact(128 * 128 * 3).take(2))
        .map(|rgb| Picture::new(128, 128, rgb.to_vec()).unwrap())
        .collect();
    let together = network.activations(&pictures, Dims::D768).unwrap();
    let expected = golden.get("val_features").unwrap().to_f32();
    let worst = together.features.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "{worst}");
    assert!(network.reaches(Dims::D768) && !network.reaches(Dims::D2048));
    let network = network.side_by_side().unwrap();
    let apart = network.activations(&pictures, Dims::D768).unwrap();
    let worst = apart.features.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "{worst}");
    let one = network.activations(&pictures[..1], Dims::D768).unwrap();
    assert_eq!(apart.features[..768], one.features, "a picture's features depend on those beside it");
    let error = network.activations(&pictures[..1], Dims::D2048).unwrap_err().to_string();
    assert!(error.contains("2048 dimensions") && error.contains("Mixed_7a"), "{error}");
}

/// Four branches of one channel each before a block that takes four.
#[test]
fn too_few_channels_for_the_spatial_features_are_refused() {
    let mut weights = formula_weights();
    let names: Vec<String> = weights.iter().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        let mut shape = weights.get(&name).unwrap().shape().to_vec();
        let last = ["branch1x1", "branch7x7_3", "branch7x7dbl_5", "branch_pool"];
        let first = ["branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool"];
        let is_of = |block: &str, parts: [&str; 4]| {
            parts.iter().any(|part| name.starts_with(&format!("{block}.{part}.")))
        };
        if is_of("Mixed_6d", last) {
            shape[0] = 1;
        } else if is_of("Mixed_6e", first) && shape.len() == 4 {
            shape[1] = 4;
        }
        weights.insert_f32(&name, &shape, &formula(&name, &shape)).unwrap();
    }
    let network =
        Inception::from_tensors(weights, Path::new("formula"), String::new(), &Device::flex()).unwrap();
    let dot = Picture::new(1, 1, vec![90; 3]).unwrap();
    let error = network.activations(&[dot], Dims::D768).unwrap_err().to_string();
    assert_eq!(error, "Inception weights: expected Mixed_6d with at least 7 channels, got 4");
}

#[test]
fn misshapen_weights_are_refused() {
    let mut map = TensorMap::new();
    map.insert_i32("fc.weight", &[1, 2048], &[1; 2048]).unwrap();
    let error = Inception::from_tensors(map, Path::new("x"), String::new(), &Device::flex()).unwrap_err();
    assert_eq!(error.to_string(), "tensor `fc.weight`: expected a floating-point type, got I32");
    let mut map = TensorMap::new();
    map.insert("Conv2d_1a_3x3.conv.weight", NamedTensor::new("x", DType::F32, vec![1], vec![0; 4]).unwrap());
    assert!(Inception::from_tensors(map, Path::new("x"), String::new(), &Device::flex()).is_err());
    let mut map = TensorMap::new();
    map.insert_f32("Conv2d_1a_3x3.conv.weight", &[0, 3, 3, 3], &[]).unwrap();
    for part in ["weight", "bias", "running_mean", "running_var"] {
        map.insert_f32(&format!("Conv2d_1a_3x3.bn.{part}"), &[0], &[]).unwrap();
    }
    let error = Inception::from_tensors(map, Path::new("x"), String::new(), &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("empty dimension"), "{error}");
}
