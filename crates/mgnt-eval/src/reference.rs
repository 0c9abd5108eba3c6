use std::path::{Path, PathBuf};

use mgnt_data::manifest::sha256;
use mgnt_weights::{TensorMap, safetensors};
use serde::Serialize;

use crate::meter::{SAMPLE, SEED};
use crate::pictures::is_npz;
use crate::published::has_statistics;
use crate::{
    Error, Features, Inception, InceptionScore, Measured, Measuring, Moments, Origin, Pictures, Published,
    Resize, measure,
};

/// What a reference is given as.
#[derive(Debug)]
pub enum Source {
    /// Pictures: a store, a folder, or an `.npz` archive of `arr_0` alone.
    Pictures(Pictures),
    /// Statistics of an `.npz` archive.
    Statistics(PathBuf),
    /// A file that [`ReferenceCache`] or [`save`] wrote.
    Saved(PathBuf),
}

impl Source {
    /// Tells by the file's name, and for an archive by what it holds.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if is_npz(path) && has_statistics(path)? {
            return Ok(Self::Statistics(path.into()));
        }
        match path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors")) {
            true => Ok(Self::Saved(path.into())),
            false => Ok(Self::Pictures(Pictures::open(path)?)),
        }
    }

    /// At most `count` of the pictures, evenly over them. Statistics cannot be thinned.
    pub fn thinned(self, count: usize) -> Result<Self, Error> {
        match self {
            Self::Pictures(pictures) => Ok(Self::Pictures(pictures.thinned(count))),
            Self::Statistics(path) | Self::Saved(path) => {
                let reason = "these are statistics, of which no part can be taken".into();
                Err(Error::File { path, reason })
            }
        }
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Pictures(pictures) => pictures.path(),
            Self::Statistics(path) | Self::Saved(path) => path,
        }
    }

    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pictures(Pictures::Set(_)) => "pictures",
            Self::Pictures(Pictures::Array(_)) => "pictures of an npz archive",
            Self::Statistics(_) => "published statistics",
            Self::Saved(_) => "statistics that mgnt saved",
        }
    }

    /// What its statistics are made with under this network, where that is known: an archive of others does not say.
    pub fn origin(&self, network: &Inception) -> Result<Option<Origin>, Error> {
        match self {
            Self::Statistics(path) => Origin::read(path),
            Self::Pictures(_) | Self::Saved(_) => Ok(Some(Origin::of(network))),
        }
    }

    /// What is known of the resize of published statistics, of which `measured` was read.
    pub fn resize(&self, measured: &Measured) -> Result<Option<ResizeOfStatistics>, Error> {
        let Self::Statistics(path) = self else { return Ok(None) };
        Ok(Some(match Origin::read(path)? {
            Some(origin) => ResizeOfStatistics::Told(origin.resize),
            None if measured.spatial.is_some() => ResizeOfStatistics::Usual(Resize::Tf1),
            None => ResizeOfStatistics::Untold,
        }))
    }

    /// SHA-256 that changes with what is measured.
    pub fn sha256(&self) -> Result<String, Error> {
        match self {
            Self::Pictures(pictures) => pictures.sha256(),
            Self::Statistics(path) | Self::Saved(path) => Ok(mgnt_data::manifest::sha256_of_file(path)?),
        }
    }
}

/// What is known of the resize that published statistics are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResizeOfStatistics {
    /// What the file says.
    Told(Resize),
    /// That of ADM's evaluator, whose form the file has.
    Usual(Resize),
    /// Nothing: files of this form come from several tools, each with a resize of its own.
    Untold,
}

/// A folder that keeps the statistics of references, each under a name that changes with all that they depend on:
/// the pictures, the weights, the resize and the features.
#[derive(Debug, Clone)]
pub struct ReferenceCache {
    folder: PathBuf,
}

/// Changes whenever what is measured of the same pictures by the same weights would, or the form of the files.
const VERSION: u32 = 3;

