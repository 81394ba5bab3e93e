//! Calibration: samples are run through the checkpoint layer by layer, and each layer's matrices are quantized by what the
//! layer reads.
//!
//! A layer reads what the *quantized* layers before it have made of the samples, beside what the checkpoint's own layers make
//! of them, so that it also makes up for what was lost before it. Only one layer's weights are in memory, and what a layer has
//! become is on disk before the next is begun: a calibration that was killed goes on where it was.

mod activations;
mod cache_range;
mod folder;
mod histogram;
mod inputs_seen;
mod ranges;
mod readers;
mod rounded_decoder;
mod rounded_input;
mod samples;
mod tap;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use lwv_model::{
    ModelConfig, Rotary, TextConfig, decoder_attention, decoder_feed_forward, decoder_layer, decoder_norm,
    decoder_rotary,
};
use lwv_processor::{PositionBuilder, Processor};
use lwv_quantize::{BlockMatrix, BlockScheme, Compensator, Hessian, round_to_nearest};
use lwv_train::{CandleOps, Network, Tensor};

pub(crate) use activations::activation_scales;
use cache_range::CacheRange;
pub(crate) use folder::CalibrationFolder;
use ranges::Ranges;
pub(crate) use rounded_input::read as read_matrix;
pub(crate) use samples::{Sample, default_samples, digest, read_samples};
use tap::{pass, tap};

use crate::float_weights::open_weights;
use crate::formats::{Formats, WeightFormat};
use crate::{Error, Progress, Recipe, Rounding};

/// Tokens of prose that are looked at for what overflows in 16 bits; photographs come on top.
const GUARD_TOKENS: usize = 512;

/// Weights of a large matrix that are quantized at a time.
const PIECE: usize = 32 << 20;

/// Quantizes what calibration is for and leaves it in `folder`; what is there already is not made again.
///
/// # Errors
/// The checkpoint cannot be run or a file not be written.
pub(crate) fn calibrate(
    recipe: &Recipe,
    samples: &[Sample],
    folder: &CalibrationFolder,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let (mut network, mut exact) = (open_network(recipe)?, open_network(recipe)?);
    let config = network.config().clone();
    let formats = Formats::of(recipe);
    let head = match (
        formats.matrix(config.text.head_name()),
        recipe.quantization.rounding,
    ) {
        (WeightFormat::Blocks(scheme), Rounding::Compensated) if !folder.has_head() => Some(scheme),
        _ => None,
    };
    if head.is_none() && folder.has_layers() {
        return Ok(());
    }
    let states = embed(&mut network, samples)?;
    let mut calibration = Calibration {
        meant: match recipe.quantization.rounding {
            Rounding::Compensated => states.clone(),
            Rounding::Nearest => Vec::new(),
        },
        states,
        rotary: rotary(&mut network, &config, samples)?,
        formats,
        rounding: recipe.quantization.rounding,
        config: &config,
        folder,
        ops: network.ops(),
        exact: exact.ops(),
    };
    for layer in 0..config.text.num_hidden_layers {
        progress.step("calibrating", layer, config.text.num_hidden_layers);
        calibration.layer(layer)?;
    }
    head.map_or(Ok(()), |scheme| calibration.head(scheme))
}

/// The matrices that must stay in 32 bits where the others have 16, by canonical name, each with the reason: samples are run
/// through the checkpoint, one layer's weights in memory at a time, and what goes through each layer is looked at.
///
/// # Errors
/// The checkpoint cannot be run.
pub(crate) fn islands(recipe: &Recipe, progress: &dyn Progress) -> Result<BTreeMap<String, String>, Error> {
    let samples = default_samples(&Processor::from_dir(&recipe.checkpoint)?, GUARD_TOKENS)?;
    let mut network = open_network(recipe)?;
    let config = network.config().clone();
    let ranges = Arc::new(Mutex::new(Ranges::default()));
    network.ops().observe(Some(ranges.clone()));
    let mut states = embed(&mut network, &samples)?;
    let rotary = rotary(&mut network, &config, &samples)?;
    let ops = network.ops();
    for layer in 0..config.text.num_hidden_layers {
        progress.step("looking for overflow", layer, config.text.num_hidden_layers);
        for (state, rotary) in states.iter_mut().zip(&rotary) {
            *state = decoder_layer(ops, &config.text, layer, state, rotary).map_err(failed)?;
        }
        ops.forget(|_| true);
    }
    let islands = locked(&ranges).islands();
    Ok(islands)
}

