use super::*;
use crate::manifest::sha256;

fn open(out: &Path, plan: &impl Serialize) -> Result<Unfinished, Error> {
    Unfinished::open(out, StoreKind::Pictures, plan)
}

fn shard(unfinished: &Unfinished, number: usize) -> Record {
    let file = format!("pictures-{number:05}.safetensors");
    fs::write(unfinished.folder().join(&file), [number as u8]).unwrap();
    let shard = ShardEntry { file, items: 1, sha256: sha256(&[number as u8]) };
    Record { shard: Some(shard), bytes: 1, rejected: Vec::new(), stamp: None }
}

#[test]
fn finished_shards_are_found_again_by_the_same_plan_only() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("store");
    let unfinished = open(&out, &"plan").unwrap();
    let record = shard(&unfinished, 0);
    unfinished.finish_shard(0, &record).unwrap();
    // Written, but the process was killed before its record.
    shard(&unfinished, 1);
    fs::write(unfinished.folder().join("pictures-00002.safetensors.77.tmp"), "half").unwrap();
    assert!(matches!(open(&out, &"plan"), Err(Error::Busy { .. })));
    drop(unfinished);
    assert!(matches!(open(&out, &"other"), Err(Error::OtherPlan { .. })));
    fs::write(folder.path().join("store.part/manifest.json.78.tmp"), "half").unwrap();

    let again = open(&out, &"plan").unwrap();
    assert_eq!(again.record(0), Some(record));
    assert_eq!(again.record(1), None);
    assert!(!folder.path().join("store.part/manifest.json.78.tmp").exists());
    assert!(!again.folder().join("pictures-00002.safetensors.77.tmp").exists());
    // A shard that lost bytes is made anew.
    fs::write(again.folder().join("pictures-00000.safetensors"), "").unwrap();
    assert_eq!(again.record(0), None);
    again.publish(&"manifest").unwrap();
    let names = |path: &Path| fs::read_dir(path).unwrap().count();
    assert_eq!((names(folder.path()), names(&out)), (1, 3));
}

#[test]
fn an_older_store_is_replaced_and_other_folders_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("store");
    for text in ["one", "two"] {
        let manifest =
            serde_json::json!({ "version": 1, "size": 8, "classes": [], "shards": [], "made_by": text });
        open(&out, &text).unwrap().publish(&manifest).unwrap();
        let written = fs::read(out.join(MANIFEST)).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&written).unwrap(), manifest);
    }
    // Killed as the two stores had changed places: no shard of the older one is a finished one of the new.
    let unfinished = open(&out, &"three").unwrap();
    let record = shard(&unfinished, 0);
    unfinished.finish_shard(0, &record).unwrap();
    fs::rename(unfinished.folder(), unfinished.part.join("ready")).unwrap();
    drop(unfinished);
    let again = open(&out, &"three").unwrap();
    assert_eq!(again.record(0), None);
    // Killed between two renames, where stores cannot change places: the older one comes back.
    let old = again.part.join("old");
    fs::rename(&out, &old).unwrap();
    drop(again);
    let again = open(&out, &"three").unwrap();
    assert!(out.join(MANIFEST).exists() && !old.exists());
    fs::remove_dir_all(&again.part).unwrap();
    drop(again);
    for name in ["thesis.txt", "model.safetensors"] {
        fs::write(out.join(name), "text").unwrap();
        let refused = open(&out, &"four").unwrap_err().to_string();
        assert!(refused.contains(&format!("`{name}` beside it")), "{refused}");
        fs::remove_file(out.join(name)).unwrap();
    }
    fs::write(out.join("pictures-00000.safetensors"), "shard").unwrap();
    drop(open(&out, &"four").unwrap());
    fs::remove_dir_all(folder.path().join("store.part")).unwrap();
    // One of another kind is no older version of it, and what `eval-fid` leaves is no store.
    let refused = Unfinished::open(&out, StoreKind::Tokens, &"plan").unwrap_err().to_string();
    assert!(refused.contains("a store of tokens to replace, got a store of pictures"), "{refused}");
    let samples = folder.path().join("samples");
    fs::create_dir(&samples).unwrap();
    fs::write(samples.join(MANIFEST), r#"{"version": 1, "samples_are": "", "shards": []}"#).unwrap();
    assert!(open(&samples, &"plan").unwrap_err().to_string().contains("other files"));
    fs::remove_dir_all(&samples).unwrap();
    let precious = folder.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("thesis.txt"), "text").unwrap();
    let refused = |place: &Path| open(place, &"plan").unwrap_err().to_string();
    assert!(refused(&precious).contains("other files"));
    // An extension of a browser has a manifest as well.
    fs::write(precious.join(MANIFEST), r#"{"name": "my extension", "version": "1"}"#).unwrap();
    assert!(refused(&precious).contains("other files"));
    assert!(refused(&precious.join("thesis.txt")).contains("got a file"));
    assert!(refused(&precious.join("..")).contains("own name"));
    assert_eq!(fs::read_to_string(precious.join("thesis.txt")).unwrap(), "text");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// Names and contents of a folder's files, at any depth.
/// Of two stores that are the same but for damage in one, neither is taken for the one that was made.
#[test]
fn a_kill_as_a_mended_store_takes_the_place_of_a_damaged_one_makes_it_anew() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("store");
    let manifest = serde_json::json!({ "version": 1, "size": 8, "classes": [], "shards": [] });
    open(&out, &"plan").unwrap().publish(&manifest).unwrap();
    let unfinished = open(&out, &"plan").unwrap();
    let record = shard(&unfinished, 0);
    unfinished.finish_shard(0, &record).unwrap();
    let (part, store) = (unfinished.part.clone(), unfinished.folder());
    manifest::write(&store, &manifest).unwrap();
    fs::copy(store.join(MANIFEST), part.join(MANIFEST)).unwrap();
    fs::rename(&store, part.join("ready")).unwrap();
    drop(unfinished);
    let again = open(&out, &"plan").unwrap();
    assert_eq!(again.record(0), None);
    assert!(!part.join("ready").exists());
    again.publish(&manifest).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut contents = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => contents.extend(self::contents(&path)),
            path => contents.push((path.clone(), fs::read(path).unwrap())),
        }
    }
    contents.sort();
    contents
}

