//! Calibration of what is rounded to 8 bits between layers.
//!
//! The samples are looked at twice: for the largest magnitude of every channel, from which it follows how much of it is moved
//! into the weights (SmoothQuant, arXiv 2211.10438), and for the distribution of what is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lwv_model::{ModelConfig, decoder_layer, decoder_norm, expected_weights};
use lwv_train::{CandleOps, Error as TrainError, Observer, Tensor};

use super::histogram::Histogram;
use super::{Sample, embed, failed, locked, open_network, rotary};
use crate::activations::ActivationScales;
use crate::{Error, Progress, Recipe};

/// Levels of either sign.
const LEVELS: f32 = 127.0;

/// Largest factor that a channel is divided by, and its inverse the smallest: beyond, 16 bits lose in the norm what 8 bits gain.
const MOST_MOVED: f32 = 256.0;

/// How every linear layer rounds what it reads, from what the samples make it read.
///
/// # Errors
/// The checkpoint cannot be run.
pub(crate) fn activation_scales(
    recipe: &Recipe,
    samples: &[Sample],
    progress: &dyn Progress,
) -> Result<ActivationScales, Error> {
    let config = ModelConfig::from_dir(&recipe.checkpoint)?;
    let maxima = Arc::new(Mutex::new(Maxima::default()));
    look(recipe, samples, maxima.clone(), progress)?;
    let maxima = std::mem::take(&mut locked(&maxima).0);
    let multipliers = moved(recipe, &config, &maxima)?;
    let histograms = maxima.iter().map(|(name, channels)| {
        let factors = multipliers
            .get(name)
            .map(|factors| factors.iter().map(|factor| 1.0 / factor).collect());
        let factors: Vec<f32> = factors.unwrap_or_else(|| vec![1.0; channels.len()]);
        let largest = channels.iter().zip(&factors).map(|(most, factor)| most * factor);
        let histogram = Histogram::new(largest.fold(f32::MIN_POSITIVE, f32::max));
        (name.clone(), (factors, histogram))
    });
    let distributions = Arc::new(Mutex::new(Distributions(histograms.collect())));
    look(recipe, samples, distributions.clone(), progress)?;
    let range = recipe.quantization.activation_range;
    let distributions = std::mem::take(&mut locked(&distributions).0);
    let step = |(name, (_, histogram)): (String, (_, Histogram))| (name, histogram.limit(range) / LEVELS);
    Ok(ActivationScales {
        steps: distributions.into_iter().map(step).collect(),
        multipliers,
    })
}

/// Shows `observer` all that the linear layers read of the samples, one layer's weights in memory at a time.
fn look(
    recipe: &Recipe,
    samples: &[Sample],
    observer: Arc<Mutex<dyn Observer>>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut network = open_network(recipe)?;
    let config = network.config().clone();
    network.ops().observe(Some(observer.clone()));
    let mut states = embed(&mut network, samples)?;
    let rotary = rotary(&mut network, &config, samples)?;
    let ops = network.ops();
    for layer in 0..config.text.num_hidden_layers {
        progress.step("looking at activations", layer, config.text.num_hidden_layers);
        for (state, rotary) in states.iter_mut().zip(&rotary) {
            *state = decoder_layer(ops, &config.text, layer, state, rotary).map_err(failed)?;
        }
        ops.forget(|_| true);
    }
    let head = config.text.head_name();
    for state in &states {
        let normed = decoder_norm(ops, &config.text, state).map_err(failed)?;
        locked(&observer).reads(head, &normed).map_err(failed)?;
    }
    Ok(())
}

