//! Tokens of videos: from clips to a store, and back.

use mgnt_data::TokenStore;
use mgnt_weights::{TensorMap, safetensors};

use crate::world::{fail, golden, output, succeed};

#[test]
fn tokens_of_videos_go_to_a_store_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let checkpoint = golden("magvit-3dvq/checkpoint.msgpack");
    let shape = "--frames 8 --size 16 --temporal-downsample true,false";
    succeed(&format!("import magvit-flax --tokenizer {} {shape} -o 3dvq", checkpoint.display()), path);
    let case = safetensors::read(&golden("magvit-3dvq/case.safetensors")).unwrap();
    let write = |name: &str, tensors: &TensorMap| safetensors::write(&path.join(name), tensors).unwrap();

    let mut clips = TensorMap::new();
    clips.insert("two/video", case.get("a/video").unwrap().clone());
    write("clips", &clips);
    succeed("probe 3dvq --input clips --output coded", path);
    let coded = safetensors::read(&path.join("coded")).unwrap();
    let indices = coded.get("two/indices").unwrap();
    assert_eq!(indices.to_i64(), case.get("a/indices").unwrap().to_i64());

    let mut tokens = TensorMap::new();
    tokens.insert("tokens", indices.clone());
    tokens.insert_i32("labels", &[2], &[1, 0]).unwrap();
    write("tokens", &tokens);
    succeed("import-tokens tokens --tokenizer 3dvq --out store", path);
    let store = TokenStore::open(path.join("store")).unwrap();
    assert_eq!((store.info().grid, store.info().codes, store.len()), ([16, 4], 32, 2));

    let codes: Vec<i32> = indices.to_i64().unwrap().into_iter().map(|code| code as i32).collect();
    let mut flat = TensorMap::new();
    flat.insert_i32("tokens", &[2, 64], &codes).unwrap();
    write("flat", &flat);
    succeed("probe 3dvq --input flat --output rebuilt", path);
    let rebuilt = safetensors::read(&path.join("rebuilt")).unwrap();
    assert!(rebuilt.get("reconstruction").unwrap() == coded.get("two/reconstruction").unwrap());

    // What is wrong is told with its file and group, and a model of another kind by what it is.
    clips.insert_i32("more/video", &[1, 1, 4, 4, 3], &[0; 48]).unwrap();
    write("clips", &clips);
    let parts = ["clips: more/: `video`: expected floats in 0 to 1, got I32"];
    fail("probe 3dvq --input clips --output x", path, 1, &parts);
    let mut bright = TensorMap::new();
    bright.insert_f32("video", &[1, 2, 4, 4, 3], &[255.0; 96]).unwrap();
    write("bright", &bright);
    let told = output("probe 3dvq --input bright --output x", path);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("`video`: expected floats in 0 to 1, and these are 255 to 255"), "{told}");
    let parts = ["3dvq: expected a transformer, got a video tokenizer"];
    fail("generate --model 3dvq --save-tokens t --count 1", path, 2, &parts);
    fail("export 3dvq --names port -o x", path, 2, &["expected an image tokenizer, got a video tokenizer"]);
}