impl ReferenceCache {
    /// Keeps statistics in this folder, which is made when there is something to keep.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// What is known of a reference: read, taken from the cache, or measured; `progress` hears of pictures done.
    ///
    /// Of an archive with statistics and pictures, as ADM's, the moments are the archive's and the features those of
    /// its pictures.
    pub fn reference(
        &self,
        source: &Source,
        measuring: &Measuring,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Measured, Error> {
        match source {
            Source::Pictures(pictures) => self.measured(pictures, measuring, progress),
            Source::Saved(path) => load(path, &Identity::of(measuring)),
            Source::Statistics(path) => {
                let published = published(path, measuring)?;
                let sample = match published.has_pictures && measuring.network.reaches(measuring.dims) {
                    true => {
                        let pictures = Pictures::open(path)?;
                        self.measured(&pictures, measuring, progress)?.sample
                    }
                    false => None,
                };
                Ok(Measured { sample, ..published.into() })
            }
        }
    }

    /// As [`Self::reference`], for who takes Frechet distances alone: of an archive with statistics the pictures are left
    /// unread, and there are no features.
    pub fn moments(
        &self,
        source: &Source,
        measuring: &Measuring,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Measured, Error> {
        match source {
            Source::Statistics(path) => Ok(published(path, measuring)?.into()),
            Source::Pictures(_) | Source::Saved(_) => self.reference(source, measuring, progress),
        }
    }

    /// What is known of pictures, from the cache where it has them.
    ///
    /// A file of the cache that cannot be read is made anew; one that cannot be written is a warning.
    pub fn measured(
        &self,
        pictures: &Pictures,
        measuring: &Measuring,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Measured, Error> {
        let identity = Identity { pictures: Some(pictures.sha256()?), ..Identity::of(measuring) };
        let path = self.folder.join(identity.file_name());
        if path.exists()
            && let Ok(known) = load(&path, &identity)
        {
            progress(pictures.len());
            return Ok(known);
        }
        let measured = measure(pictures, measuring, progress)?;
        if let Err(error) = write(&path, &measured, &identity) {
            tracing::warn!("{error}: what was measured of {} is not kept", pictures.path().display());
        }
        Ok(measured)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Reads an archive; one that says what it was made with must be of this network.
fn published(path: &Path, measuring: &Measuring) -> Result<Published, Error> {
    let published = Published::read(path, measuring.dims)?;
    if let Some(origin) = &published.origin {
        origin.require(&Origin::of(measuring.network), path)?;
    }
    Ok(published)
}

/// Writes what is known of pictures, to be a reference later, with all that it depends on.
pub fn save(
    path: &Path,
    measured: &Measured,
    pictures: &Pictures,
    measuring: &Measuring,
) -> Result<(), Error> {
    let identity = Identity { pictures: Some(pictures.sha256()?), ..Identity::of(measuring) };
    write(path, measured, &identity)
}

/// What measured numbers depend on.
struct Identity {
    /// SHA-256 of the pictures; of any where there is none.
    pictures: Option<String>,
    weights: String,
    resize: String,
    dims: usize,
}

impl Identity {
    fn of(measuring: &Measuring) -> Self {
        Self {
            pictures: None,
            weights: measuring.network.sha256().into(),
            resize: measuring.network.resize().to_string(),
            dims: measuring.dims.count(),
        }
    }

    fn fields(&self) -> [(&'static str, String); 6] {
        [
            ("version", VERSION.to_string()),
            ("weights", self.weights.clone()),
            ("resize", self.resize.clone()),
            ("dims", self.dims.to_string()),
            ("features", format!("{SAMPLE} drawn by {SEED}")),
            ("pictures", self.pictures.clone().unwrap_or_default()),
        ]
    }

    fn file_name(&self) -> String {
        let text: String = self.fields().iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        format!("{}-{}.safetensors", self.dims, &sha256(text.as_bytes())[..24])
    }
}

fn write(path: &Path, measured: &Measured, identity: &Identity) -> Result<(), Error> {
    let mut map = TensorMap::new();
    identity.fields().into_iter().for_each(|(name, value)| map.set_metadata(name, value));
    insert_moments(&mut map, "", &measured.moments)?;
    if let Some(spatial) = &measured.spatial {
        insert_moments(&mut map, "spatial_", spatial)?;
    }
    if let Some(sample) = &measured.sample {
        map.insert_f32("features", &[sample.count(), sample.dims()], sample.values())?;
    }
    if let Some(score) = &measured.inception_score {
        map.insert_f64("inception_score", &[3], &[score.mean, score.deviation, score.splits as f64])?;
    }
    Ok(safetensors::write(path, &map)?)
}

fn insert_moments(map: &mut TensorMap, prefix: &str, moments: &Moments) -> Result<(), Error> {
    let dims = moments.dims();
    map.insert_f64(&format!("{prefix}mean"), &[dims], moments.mean())?;
    map.insert_f64(&format!("{prefix}covariance"), &[dims, dims], &moments.covariance_values())?;
    Ok(map.insert_f64(&format!("{prefix}count"), &[1], &[moments.count().unwrap_or(0) as f64])?)
}

/// Reads what [`write`] wrote, if it is what is asked for.
fn load(path: &Path, identity: &Identity) -> Result<Measured, Error> {
    let map = safetensors::read(path)?;
    let fail = |reason: String| Error::File { path: path.into(), reason };
    if !map.metadata().contains_key("version") {
        return Err(fail(
            "no reference that `--save-reference` wrote, which says what it was made with".into(),
        ));
    }
    for (name, expected) in identity.fields() {
        let got = map.metadata().get(name).map_or("", String::as_str);
        if got != expected && !(name == "pictures" && identity.pictures.is_none()) {
            return Err(fail(format!("{name}: expected {expected}, got {got}")));
        }
    }
    let moments = |prefix: &str, dims: usize| -> Result<Moments, Error> {
        let get = |part: &str| map.get(&format!("{prefix}{part}"));
        let (mean, covariance) = (get("mean")?.to_f64(), get("covariance")?.to_f64());
        if mean.len() != dims {
            return Err(fail(format!("`{prefix}mean`: expected {dims} values, got {}", mean.len())));
        }
        let count = get("count")?.to_f64().first().map_or(0.0, |&count| count.max(0.0)) as u64;
        let moments = Moments::new(mean, &covariance, (count > 0).then_some(count));
        moments.map_err(|error| fail(error.to_string()))
    };
    let spatial = match map.get("spatial_mean") {
        Ok(mean) => Some(moments("spatial_", mean.to_f64().len())?),
        Err(_) => None,
    };
    let sample = match map.get("features") {
        Ok(features) => Some(Features::new(identity.dims, features.to_f32())?),
        Err(_) => None,
    };
    let inception_score = match map.get("inception_score") {
        Ok(score) => match score.to_f64()[..] {
            [mean, deviation, splits] => Some(InceptionScore { mean, deviation, splits: splits as usize }),
            _ => return Err(fail("`inception_score`: expected three values".into())),
        },
        Err(_) => None,
    };
    Ok(Measured { moments: moments("", identity.dims)?, spatial, sample, inception_score })
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use mgnt_data::synthetic;

    use super::*;
    use crate::Dims;
    use crate::inception_stem::stem;

    /// Two pictures at a time.
    fn by(network: &Inception, dims: Dims) -> Measuring<'_> {
        Measuring { network, dims, batch: 2 }
    }

    fn network(path: &Path) -> Inception {
        stem(path);
        Inception::load(path, &Device::flex()).unwrap()
    }

    fn draw(folder: &Path, file: u64, drawing: u64) {
        synthetic::draw(1, drawing, 16, 7).unwrap().save_png(&folder.join(format!("{file}.png"))).unwrap();
    }

    #[test]
    fn a_reference_is_measured_once_and_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let network = network(&folder.path().join("w.safetensors"));
        let source = folder.path().join("pictures");
        (0..3).for_each(|i| draw(&source, i, i));
        let cache = ReferenceCache::new(folder.path().join("cache"));
        let files = || std::fs::read_dir(cache.folder()).unwrap().count();
        let measured = |network: &Inception, seen: &mut Vec<usize>| {
            let source = Source::open(&source).unwrap();
            cache.reference(&source, &by(network, Dims::D64), &mut |done| seen.push(done)).unwrap()
        };
        let mut seen = Vec::new();
        let first = measured(&network, &mut seen);
        assert_eq!((first.moments.count(), files(), seen), (Some(3), 1, vec![2, 3]));
        assert_eq!(first.sample.as_ref().unwrap().count(), 3);
        let mut seen = Vec::new();
        assert_eq!(measured(&network, &mut seen), first);
        assert_eq!((files(), seen), (1, vec![3]));

        draw(&source, 0, 9);
        assert_ne!(measured(&network, &mut Vec::new()).moments.mean(), first.moments.mean());
        assert_eq!(files(), 2);
        let network = network.with_resize(Resize::Tf1);
        measured(&network, &mut Vec::new());
        assert_eq!(files(), 3);
        // Where nothing can be kept, what was measured is not lost.
        let file = ReferenceCache::new(folder.path().join("w.safetensors"));
        let source = Source::open(&source).unwrap();
        let unkept = file.reference(&source, &by(&network, Dims::D64), &mut |_| {}).unwrap();
        assert_eq!(unkept, measured(&network, &mut Vec::new()));
    }

    #[test]
    fn pictures_beside_statistics_are_read_for_their_features_alone() {
        let folder = tempfile::tempdir().unwrap();
        let network = network(&folder.path().join("w.safetensors"));
        let (source, path) = (folder.path().join("pictures"), folder.path().join("adm.npz"));
        (0..3).for_each(|i| draw(&source, i, i));
        let pictures = Pictures::open(&source).unwrap();
        let spatial = Moments::new(vec![0.0; 2023], &vec![0.0; 2023 * 2023], None).unwrap();
        let measured = measure(&pictures, &by(&network, Dims::D64), &mut |_| {}).unwrap();
        let measured = Measured { spatial: Some(spatial), ..measured };
        crate::write_adm(&path, &measured, &pictures, &Origin::of(&network)).unwrap();
        let cache = ReferenceCache::new(folder.path().join("cache"));
        let source = Source::open(&path).unwrap();
        let mut unread = |_| panic!("a picture is read");
        let moments = cache.moments(&source, &by(&network, Dims::D64), &mut unread).unwrap();
        assert_eq!(moments.moments.mean(), measured.moments.mean());
        let told = ResizeOfStatistics::Told(Resize::PytorchFid);
        assert_eq!((&moments.sample, source.resize(&moments).unwrap()), (&None, Some(told)));
        assert!(!cache.folder().exists());
        let whole = cache.reference(&source, &by(&network, Dims::D64), &mut |_| {}).unwrap();
        assert_eq!((whole.moments, whole.sample.unwrap().count()), (moments.moments, 3));
    }

    /// What is written here is held against the network; of what others write the resize is known by ADM's form alone.
    #[test]
    fn statistics_say_what_they_were_made_with() {
        let folder = tempfile::tempdir().unwrap();
        let network = network(&folder.path().join("w.safetensors"));
        let path = folder.path().join("statistics.npz");
        let (one, own) = (Moments::new(vec![0.0; 64], &[0.0; 64 * 64], None).unwrap(), Origin::of(&network));
        let cache = ReferenceCache::new(folder.path().join("cache"));
        let read = |network: &Inception| {
            let source = Source::open(&path).unwrap();
            let measured = cache.moments(&source, &by(network, Dims::D64), &mut |_| {});
            measured.map(|measured| source.resize(&measured).unwrap().unwrap()).map_err(|e| e.to_string())
        };
        crate::write_pytorch_fid(&path, &one, None).unwrap();
        assert_eq!(read(&network), Ok(ResizeOfStatistics::Untold));
        assert_eq!(Source::open(&path).unwrap().origin(&network).unwrap(), None);
        let foreign = Measured {
            moments: one.clone(),
            spatial: Some(one.clone()),
            sample: None,
            inception_score: None,
        };
        let usual = Source::open(&path).unwrap().resize(&foreign).unwrap();
        assert_eq!(usual, Some(ResizeOfStatistics::Usual(Resize::Tf1)));
        crate::write_pytorch_fid(&path, &one, Some(&own)).unwrap();
        assert_eq!(read(&network), Ok(ResizeOfStatistics::Told(Resize::PytorchFid)));
        assert_eq!(Source::open(&path).unwrap().origin(&network).unwrap(), Some(own.clone()));
        let weights = Origin { weights_sha256: "0f".into(), ..own };
        crate::write_pytorch_fid(&path, &one, Some(&weights)).unwrap();
        assert!(read(&network).unwrap_err().ends_with(", got 0f"));
        assert!(
            read(&network.with_resize(Resize::Tf1))
                .unwrap_err()
                .ends_with("resize: expected tf1, got pytorch-fid")
        );
    }

    #[test]
    fn one_picture_is_no_set() {
        let folder = tempfile::tempdir().unwrap();
        let network = network(&folder.path().join("w.safetensors"));
        draw(folder.path(), 0, 0);
        let pictures = Pictures::open(folder.path()).unwrap();
        let mut unread = |_| panic!("a picture is read");
        let error = measure(&pictures, &by(&network, Dims::D64), &mut unread).unwrap_err().to_string();
        assert!(error.ends_with(": expected at least 2 pictures to measure, got 1"), "{error}");
    }

    #[test]
    fn a_saved_file_is_held_against_the_network() {
        let folder = tempfile::tempdir().unwrap();
        let network = network(&folder.path().join("w.safetensors"));
        let source = folder.path().join("pictures");
        (0..3).for_each(|i| draw(&source, i, i));
        let pictures = Pictures::open(&source).unwrap();
        let measured = measure(&pictures, &by(&network, Dims::D64), &mut |_| {}).unwrap();
        let path = folder.path().join("reference.safetensors");
        save(&path, &measured, &pictures, &by(&network, Dims::D64)).unwrap();
        let cache = ReferenceCache::new(folder.path().join("cache"));
        let again = |network: &Inception, dims: Dims| {
            let source = Source::open(&path).unwrap();
            assert!(source.kind().contains("saved"));
            cache.reference(&source, &by(network, dims), &mut |_| {}).map_err(|e| e.to_string())
        };
        assert_eq!(again(&network, Dims::D64).unwrap(), measured);
        let weights = Source::open(&folder.path().join("w.safetensors")).unwrap();
        let error = cache.reference(&weights, &by(&network, Dims::D64), &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("w.safetensors: no reference that `--save-reference` wrote"), "{error}");
        assert!(again(&network, Dims::D192).unwrap_err().contains("dims: expected 192, got 64"));
        let network = network.with_resize(Resize::Tf1);
        assert!(again(&network, Dims::D64).unwrap_err().contains("resize: expected tf1, got pytorch-fid"));
        assert!(Source::open(&path).unwrap().thinned(2).is_err());
    }
}
