use std::fmt::{self, Write as _};
use std::path::Path;

use serde::Serialize;

use crate::meter::{SAMPLE, SEED};
use crate::neighbours::{K_DENSITY_COVERAGE, K_PRECISION_RECALL};
use crate::{
    Dims, Error, Inception, Measured, Resize, ResizeOfStatistics, Source, frechet_distance, kernel_distance,
    neighbours,
};

/// Every choice that the numbers depend on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Protocol {
    /// Version of mgnt.
    pub mgnt: String,
    /// Dimensions of the features.
    pub dims: usize,
    /// File name of the network's weights.
    pub weights: String,
    /// SHA-256 of that file.
    pub weights_sha256: String,
    /// How pictures become the network's input.
    pub resize: Resize,
    /// What the reference is.
    pub real: Side,
    /// What is measured.
    pub fake: Side,
    /// How the pictures were generated, where they were.
    pub generation: Option<Generation>,
    /// What the Inception Score is of, where there is one.
    pub inception_score: Option<String>,
    /// What the kernel distance is, where there is one.
    pub kernel: Option<String>,
    /// What precision, recall, density and coverage are, where there are any.
    pub neighbours: Option<String>,
    /// Of which pictures those two are.
    pub compared: Option<String>,
}

/// One of the two sets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// The file or folder.
    pub path: String,
    /// What it is, in words.
    pub kind: String,
    /// SHA-256 that changes with any picture.
    pub sha256: String,
    /// Pictures that were taken of it, where that is known.
    pub pictures: Option<u64>,
    /// Pictures that there were to take them from, where that is known.
    pub found: Option<u64>,
    /// How the pictures were made square, where a packed store says so.
    pub crop: Option<String>,
    /// What is known of the resize of published statistics.
    pub resize: Option<ResizeOfStatistics>,
}

/// How pictures were generated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    /// SHA-256 of the transformer's weights alone; a run's `run.json` has that of configuration and weights together.
    pub model_sha256: String,
    /// SHA-256 of the tokenizer's weights alone, likewise.
    pub tokenizer_sha256: String,
    /// Seed; sample i draws from the seed and i alone.
    pub seed: u64,
    /// `balanced`: all in turn; `drawn`: each with the same chance.
    pub classes: String,
    /// Number of classes.
    pub class_count: usize,
    /// Sub-model of each iteration, for people.
    pub schedule: String,
    /// The whole strategy, as RON.
    pub strategy: String,
    /// Type of the transformer's matrices, keys and values.
    pub dtype: String,
    /// Kind of device.
    pub device: String,
    /// Pictures decoded together, which changes nothing beyond rounding.
    pub batch: usize,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Frechet distance.
    pub fid: f64,
    /// The part of it that the means alone make.
    pub fid_of_means: f64,
    /// Frechet distance of the spatial features, as ADM's evaluator has it, where both sides have them.
    pub sfid: Option<f64>,
    /// Inception Score of what is measured, where the weights reach the logits.
    pub inception_score: Option<Spread>,
    /// Kernel distance, where features of both sides are known.
    pub kid: Option<Spread>,
    /// Improved precision, k = 3.
    pub precision: Option<f64>,
    /// Improved recall, k = 3.
    pub recall: Option<f64>,
    /// Density, k = 5.
    pub density: Option<f64>,
    /// Coverage, k = 5.
    pub coverage: Option<f64>,
    /// What they depend on.
    pub protocol: Protocol,
    /// What a reader must know before comparing.
    pub warnings: Vec<String>,
}

/// A mean, and the population deviation of what it is the mean of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The deviation; none of a single value.
    pub deviation: Option<f64>,
}

/// How the SHA-256 of `pt_inception-2015-12-05-6726825d.pth` begins, with which published numbers are made.
const PUBLISHED: &str = "6726825d";
/// Below this many samples the distance is strongly biased upward.
const FEW: u64 = 10_000;

impl Protocol {
    /// The protocol of two sets under a network.
    pub fn new(network: &Inception, dims: Dims, real: Side, fake: Side) -> Self {
        let name = network.path().file_name().unwrap_or_default();
        Self {
            mgnt: env!("CARGO_PKG_VERSION").into(),
            dims: dims.count(),
            weights: name.to_string_lossy().into_owned(),
            weights_sha256: network.sha256().into(),
            resize: network.resize(),
            real,
            fake,
            generation: None,
            inception_score: None,
            kernel: None,
            neighbours: None,
            compared: None,
        }
    }

