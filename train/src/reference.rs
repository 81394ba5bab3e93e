mod cache;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lwv_data::{Encoded, Loader, PairExample};
use lwv_model::{Adapter, Checkpoint, ModelConfig, expected_weights};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::feature_cache::digest;
use crate::objective::{Objective, Preferred, Preparation};
use crate::staging::write_atomically;
use crate::trainer::{compute_type, device, load_reference};
use crate::{Batch, Error, Event, Model, Result};

use cache::ReferenceCache;

/// What the model that training starts from thinks of every pair. It is asked once, and its answers are kept on disk, so
/// that neither a second model is in memory nor a training that goes on, or another one over the same pairs, asks again.
pub(crate) struct Reference {
    cache: ReferenceCache,
}

/// Says that all samples of a training have been asked about, so that they need not be encoded to find out.
#[derive(Serialize, Deserialize)]
struct Completion {
    model: String,
    samples: String,
    /// Digests of the pairs, in hexadecimal. A cache may have lost some, or be another one than it was.
    pairs: Vec<String>,
}

impl Completion {
    const FILE: &'static str = "reference.json";

    /// Whether `path` says it of this model and these samples, and the cache still has all pairs.
    fn holds(path: &Path, model: &str, samples: &str, cache: &ReferenceCache) -> bool {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let Ok(said) = serde_json::from_str::<Self>(&text) else {
            return false;
        };
        let known: HashSet<String> = cache.digests().map(|digest| hexadecimal(digest)).collect();
        said.model == model && said.samples == samples && said.pairs.iter().all(|pair| known.contains(pair))
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|e| Error::Json {
            path: path.to_owned(),
            message: e.to_string(),
        })?;
        write_atomically(path, &text)
    }
}

impl Reference {
    /// Asks about all pairs that are trained on or held out, and have not been asked about.
    ///
    /// # Errors
    /// A model or cache that cannot be read; a log-probability that is no number.
    pub(crate) fn prepare(of: &Preparation<'_>) -> Result<Self> {
        let output_dir = &of.recipe.training.output_dir;
        let folder = of
            .recipe
            .preference
            .as_ref()
            .and_then(|own| own.reference_cache.clone());
        let model = model_digest(of)?;
        let cache = ReferenceCache::open(&folder.unwrap_or_else(|| output_dir.join("reference")), &model)?;
        let mut reference = Self { cache };
        let which = hexadecimal(&Sha256::digest(format!("{:?}", used(of))));
        let samples = format!("{} {which}", of.samples.key);
        let path = output_dir.join(Completion::FILE);
        if !Completion::holds(&path, &model, &samples, &reference.cache) {
            let pairs = reference.ask(of)?;
            let completion = Completion {
                model,
                samples,
                pairs,
            };
            completion.write(&path)?;
        }
        reference.cache.release()?;
        Ok(reference)
    }

    /// The digests of all pairs, after those that the cache has not were asked about.
    fn ask(&mut self, of: &Preparation<'_>) -> Result<Vec<String>> {
        let mut samples = used(of);
        // Prefixes of one text stand together and show the same pictures.
        samples.sort_unstable();
        let all = samples.len();
        let (dataset, encoder) = (Arc::clone(&of.samples.dataset), Arc::clone(&of.samples.encoder));
        let workers = of.recipe.training.dataloader_workers;
        let encode = move |sample| Preferred::encode(&dataset, &encoder, sample);
        let (mut model, mut pairs) = (None, Vec::with_capacity(all));
        for (done, encoded) in Loader::start(encode, samples, workers, workers + 1).enumerate() {
            if of.cancelled.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let pair = match encoded {
                Ok((_, Encoded::Example(pair))) => pair,
                Ok((_, Encoded::TooLong(_))) => continue,
                // It is told, and left out, where it would be learned.
                Err(error) if error.is_of_sample() => continue,
                Err(error) => return Err(error.into()),
            };
            if !self.cache.contains(&pair.digest) {
                let model = match &model {
                    Some(model) => model,
                    None => model.insert(load_reference(of.recipe, of.base)?),
                };
                let logps = log_probabilities(model, &pair.example)?;
                self.cache.append(&pair.digest, &logps)?;
            }
            pairs.push(hexadecimal(&pair.digest));
            (of.watch)(Event::Referenced(done + 1, all));
        }
        Ok(pairs)
    }

    /// Log-probabilities of the tokens of a pair's answers.
    ///
    /// # Errors
    /// A pair that was not asked about, as a picture has changed since.
    pub(crate) fn get(&self, digest: &[u8; 32], pair: &PairExample) -> Result<[Vec<f64>; 2]> {
        self.cache
            .get(digest)?
            .ok_or_else(|| Error::NoReference(pair.origin.to_string()))
    }
}

/// The samples that come up in a step or are held out.
fn used(of: &Preparation<'_>) -> Vec<usize> {
    [of.curriculum.used(), of.samples.held_out.clone()].concat()
}

fn log_probabilities(model: &Model, pair: &PairExample) -> Result<[Vec<f64>; 2]> {
    let batch = Batch::of_pairs(model.config(), [pair])?;
    let logps = model.log_probabilities(&batch)?;
    if let Some(value) = logps.iter().find(|value| !value.is_finite()) {
        return Err(Error::ReferenceNotFinite {
            sample: pair.origin.to_string(),
            value: *value,
        });
    }
    Ok([0, 1].map(|side| logps[batch.answers[side].clone()].to_vec()))
}

/// SHA-256 of what the model reads of a pair and is asked about.
pub(crate) fn pair_digest(pair: &PairExample) -> [u8; 32] {
    let mut all = Sha256::new();
    for answer in &pair.answers {
        all.update((answer.input_ids.len() as u64).to_le_bytes());
        all.update(bytemuck::cast_slice::<u32, u8>(&answer.input_ids));
        all.update(bytemuck::cast_slice::<i64, u8>(&answer.labels));
    }
    for image in &pair.images {
        all.update(digest(image));
    }
    all.finalize().into()
}

/// SHA-256, in hexadecimal, of the model that training starts from: configuration, weights in whatever files they are,
/// adapter, and what it computes in.
fn model_digest(of: &Preparation<'_>) -> Result<String> {
    let training = &of.recipe.training;
    let config = ModelConfig::from_dir(&training.model)?;
    let device = device(training)?;
    let mut all = Sha256::new();
    all.update(format!(
        "{config:?} {:?} {:?}",
        compute_type(training, &device),
        device.location()
    ));
    for (name, shape) in expected_weights(&config) {
        add_weight(&mut all, of.base, &name, &shape)?;
    }
    if let Some(dir) = &training.adapter {
        let adapter = Adapter::open(dir)?;
        all.update(format!("{} {}", training.alpha(), training.use_rslora));
        for (name, shape) in expected_weights(&config) {
            if let Some(update) = adapter.update(&name, &shape)? {
                all.update(name);
                all.update(bytemuck::cast_slice::<f32, u8>(update.a()));
                all.update(bytemuck::cast_slice::<f32, u8>(update.b()));
            }
        }
    }
    Ok(hexadecimal(&all.finalize()))
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn add_weight(all: &mut Sha256, base: &Checkpoint, name: &str, shape: &[usize]) -> Result<()> {
    let info = base.find(name, shape)?;
    all.update(format!("{name} {shape:?} {:?}", info.stored));
    base.read_bytes(&info, &mut |bytes: &[u8]| -> Result<()> {
        all.update(bytes);
        Ok(())
    })
}
