//! Made-up weights of the Inception network, for the tests of several crates.

use std::path::Path;

use mgnt_weights::{TensorMap, safetensors};

/// Writes the layers up to the first pooling, with weights that differ from each other.
pub fn stem(path: &Path) {
    let mut map = TensorMap::new();
    let layers = [
        ("Conv2d_1a_3x3", [32, 3, 3, 3]),
        ("Conv2d_2a_3x3", [32, 32, 3, 3]),
        ("Conv2d_2b_3x3", [64, 32, 3, 3]),
    ];
    for (name, shape) in layers {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 400.0).collect();
        map.insert_f32(&format!("{name}.conv.weight"), &shape, &values).unwrap();
        for (part, value) in [("weight", 1.0), ("bias", 0.1), ("running_mean", 0.0), ("running_var", 1.0)] {
            let values = vec![value; shape[0]];
            map.insert_f32(&format!("{name}.bn.{part}"), &[shape[0]], &values).unwrap();
        }
    }
    safetensors::write(path, &map).unwrap();
}
