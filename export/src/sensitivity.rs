//! What each part of a decoder loses by itself when only its matrices are rounded.

use lwv_model::{Logits, ModelConfig, expected_weights};
use lwv_processor::Processor;
use lwv_quantize::round_to_nearest;
use lwv_train::Network;
use serde::Serialize;

use crate::calibration::{default_samples, failed, open_network, read_matrix, to_vec};
use crate::divergence::Divergences;
use crate::formats::{Formats, WeightFormat};
use crate::{Error, Progress, Recipe};

/// Tokens that are read for each part.
const TOKENS: usize = 512;

/// A part of a decoder that is rounded alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartLoss {
    /// Its name: attention or feed-forward layer of a layer, or the head.
    pub part: String,
    /// Its matrices, by canonical name.
    pub matrices: Vec<String>,
    /// How many weights they have.
    pub weights: usize,
    /// Mean Kullback-Leibler divergence of the predictions from those of the whole checkpoint, in nats.
    pub mean_divergence: f64,
}

/// Rounds each part of the decoder by itself, as the recipe's precision has it, and measures what that alone changes.
///
/// # Errors
/// The checkpoint cannot be run.
pub fn sensitivity(recipe: &Recipe, progress: &dyn Progress) -> Result<Vec<PartLoss>, Error> {
    let mut network = open_network(recipe)?;
    let samples = default_samples(&Processor::from_dir(&recipe.checkpoint)?, TOKENS)?;
    let ids = samples
        .into_iter()
        .next()
        .map(|sample| sample.ids)
        .unwrap_or_default();
    let formats = Formats::of(recipe);
    let expected = read(&mut network, &ids)?;
    let vocabulary = network.config().text.vocab_size;
    let mut parts = parts(network.config());
    let count = parts.len();
    for (index, part) in parts.iter_mut().enumerate() {
        progress.step("measuring", index, count);
        for name in &part.matrices {
            round(&mut network, name, &formats)?;
        }
        let got = read(&mut network, &ids)?;
        network
            .ops()
            .forget(|name| part.matrices.iter().any(|matrix| matrix == name));
        let mut divergences = Divergences::default();
        for (expected, got) in expected
            .chunks_exact(vocabulary)
            .zip(got.chunks_exact(vocabulary))
        {
            divergences.add(expected, got, None);
        }
        part.mean_divergence = divergences.report().mean_divergence;
    }
    Ok(parts)
}

/// Attention and feed-forward layer of each layer, and the head, with nothing measured yet.
fn parts(config: &ModelConfig) -> Vec<PartLoss> {
    let mut parts: Vec<PartLoss> = Vec::new();
    let matrices = expected_weights(config)
        .into_iter()
        .filter(|(name, shape)| shape.len() > 1 && !name.starts_with("visual."));
    for (name, shape) in matrices {
        // An embedding table that is not the head too only chooses rows.
        if name == "model.embed_tokens.weight" && !config.text.tie_word_embeddings {
            continue;
        }
        let module = name.rsplit_once('.').map_or(name.as_str(), |(module, _)| module);
        let part = match module.rsplit_once('.') {
            Some((part, _)) if part.starts_with("model.layers.") => part,
            _ => "head",
        };
        let weights = shape.iter().product();
        match parts.iter_mut().find(|known| known.part == part) {
            Some(known) => {
                known.weights += weights;
                known.matrices.push(name);
            }
            None => parts.push(PartLoss {
                part: part.to_owned(),
                matrices: vec![name],
                weights,
                mean_divergence: 0.0,
            }),
        }
    }
    parts
}

fn round(network: &mut Network, name: &str, formats: &Formats<'_>) -> Result<(), Error> {
    let WeightFormat::Blocks(scheme) = formats.matrix(name) else {
        return Ok(());
    };
    let shape = expected_weights(network.config())
        .into_iter()
        .find(|(known, _)| known == name);
    let shape = shape.map(|(_, shape)| shape).unwrap_or_default();
    let weights = read_matrix(network.ops(), name, &shape)?;
    let matrix =
        round_to_nearest(&weights, shape[1..].iter().product(), scheme).map_err(Error::quantize(name))?;
    network
        .ops()
        .replace(name, matrix.dequantize(), &shape)
        .map_err(failed)
}

/// Logits after every token.
fn read(network: &mut Network, ids: &[u32]) -> Result<Vec<f32>, Error> {
    network.reset();
    to_vec(&network.extend(ids, &[], Logits::EveryPosition).map_err(failed)?)
}
