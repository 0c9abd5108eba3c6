//! Turns a store of pictures into a store of tokens, shard by shard, so that it can be resumed.

use std::ops::Range;
use std::path::Path;

use serde::Serialize;

use crate::manifest::{ShardEntry, StoreKind, check_classes};
use crate::tokens::{Manifest, SHARD_ITEMS, VERSION, file_name};
use crate::unfinished::{Record, Unfinished};
use crate::{Error, MADE_BY, PictureStore, TokenStoreInfo, shard};

/// A token store in the making. It knows no tokenizer: whoever has one asks for [`Self::pending`] shards, gives the
/// tokens of each to [`Self::write`], and calls [`Self::publish`] at the end.
#[derive(Debug)]
pub struct TokenJob {
    unfinished: Unfinished,
    info: TokenStoreInfo,
    flips: bool,
    shards: Vec<TokenShard>,
}

/// A shard of tokens that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenShard {
    number: usize,
    pictures: Range<usize>,
    flipped: bool,
}

impl TokenShard {
    /// The pictures whose tokens it holds.
    pub fn pictures(&self) -> Range<usize> {
        self.pictures.clone()
    }

    /// Whether they are mirrored before they become tokens.
    pub fn is_flipped(&self) -> bool {
        self.flipped
    }
}

/// What decides the contents of a store, and so which unfinished one may be continued.
#[derive(Serialize)]
struct Plan<'a> {
    made_by: &'a str,
    info: &'a TokenStoreInfo,
    flips: bool,
    pictures: String,
    shard_items: usize,
}

impl TokenJob {
    /// Starts a token store at `out`, or continues one of the same pictures and tokenizer that was stopped. With
    /// `flips`, a second half has the tokens of all pictures mirrored. Shards have `shard_items` pictures, 4096 if
    /// `None`.
    pub fn open(
        out: &Path,
        store: &PictureStore,
        info: TokenStoreInfo,
        flips: bool,
        shard_items: Option<usize>,
    ) -> Result<Self, Error> {
        Self::of(out, store.len(), store.sha256()?, info, flips, shard_items)
    }

    /// The same for `count` pictures that lie elsewhere; `pictures` is a checksum that tells them from others.
    pub fn of(
        out: &Path,
        count: usize,
        pictures: String,
        info: TokenStoreInfo,
        flips: bool,
        shard_items: Option<usize>,
    ) -> Result<Self, Error> {
        let shard_items = shard_items.unwrap_or(SHARD_ITEMS);
        if shard_items == 0 {
            return Err(Error::ShardItems { expected: "at least 1".into(), got: 0 });
        }
        let copies: &[bool] = if flips { &[false, true] } else { &[false] };
        shard::check_count(count, copies.len(), shard_items)?;
        check_classes(out, &info.classes)?;
        info.checked_positions(out)?;
        let plan = Plan { made_by: MADE_BY, info: &info, flips, pictures, shard_items };
        let unfinished = Unfinished::open(out, StoreKind::Tokens, &plan)?;
        let ranges = copies.iter().flat_map(|&flipped| {
            let starts = (0..count).step_by(shard_items);
            starts.map(move |start| (flipped, start..(start + shard_items).min(count)))
        });
        let shards = ranges
            .enumerate()
            .map(|(number, (flipped, pictures))| TokenShard { number, pictures, flipped })
            .collect();
        Ok(Self { unfinished, info, flips, shards })
    }

    /// Pictures to tokenize in all, mirrored ones counted too.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.pictures.len()).sum()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shards that are not there yet.
    pub fn pending(&self) -> Vec<TokenShard> {
        self.shards.iter().filter(|shard| self.unfinished.record(shard.number).is_none()).cloned().collect()
    }

    /// Writes a shard: the tokens of each of its pictures, and their labels. Refuses one of another job's.
    pub fn write(&self, shard: &TokenShard, tokens: &[Vec<u16>], labels: &[u16]) -> Result<(), Error> {
        let folder = self.unfinished.folder();
        let own = self.shards.get(shard.number);
        if own != Some(shard) {
            let expected = own.map_or_else(|| "none".into(), |own| format!("{own:?}"));
            return Err(Error::store(folder, "shard", expected, format!("{shard:?}")));
        }
        if tokens.len() != shard.pictures.len() || labels.len() != shard.pictures.len() {
            return Err(Error::store(
                folder,
                "pictures",
                shard.pictures.len(),
                tokens.len().min(labels.len()),
            ));
        }
        for (tokens, &label) in tokens.iter().zip(labels) {
            self.info.check(&folder, tokens, usize::from(label))?;
        }
        self.unfinished.check()?;
        let (entry, bytes) =
            self.info.write_shard(&folder, file_name(shard.number), &tokens.concat(), labels)?;
        let record = Record { shard: Some(entry), bytes, rejected: Vec::new(), stamp: None };
        self.unfinished.finish_shard(shard.number, &record)
    }

