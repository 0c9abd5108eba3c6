//! How stores are cut into shards: what each reads, and how many there may be.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use common::write_parquet;
use mgnt_data::{
    Error, Picture, PictureStore, PrepareOptions, Source, SourceOptions, TokenJob, TokenStoreInfo, prepare,
    synthetic,
};
use parquet::file::properties::WriterProperties;

/// Prepares shards of four rows of one group, each row a page; `meanwhile` is called when the first shard is read.
fn prepared_by_fours(path: &Path, meanwhile: impl Fn() + Sync) -> Result<Vec<Vec<u8>>, Error> {
    let out = path.with_extension("store");
    let options = PrepareOptions { size: 16, shard_items: Some(4), ..PrepareOptions::default() };
    let mut progress = |done, _| {
        if done == 4 {
            meanwhile()
        }
    };
    prepare(path, &options, &out, &mut progress)?;
    let store = PictureStore::open(&out)?;
    Ok((0..store.len()).map(|index| store.picture(index).to_vec()).collect())
}

fn write_rows(path: &Path, pictures: &[Picture]) {
    let bytes: Vec<_> = pictures.iter().map(|picture| picture.to_png().unwrap()).collect();
    let rows: Vec<_> = bytes.iter().map(|bytes| (Some(&bytes[..]), Some(0))).collect();
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_data_page_row_count_limit(1)
        .set_write_batch_size(1);
    write_parquet(path, &[&rows], properties.build());
}

#[test]
fn shards_of_one_row_group_read_each_row_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let draw = |seed| -> Vec<_> { (0..12).map(|n| synthetic::draw(0, n, 16, seed).unwrap()).collect() };
    let rgb = |pictures: &[Picture]| -> Vec<_> { pictures.iter().map(|p| p.rgb().to_vec()).collect() };
    let (old, new) = (draw(1), draw(2));
    write_rows(&path, &old);
    let changed = fs::metadata(&path).unwrap().modified().unwrap();
    // The first page is gone, behind which nobody could read who begins with it again.
    let damage = || {
        let mut file = File::options().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(4)).unwrap();
        file.write_all(&[0xff; 24]).unwrap();
        file.set_modified(changed).unwrap();
    };
    assert_eq!(prepared_by_fours(&path, damage).unwrap(), rgb(&old));
    let source = Source::open(&path, &SourceOptions::default()).unwrap();
    assert!(source.reader().stream(4..12).all(|item| source.bytes(item).is_err()));

    write_rows(&path, &old);
    let replace = || {
        write_rows(&path, &new);
        let later = changed + Duration::from_secs(9);
        File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    };
    let error = prepared_by_fours(&path, replace).unwrap_err().to_string();
    assert!(error.contains("a.parquet: has changed since it was listed"), "{error}");
    // The same again has none of the old ones.
    assert_eq!(prepared_by_fours(&path, || ()).unwrap(), rgb(&new));
}

#[test]
fn stores_of_more_shards_than_can_be_opened_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let [rows, store, tokens] = ["a.parquet", "store", "tokens"].map(|name| folder.path().join(name));
    let picture = synthetic::draw(0, 0, 16, 1).unwrap().to_png().unwrap();
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    write_parquet(&rows, &[&vec![(Some(&picture[..]), Some(0)); 50_001]], properties);
    let prepare = |shard_items| {
        let options = PrepareOptions { size: 1, shard_items, ..PrepareOptions::default() };
        prepare(&rows, &options, &store, &mut |_, _| {})
    };
    let error = prepare(Some(1)).unwrap_err();
    assert!(matches!(&error, Error::ShardItems { got: 1, .. }), "{error}");
    assert!(!folder.path().join("store.part").exists());
    prepare(None).unwrap();
    let pictures = PictureStore::open(&store).unwrap();
    let info = TokenStoreInfo {
        grid: [1, 1],
        codes: 2,
        classes: pictures.classes().to_vec(),
        tokenizer: "none".into(),
        codes_sha256: None,
        source: "test".into(),
    };
    let open = |flips, items| TokenJob::open(&tokens, &pictures, info.clone(), flips, Some(items)).map(drop);
    for (flips, items) in [(false, 1), (true, 2)] {
        let error = open(flips, items).unwrap_err();
        assert!(matches!(&error, Error::ShardItems { .. }), "{error}");
    }
    assert!(!folder.path().join("tokens.part").exists());
    open(false, 2).unwrap();
}
