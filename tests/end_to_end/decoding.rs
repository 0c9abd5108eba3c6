//! Strategies, generation and editing.

use std::fs;
use std::path::PathBuf;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use mgnt_data::manifest::sha256_of_file;
use mgnt_data::{Filter, Picture};
use mgnt_weights::safetensors;

#[cfg(unix)]
use crate::world::mgnt;
use crate::world::{fail, model, output, succeed, world};

#[test]
fn flops_prints_the_table_of_scale_l() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = succeed("flops --config configs/model-L.ron --schedule 8x3,4x3,2x3,1x3", &root);
    for part in ["21.2882", "162.1225", "632.13", "3.08x", "1949.30"] {
        assert!(table.contains(part), "{part}\n{table}");
    }
    let json: serde_json::Value = serde_json::from_str(&succeed(
        "flops --config configs/model-L.ron --schedule 8x3,4x3,2x3,1x3 --cache off --json",
        &root,
    ))
    .unwrap();
    assert_eq!((json["gflops"].as_f64().unwrap() * 100.0).round(), 91836.0);
    assert_eq!(json["iterations"].as_array().unwrap().len(), 12);
}

#[test]
fn one_seed_gives_the_same_tokens_in_every_batch_and_with_any_number_of_threads() {
    let own = world();
    let world = own.path();
    let tokens = |name: &str, options: &str| {
        let line = format!(
            "generate {} --count 6 --seed 3 --guidance 1.5 {options} --out g-{name} \
             --save-tokens {name}.safetensors",
            model()
        );
        succeed(&line, world);
        let map = safetensors::read(&world.join(format!("{name}.safetensors"))).unwrap();
        assert_eq!(map.get("tokens").unwrap().shape(), [6, 64]);
        map.integers("tokens").unwrap()
    };
    let one = tokens("one", "--schedule 8x2,4x2,2x2,1x2 --batch 1 --threads 1");
    assert_eq!(one, tokens("eight", "--schedule 8x2,4x2,2x2,1x2 --batch 8 --threads 2"));
    assert_ne!(one, tokens("baseline", "--batch 8 --schedule 1x8 --cache off"));
}

#[test]
fn generate_leaves_pictures_a_grid_and_the_iterations() {
    let own = world();
    let world = own.path();
    let line = format!("generate {} --class 2 --count 3 --iterations --out g --json", model());
    let json: serde_json::Value = serde_json::from_str(&succeed(&line, world)).unwrap();
    assert_eq!(json["classes"], serde_json::json!([2, 2, 2]));
    assert!(json["ledger"]["milliseconds"].as_f64().unwrap() > 0.0);
    for file in
        ["0002-00000.png", "0002-00002.png", "grid/grid.png", "grid/iterations.gif", "grid/iterations.png"]
    {
        assert!(fs::metadata(world.join("g").join(file)).unwrap().len() > 100, "{file}");
    }
    // Again with fewer: nothing of the first run stays.
    // Memory is asked for those that there are.
    succeed(&format!("generate {} --class 2 --count 1 --batch 65535 --guidance 1 --out g", model()), world);
    assert!(!world.join("g/0002-00002.png").exists() && world.join("g/0002-00000.png").exists());
    let record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(world.join("g/generated.json")).unwrap()).unwrap();
    for (field, path) in [("model", "run/model"), ("tokenizer", "tokenizer/model")] {
        assert_eq!(record[field]["path"], path);
        let sum = sha256_of_file(&world.join(path).join("model.safetensors")).unwrap();
        assert_eq!(record[field]["weights_sha256"], sum);
    }
    // Tokens in the folder would be lost with it.
    let line = format!("generate {} --count 1 --out g --save-tokens ./g/t.safetensors", model());
    fail(&line, world, 2, &["--save-tokens", "outside of --out g"]);
    #[cfg(unix)]
    {
        fs::create_dir(world.join("empty")).unwrap();
        std::os::unix::fs::symlink("empty", world.join("link")).unwrap();
        let line = format!("generate {} --count 1 --out link --save-tokens empty/t.safetensors", model());
        fail(&line, world, 2, &["--save-tokens", "outside of --out link"]);
    }
    // Nor is what is read written over, by whatever name.
    fs::write(world.join("s.ron"), "(models: \"1x4\")").unwrap();
    let read = ["run/model/../model/config.ron", "run/model/model.safetensors", "tokenizer/model/config.ron"];
    for file in read.into_iter().chain(["tokenizer/model/model.safetensors", "./s.ron"]) {
        let before = fs::read(world.join(file)).unwrap();
        let line = format!("generate {} --strategy s.ron --count 1 --out g --save-tokens {file}", model());
        fail(&line, world, 2, &["--save-tokens", "is the same file"]);
        assert_eq!(fs::read(world.join(file)).unwrap(), before, "{file}");
    }
    // What cannot be written in the end is refused at the beginning.
    fail(
        &line.replace("./g/t.safetensors", "pictures"),
        world,
        2,
        &["--save-tokens pictures", "got a folder"],
    );
    fs::create_dir(world.join("g.7.tmp")).unwrap();
    fs::write(world.join("g/grid/notes.txt"), "mine").unwrap();
    let line = format!("generate {} --count 1 --out g", model());
    fail(&line, world, 2, &["holds something else already, `grid/notes.txt`"]);
    fs::remove_file(world.join("g/grid/notes.txt")).unwrap();
    let told = String::from_utf8(output(&line, world).stderr).unwrap();
    assert!(
        told.contains("--out g: g.7.tmp beside it is")
            && told.contains("anew, and what")
            && world.join("g.7.tmp").exists(),
        "{told}"
    );
    // A person's own pictures may have such names.
    fs::remove_file(world.join("g/generated.json")).unwrap();
    fail(&line, world, 2, &["--out g", "no generated.json"]);
    assert!(world.join("g/0000-00000.png").exists());
}