/// Half a layer of the decoder: nothing is computed again when the second is calibrated.
#[derive(Debug, Clone, Copy)]
enum Half {
    Attention,
    FeedForward,
}

impl Half {
    /// Its matrices in the order in which they are read; those of one line read the same.
    fn readers(self) -> [&'static [&'static str]; 2] {
        match self {
            Self::Attention => [
                &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                &["self_attn.o_proj"],
            ],
            Self::FeedForward => [&["mlp.gate_proj", "mlp.up_proj"], &["mlp.down_proj"]],
        }
    }

    fn run(
        self,
        ops: &mut CandleOps,
        text: &TextConfig,
        layer: usize,
        state: &Tensor,
        rotary: &Rotary<Tensor>,
    ) -> Result<Tensor, lwv_train::Error> {
        match self {
            Self::Attention => decoder_attention(ops, text, layer, state, rotary),
            Self::FeedForward => decoder_feed_forward(ops, text, layer, state),
        }
    }
}

/// Samples on their way through the layers.
struct Calibration<'a> {
    /// Computes with what the layers have become.
    ops: &'a mut CandleOps,
    /// Computes with the checkpoint.
    exact: &'a mut CandleOps,
    config: &'a ModelConfig,
    formats: Formats<'a>,
    rounding: Rounding,
    folder: &'a CalibrationFolder,
    /// What each sample has become so far, `[1, tokens, hidden]`.
    states: Vec<Tensor>,
    /// What the checkpoint makes of each; empty where nobody asks.
    meant: Vec<Tensor>,
    rotary: Vec<Rotary<Tensor>>,
}

