//! Measuring pictures and models: `eval-fid` of sets, of references in every form, of runs that are killed and
//! continued; sweeps; features.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mgnt_data::Picture;
use mgnt_data::manifest::sha256_of_file;
use mgnt_weights::npz::{Archive, Writer};
use mgnt_weights::{DType, NamedTensor, TensorMap, safetensors};
use serde_json::Value;

use crate::world::{fail, mgnt, model, output, succeed, world};

const COMMON: &str = "--weights stem.safetensors --dims 64 --statistics statistics";

fn report(line: &str, world: &Path) -> Value {
    serde_json::from_str(&succeed(&format!("eval-fid {line} {COMMON} --json"), world)).unwrap()
}

fn number(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or_else(|| panic!("{name} of {report}"))
}

#[test]
fn a_folder_an_archive_and_a_model_are_measured_alike() {
    let own = world();
    let world = own.path();
    let same = report("--real store --fake store", world);
    assert!(number(&same, "fid").abs() < 1e-9, "{same}");
    assert_eq!((number(&same, "precision"), number(&same, "coverage")), (1.0, 1.0));
    assert_eq!(fs::read_dir(world.join("statistics")).unwrap().count(), 1);

    let run = format!("--real store {} --samples 7 --shard 3 --batch 2 --out made", model());
    // The report's own folder is no reason to refuse the run's.
    let of_model = report(&format!("{run} --keep png --report made/reports/r.MD"), world);
    assert_eq!(of_model["protocol"]["fake"]["pictures"], 7);
    let generation = &of_model["protocol"]["generation"];
    assert_eq!(generation["dtype"], "f32");
    for (field, folder) in [("model_sha256", "run/model"), ("tokenizer_sha256", "tokenizer/model")] {
        assert_eq!(generation[field], sha256_of_file(&world.join(folder).join("model.safetensors")).unwrap());
    }
    assert!(of_model["warnings"][0].as_str().unwrap().contains("ONLY 7"));
    let line = fs::read_to_string(world.join("made/reports/r.MD")).unwrap();
    assert!(line.contains("FID-64 **") && line.contains("classes balanced of 8, seed 0"), "{line}");
    assert_eq!(line.lines().count(), 1);
    let written: Value = serde_json::from_slice(&fs::read(world.join("made/report.json")).unwrap()).unwrap();
    assert_eq!(written, of_model);
    let manifest: Value =
        serde_json::from_slice(&fs::read(world.join("made/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["labels"], serde_json::json!([0, 1, 2, 3, 4, 5, 6]));
    assert_eq!((&manifest["seed"], manifest["shards"].as_array().unwrap().len()), (&serde_json::json!(0), 3));
    assert!(world.join("made/png/00002/0006-000006.png").exists());

    // Continued where all is there: nothing is made again but the archive that is asked for now.
    let features = |world: &Path| -> Vec<_> {
        let folder = fs::read_dir(world.join("made/features")).unwrap().next().unwrap().unwrap().path();
        let files = fs::read_dir(folder).unwrap();
        let mut ages: Vec<_> = files
            .map(|file| file.unwrap())
            .map(|f| (f.file_name(), f.metadata().unwrap().modified().unwrap()))
            .collect();
        ages.sort();
        ages
    };
    let before = features(world);
    assert_eq!(before.len(), 3);
    assert_eq!(report(&format!("{run} --keep npz"), world), of_model);
    assert_eq!(features(world), before);
    assert!(!world.join("made/npz-parts").exists());

    for fake in ["made/png", "made/samples.npz"] {
        let given = report(&format!("--real store --fake {fake}"), world);
        let (a, b) = (number(&of_model, "fid"), number(&given, "fid"));
        assert!(a > 1e-3 && (a - b).abs() < 1e-6 * a, "{fake}: {a} {b}");
        assert!((number(&of_model, "density") - number(&given, "density")).abs() < 1e-9);
    }
    // Whoever moved pictures to elsewhere has them again, and nothing else.
    let picture = world.join("made/png/00002/0006-000006.png");
    fs::rename(&picture, world.join("moved.png")).unwrap();
    let mine = picture.with_file_name("notes.txt");
    fs::write(&mine, "mine").unwrap();
    assert_eq!(report(&format!("{run} --keep png"), world), of_model);
    assert_eq!(fs::read(&mine).unwrap(), b"mine");
    assert_eq!(fs::read(&picture).unwrap(), fs::read(world.join("moved.png")).unwrap());
    assert_eq!(features(world), before);
    // Another type or number is another run.
    let refused = |options: &str, part: &str| {
        let line = format!("eval-fid --real store {} {options} --batch 2 --out made {COMMON}", model());
        fail(&line, world, 2, &["--out made", part]);
    };
    refused("--samples 7 --shard 3 --dtype bf16", "dtype \"f32\", not \"bf16\"");
    refused("--samples 8 --shard 3", "samples 7, not 8");
    refused("--samples 7 --shard 3 --classes drawn", "classes");
    let foreign = format!("eval-fid --real store {} --out store {COMMON}", model());
    fail(&foreign, world, 2, &["--out store", "--real is read"]);
    fail(&foreign.replace("--out store", "--out pictures"), world, 2, &["--out pictures", "something else"]);
    // A training has a file of that name as well; no lock is left with it.
    fs::create_dir(world.join("else")).unwrap();
    fs::write(world.join("else/run.json"), r#"{"version": 1, "task": "transformer"}"#).unwrap();
    fail(&foreign.replace("--out store", "--out else"), world, 2, &["--out else", "something else"]);
    assert_eq!(fs::read_dir(world.join("else")).unwrap().count(), 1);
    // Samples within what they are measured against would be of it the next time.
    let within = format!("eval-fid --real pictures {} --out pictures/made --keep png {COMMON}", model());
    fail(&within, world, 2, &["--out pictures/made", "--real is read, and this lies in it"]);
    for file in ["run.json", "samples.npz", "tokens/00000.safetensors", "none/../png/00000"] {
        let line = format!("eval-fid {run} --report made/{file} {COMMON}");
        fail(&line, world, 2, &["--report", "--out made has a file of its own there"]);
    }
    for file in ["again.json", "reports/again.json", "again"] {
        assert_eq!(report(&format!("{run} --report made/{file}"), world), of_model);
    }
    let here = run.replace("store", "../store").replace("made", ".").replace("run/", "../run/");
    let here = here.replace("tokenizer/model", "../tokenizer/model");
    let from_within = format!("{here} --report again.json --weights ../stem.safetensors --dims 64");
    succeed(&format!("eval-fid {from_within} --statistics ../statistics"), &world.join("made"));

    // Without a model nothing is decoded.
    for option in ["--guidance 1", "--top-k 3", "--dtype bf16", "--schedule 1x4", "--strategy s.ron"] {
        let name = option.split(' ').next().unwrap();
        let line = format!("eval-fid --real store {option} {COMMON}");
        fail(&format!("{line} --fake store"), world, 2, &["--fake", name]);
        fail(&format!("{line} --save-reference r.npz"), world, 2, &["--model"]);
    }
    // Tokens of another shard, or of none, are told of, features or not.
    let tokens = |number: usize| world.join(format!("made/tokens/{number:05}.safetensors"));
    let kept = fs::read(tokens(1)).unwrap();
    for (bytes, part) in
        [(fs::read(tokens(0)).unwrap(), "holds other samples"), (kept[..200].to_vec(), "damaged")]
    {
        fs::write(tokens(1), bytes).unwrap();
        fail(&format!("eval-fid {run} {COMMON}"), world, 1, &["00001.safetensors: ", part]);
    }
    fs::write(tokens(1), kept).unwrap();
    // A shard of features that is damaged is measured again from its tokens, once it is out of the way.
    let shard = fs::read_dir(world.join("made/features")).unwrap().next().unwrap().unwrap().path();
    let shard = shard.join("00001.safetensors");
    fs::write(&shard, b"torn").unwrap();
    let line = format!("eval-fid {run} {COMMON}");
    fail(&line, world, 1, &["00001.safetensors: damaged; without it, its samples are measured again"]);
    fs::remove_file(&shard).unwrap();
    assert_eq!(report(&run, world), of_model);
}

#[test]
fn references_are_written_and_read_in_every_form() {
    let own = world();
    let world = own.path();
    let expected = report("--real store --fake pictures", world);
    for (options, whole) in [("reference.npz", false), ("reference.safetensors", true)] {
        succeed(&format!("eval-fid --real store --save-reference {options} {COMMON}"), world);
        let got = report(&format!("--real {options} --fake pictures"), world);
        let (a, b) = (number(&expected, "fid"), number(&got, "fid"));
        assert!(a > 0.0 && (a - b).abs() < 1e-9 * (1.0 + a), "{options}: {a} {b}");
        assert_eq!(got["kid"], if whole { expected["kid"].clone() } else { Value::Null }, "{options}");
    }
    fail(
        &format!("eval-fid --real store --save-reference x.npz --form adm {COMMON}"),
        world,
        2,
        &["--form adm: expected 2048 dimensions", "got 64"],
    );
    assert!(!world.join("x.npz").exists());
    fail(
        &format!("eval-fid --real store --save-reference x.bin {COMMON}"),
        world,
        2,
        &[".npz or .safetensors"],
    );
    fail(
        &format!("eval-fid --real reference.npz --real-samples 2 --fake store {COMMON}"),
        world,
        1,
        &["no part"],
    );
    fail(
        &format!("eval-fid --real reference.safetensors --fake store --resize tf1 {COMMON}"),
        world,
        1,
        &["reference.safetensors", "resize: expected tf1, got pytorch-fid"],
    );
    fail(
        "eval-fid --real store --fake store --weights stem.safetensors --dims 768 --statistics statistics",
        world,
        1,
        &["stem.safetensors", "768", "Conv2d_3b_1x1.conv.weight"],
    );
    // What is read is not written over, by whatever name.
    succeed(&format!("eval-fid --real store --save-reference whole.safetensors {COMMON}"), world);
    for (line, parts) in [
        ("--real whole.safetensors --save-reference ./whole.safetensors", ["--save-reference", "--real is"]),
        ("--real reference.npz --save-reference store/../reference.npz", ["--save-reference", "--real is"]),
        (
            "--real store --fake reference.npz --save-reference reference.npz",
            ["--save-reference", "--fake is"],
        ),
        ("--real store --save-reference stem.safetensors", ["--save-reference", "--weights is"]),
        ("--real reference.npz --fake store --report reference.npz", ["--report", "--real is"]),
        ("--real store --fake store --report store", ["--report store", "got a folder"]),
        ("--real store --save-reference store", ["--save-reference", "got a folder"]),
        (
            "--real store --save-reference store/pictures-00000.safetensors",
            ["--save-reference", "--real is read, and this lies in it"],
        ),
        ("--real store --fake pictures --report pictures/disc/new.png", ["--report", "--fake is read"]),
        ("--real store --fake pictures --report pictures/disc/0000.png", ["--report", "--fake is read"]),
        (
            "--real store --fake pictures --save-reference r.npz --report ./r.npz",
            ["--report", "is the same file"],
        ),
        // There is no report of a reference alone.
        ("--real store --save-reference r.npz --report r.json", ["--report", "--fake or --model"]),
    ] {
        let before = contents(world);
        fail(&format!("eval-fid {line} {COMMON}"), world, 2, &parts);
        assert!(contents(world) == before, "{line}");
    }
    let line = format!("eval-fid --real store --save-reference alone.npz --json {COMMON}");
    let alone: Value = serde_json::from_str(&succeed(&line, world)).unwrap();
    assert_eq!(alone, serde_json::json!({"reference": "alone.npz", "dims": 64}));
    // Beside pictures that are read lies what is no picture.
    succeed(&format!("eval-fid --real store --fake pictures --report pictures/disc/r.json {COMMON}"), world);
    let within_a_file = "--real store --fake store --report stem.safetensors/r.json";
    fail(&format!("eval-fid {within_a_file} {COMMON}"), world, 2, &["--report", "stem.safetensors"]);
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere", world.join("link.json")).unwrap();
    #[cfg(unix)]
    fail(
        &format!("eval-fid --real store --fake store --report link.json {COMMON}"),
        world,
        2,
        &["--report link.json", "got a link to nothing"],
    );
    // What cannot be written in the end is told of after the numbers, which are not lost; nor are they where nobody hears them.
    #[cfg(target_os = "linux")]
    {
        let line = |report: &str| format!("eval-fid --real store --fake store --report {report} {COMMON}");
        let told = output(&line("/dev/full"), world);
        let (numbers, error) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
        assert!(told.status.code() == Some(1) && error.contains("/dev/full"), "{error}");
        assert!(numbers.contains("FID-64"), "{numbers}");
        let full = || fs::File::options().write(true).open("/dev/full").unwrap();
        for report in ["heard.md", "heard.json"] {
            let json = if report.ends_with("json") { " --json" } else { "" };
            let told = mgnt(&(line(report) + json), world).stdout(full()).output().unwrap();
            let error = String::from_utf8_lossy(&told.stderr);
            assert!(told.status.code() == Some(1) && error.contains("No space left"), "{error}");
            assert!(fs::read_to_string(world.join(report)).unwrap().contains("64"), "{report}");
        }
    }
    fail(
        &format!("eval-fid --real reference.npz --fake store --resize tf1 {COMMON}"),
        world,
        1,
        &["reference.npz", "resize: expected tf1, got pytorch-fid"],
    );
    fs::write(world.join("bad.npz"), b"PK\x05\x06 and nothing else").unwrap();
    fail(&format!("eval-fid --real bad.npz --fake store {COMMON}"), world, 1, &["bad.npz"]);
}

/// Every file below a folder, by its path from there; what vanishes meanwhile is borne with.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.path().is_dir() {
                true => waiting.push(entry.path()),
                false => found.push(entry.path().strip_prefix(folder).unwrap().to_path_buf()),
            }
        }
    }
    found
}

