use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use lwv_data::{Conversation, Dataset, Encoder, EncoderSettings, LengthGrouping, Order, Validation, split};
use lwv_model::{ModelConfig, Vision};
use lwv_processor::Processor;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::recipe::{Stage, TrainingRecipe};
use crate::staging::write_atomically;
use crate::{Error, Result};

/// The samples of a training: which can be used, how long they are, and which are held out.
pub struct Samples {
    /// All conversations; those of `eval-dataset` come last.
    pub dataset: Arc<Dataset>,
    /// What makes token ids of them.
    pub encoder: Arc<Encoder>,
    /// Samples that are trained on, ascending.
    pub train: Vec<usize>,
    /// Samples that are measured with.
    pub held_out: Vec<usize>,
    /// What is known of every sample of the dataset; no tokens where it cannot be used.
    pub measures: Vec<Measure>,
    /// What was left out.
    pub shortage: Shortage,
    /// Whether samples are conversations or pairs.
    pub stage: Stage,
    /// Names, sizes and times of the files, and what else the numbers of tokens depend on.
    pub(crate) key: String,
    /// SHA-256 of the names, sizes and lengths in tokens of the data.
    pub fingerprint: String,
}

/// What is known of a sample before it is encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Tokens of all its sequences: one, or two of a pair.
    pub tokens: usize,
    /// Tokens of the longest one.
    pub longest: usize,
    /// How much it counts among others.
    pub weight: f64,
}

/// Samples that were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// Samples longer than `max-length`: number and tokens.
    pub too_long: Vec<(usize, usize)>,
    /// What is wrong with samples that cannot be used.
    pub unusable: Vec<String>,
}

/// Tokens of every sample, kept beside the output so that a training that goes on does not count again.
#[derive(Serialize, Deserialize)]
struct Lengths {
    /// Names, sizes and times of the files, and what else the numbers depend on.
    key: String,
    measures: Vec<Measure>,
    unusable: Vec<String>,
}

impl Lengths {
    const FILE: &'static str = "lengths.json";

    fn read(dir: &Path, key: &str) -> Option<Self> {
        let text = std::fs::read_to_string(dir.join(Self::FILE)).ok()?;
        let lengths: Self = serde_json::from_str(&text).ok()?;
        // A picture that was missing may be there now, which the key does not tell.
        (lengths.key == key && lengths.unusable.is_empty()).then_some(lengths)
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(Self::FILE);
        let text = serde_json::to_vec(self).map_err(|e| Error::Json {
            path: path.clone(),
            message: e.to_string(),
        })?;
        write_atomically(&path, &text)
    }
}

/// Refuses a model whose vision tower has no way back, before anything is read for it.
fn refuse_tiles(config: &ModelConfig) -> Result<()> {
    match config.vision.as_ref().and_then(Vision::tiles) {
        Some(_) => Err(Error::Untrainable(config.family.model_type())),
        None => Ok(()),
    }
}

impl Samples {
    /// Opens the recipe's datasets, of conversations or pairs as `stage` says, and counts their tokens, calling `progress` with samples done and in all. Counting
    /// stops with [`Error::Interrupted`] when `cancelled` is set.
    ///
    /// # Errors
    /// A model of a family that is not trained; a dataset or processor that cannot be used; with `strict`, a sample that cannot; nothing left to train or to
    /// evaluate on.
    pub fn open(
        recipe: &TrainingRecipe,
        stage: Stage,
        cancelled: &AtomicBool,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self> {
        refuse_tiles(&ModelConfig::from_dir(&recipe.model)?)?;
        let media_dir = recipe.media_dir.as_deref();
        let mut dataset = Dataset::open(&recipe.dataset, media_dir)?;
        let first_held_out = dataset.len();
        if !recipe.eval_dataset.is_empty() {
            dataset = dataset.followed_by(Dataset::open(&recipe.eval_dataset, media_dir)?);
        }
        let dataset = Arc::new(dataset);
        let settings = EncoderSettings {
            max_length: recipe.max_length,
            min_pixels: recipe.image_min_pixels,
            max_pixels: recipe.image_max_pixels,
            mask_history: recipe.mask_history,
        };
        let encoder = Arc::new(Encoder::new(Processor::from_dir(&recipe.model)?, settings));
        let key = format!("{stage:?} {}", key(&dataset, recipe));
        let lengths = match Lengths::read(&recipe.output_dir, &key) {
            Some(lengths) => lengths,
            None => {
                let measure = |sample| measure(stage, &dataset, &encoder, sample);
                let lengths = count(dataset.len(), &measure, key, cancelled, progress)?;
                // A plan makes no folder.
                if recipe.output_dir.exists() {
                    lengths.write(&recipe.output_dir)?;
                }
                lengths
            }
        };
        Self::select(recipe, stage, dataset, first_held_out, encoder, lengths)
    }

    /// `first_held_out` is the first sample that comes from the recipe's `eval-dataset`.
    fn select(
        recipe: &TrainingRecipe,
        stage: Stage,
        dataset: Arc<Dataset>,
        first_held_out: usize,
        encoder: Arc<Encoder>,
        lengths: Lengths,
    ) -> Result<Self> {
        let limit = recipe.max_length.unwrap_or(usize::MAX);
        let all = lengths.measures.iter().map(|measure| measure.longest).enumerate();
        let too_long: Vec<(usize, usize)> = all.clone().filter(|(_, tokens)| *tokens > limit).collect();
        let shortage = Shortage {
            too_long,
            unusable: lengths.unusable,
        };
        if recipe.strict && shortage != Shortage::default() {
            return Err(Error::Shortage(shortage.describe()));
        }
        let mut usable: Vec<usize> = all
            .filter(|(_, tokens)| (1..=limit).contains(tokens))
            .map(|(sample, _)| sample)
            .collect();
        let mut held_out = usable.split_off(usable.partition_point(|sample| *sample < first_held_out));
        if held_out.is_empty() && first_held_out < dataset.len() {
            return Err(Error::NothingHeldOut(shortage.describe()));
        }
        if usable.is_empty() {
            return Err(Error::NoSamples(shortage.describe()));
        }
        let validation = match recipe.val_size {
            share if share < 1.0 => Validation::Share(share),
            count => Validation::Count(count as usize),
        };
        let (train, drawn) = split(usable.len(), validation, recipe.seed)?;
        held_out.extend(drawn.into_iter().map(|place| usable[place]));
        Ok(Self {
            train: train.into_iter().map(|place| usable[place]).collect(),
            held_out,
            fingerprint: fingerprint(&dataset, &lengths.measures),
            measures: lengths.measures,
            dataset,
            encoder,
            shortage,
            stage,
            key: lengths.key,
        })
    }

    /// The order in which samples are taken.
    pub fn order(&self, recipe: &TrainingRecipe) -> Order {
        Order {
            seed: recipe.seed,
            shuffle: !recipe.no_shuffle,
            grouping: recipe.group_by_length.then(|| LengthGrouping {
                lengths: self.measures.iter().map(|measure| measure.tokens).collect(),
                batch_size: recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps,
            }),
        }
    }

    /// Tokens of the longest sample that is used.
    pub fn longest(&self) -> usize {
        let used = self.train.iter().chain(&self.held_out);
        used.map(|&sample| self.measures[sample].longest)
            .max()
            .unwrap_or(0)
    }

    /// Mean weight of the samples that are trained on.
    pub fn mean_weight(&self) -> f64 {
        let weights = self.train.iter().map(|&sample| self.measures[sample].weight);
        weights.sum::<f64>() / self.train.len().max(1) as f64
    }

    /// A sample as a conversation: of a pair, the one with the better answer.
    ///
    /// # Errors
    /// A sample that cannot be read.
    pub fn conversation(&self, sample: usize) -> Result<Conversation> {
        Ok(match self.stage {
            Stage::Sft => self.dataset.get(sample)?,
            Stage::IterDpo => self.dataset.pair(sample)?.chosen,
        })
    }
}

impl Shortage {
    /// One or two lines that say what was left out.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if let Some(longest) = self.too_long.iter().map(|(_, tokens)| tokens).max() {
            parts.push(format!(
                "{} samples are longer than `max-length`, the longest has {longest} tokens",
                self.too_long.len()
            ));
        }
        if let Some(first) = self.unusable.first() {
            parts.push(format!(
                "{} samples cannot be used, the first: {first}",
                self.unusable.len()
            ));
        }
        parts.join("; ")
    }
}

