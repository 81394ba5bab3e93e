use lwv_model::{CalibrationEntry, Checkpoint};
#[cfg(feature = "verify")]
use lwv_processor::Processor;

use crate::activations::ActivationScales;
#[cfg(feature = "verify")]
use crate::calibration::{
    CalibrationFolder, activation_scales, calibrate, default_samples, digest, read_samples,
};
#[cfg(feature = "verify")]
use crate::formats::{Calibration, Formats, WeightFormat};
use crate::source::Source;
use crate::{Error, Progress, Recipe};

/// Quantized matrices that calibration has made, in files beside the bundle's place: for each weight its codes and scales.
#[derive(Debug)]
pub(crate) struct CalibratedWeights {
    files: Vec<Checkpoint>,
}

impl CalibratedWeights {
    /// Maps the safetensors in `paths`.
    ///
    /// # Errors
    /// A file that cannot be read or is cut short.
    #[cfg(feature = "verify")]
    pub(crate) fn open(paths: &[std::path::PathBuf]) -> Result<Self, Error> {
        let files = paths.iter().map(|path| Checkpoint::open_file(path));
        Ok(Self {
            files: files.collect::<Result<_, _>>()?,
        })
    }

    /// What a weight has become; `None` where it was not calibrated.
    pub(crate) fn find<'a>(&'a self, weight: &'a str) -> Option<CalibratedMatrix<'a>> {
        let codes = format!("{weight}.codes");
        let file = self
            .files
            .iter()
            .find(|file| file.names().any(|name| name == codes))?;
        Some(CalibratedMatrix { file, weight })
    }
}

/// A quantized matrix in a file. It is read in pieces: what is read through a map stays resident, and all layers together are
/// as large as the bundle.
#[derive(Debug)]
pub(crate) struct CalibratedMatrix<'a> {
    file: &'a Checkpoint,
    weight: &'a str,
}

impl CalibratedMatrix<'_> {
    /// Bytes of its codes, piece by piece.
    ///
    /// # Errors
    /// What reading says, or what `take` returns.
    pub(crate) fn codes(&self, take: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        self.file.read_named(&format!("{}.codes", self.weight), take)
    }

    /// Bytes of its scales, f32, piece by piece.
    ///
    /// # Errors
    /// As for its codes.
    pub(crate) fn scales(&self, take: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        self.file.read_named(&format!("{}.scales", self.weight), take)
    }
}

/// What calibration has made of a checkpoint.
pub(crate) struct Calibrated {
    /// Quantized matrices.
    pub(crate) weights: CalibratedWeights,
    /// Scales of each layer's cache, where it is of 8 bits.
    pub(crate) cache_scales: Option<Vec<[Vec<f32>; 2]>>,
    /// How layers round what they read, where they do.
    pub(crate) activations: Option<ActivationScales>,
    /// What was looked at.
    pub(crate) samples: CalibrationEntry,
    #[cfg(feature = "verify")]
    folder: CalibrationFolder,
}

/// Tokens that calibration looks at where nothing was said: what a decoder of this width makes of them is in memory twice, and
/// takes no more than 256 MiB.
#[cfg(feature = "verify")]
fn usual_tokens(width: usize) -> usize {
    (256 << 20) / (2 * 4 * width.max(1024))
}

#[cfg(feature = "verify")]
impl Calibrated {
    /// Calibrates where the recipe asks for it. What an earlier run has left beside the bundle's place is used.
    ///
    /// # Errors
    /// Samples that cannot be read, a checkpoint that cannot be run, a folder that cannot be written.
    pub(crate) fn of(
        recipe: &Recipe,
        source: &Source,
        progress: &dyn Progress,
    ) -> Result<Option<Self>, Error> {
        if !recipe.is_calibrated() {
            return Ok(None);
        }
        let processor = Processor::from_dir(&recipe.checkpoint)?;
        let Calibration {
            datasets,
            media_dir,
            tokens,
        } = &recipe.quantization.calibration;
        let tokens = tokens.unwrap_or_else(|| usual_tokens(source.config.text.hidden_size));
        let samples = match datasets.as_slice() {
            [] => default_samples(&processor, tokens)?,
            datasets => read_samples(processor, datasets, media_dir.as_deref(), tokens)?,
        };
        if samples.is_empty() {
            return Err(Error::Calibration("there are no samples".to_owned()));
        }
        let entry = CalibrationEntry {
            samples: samples.len(),
            tokens: samples.iter().map(|sample| sample.ids.len()).sum(),
            sha256: digest(&samples),
        };
        let key = serde_json::json!({
            "source": source.id()?, "precision": recipe.precision, "quantization": recipe.quantization, "samples": entry,
        });
        let mut name = recipe.bundle.file_name().unwrap_or_default().to_owned();
        name.push(".calibration");
        let layers = source.config.text.num_hidden_layers;
        let folder = CalibrationFolder::open(recipe.bundle.with_file_name(name), &key.to_string(), layers)?;
        let formats = Formats::of(recipe);
        let activations = match formats.matrix(source.config.text.head_name()) {
            WeightFormat::Channels => Some(activation_scales(recipe, &samples, &folder, progress)?),
            _ => {
                calibrate(recipe, &samples, &folder, progress)?;
                None
            }
        };
        let cache_scales = recipe
            .quantization
            .int8_cache
            .then(|| folder.cache_scales())
            .transpose()?;
        let files = if activations.is_some() {
            Vec::new()
        } else {
            folder.files()
        };
        let weights = CalibratedWeights::open(&files)?;
        Ok(Some(Self {
            weights,
            cache_scales,
            activations,
            samples: entry,
            folder,
        }))
    }

    /// Removes what calibration has left beside the bundle.
    pub(crate) fn remove(self) -> Result<(), Error> {
        self.folder.remove()
    }
}

#[cfg(not(feature = "verify"))]
impl Calibrated {
    /// This build cannot calibrate.
    pub(crate) fn of(recipe: &Recipe, _: &Source, _: &dyn Progress) -> Result<Option<Self>, Error> {
        if recipe.is_calibrated() {
            Err(Error::NoEngine("calibration"))
        } else {
            Ok(None)
        }
    }

    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "as the build that can"
    )]
    pub(crate) fn remove(self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(all(test, feature = "verify"))]
mod tests {
    use super::*;

    #[test]
    fn wide_decoders_look_at_fewer_tokens() {
        assert_eq!(usual_tokens(576), 32_768);
        assert_eq!(usual_tokens(3584), 9_362);
    }
}