    /// What a reader must know before comparing.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings =
            Self::warnings_for(self.dims, &self.weights_sha256, self.real.pictures, self.fake.pictures);
        for side in [&self.real, &self.fake] {
            let (path, own) = (&side.path, self.resize);
            match side.resize {
                Some(ResizeOfStatistics::Usual(resize)) if resize != own => warnings.push(format!(
                    "{path}: ADM's evaluator makes statistics of this form with the resize {resize}, and these pictures \
                     were resized as {own}; --resize {resize} compares like with like"
                )),
                Some(ResizeOfStatistics::Untold) => warnings.push(format!(
                    "{path}: the file does not say with which resize its statistics were made; pytorch-fid's own are of \
                     pytorch-fid, TTUR's and EDM's of tf1, clean-fid's of neither; these pictures were resized as {own}"
                )),
                _ => {}
            }
        }
        warnings
    }

    /// The same for any numbers of pictures, without what depends on the two sets.
    fn warnings_for(dims: usize, weights_sha256: &str, real: Option<u64>, fake: Option<u64>) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(fewest) = real.into_iter().chain(fake).min().filter(|&fewest| fewest < FEW) {
            warnings.push(format!(
                "ONLY {fewest} PICTURES: below {FEW} FID is strongly biased upward; published numbers use 50,000"
            ));
        }
        if dims < 2048 {
            warnings.push(format!(
                "{dims} dimensions: these numbers compare only with others of the same weights, dimensions and \
                 numbers of pictures, and with none that is published"
            ));
        } else if !weights_sha256.starts_with(PUBLISHED) {
            warnings.push(
                "the weights' file is not pt_inception-2015-12-05-6726825d.pth: unless it holds the same numbers, these \
                 compare only with others of the same file"
                    .into(),
            );
        }
        warnings
    }
}

impl Side {
    /// What is known of a set, and was measured of it.
    pub fn new(source: &Source, measured: &Measured) -> Result<Self, Error> {
        let pictures = if let Source::Pictures(pictures) = source { Some(pictures) } else { None };
        Ok(Self {
            path: source.path().display().to_string(),
            kind: source.kind().into(),
            sha256: source.sha256()?,
            pictures: measured.moments.count(),
            found: pictures.map(|pictures| pictures.found() as u64),
            crop: pictures.and_then(|pictures| pictures.crop()),
            resize: source.resize(measured)?,
        })
    }

    /// So many pictures that the model of this path generated.
    pub fn generated(model: &Path, sha256: String, pictures: u64) -> Self {
        Self {
            path: model.display().to_string(),
            kind: "generated".into(),
            sha256,
            pictures: Some(pictures),
            found: None,
            crop: None,
            resize: None,
        }
    }
}

impl Report {
    /// Measures two sets against each other.
    pub fn new(real: &Measured, fake: &Measured, mut protocol: Protocol) -> Result<Self, Error> {
        let distance = frechet_distance(&real.moments, &fake.moments)?;
        let sfid = match (&real.spatial, &fake.spatial) {
            (Some(real), Some(fake)) => Some(frechet_distance(real, fake)?.distance),
            _ => None,
        };
        let (mut kid, mut near) = (None, None);
        if let (Some(real), Some(fake)) = (&real.sample, &fake.sample) {
            // The neighbours need more pictures than the largest k; of so few, the kernel distance says nothing either: all
            // fields of both stay empty.
            if real.count().min(fake.count()) > K_PRECISION_RECALL.max(K_DENSITY_COVERAGE) {
                let distance = kernel_distance(real, fake, SEED)?;
                let of = match distance.deviation {
                    Some(_) => format!(
                        "mean and deviation of {} subsets of {} pictures of each side, drawn without replacement \
                         (seed {SEED})",
                        distance.subsets, distance.size
                    ),
                    None => format!("one value of all {} pictures of each side", distance.size),
                };
                protocol.kernel = Some(format!("unbiased, (x.y / d + 1)^3, {of}"));
                let mut of = format!(
                    "precision and recall: k = {K_PRECISION_RECALL} (Kynkaanniemi et al. 2019); density and coverage: \
                     k = {K_DENSITY_COVERAGE} (Naeem et al. 2020)"
                );
                if protocol.fake.pictures.is_some_and(|pictures| pictures > SAMPLE as u64) {
                    of.push_str(
                        "; ADM's evaluator holds all samples, not a drawn part, against 10,000 real pictures: its \
                         precision and recall do not compare with these",
                    );
                }
                protocol.neighbours = Some(of);
                protocol.compared = Some(format!(
                    "{} real and {} fake; of more than {SAMPLE}, as many are drawn (seed {SEED})",
                    real.count(),
                    fake.count()
                ));
                kid = Some(Spread { mean: distance.mean, deviation: distance.deviation });
                near = Some(neighbours(real, fake)?);
            }
        }
        let score = fake.inception_score.map(|s| Spread { mean: s.mean, deviation: Some(s.deviation) });
        protocol.inception_score = fake.inception_score.map(|s| {
            format!("{} chunks of the pictures, drawn (seed {SEED}), logits without the last bias", s.splits)
        });
        let warnings = protocol.warnings();
        Ok(Self {
            fid: distance.distance,
            fid_of_means: distance.means,
            sfid,
            inception_score: score,
            kid,
            precision: near.map(|n| n.precision),
            recall: near.map(|n| n.recall),
            density: near.map(|n| n.density),
            coverage: near.map(|n| n.coverage),
            protocol,
            warnings,
        })
    }

