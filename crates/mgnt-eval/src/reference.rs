use std::path::{Path, PathBuf};

use mgnt_data::PictureSet;
use mgnt_data::manifest::sha256;

use crate::{Dims, Error, Inception, Meter, Statistics};

/// A folder that keeps the statistics of references, each under a name that changes with all that they depend on:
/// the pictures, the weights and the features.
#[derive(Debug, Clone)]
pub struct ReferenceCache {
    folder: PathBuf,
}

/// Changes whenever the features of the same pictures by the same weights would.
const VERSION: u32 = 1;

impl ReferenceCache {
    /// Keeps statistics in this folder, which is made when there is something to keep.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Statistics of a set, from the cache where it has them; `progress` hears of pictures done.
    ///
    /// A file of the cache that cannot be read is made anew.
    pub fn statistics(
        &self,
        set: &PictureSet,
        network: &Inception,
        dims: Dims,
        batch: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Statistics, Error> {
        let path = self.path(set, network, dims)?;
        if path.exists()
            && let Ok(known) = Statistics::load(&path)
            && (known.dims(), known.count()) == (dims.count(), set.len() as u64)
        {
            progress(set.len());
            return Ok(known);
        }
        let statistics = measure(set, Meter::new(network, dims), batch, progress)?.finish()?.statistics;
        statistics.save(&path)?;
        Ok(statistics)
    }

    fn path(&self, set: &PictureSet, network: &Inception, dims: Dims) -> Result<PathBuf, Error> {
        let parts = format!("{VERSION} {} {} {}", set.sha256()?, network.sha256(), dims.count());
        let name = format!("{}-{}.safetensors", dims.count(), &sha256(parts.as_bytes())[..24]);
        Ok(self.folder.join(name))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Runs a whole set through a meter, `batch` pictures at a time; `progress` hears of pictures done.
pub fn measure<'a>(
    set: &PictureSet,
    mut meter: Meter<'a>,
    batch: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Meter<'a>, Error> {
    for start in (0..set.len()).step_by(batch.max(1)) {
        let end = (start + batch.max(1)).min(set.len());
        let pictures = (start..end).map(|i| set.get(i)).collect::<Result<Vec<_>, _>>()?;
        meter.add(&pictures)?;
        progress(end);
    }
    Ok(meter)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use mgnt_data::synthetic;
    use mgnt_weights::{TensorMap, safetensors};

    use super::*;

    /// The layers up to the first pooling, with weights that differ from each other.
    fn stem(path: &Path) -> Inception {
        let mut map = TensorMap::new();
        for (name, shape) in [
            ("Conv2d_1a_3x3", [32, 3, 3, 3]),
            ("Conv2d_2a_3x3", [32, 32, 3, 3]),
            ("Conv2d_2b_3x3", [64, 32, 3, 3]),
        ] {
            let count: usize = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 400.0).collect();
            map.insert_f32(&format!("{name}.conv.weight"), &shape, &values).unwrap();
            for (part, value) in [("weight", 1.0), ("bias", 0.1), ("running_mean", 0.0), ("running_var", 1.0)]
            {
                map.insert_f32(&format!("{name}.bn.{part}"), &[shape[0]], &vec![value; shape[0]]).unwrap();
            }
        }
        safetensors::write(path, &map).unwrap();
        Inception::load(path, &Device::flex()).unwrap()
    }

    #[test]
    fn a_reference_is_measured_once_and_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let network = stem(&folder.path().join("w.safetensors"));
        let source = folder.path().join("pictures");
        let draw = |number: u64| synthetic::draw(1, number, 16, 7).unwrap();
        (0..3).for_each(|i| draw(i).save_png(&source.join(format!("{i}.png"))).unwrap());
        let cache = ReferenceCache::new(folder.path().join("cache"));
        let files = || std::fs::read_dir(cache.folder()).unwrap().count();
        let statistics = |seen: &mut Vec<usize>| {
            let set = PictureSet::open(&source).unwrap();
            cache.statistics(&set, &network, Dims::D64, 2, &mut |done| seen.push(done)).unwrap()
        };
        let mut seen = Vec::new();
        let first = statistics(&mut seen);
        assert_eq!((first.count(), files(), seen), (3, 1, vec![2, 3]));
        let mut seen = Vec::new();
        let again = statistics(&mut seen);
        assert_eq!((again.mean(), files(), seen), (first.mean(), 1, vec![3]));

        draw(9).save_png(&source.join("0.png")).unwrap();
        assert_ne!(statistics(&mut Vec::new()).mean(), first.mean());
        assert_eq!(files(), 2);
    }
}