fn measure(stage: Stage, dataset: &Dataset, encoder: &Encoder, sample: usize) -> lwv_data::Result<Measure> {
    match stage {
        Stage::Sft => {
            let tokens = encoder.token_count(&dataset.get(sample)?)?;
            Ok(Measure {
                tokens,
                longest: tokens,
                weight: 1.0,
            })
        }
        Stage::IterDpo => {
            let pair = dataset.pair(sample)?;
            let [chosen, rejected] = encoder.pair_token_counts(&pair)?;
            Ok(Measure {
                tokens: chosen + rejected,
                longest: chosen.max(rejected),
                weight: pair.weight,
            })
        }
    }
}

fn count(
    samples: usize,
    measure: &(dyn Fn(usize) -> lwv_data::Result<Measure> + Sync),
    key: String,
    cancelled: &AtomicBool,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Lengths> {
    let done = AtomicUsize::new(0);
    let measure = |sample: usize| -> Result<std::result::Result<Measure, String>> {
        if cancelled.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let measured = measure(sample);
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, samples);
        match measured {
            Err(error) if !error.is_of_sample() => Err(error.into()),
            other => Ok(other.map_err(|error| error.to_string())),
        }
    };
    let counted: Vec<_> = (0..samples).into_par_iter().map(measure).collect::<Result<_>>()?;
    let unusable = counted
        .iter()
        .filter_map(|measured| measured.as_ref().err().cloned())
        .collect();
    Ok(Lengths {
        key,
        measures: counted
            .into_iter()
            .map(|measured| measured.unwrap_or_default())
            .collect(),
        unusable,
    })
}

/// What the numbers of tokens depend on. Files go in by name, size and time, so that nothing is read.
fn key(dataset: &Dataset, recipe: &TrainingRecipe) -> String {
    let model = |name: &str| recipe.model.join(name);
    let processor = [
        model("tokenizer.json"),
        model("tokenizer_config.json"),
        model("chat_template.jinja"),
        model("preprocessor_config.json"),
        model("config.json"),
    ];
    let files: Vec<String> = dataset.paths().iter().chain(&processor).map(stamp).collect();
    format!(
        "{files:?} {:?} {:?} {:?}",
        recipe.media_dir, recipe.image_min_pixels, recipe.image_max_pixels
    )
}

fn stamp(path: &PathBuf) -> String {
    let Ok(metadata) = std::fs::metadata(path) else {
        return format!("{} is missing", path.display());
    };
    let time = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let nanoseconds = time.map_or(0, |time| time.as_nanos());
    format!("{} {} {nanoseconds}", path.display(), metadata.len())
}

fn fingerprint(dataset: &Dataset, measures: &[Measure]) -> String {
    let mut digest = Sha256::new();
    for path in dataset.paths() {
        let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        digest.update(format!("{name} {size}\n"));
    }
    for measure in measures {
        digest.update(measure.tokens.to_le_bytes());
        digest.update(measure.weight.to_le_bytes());
    }
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