    /// The numbers that there are, for people.
    fn numbers(&self) -> Vec<(String, String)> {
        let dims = self.protocol.dims;
        let mut numbers = vec![(format!("FID-{dims}"), format!("{:.4}", self.fid))];
        let mut add = |name: &str, value: Option<String>| {
            numbers.extend(value.map(|value| (name.to_owned(), value)));
        };
        let spread = |s: Spread, digits: usize| match s.deviation {
            Some(deviation) => format!("{:.digits$} +- {deviation:.digits$}", s.mean),
            None => format!("{:.digits$}", s.mean),
        };
        add("sFID", self.sfid.map(|v| format!("{v:.4}")));
        add("IS", self.inception_score.map(|s| spread(s, 3)));
        add("KID", self.kid.map(|s| spread(s, 6)));
        add("precision", self.precision.map(|v| format!("{v:.4}")));
        add("recall", self.recall.map(|v| format!("{v:.4}")));
        add("density", self.density.map(|v| format!("{v:.4}")));
        add("coverage", self.coverage.map(|v| format!("{v:.4}")));
        numbers
    }

    /// One line of Markdown with every choice, for a page of results.
    pub fn markdown(&self) -> String {
        let p = &self.protocol;
        let numbers: Vec<String> =
            self.numbers().iter().map(|(name, value)| format!("{name} **{value}**")).collect();
        let mut line = format!("- {}: {} against {}; ", numbers.join(", "), p.fake, p.real);
        if let Some(g) = &p.generation {
            // Writing to a string cannot fail.
            let _ = write!(
                line,
                "classes {} of {}, seed {}, schedule {}, strategy `{}`, {} on {}, batch {}, model {:.12}, tokenizer \
                 {:.12}; ",
                g.classes,
                g.class_count,
                g.seed,
                g.schedule,
                g.strategy,
                g.dtype,
                g.device,
                g.batch,
                g.model_sha256,
                g.tokenizer_sha256
            );
        }
        let _ = write!(line, "{} (sha256 {:.12}), resize {}", p.weights, p.weights_sha256, p.resize);
        for (name, choice) in [
            ("IS", &p.inception_score),
            ("KID", &p.kernel),
            ("neighbours", &p.neighbours),
            ("KID and neighbours of", &p.compared),
        ] {
            if let Some(choice) = choice {
                let _ = write!(line, "; {name}: {choice}");
            }
        }
        let _ = write!(line, "; mgnt {}", p.mgnt);
        for warning in &self.warnings {
            let _ = write!(line, "; **{warning}**");
        }
        line
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pictures, self.found) {
            (Some(count), Some(found)) if found != count => {
                write!(f, "{count} of {found} pictures of {}", self.path)?;
            }
            (Some(count), _) => write!(f, "{count} pictures of {}", self.path)?,
            (None, _) => write!(f, "{}", self.path)?,
        }
        write!(f, " ({}, sha256 {:.12}", self.kind, self.sha256)?;
        match &self.crop {
            Some(crop) => write!(f, "; crop: {crop})"),
            None => f.write_str(")"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &self.protocol;
        for (name, value) in self.numbers() {
            write!(f, "{name:<10} {value}")?;
            if name.starts_with("FID") {
                write!(f, "  ({:.4} of it from the means)", self.fid_of_means)?;
            }
            writeln!(f)?;
        }
        writeln!(f, "real       {}", p.real)?;
        writeln!(f, "fake       {}", p.fake)?;
        if let Some(g) = &p.generation {
            writeln!(
                f,
                "           classes {} of {}, seed {}, schedule {}, {} on {}",
                g.classes, g.class_count, g.seed, g.schedule, g.dtype, g.device
            )?;
            writeln!(f, "           {}", g.strategy)?;
        }
        writeln!(f, "weights    {} (sha256 {:.12})", p.weights, p.weights_sha256)?;
        writeln!(f, "resize     {}", p.resize)?;
        for (name, choice) in [
            ("IS", &p.inception_score),
            ("KID", &p.kernel),
            ("neighbours", &p.neighbours),
            ("compared", &p.compared),
        ] {
            if let Some(choice) = choice {
                writeln!(f, "{name:<10} {choice}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
