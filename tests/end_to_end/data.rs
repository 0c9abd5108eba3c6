//! Preparing and tokenizing: sources, resuming after kills, verifying.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use mgnt_data::{PictureStore, TokenStore, synthetic};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::world::{fail, mgnt, succeed, world};

const KILLS: usize = 20;

/// Names and bytes of a store's files.
fn files(store: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(store)
        .unwrap()
        .flatten()
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn shards_done(part: &Path) -> u64 {
    let done = fs::read_dir(part.join("done")).into_iter().flatten().flatten();
    done.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "json")).count() as u64
}

/// Runs a command that writes the store `out`, and kills it at 20 moments: each some shards after the one before, and
/// up to some milliseconds after that shard was seen. Then lets it end.
fn kill_and_resume(command: &str, world: &Path, out: &str, shards: u64, seed: u64) {
    let (store, part) = (world.join(out), world.join(format!("{out}.part")));
    let line = format!("{command} --out {out}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let start = Instant::now();
    let mut kills = 0;
    while kills < KILLS {
        assert!(start.elapsed() < Duration::from_secs(600), "no end after {kills} kills");
        // Now and then all shards are there, and what is left is to move the store.
        let wanted = (shards_done(&part) + rng.random_range(0..4u64)).min(shards);
        let pause = Duration::from_micros(rng.random_range(0..4000));
        let mut child = mgnt(&line, world).stderr(Stdio::null()).spawn().unwrap();
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "it failed by itself after {kills} kills");
                break true;
            }
            if part.join("plan.json").exists() && shards_done(&part) >= wanted {
                break false;
            }
            thread::sleep(Duration::from_micros(300));
        };
        if !ended {
            thread::sleep(pause);
            child.kill().unwrap();
            // By chance it may have ended in that very moment.
            if !child.wait().unwrap().success() {
                kills += 1;
                continue;
            }
        }
        // It was faster than the one who watches: once more from the start.
        fs::remove_dir_all(&store).unwrap();
    }
    succeed(&line, world);
    assert!(!part.exists(), "nothing is left beside the store");
}

#[test]
fn a_preparation_that_is_killed_twenty_times_gives_the_same_store() {
    let folder = tempfile::tempdir().unwrap();
    let world = folder.path();
    synthetic::write_folder(&world.join("pictures"), 12, 24, 1).unwrap();
    fs::write(world.join("pictures/disc/text.png"), "no picture").unwrap();
    let prepare =
        "prepare-imagenet --source pictures --size 16 --crop adm --max-rejected 0.1 --shard-items 2";
    succeed(&format!("{prepare} --out whole --threads 1"), world);
    kill_and_resume(prepare, world, "killed", 49, 7);
    assert!(files(&world.join("killed")) == files(&world.join("whole")));
    let line = succeed("verify killed", world);
    assert!(line.contains("96 pictures of 16x16") && line.contains("1 files were left out"), "{line}");
}

#[test]
fn tokenizing_that_is_killed_twenty_times_gives_the_same_store() {
    let own = world();
    let world = own.path();
    let tokenize = "tokenize --data store --tokenizer tokenizer/model --flips --batch 1 --shard-items 1";
    succeed(&format!("{tokenize} --out whole"), world);
    kill_and_resume(tokenize, world, "killed", 48, 11);
    assert!(files(&world.join("killed")) == files(&world.join("whole")));

    let plain = TokenStore::open(world.join("tokens")).unwrap();
    let flipped = TokenStore::open(world.join("killed")).unwrap();
    assert!(flipped.has_flips() && !plain.has_flips());
    assert_eq!((plain.len(), flipped.len()), (24, 48));
    let mirrored = (0..24).filter(|&i| flipped.tokens(24 + i) != plain.tokens(i)).count();
    assert!(mirrored > 12, "{mirrored}");
    for i in 0..24 {
        assert_eq!((flipped.tokens(i), flipped.label(i)), (plain.tokens(i), plain.label(i)));
        assert_eq!(flipped.label(24 + i), plain.label(i));
    }
    assert!(succeed("verify killed", world).contains("48 pictures, half of them mirrored"));
}

#[test]
fn verify_names_the_first_bad_shard() {
    let own = world();
    let world = own.path();
    succeed("prepare-imagenet --source pictures --size 16 --shard-items 5 --out shards", world);
    assert!(succeed("verify shards", world).starts_with("shards: sound: 24 pictures of 16x16"));
    let spoil = |number: usize| {
        let path = world.join(format!("shards/pictures-{number:05}.safetensors"));
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.len() - 100;
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
    };
    spoil(3);
    spoil(1);
    fail("verify shards", world, 1, &["shards/pictures-00001.safetensors: sha256"]);
    fs::remove_file(world.join("shards/pictures-00000.safetensors")).unwrap();
    fail("verify shards", world, 1, &["pictures-00000.safetensors"]);

    assert!(succeed("verify tokens", world).contains("tokens 8x8 of 16 codes for 24 pictures"));
    let manifest = world.join("tokens/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"codes\": 16", "\"codes\": 1")).unwrap();
    fail("verify tokens", world, 1, &["tokens-00000.safetensors: token: expected below 1"]);
    fs::write(&manifest, text.replace("tokens-00000", "../store/pictures-00000")).unwrap();
    fail("verify tokens", world, 1, &["manifest.json", "a name without a folder"]);
    fs::write(&manifest, "{").unwrap();
    fail("verify tokens", world, 1, &["manifest.json"]);
    fs::remove_file(&manifest).unwrap();
    fail("verify tokens", world, 1, &["incomplete"]);
    fail("verify missing", world, 1, &["missing"]);
}

#[test]
fn an_unfinished_store_is_continued_by_its_own_command_only() {
    let own = world();
    let world = own.path();
    fs::write(world.join("pictures/disc/text.png"), "no picture").unwrap();
    // What RUST_LOG asks of other programs takes no warning away.
    for asked in ["", "other=off", "error"] {
        let line = "prepare-imagenet --source pictures --size 16 --max-rejected 0.5 --out of-rust-log";
        let output = mgnt(line, world).env("RUST_LOG", asked).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("left out"), "{asked}: {told}");
    }

    // All shards are made, and then too many files were left out.
    let prepare = "prepare-imagenet --source pictures --size 16 --shard-items 9 --out new";
    fail(prepare, world, 1, &["1 of 25", "disc/text.png"]);
    assert!(!world.join("new").exists());
    fail(&format!("{prepare} --crop adm"), world, 1, &["new.part", "other options"]);
    let output = mgnt(&format!("{prepare} --max-rejected 0.1"), world).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("shards were there already"), "{told}");
    let store = PictureStore::open(world.join("new")).unwrap();
    assert_eq!((store.len(), store.rejected().unwrap()[0].key.as_str()), (24, "disc/text.png"));

    fs::create_dir(world.join("mine")).unwrap();
    fs::write(world.join("mine/thesis.txt"), "text").unwrap();
    let mine = "prepare-imagenet --source pictures --size 16 --max-rejected 0.1 --out mine";
    fail(mine, world, 1, &["mine", "other files"]);
    assert!(world.join("mine/thesis.txt").exists());
    fail("prepare-imagenet --source pictures --crop adm --filter area --out x", world, 2, &["--filter"]);
    fail("prepare-imagenet --source pictures --format flat --out x", world, 2, &["labels"]);
    fail("prepare-imagenet --source pictures --size 0 --out x", world, 2, &["size"]);
    fail("prepare-imagenet --source pictures --out pictures/x", world, 2, &["out", "outside the source"]);
}