#[test]
fn edit_keeps_what_the_mask_keeps() {
    let own = world();
    let world = own.path();
    let photo = Picture::open(&world.join("pictures/disc/0000.png")).unwrap();
    let edit = |line: &str| format!("edit --input pictures/disc/0000.png {} {line}", model());
    let json: serde_json::Value = serde_json::from_str(&succeed(
        &edit("--box 12,0,12,24 --class 2 --count 2 --feather 0 --schedule 4x2,1x2 --out e --json"),
        world,
    ))
    .unwrap();
    // Half of 8 x 8 tokens.
    assert_eq!(json["painted_tokens"], 32);
    let original = photo.centre_square(16, Filter::Lanczos).unwrap();
    let half = |picture: &Picture, left: bool| -> Vec<u8> {
        let rows = picture.rgb().chunks(16 * 3);
        rows.flat_map(|row| if left { row[..24].to_vec() } else { row[24..].to_vec() }).collect()
    };
    for number in 0..2 {
        let edited = Picture::open(&world.join(format!("e/edit-00{number}.png"))).unwrap();
        assert_eq!(half(&edited, true), half(&original, true));
        assert_ne!(half(&edited, false), half(&original, false));
    }
    assert!(world.join("e/grid/grid.png").exists());
    // The same whatever number is made at once.
    let of_two = [0, 1].map(|number| fs::read(world.join(format!("e/edit-00{number}.png"))).unwrap());
    succeed(&edit("--box 12,0,12,24 --class 2 --count 18 --feather 0 --schedule 4x2,1x2 --out e"), world);
    let of_many = (0..18).map(|number| fs::read(world.join(format!("e/edit-{number:03}.png"))).unwrap());
    let of_many: Vec<_> = of_many.collect();
    assert_eq!(of_many[..2], of_two);
    assert!(of_many[17] != of_many[1] && of_many[17] != of_many[16]);
    // Replaced as a whole, with a record of how it was made.
    succeed(&edit("--box 12,0,12,24 --count 1 --seed 7 --out e"), world);
    assert!(!world.join("e/edit-001.png").exists());
    let record: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(world.join("e/edited.json")).unwrap()).unwrap();
    assert_eq!((&record["seed"], &record["class"]), (&7.into(), &serde_json::Value::Null));
    let painted = serde_json::json!({"box": {"left": 12, "top": 0, "width": 12, "height": 24}});
    assert_eq!((&record["region"], &record["feather"]), (&painted, &1.into()));
    assert_eq!(record["tokenizer"]["path"], "tokenizer/model");
    fail(&edit("--box 12,0,12,24 --out pictures"), world, 2, &["holds something else"]);
    fail(&edit("--box 12,0,12,24 --guidance 1 --out x"), world, 2, &["--class"]);
    // Fewer tokens than the iterations that are usual.
    let small =
        serde_json::from_str::<serde_json::Value>(&succeed(&edit("--box 1,1,2,2 --out small --json"), world));
    let small = small.unwrap();
    assert_eq!((&small["painted_tokens"], &small["ledger"]["schedule"]), (&1.into(), &"1x1".into()));
    succeed(&edit("--keep 6,6,12,12 --count 1 --out outpainted"), world);

    // A photo that lies on its side: the box is one of the photo as it stands, 12 pixels wide.
    let mut png = Vec::new();
    let mut encoder = PngEncoder::new(&mut png);
    let turned = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    encoder.set_exif_metadata(turned.to_vec()).unwrap();
    encoder.write_image(&photo.rgb()[..24 * 12 * 3], 24, 12, ExtendedColorType::Rgb8).unwrap();
    fs::write(world.join("turned.png"), png).unwrap();
    succeed(&edit("--box 0,12,12,12 --count 1 --out turned").replace("pictures/disc/0000", "turned"), world);

    let mask = |value: u8, side: usize, name: &str| {
        Picture::new(side, side, vec![value; side * side * 3]).unwrap().save_png(&world.join(name)).unwrap();
    };
    mask(255, 24, "all.png");
    mask(0, 24, "none.png");
    mask(255, 12, "small.png");
    fail(&edit("--mask all.png --out x"), world, 2, &["some pixels to keep"]);
    fail(&edit("--mask none.png --out x"), world, 2, &["some pixels to paint"]);
    fail(&edit("--mask small.png --out x"), world, 2, &["24x24", "12x12"]);
    fail(&edit("--box 20,0,5,5 --out x"), world, 2, &["outside the photo"]);
    fail(&edit("--box 1,1,1,1 --out x"), world, 2, &["painted is less than half a pixel", "16x16"]);
    fail(&edit("--box 12,0,12,24 --class 8 --out x"), world, 2, &["--class 8"]);
    fail(&edit("--out x"), world, 2, &["--box"]);
    assert!(!world.join("x").exists());
}