#[test]
fn a_folder_of_others_beside_the_store_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (out, part) = (folder.path().join("store"), folder.path().join("store.part"));
    for (name, text) in [("thesis.txt", "a"), ("store/precious.txt", "b"), ("done/notes.md", "c")] {
        atomic::write_bytes(&part.join(name), text.as_bytes()).unwrap();
    }
    let before = contents(folder.path());
    let refused = open(&out, &"plan").unwrap_err().to_string();
    assert!(refused.contains("store.part: folder: expected an unfinished store"), "{refused}");
    assert_eq!(contents(folder.path()), before);
    // What one leaves who is killed before the plan is there, or as the store took its place.
    fs::remove_dir_all(&part).unwrap();
    for name in ["lock", "plan.json.77.tmp", "manifest.json.78.tmp"] {
        atomic::write_bytes(&part.join(name), b"").unwrap();
    }
    let unfinished = open(&out, &"plan").unwrap();
    // Files that come later stay, and so does the folder.
    fs::write(part.join("thesis.txt"), "a").unwrap();
    unfinished.publish(&"manifest").unwrap();
    assert_eq!(contents(&part), [(part.join("thesis.txt"), b"a".to_vec())]);
    assert!(out.join(MANIFEST).exists());
}

#[test]
fn what_came_to_the_stores_place_meanwhile_stays() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("store");
    let begun = || {
        let unfinished = open(&out, &"plan").unwrap();
        let record = shard(&unfinished, 0);
        unfinished.finish_shard(0, &record).unwrap();
        unfinished
    };
    let unfinished = begun();
    atomic::write_bytes(&out.join("thesis.txt"), b"text").unwrap();
    assert!(unfinished.publish(&"manifest").unwrap_err().to_string().contains("other files"));
    assert_eq!(contents(&out), [(out.join("thesis.txt"), b"text".to_vec())]);
    fs::remove_dir_all(&out).unwrap();
    let unfinished = begun();
    fs::write(&out, "text").unwrap();
    assert!(unfinished.publish(&"manifest").unwrap_err().to_string().contains("got a file"));
    assert_eq!(fs::read_to_string(&out).unwrap(), "text");
    fs::remove_file(&out).unwrap();
    let unfinished = open(&out, &"plan").unwrap();
    assert!(unfinished.record(0).is_some(), "the work is not lost");
    unfinished.publish(&"manifest").unwrap();
}

#[cfg(unix)]
#[test]
fn places_that_no_folder_can_be_renamed_to_are_refused_before_the_work() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("store");
    symlink("nowhere", &out).unwrap();
    assert!(open(&out, &"plan").unwrap_err().to_string().contains("a link to nothing"));
    assert!(!folder.path().join("store.part").exists());
    fs::remove_file(&out).unwrap();
    // Another file system, on every machine that has one there.
    symlink("/proc", &out).unwrap();
    if is_mount_point(Path::new("/proc")).unwrap() {
        for place in [Path::new("/proc"), &out] {
            let refused = open(place, &"plan").unwrap_err().to_string();
            assert!(refused.contains("a mount point"), "{refused}");
        }
    }
    fs::remove_file(&out).unwrap();
    assert!(!is_mount_point(folder.path()).unwrap() && !is_mount_point(&out).unwrap());
}

/// Elsewhere a folder stays where it is while a file of it is open.
#[cfg(unix)]
#[test]
fn a_folder_that_was_removed_or_is_anothers_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("store");
    let refused = |written: Result<(), Error>| {
        let error = written.unwrap_err().to_string();
        assert!(error.contains("lock: was removed or replaced"), "{error}");
    };
    let first = open(&out, &"one").unwrap();
    let record = shard(&first, 0);
    first.finish_shard(0, &record).unwrap();
    fs::remove_dir_all(&first.part).unwrap();
    refused(first.finish_shard(1, &record));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "what is made anew would be refused later");
    let second = open(&out, &"two").unwrap();
    let record = shard(&second, 0);
    refused(first.finish_shard(0, &record));
    assert_eq!(second.record(0), None);
    refused(first.publish(&"manifest"));
    assert!(!out.exists());
    second.finish_shard(0, &record).unwrap();
    second.publish(&"manifest").unwrap();
}