/// Factors of the matrices that read a norm, and the inverse ones of the norm: the square root of how large a channel is by how
/// large its weights are.
fn moved(
    recipe: &Recipe,
    config: &ModelConfig,
    maxima: &BTreeMap<String, Vec<f32>>,
) -> Result<BTreeMap<String, Vec<f32>>, Error> {
    let mut network = open_network(recipe)?;
    let shapes: BTreeMap<_, _> = expected_weights(config).into_iter().collect();
    let mut multipliers = BTreeMap::new();
    for (norm, matrices) in readers_of_norms(&shapes) {
        let Some(channels) = maxima.get(&matrices[0]) else {
            continue;
        };
        let mut largest = vec![0.0_f32; channels.len()];
        for matrix in &matrices {
            column_maxima(network.ops(), matrix, &shapes[matrix], &mut largest)?;
        }
        let factor = |(channel, weight): (&f32, &f32)| {
            let factor = (channel / weight).sqrt();
            if factor.is_finite() && factor > 0.0 {
                factor.clamp(1.0 / MOST_MOVED, MOST_MOVED)
            } else {
                1.0
            }
        };
        let factors: Vec<f32> = channels.iter().zip(&largest).map(factor).collect();
        multipliers.insert(norm, factors.iter().map(|factor| 1.0 / factor).collect());
        multipliers.extend(matrices.into_iter().map(|matrix| (matrix, factors.clone())));
    }
    Ok(multipliers)
}

/// Every norm with the matrices that read it and nothing else.
fn readers_of_norms(shapes: &BTreeMap<String, Vec<usize>>) -> Vec<(String, Vec<String>)> {
    let readers: [(&str, &[&str]); 4] = [
        (
            "input_layernorm",
            &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ),
        ("post_attention_layernorm", &["mlp.gate_proj", "mlp.up_proj"]),
        ("norm1", &["attn.qkv"]),
        ("norm2", &["mlp.gate_proj", "mlp.up_proj"]),
    ];
    let of_norm = |name: &String| {
        let (block, norm) = name.strip_suffix(".weight")?.rsplit_once('.')?;
        let (_, matrices) = readers.iter().find(|(known, _)| *known == norm)?;
        let matrices = matrices.iter().map(|matrix| format!("{block}.{matrix}.weight"));
        Some((name.clone(), matrices.collect()))
    };
    shapes.keys().filter_map(of_norm).collect()
}

fn column_maxima(ops: &CandleOps, name: &str, shape: &[usize], largest: &mut [f32]) -> Result<(), Error> {
    let (columns, mut done) = (largest.len(), 0);
    let read = ops.read(name, shape, |floats| {
        for (index, weight) in floats.iter().enumerate() {
            let most = &mut largest[(done + index) % columns];
            *most = most.max(weight.abs());
        }
        done += floats.len();
        Ok(())
    });
    read.map_err(failed)
}

/// Largest magnitude of every channel that a matrix reads.
#[derive(Default)]
struct Maxima(BTreeMap<String, Vec<f32>>);

impl Observer for Maxima {
    fn reads(&mut self, weight: &str, x: &Tensor) -> Result<(), TrainError> {
        let width = x.dims().last().copied().unwrap_or(1);
        let most: Vec<f32> = x.abs()?.reshape(((), width))?.max(0)?.to_vec1()?;
        let largest = self
            .0
            .entry(weight.to_owned())
            .or_insert_with(|| vec![0.0; width]);
        largest
            .iter_mut()
            .zip(most)
            .for_each(|(largest, most)| *largest = largest.max(most));
        Ok(())
    }
}

/// What every matrix reads, each channel times its factor.
struct Distributions(BTreeMap<String, (Vec<f32>, Histogram)>);

impl Observer for Distributions {
    fn reads(&mut self, weight: &str, x: &Tensor) -> Result<(), TrainError> {
        let values: Vec<f32> = x.flatten_all()?.to_vec1()?;
        if let Some((factors, histogram)) = self.0.get_mut(weight) {
            let values = values.chunks(factors.len());
            values.for_each(|row| {
                row.iter()
                    .zip(&*factors)
                    .for_each(|(x, factor)| histogram.add(x * factor))
            });
        }
        Ok(())
    }
}