/// Names of files are bytes, of which records and reports have what is text.
#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_no_text_are_taken() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let own = world();
    let world = own.path();
    let [out, model, photo, mask] =
        [b"out-\xff", b"mod-\xff", b"pho-\xff", b"mas-\xff"].map(|bytes| OsStr::from_bytes(bytes));
    std::os::unix::fs::symlink("run/model", world.join(model)).unwrap();
    fs::copy(world.join("pictures/disc/0000.png"), world.join(photo)).unwrap();
    let half = (0..24 * 24).flat_map(|i| [if i % 24 < 12 { 255 } else { 0 }; 3]).collect();
    fs::write(world.join(mask), Picture::new(24, 24, half).unwrap().to_png().unwrap()).unwrap();
    let made = |line: &str, paths: &[(&str, &OsStr)]| {
        let mut command = mgnt(line, world);
        command.args(paths.iter().flat_map(|(option, path)| [OsStr::new(option), path]));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let rest = "--tokenizer tokenizer/model --count 1 --json";
    let json = made(&format!("generate {rest}"), &[("--model", model), ("--out", out)]);
    assert_eq!((&json["out"], &json["model"]["path"]), (&"out-\u{fffd}".into(), &"mod-\u{fffd}".into()));
    assert!(world.join(out).join("generated.json").exists());
    fs::remove_dir_all(world.join(out)).unwrap();
    let paths = [("--model", model), ("--input", photo), ("--mask", mask), ("--out", out)];
    let json = made(&format!("edit {rest}"), &paths);
    assert_eq!((&json["input"], &json["region"]["mask"]), (&"pho-\u{fffd}".into(), &"mas-\u{fffd}".into()));
    assert!(world.join(out).join("edited.json").exists());
}

#[test]
fn a_strategy_is_saved_read_and_drawn() {
    let own = world();
    let world = own.path();
    let config = "flops --config run/model/config.ron";
    let line = format!(
        "{config} --schedule shrinking --steps 8 --guidance cosine:2 --mask-schedule arccos --cache every:2 --temperature elt \
         --json --save-strategy s.ron --plot p.svg"
    );
    let written: serde_json::Value = serde_json::from_str(&succeed(&line, world)).unwrap();
    let read: serde_json::Value =
        serde_json::from_str(&succeed(&format!("{config} --strategy s.ron --json"), world)).unwrap();
    assert_eq!(written, read);
    assert_eq!(read["schedule"], "1x2,2x2,4x2,8x2");
    let plot = fs::read_to_string(world.join("p.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("sub-model p = 8"));

    fail(&format!("{config} --top-p 0"), world, 2, &["top-p"]);
    fail(&format!("{config} --temperature NaN"), world, 2, &["token temperature"]);
    fail(&format!("{config} --choice-temperature=-1"), world, 2, &["choice temperature"]);
    fail(&format!("{config} --cache 12"), world, 2, &["iterations below 12"]);
    fail(&format!("{config} --mask-schedule 3,4"), world, 2, &["12 of them"]);
    fs::write(world.join("wrong.ron"), "(models: \"8x3\", mask: cosine, ordr: halton)").unwrap();
    fail(&format!("{config} --strategy wrong.ron"), world, 1, &["wrong.ron", "ordr"]);
    for (field, value) in [
        ("guidance", "interval(scale: 2.0, from: 0.25, to: 1.0, beyond: 3.0)"),
        ("token_temperature", "ramp(end: 0.5, span: 0.8, beyond: 3.0)"),
    ] {
        let strategy = |value: &str| {
            fs::write(world.join("wrong.ron"), format!("(models: \"8x3\", {field}: {value})")).unwrap();
        };
        strategy(&value.replace(", beyond: 3.0", ""));
        succeed(&format!("{config} --strategy wrong.ron"), world);
        strategy(value);
        fail(&format!("{config} --strategy wrong.ron"), world, 1, &["wrong.ron", "beyond"]);
    }
    // A run's folder is that of its model, and a recipe is no config.
    assert_eq!(succeed("flops --config run", world), succeed(config, world));
    let got = "expected a model's config (configs/model-L.ron, or RUN/model), got a recipe of train-imagenet";
    fail("flops --config transformer.ron", world, 2, &["transformer.ron: ", got]);
}