    /// Moves the store into its place, once no shard is pending.
    pub fn publish(self) -> Result<(), Error> {
        // Of a folder that is gone there are no records.
        self.unfinished.check()?;
        let records = self.shards.iter().map(|shard| self.unfinished.record(shard.number)?.shard);
        let Some(shards) = records.collect::<Option<Vec<ShardEntry>>>() else {
            return Err(Error::store(self.unfinished.folder(), "shards", self.shards.len(), "fewer"));
        };
        let Self { unfinished, info, flips, .. } = self;
        unfinished.publish(&Manifest { version: VERSION, info, flips, shards })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PrepareOptions, TokenStore, prepare, synthetic};

    #[test]
    fn shards_are_written_in_any_order_and_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let [source, pictures, out] = ["source", "pictures", "tokens"].map(|name| folder.path().join(name));
        synthetic::write_folder(&source, 1, 16, 1).unwrap();
        let options = PrepareOptions { size: 16, ..PrepareOptions::default() };
        prepare(&source, &options, &pictures, &mut |_, _| {}).unwrap();
        let store = PictureStore::open(&pictures).unwrap();
        let info = TokenStoreInfo {
            grid: [1, 2],
            codes: 100,
            classes: store.classes().to_vec(),
            tokenizer: "none".into(),
            codes_sha256: None,
            source: "test".into(),
        };
        let too_many = TokenStoreInfo { classes: vec![String::new(); 70_000], ..info.clone() };
        let error = TokenJob::open(&out, &store, too_many, true, None).unwrap_err().to_string();
        assert!(error.ends_with("classes: expected 65536 at most, got 70000"), "{error}");
        let no_place = TokenStoreInfo { grid: [0, 5], ..info.clone() };
        let error = TokenJob::open(&out, &store, no_place, true, None).unwrap_err().to_string();
        assert!(error.ends_with("grid: expected rows and columns, got [0, 5]"), "{error}");
        let job = || TokenJob::open(&out, &store, info.clone(), true, Some(3)).unwrap();
        let write = |job: &TokenJob, shard: &TokenShard| {
            let code = |picture: usize| picture as u16 + if shard.is_flipped() { 50 } else { 0 };
            let tokens: Vec<Vec<u16>> = shard.pictures().map(|p| vec![code(p), 99]).collect();
            let labels: Vec<u16> = shard.pictures().map(|p| store.label(p) as u16).collect();
            job.write(shard, &tokens, &labels).unwrap();
        };
        let first = job();
        assert_eq!((first.len(), first.pending().len()), (16, 6));
        write(&first, &first.pending()[4]);
        write(&first, &first.pending()[0]);
        let short = first.pending().remove(0);
        assert!(first.write(&short, &[vec![1, 2]], &[0]).is_err());
        // A shard of pairs of the same pictures: the rest would be missing.
        let elsewhere = folder.path().join("elsewhere");
        let pairs = TokenJob::open(&elsewhere, &store, info.clone(), true, Some(2)).unwrap().pending();
        let error = first.write(&pairs[1], &[vec![1, 2], vec![1, 2]], &[0; 2]).unwrap_err().to_string();
        assert!(error.contains("shard: expected") && error.contains("got TokenShard"), "{error}");
        drop(first);
        // By other weights or options of the encoder the rest would be other tokens.
        let other = TokenStoreInfo { codes_sha256: Some("other".into()), ..info.clone() };
        assert!(matches!(TokenJob::open(&out, &store, other, true, Some(3)), Err(Error::OtherPlan { .. })));
        let second = job();
        assert_eq!(second.pending().len(), 4);
        for shard in second.pending() {
            write(&second, &shard);
        }
        second.publish().unwrap();
        let tokens = TokenStore::open(&out).unwrap();
        assert!(tokens.has_flips());
        for picture in 0..8 {
            assert_eq!(tokens.tokens(picture), [picture as u16, 99]);
            assert_eq!(tokens.tokens(8 + picture), [picture as u16 + 50, 99]);
            assert_eq!((tokens.label(picture), tokens.label(8 + picture)), (picture, picture));
        }
        let unfinished = job();
        assert!(unfinished.publish().is_err(), "nothing is written yet");

        // A shard of a folder that is gone does not make it anew.
        let (unfinished, part) = (job(), folder.path().join("tokens.part"));
        let first = unfinished.pending().remove(0);
        std::fs::remove_dir_all(&part).unwrap();
        let error = unfinished.write(&first, &[vec![1, 2], vec![1, 2], vec![1, 2]], &[0; 3]).unwrap_err();
        assert!(error.to_string().contains("lock: was removed or replaced"), "{error}");
        let error = unfinished.publish().unwrap_err();
        assert!(error.to_string().contains("lock: was removed or replaced"), "{error}");
        assert!(!part.exists());
    }
}
