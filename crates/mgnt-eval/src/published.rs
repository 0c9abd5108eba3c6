//! Statistics as others publish them: `.npz` archives of pytorch-fid and of ADM's evaluator.

use std::path::Path;

use mgnt_weights::npz::{Archive, Writer};
use mgnt_weights::{DType, atomic};

use crate::pictures::ARRAY;
use crate::{Dims, Error, Measured, Moments, Pictures};

/// Number of spatial features.
const SPATIAL: usize = 2023;
/// Pictures that ADM's own reference files hold beside the statistics of all.
const PICTURES: usize = 10_000;

/// Statistics of an archive.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// `mu` and `sigma`.
    pub moments: Moments,
    /// `mu_s` and `sigma_s`, where the archive has them.
    pub spatial: Option<Moments>,
    /// Whether there are pictures too.
    pub has_pictures: bool,
}

impl From<Published> for Measured {
    fn from(published: Published) -> Self {
        let Published { moments, spatial, .. } = published;
        Self { moments, spatial, sample: None, inception_score: None }
    }
}

/// Whether an archive holds statistics, and not pictures alone.
pub fn has_statistics(path: &Path) -> Result<bool, Error> {
    Ok(Archive::open(path)?.has("mu"))
}

impl Published {
    /// Reads an archive of pytorch-fid (`mu`, `sigma`) or ADM's evaluator (those, `mu_s`, `sigma_s`, `arr_0`), of f64
    /// or f32.
    pub fn read(path: &Path, dims: Dims) -> Result<Self, Error> {
        let file = |error: mgnt_weights::Error| Error::File { path: path.into(), reason: error.to_string() };
        let mut archive = Archive::open(path)?;
        let (has_spatial, has_pictures) = (archive.has("mu_s"), archive.has(ARRAY));
        let mut moments = |mean: &str, covariance: &str, dims: usize| -> Result<Moments, Error> {
            let mean = archive.array(mean)?.read(&[dims]).map_err(file)?.to_f64();
            let covariance = archive.array(covariance)?.read(&[dims, dims]).map_err(file)?.to_f64();
            Moments::new(mean, &covariance, None)
        };
        let own = moments("mu", "sigma", dims.count())?;
        let spatial = has_spatial.then(|| moments("mu_s", "sigma_s", SPATIAL)).transpose()?;
        Ok(Self { moments: own, spatial, has_pictures })
    }
}

/// Writes `mu` and `sigma`, as pytorch-fid does.
pub fn write_pytorch_fid(path: &Path, moments: &Moments) -> Result<(), Error> {
    atomic::write_file(path, |file| {
        let mut writer = Writer::new(file, path);
        write_moments(&mut writer, "mu", "sigma", moments)?;
        Ok(writer.finish()?)
    })
}

/// Writes `mu`, `sigma`, `mu_s`, `sigma_s` of all pictures, and as `arr_0` the pictures themselves, or 10,000 evenly
/// over them where there are more: what ADM's evaluator takes for a reference.
///
/// The pictures must be of one size, and the statistics have spatial features.
pub fn write_adm(path: &Path, measured: &Measured, pictures: &Pictures) -> Result<(), Error> {
    let spatial = measured.spatial.as_ref().ok_or_else(|| {
        Error::input("statistics for ADM's evaluator", "spatial features (768 or 2048 dimensions)", "none")
    })?;
    let (all, count) = (pictures.len(), pictures.len().min(PICTURES));
    atomic::write_file(path, |file| {
        let mut writer = Writer::new(file, path);
        write_moments(&mut writer, "mu", "sigma", &measured.moments)?;
        write_moments(&mut writer, "mu_s", "sigma_s", spatial)?;
        let (mut size, mut number, mut written) = (None, 0, 0);
        pictures.batches(16, &mut |batch| {
            for picture in batch {
                let own = [picture.height(), picture.width()];
                if size.is_none() {
                    writer.start(ARRAY, DType::U8, &[count, own[0], own[1], 3])?;
                    size = Some(own);
                }
                if size != Some(own) {
                    let expected = format!("all of one size, {:?} as the first", size.unwrap_or_default());
                    return Err(Error::input("pictures for `arr_0`", expected, format!("{own:?}")));
                }
                if written < count && number == written * all / count {
                    writer.write(picture.rgb())?;
                    written += 1;
                }
                number += 1;
            }
            Ok(())
        })?;
        Ok(writer.finish()?)
    })
}

fn write_moments<W: std::io::Write + std::io::Seek>(
    writer: &mut Writer<W>,
    mean: &str,
    covariance: &str,
    moments: &Moments,
) -> Result<(), Error> {
    let dims = moments.dims();
    writer.values(mean, &[dims], moments.mean())?;
    Ok(writer.values(covariance, &[dims, dims], &moments.covariance_values())?)
}

#[cfg(test)]
mod tests {
    use mgnt_data::{Picture, synthetic};

    use super::*;
    use crate::Statistics;

    fn moments(dims: usize) -> Moments {
        let mut statistics = Statistics::new(dims);
        statistics.add(&(0..dims * 4).map(|i| (i as f32).sin()).collect::<Vec<_>>());
        statistics.moments()
    }

    #[test]
    fn both_forms_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.npz");
        write_pytorch_fid(&path, &moments(64)).unwrap();
        let read = Published::read(&path, Dims::D64).unwrap();
        assert_eq!((read.moments.mean(), read.moments.count()), (moments(64).mean(), None));
        assert_eq!(read.moments.covariance_values(), moments(64).covariance_values());
        assert_eq!((read.spatial, read.has_pictures), (None, false));
        assert!(has_statistics(&path).unwrap());
        let error = Published::read(&path, Dims::D192).unwrap_err().to_string();
        assert!(
            error.contains("reference.npz") && error.contains("expected shape [192], got [64]"),
            "{error}"
        );

        let pictures = folder.path().join("pictures");
        let draw = |i: u64| synthetic::draw(1, i, 16, 7).unwrap();
        (0..3).for_each(|i| draw(i).save_png(&pictures.join(format!("{i}.png"))).unwrap());
        let measured = Measured {
            moments: moments(64),
            spatial: Some(moments(SPATIAL)),
            sample: None,
            inception_score: None,
        };
        write_adm(&path, &measured, &Pictures::open(&pictures).unwrap()).unwrap();
        let read = Published::read(&path, Dims::D64).unwrap();
        assert_eq!(read.spatial.unwrap().mean(), moments(SPATIAL).mean());
        assert!(read.has_pictures);
        let mut seen = Vec::new();
        let mut see = |batch: &[Picture]| {
            seen.extend_from_slice(batch);
            Ok(())
        };
        Pictures::open(&path).unwrap().batches(8, &mut see).unwrap();
        assert_eq!(seen, (0..3).map(draw).collect::<Vec<_>>());

        let odd = Picture::new(17, 16, vec![0; 17 * 16 * 3]).unwrap();
        odd.save_png(&pictures.join("9.png")).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = write_adm(&path, &measured, &Pictures::open(&pictures).unwrap()).unwrap_err().to_string();
        assert!(error.contains("of one size"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(
            write_adm(&path, &Measured { spatial: None, ..measured }, &Pictures::open(&pictures).unwrap())
                .is_err()
        );
    }
}