/// Every file below a folder and its bytes.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = |file: PathBuf| (file.display().to_string(), fs::read(folder.join(file)).unwrap());
    files(folder).into_iter().map(bytes).collect()
}

/// Files that are whole.
fn finished(folder: &Path) -> usize {
    let is_half_done = |part: &OsStr| Path::new(part).extension().is_some_and(|ending| ending == "tmp");
    files(folder).iter().filter(|file| !file.iter().any(is_half_done)).count()
}

/// Twenty kills at moments that differ, told by what is finished and not by the clock: some before anything new is
/// written, most soon after. What comes out in the end is what an undisturbed run leaves, byte for byte.
#[test]
fn a_run_that_is_killed_twenty_times_leaves_the_same_bytes() {
    const KILLS: u64 = 20;
    let own = world();
    let world = own.path();
    let line = |out: &str| {
        format!(
            "eval-fid --real store --real-samples 6 {} --samples 14 --shard 1 --batch 1 --classes drawn --seed 5 \
             --guidance 1.0 --keep npz --out {out} {COMMON}",
            model()
        )
    };
    succeed(&line("whole"), world);
    let out = world.join("killed");
    let start = Instant::now();
    for kill in 0..KILLS {
        let mut child =
            mgnt(&line("killed"), world).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let goal = finished(&out) + usize::from(kill % 4 != 0);
        while finished(&out) < goal {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself before kill {kill}");
            assert!(start.elapsed() < Duration::from_secs(600), "no progress before kill {kill}");
            sleep(Duration::from_millis(2));
        }
        sleep(Duration::from_millis(kill * 37 % 60));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(!out.join("report.json").exists(), "the last kill came too late to mean anything");
    succeed(&line("killed"), world);
    let (whole, killed) = (contents(&world.join("whole")), contents(&out));
    assert_eq!(whole.keys().collect::<Vec<_>>(), killed.keys().collect::<Vec<_>>());
    for part in ["report.json", "report.md", "manifest.json", "samples.npz", "tokens/00013.safetensors"] {
        assert!(whole.contains_key(part), "{part}");
    }
    for (name, bytes) in &whole {
        assert!(&killed[name] == bytes, "{name} differs");
    }
}

#[test]
fn a_sweep_is_resumed_and_a_search_stays_in_its_budget() {
    let own = world();
    let world = own.path();
    let sweep = format!(
        "sweep {} --real store --weights stem.safetensors --dims 64 --statistics statistics --samples 4 --batch 4 --real-samples 4 \
         --steps 4 --json",
        model()
    );
    let rows = |line: &str| -> Vec<Value> {
        serde_json::from_str(&succeed(&format!("{sweep} {line}"), world)).unwrap()
    };
    for (out, code, part) in [
        ("store", 2, "--real is read, and this lies in it"),
        ("run/model", 2, "--model is read, and this lies in it"),
    ] {
        fail(&format!("{sweep} --out {out}"), world, code, &[part]);
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", world.join("dangling")).unwrap();
        fail(&format!("{sweep} --out dangling"), world, 2, &["--out dangling", "a link to nothing"]);
    }
    assert!(!world.join("store/lock").exists());
    let first = rows("--also growing --also 1x4 --seeds 0,1 --out sweep");
    assert_eq!(first.len(), 4);
    let log = world.join("sweep/results.jsonl");
    // As after a kill: the last line is cut off.
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, &text[..text.len() - 20]).unwrap();
    let again = rows("--also growing --also 1x4 --seeds 0,1 --out sweep");
    let numbers = |rows: &[Value]| -> Vec<f64> { rows.iter().map(|r| r["fid"].as_f64().unwrap()).collect() };
    assert_eq!(numbers(&first), numbers(&again));
    assert_eq!(first[..3], again[..3], "what was measured is not measured again");
    let csv = fs::read_to_string(world.join("sweep/results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5);
    assert!(fs::read_to_string(world.join("sweep/front.svg")).unwrap().contains("<circle"));
    assert_eq!(
        rows("--also 1x4 --seeds 0 --dtype bf16 --out sweep").len(),
        1,
        "of another type, measured anew"
    );

    // Of another arithmetic, another input of the network or other bytes of a model: measured anew.
    for change in ["--dtype tf32", "--resize tf1"] {
        let anew = rows(&format!("--also 1x4 --seeds 0 {change} --out sweep"));
        assert!(anew.len() == 1 && anew[0]["world"] != first[0]["world"], "{change}");
    }
    let config = world.join("run/model/config.ron");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n")).unwrap();
    assert_ne!(rows("--also 1x4 --seeds 0 --out sweep")[0]["world"], first[0]["world"]);
    fs::write(&config, &text).unwrap();
    // Strategies of which a seed is missing are not among those of all seeds.
    let schedules = |rows: &[Value]| -> Vec<String> {
        rows.iter().map(|row| format!("{} of {}", row["schedule"], row["seed"])).collect()
    };
    rows("--also 4x4 --seeds 1 --out sweep");
    let again = rows("--also growing --also 1x4 --seeds 0,1 --out sweep");
    assert_eq!(schedules(&again), schedules(&first));
    assert_eq!(rows("--also 4x4 --seeds 1 --out sweep").len(), 3, "all have seed 1");

    // The baseline differs in sub-models and cache alone.
    let guided = rows("--guidance 1.0 --cache every:2 --out guided");
    assert_eq!((&guided[0]["schedule"], &guided[0]["name"]), (&"1x4".into(), &"1x4, no cache".into()));
    for row in &guided {
        assert!(row["strategy"].as_str().unwrap().contains("guidance:constant(1.0)"), "{row}");
    }

    let found = rows("--schedule growing --search 0.004 --most 3 --out search");
    assert!(found.len() <= 3 && found.iter().all(|r| r["gflops"].as_f64().unwrap() <= 0.004));
    assert!(world.join("search/best.ron").exists());
    fs::write(world.join("strategies.ron"), "{\"plain\": (models: \"1x4\")}").unwrap();
    for (options, part) in [
        ("--search 0.00000001 --also 1x4", "smallest sub-model"),
        ("--search nan", "above 0"),
        ("--search 0", "above 0"),
        ("--search=-1", "above 0"),
        ("--also 1x4 --most 3", "--search"),
        ("--also 1x4 --schedule growing", "--schedule: each --also"),
        ("--strategies strategies.ron", "--strategies: its strategies have options of their own"),
    ] {
        fail(&format!("{sweep} {options} --out x"), world, 2, &[part]);
        assert!(!world.join("x").exists(), "{options}: nothing is measured");
    }
    let names = |rows: &[Value]| -> Vec<String> {
        rows.iter().map(|row| format!("{} of {}", row["name"].as_str().unwrap(), row["seed"])).collect()
    };
    let named = rows("--strategies strategies.ron --also growing --out named");
    assert_eq!(names(&named), ["plain of 0", "growing of 0"]);
    // Other names for what is known, which is not measured again.
    let twice = "{\"old\": (models: \"1x4\"), \"new\": (models: \"1x4\", cache: explicit([]))}";
    fs::write(world.join("strategies.ron"), twice).unwrap();
    let renamed = rows("--strategies strategies.ron --also growing --out named");
    assert_eq!(names(&renamed), ["new = old of 0", "growing of 0"]);
    assert_eq!(renamed[0]["fid"], named[0]["fid"]);
    // A search writes its start in another way, and has the seed that is known and another.
    let found = rows("--schedule growing --search 100 --most 1 --seeds 0,1 --out named");
    assert_eq!(names(&found), ["growing of 0", "growing of 1"]);
    assert_eq!(found[0]["fid"], named[1]["fid"]);

    // Statistics of others do not say which resize they go with; our own do.
    succeed(&format!("eval-fid --real store --save-reference own.npz {COMMON}"), world);
    let line = |npz: &str| {
        let line = sweep.replace("--real store", &format!("--real {npz}")).replace("--real-samples 4", "");
        format!("{line} --also 1x4 --resize tf1 --out {npz}-sweep")
    };
    fail(&line("own.npz"), world, 1, &["own.npz: resize: expected tf1, got pytorch-fid"]);
    let mut own = Archive::open(&world.join("own.npz")).unwrap();
    let path = world.join("others.npz");
    let mut others = Writer::new(fs::File::create(&path).unwrap(), &path);
    for (name, shape) in [("mu", &[64][..]), ("sigma", &[64, 64])] {
        others.values(name, shape, &own.array(name).unwrap().read(shape).unwrap().to_f64()).unwrap();
    }
    others.finish().unwrap();
    let told = String::from_utf8_lossy(&output(&line("others.npz"), world).stderr).into_owned();
    assert!(told.contains("others.npz: the file does not say with which resize"), "{told}");
    // What another tool left stays.
    let foreign = world.join("theirs/results.jsonl");
    fs::create_dir(world.join("theirs")).unwrap();
    fs::write(&foreign, "{\"loss\": 1}\n").unwrap();
    fail(&format!("{sweep} --also 1x4 --out theirs"), world, 2, &["results.jsonl: line 1: expected a row"]);
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "{\"loss\": 1}\n");
    fs::rename(&foreign, world.join("theirs/results.csv")).unwrap();
    fail(&format!("{sweep} --also 1x4 --out theirs"), world, 2, &["results.csv", "no results.jsonl"]);
}

#[test]
fn a_network_of_features_is_probed_as_far_as_it_reaches() {
    let own = world();
    let world = own.path();
    let picture = Picture::open(&world.join("pictures/star/0001.png")).unwrap();
    let mut input = TensorMap::new();
    let bytes = NamedTensor::new("images", DType::U8, vec![1, 24, 24, 3], picture.rgb().to_vec()).unwrap();
    input.insert("images", bytes);
    safetensors::write(&world.join("in.safetensors"), &input).unwrap();
    succeed("probe --inception stem.safetensors --input in.safetensors --output out.safetensors", world);
    let said = safetensors::read(&world.join("out.safetensors")).unwrap();
    let names: Vec<&str> = said.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["features_64"]);
    assert_eq!(said.get("features_64").unwrap().shape(), [1, 64]);
    fail("probe run/model --input in.safetensors --output x", world, 2, &["images"]);
}
