//! Several processes share a training: `cargo test -p mgnt-cli --features remote --test end_to_end devices`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::world::{fail, mgnt, succeed, world};

/// A served device, ended with the test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves a CPU on a free port; returns its address.
fn serve(folder: &std::path::Path) -> (Served, String) {
    let mut command = mgnt("serve-device --listen 127.0.0.1:0", folder);
    let mut served = Served(command.env("MGNT_DEVICE_TOKEN", "word").stderr(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(served.0.stderr.take().unwrap()).lines();
    let address =
        lines.map(Result::unwrap).find_map(|line| Some(line.strip_prefix("serving on ")?.to_owned()));
    (served, address.unwrap())
}

fn losses(run: &std::path::Path) -> Vec<f64> {
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

/// The same batch in the same parts, on one device and on two of which another process serves one.
#[test]
fn two_processes_give_the_losses_of_one() {
    let own = world();
    let world = own.path();
    let (_served, address) = serve(world);
    let train = "train-imagenet --config transformer.ron --data tokens optimization.steps=12 \
                 optimization.log_every=1 optimization.parts=2 dropout=0.0 --out";
    succeed(&format!("{train} one"), world);
    let shared = mgnt(&format!("{train} two --devices cpu,{address}"), world)
        .env("MGNT_DEVICE_TOKEN", "word")
        .output()
        .unwrap();
    assert!(shared.status.success(), "{}", String::from_utf8_lossy(&shared.stderr));
    let (one, two) = (losses(&world.join("one")), losses(&world.join("two")));
    assert_eq!(one.len(), 12);
    let worst = one.iter().zip(&two).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max);
    assert!(two.len() == 12 && worst < 1e-5, "{worst}: {one:?} {two:?}");

    fail(&format!("{train} x --devices cpu,{address}"), world, 1, &["--devices ws://"]);
}