#[cfg(unix)]
#[test]
fn an_older_store_behind_a_link_comes_back_where_stores_cannot_change_places() {
    let folder = tempfile::tempdir().unwrap();
    let (far, link) = (folder.path().join("far"), folder.path().join("link"));
    fs::create_dir_all(far.join("store")).unwrap();
    std::os::unix::fs::symlink("far/store", &link).unwrap();
    let manifest = serde_json::json!({ "version": 1, "size": 8, "classes": [], "shards": [] });
    open(&link, &"one").unwrap().publish(&manifest).unwrap();
    // Killed between two renames: the link leads to nothing.
    let killed = open(&link, &"two").unwrap();
    fs::rename(far.join("store"), killed.part.join("old")).unwrap();
    assert!(matches!(open(&link, &"two"), Err(Error::Busy { .. })) && !far.join("store").exists());
    drop(killed);
    let again = open(&link, &"two").unwrap();
    assert!(link.join(MANIFEST).exists() && !again.part.join("old").exists());
    again.publish(&manifest).unwrap();
    assert!(link.is_symlink() && fs::read_dir(&far).unwrap().count() == 1);
}

/// The link may be on another disk than what it leads to, where no folder can be renamed to.
#[cfg(unix)]
#[test]
fn a_store_behind_a_link_is_made_beside_what_the_link_leads_to() {
    let folder = tempfile::tempdir().unwrap();
    let [near, far] = ["near", "far"].map(|name| folder.path().join(name));
    fs::create_dir_all(far.join("store")).unwrap();
    fs::create_dir(&near).unwrap();
    std::os::unix::fs::symlink("../far/store", near.join("link")).unwrap();
    let begun = || open(&near.join("link"), &"plan").unwrap();
    let record = shard(&begun(), 0);
    begun().finish_shard(0, &record).unwrap();
    assert!(far.join("store.part/store/pictures-00000.safetensors").exists());
    let unfinished = open(&far.join("store"), &"plan").unwrap();
    assert_eq!(unfinished.record(0), Some(record), "it is the same place");
    unfinished.publish(&"manifest").unwrap();
    assert!(near.join("link").is_symlink() && near.join("link/pictures-00000.safetensors").exists());
    let names = |path: &Path| fs::read_dir(path).unwrap().count();
    assert_eq!((names(&near), names(&far)), (1, 1));
}

#[test]
fn a_store_that_could_not_be_moved_is_finished_still() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("store");
    let named = |text: &str| serde_json::json!({ "version": 1, "size": 8, "classes": [], "shards": [], "made_by": text });
    let with_a_shard = |manifest: &str| {
        let unfinished = open(&out, &"plan").unwrap();
        let record = shard(&unfinished, 0);
        unfinished.finish_shard(0, &record).unwrap();
        manifest::write(&unfinished.folder(), &named(manifest)).unwrap();
        (unfinished, record)
    };
    let fails = || atomic::replace_folder(Path::new("no/such"), &out, Path::new("none"));
    let (unfinished, record) = with_a_shard("new");
    assert!(unfinished.put_into_place(|_, _, _| fails()).is_err());
    drop(unfinished);
    assert_eq!(open(&out, &"plan").unwrap().record(0), Some(record));

    // They have changed places: what is in `ready` is the older store.
    atomic::write_bytes(&folder.path().join("older").join(MANIFEST), b"older").unwrap();
    fs::write(folder.path().join("older/pictures-00000.safetensors"), "0").unwrap();
    let (unfinished, _) = with_a_shard("new");
    let changed = unfinished.put_into_place(|ready, out, _| {
        fs::rename(ready, out).unwrap();
        fs::rename(folder.path().join("older"), ready).unwrap();
        Ok(())
    });
    assert!(
        changed.is_ok() && out.join("pictures-00000.safetensors").exists(),
        "that the older one stays is no failure"
    );
    drop(unfinished);
    // Killed before the rest was gone: the new one is finished still, and not the older one.
    let again = open(&out, &"plan").unwrap();
    assert!(again.record(0).is_some() && !again.part.join("ready").exists());
    assert!(fs::read_to_string(out.join(MANIFEST)).unwrap().contains("new"), "it stays where it is");
    // Killed on the way.
    fs::copy(out.join(MANIFEST), again.folder().join(MANIFEST)).unwrap();
    fs::remove_dir_all(&out).unwrap();
    fs::rename(again.folder(), again.part.join("ready")).unwrap();
    drop(again);
    let again = open(&out, &"plan").unwrap();
    assert!(again.record(0).is_some());
    again.publish(&named("new")).unwrap();
    assert!(out.join("pictures-00000.safetensors").exists() && !folder.path().join("store.part").exists());
}
