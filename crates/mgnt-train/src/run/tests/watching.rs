//! What a watcher may do to a run.

use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::Duration;

use super::*;

/// Burn's metrics have a thread of their own, which the loop would wait for in vain if it died.
#[test]
fn a_panic_of_the_watcher_is_the_runs() {
    for (saves, validates) in [(true, false), (false, false), (true, true), (false, true)] {
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let (folder, stop, device) = (tempfile::tempdir().unwrap(), Interrupter::new(), Device::flex());
            let log_every = if validates { 100 } else { 1 };
            let (out, recipe) = (folder.path().join("run"), Optimization { log_every, ..recipe() });
            let options = RunOptions { saves, ..RunOptions::new(&device, &out, &stop) };
            let stopper = stop.clone();
            let watch = move |event: &Event| match event {
                Event::Validated(_) if validates => {
                    stopper.stop(None);
                    panic!("what the watcher says")
                }
                Event::Trained(line) if line.step == 2 => panic!("what the watcher says"),
                Event::Trained(line) => assert!(line.step < 2, "step {} was told", line.step),
                _ => (),
            };
            let run = AssertUnwindSafe(|| run(slope(&[]), &recipe, &recipe, options, watch));
            let panicked = panic::catch_unwind(run).unwrap_err();
            tell.send(panicked.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap();
        });
        let said = told.recv_timeout(Duration::from_secs(60)).expect("the run ends");
        assert_eq!(said.as_deref(), Some("what the watcher says"), "{saves} {validates}");
    }
}