impl Calibration<'_> {
    /// Quantizes one layer and sends the samples through what it has become.
    fn layer(&mut self, layer: usize) -> Result<(), Error> {
        let known = self.folder.has_layer(layer);
        let mut matrices = Vec::new();
        let cache = Arc::new(Mutex::new(CacheRange::default()));
        for half in [Half::Attention, Half::FeedForward] {
            if known {
                self.recall(half, layer)?;
                self.advance_meant(half, layer)?;
            } else {
                self.quantize_half(half, layer, &mut matrices)?;
            }
            self.ops.observe(Some(cache.clone()));
            self.advance(half, layer)?;
            self.ops.observe(None);
            for ops in [&mut self.ops, &mut self.exact] {
                ops.forget(|name| name.starts_with("model.layers."));
            }
        }
        if !known {
            self.folder
                .write_layer(layer, &matrices, &locked(&cache).scales())?;
        }
        Ok(())
    }

    /// Computes with what half a layer has become in an earlier run.
    fn recall(&mut self, half: Half, layer: usize) -> Result<(), Error> {
        for (name, matrix) in self.folder.read_layer(layer)? {
            let is_here = |reader: &&str| name.ends_with(&format!(".{reader}.weight"));
            if half.readers().into_iter().flatten().any(is_here) {
                self.replace(&name, &matrix)?;
            }
        }
        Ok(())
    }

    /// Quantizes the matrices of half a layer in the order in which they are read, each by what those before it have become.
    fn quantize_half(
        &mut self,
        half: Half,
        layer: usize,
        matrices: &mut Vec<(String, BlockMatrix)>,
    ) -> Result<(), Error> {
        let [first, last] = half.readers();
        for (readers, is_last) in [(first, false), (last, true)] {
            let names = readers
                .iter()
                .map(|reader| format!("model.layers.{layer}.{reader}.weight"));
            let names: Vec<_> = names.collect();
            let compensator = match self.rounding {
                Rounding::Nearest => None,
                Rounding::Compensated => {
                    let hessian = self.hessian(half, layer, &names[0], is_last)?;
                    // What is compensated takes as much memory again; the checkpoint's weights are read again later.
                    self.exact.forget(|_| true);
                    Some(Compensator::new(hessian).map_err(Error::quantize(&names[0]))?)
                }
            };
            for name in names {
                if let WeightFormat::Blocks(scheme) = self.formats.matrix(&name) {
                    let matrix = self.quantize(&name, scheme, compensator.as_ref())?;
                    self.replace(&name, &matrix)?;
                    matrices.push((name, matrix));
                }
            }
        }
        Ok(())
    }

    /// What `matrix` reads of the samples, beside what it is meant to read. With the last matrix of a half, what the checkpoint
    /// makes of the samples goes through all of that half, which is not to be computed twice.
    fn hessian(&mut self, half: Half, layer: usize, matrix: &str, is_last: bool) -> Result<Hessian, Error> {
        let (text, shape) = (&self.config.text, self.shape(matrix));
        let mut hessian = Hessian::new(shape[1]);
        for ((state, meant), rotary) in self.states.iter().zip(&mut self.meant).zip(&self.rotary) {
            let run = |ops: &mut CandleOps| half.run(ops, text, layer, state, rotary);
            let read = tap(self.ops, matrix, shape, run)?;
            let exact = |ops: &mut CandleOps| half.run(ops, text, layer, meant, rotary);
            let wanted = if is_last {
                let (wanted, after) = pass(self.exact, matrix, exact)?;
                *meant = after;
                wanted
            } else {
                tap(self.exact, matrix, shape, exact)?
            };
            hessian.add_drifted(&read, wanted);
        }
        Ok(hessian)
    }

    /// Sends the samples through what half a layer has become.
    fn advance(&mut self, half: Half, layer: usize) -> Result<(), Error> {
        let text = &self.config.text;
        for (state, rotary) in self.states.iter_mut().zip(&self.rotary) {
            *state = half.run(self.ops, text, layer, state, rotary).map_err(failed)?;
        }
        Ok(())
    }

    /// Sends what the checkpoint makes of the samples through half a layer of it.
    fn advance_meant(&mut self, half: Half, layer: usize) -> Result<(), Error> {
        let text = &self.config.text;
        for (state, rotary) in self.meant.iter_mut().zip(&self.rotary) {
            *state = half.run(self.exact, text, layer, state, rotary).map_err(failed)?;
        }
        Ok(())
    }

    /// Computes with what a matrix has become.
    fn replace(&mut self, name: &str, matrix: &BlockMatrix) -> Result<(), Error> {
        let shape = [matrix.rows, matrix.columns];
        self.ops
            .replace(name, matrix.dequantize(), &shape)
            .map_err(failed)
    }

    /// Quantizes the head by what it reads: the embedding table where they are tied.
    fn head(&mut self, scheme: BlockScheme) -> Result<(), Error> {
        let text = &self.config.text;
        let name = text.head_name();
        let mut hessian = Hessian::new(text.hidden_size);
        for (state, meant) in self.states.iter().zip(&self.meant) {
            let [read, meant] = [state, meant].map(|state| decoder_norm(self.ops, text, state));
            hessian.add_drifted(&to_vec(&read.map_err(failed)?)?, to_vec(&meant.map_err(failed)?)?);
        }
        let compensator = Compensator::new(hessian).map_err(Error::quantize(name))?;
        let shape = [text.vocab_size, text.hidden_size];
        let matrix = self.quantize_shaped(name, shape, scheme, Some(&compensator))?;
        self.folder.write_head(name, &matrix)
    }

    fn quantize(
        &self,
        name: &str,
        scheme: BlockScheme,
        compensator: Option<&Compensator>,
    ) -> Result<BlockMatrix, Error> {
        self.quantize_shaped(name, self.shape(name), scheme, compensator)
    }

    /// Outputs and inputs of a matrix.
    fn shape(&self, name: &str) -> [usize; 2] {
        let weights = lwv_model::expected_weights(self.config);
        let shape = weights
            .into_iter()
            .find(|(known, _)| known == name)
            .map(|(_, shape)| shape);
        let shape = shape.unwrap_or_default();
        [shape[0], shape[1..].iter().product()]
    }

    /// Quantizes a matrix by pieces of whole rows.
    fn quantize_shaped(
        &self,
        name: &str,
        [rows, columns]: [usize; 2],
        scheme: BlockScheme,
        compensator: Option<&Compensator>,
    ) -> Result<BlockMatrix, Error> {
        let mut matrix = BlockMatrix {
            scheme,
            rows,
            columns,
            codes: Vec::new(),
            scales: Vec::new(),
        };
        let mut append = |piece: Vec<f32>| -> Result<(), lwv_quantize::Error> {
            let piece = match compensator {
                Some(compensator) => compensator.quantize(piece, scheme)?,
                None => round_to_nearest(&piece, columns, scheme)?,
            };
            matrix.codes.extend(piece.codes);
            matrix.scales.extend(piece.scales);
            Ok(())
        };
        let mut waiting = Vec::new();
        let mut fault = Ok(());
        let read = self.ops.read(name, &[rows, columns], |floats| {
            waiting.extend_from_slice(floats);
            if waiting.len() >= PIECE && fault.is_ok() {
                let rest = waiting.split_off(waiting.len() / columns * columns);
                fault = append(std::mem::replace(&mut waiting, rest));
            }
            Ok(())
        });
        read.map_err(failed)?;
        fault
            .and_then(|()| append(waiting))
            .map_err(Error::quantize(name))?;
        Ok(matrix)
    }
}

/// The network that is exported, computed in f32.
///
/// # Errors
/// Weights that cannot be used.
pub(crate) fn open_network(recipe: &Recipe) -> Result<Network, Error> {
    let config = ModelConfig::from_dir(&recipe.checkpoint)?;
    let weights = open_weights(&recipe.checkpoint, &config)?;
    Network::new(config, weights, recipe.adapter.as_deref()).map_err(failed)
}

/// What the decoder reads of each sample. The vision tower and the embedding table are in memory one after the other.
fn embed(network: &mut Network, samples: &[Sample]) -> Result<Vec<Tensor>, Error> {
    let features = |sample: &Sample| match sample.images.as_slice() {
        [] => Ok(None),
        images => network.image_features(images).map(Some).map_err(failed),
    };
    let features: Vec<_> = samples.iter().map(features).collect::<Result<_, _>>()?;
    network.ops().forget(|_| true);
    let embed = |(sample, features): (&Sample, _)| network.embed_with(&sample.ids, features).map_err(failed);
    let embeds = samples.iter().zip(features).map(embed).collect();
    network.ops().forget(|_| true);
    embeds
}

fn rotary(
    network: &mut Network,
    config: &ModelConfig,
    samples: &[Sample],
) -> Result<Vec<Rotary<Tensor>>, Error> {
    let ops = network.ops();
    let of_sample = |sample: &Sample| {
        let grids: Vec<_> = sample.images.iter().map(|image| image.grid).collect();
        let positions = PositionBuilder::of(config).extend(&sample.ids, &grids)?;
        let shape = (config.position_axes(), 1, sample.ids.len());
        let positions = Tensor::from_vec(positions, shape, ops.device()).map_err(failed)?;
        decoder_rotary(ops, &config.text, &positions).map_err(failed)
    };
    samples.iter().map(of_sample).collect()
}

fn locked<T: ?Sized>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The values of a tensor, row-major.
pub(crate) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    tensor
        .flatten_all()
        .and_then(|flat| flat.to_vec1())
        .map_err(failed)
}

pub(crate) fn failed(error: impl std::fmt::Display) -> Error {
    Error::Calibration(error.to_string())
}
