//! Calibration of what is rounded to 8 bits between layers.
//!
//! Samples are sent through the checkpoint layer by layer; for matrices that read the same, how much of its channels' size is moved
//! into them and how far values may go follow from what they then make of some of what they read. Then as many matrices read
//! rounded values, those first that lose least by it, as the decoder bears; the others read them as they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lwv_model::{ModelConfig, Vision, decoder_layer, decoder_norm, expected_weights};
use lwv_train::{Network, Observer};

use super::inputs_seen::InputsSeen;
use super::readers::{Maker, Readers, readers};
use super::rounded_decoder::RoundedDecoder;
use super::rounded_input::{RoundedInput, round_input};
use super::{CalibrationFolder, Sample, embed, failed, locked, open_network, rotary};
use crate::activations::ActivationScales;
use crate::{Error, Progress, Recipe};

/// Largest mean divergence of the decoder with its inputs rounded, in nats: half of what an 8-bit bundle may lose on text that
/// nothing was calibrated on.
const MOST_DIVERGENCE: f64 = 0.01;

/// How every linear layer rounds what it reads, from what the samples make it read; what is in `folder` already is not looked for
/// again.
///
/// # Errors
/// The checkpoint cannot be run.
pub(crate) fn activation_scales(
    recipe: &Recipe,
    samples: &[Sample],
    folder: &CalibrationFolder,
    progress: &dyn Progress,
) -> Result<ActivationScales, Error> {
    let mut inputs = rounded_inputs(recipe, samples, folder, progress)?;
    inputs.sort_by(|a, b| a.error.total_cmp(&b.error));
    let bearable = bearable(recipe, &inputs, samples, progress)?;
    Ok(scales(inputs, bearable))
}

/// How all that is read would be rounded, one layer's weights in memory at a time.
fn rounded_inputs(
    recipe: &Recipe,
    samples: &[Sample],
    folder: &CalibrationFolder,
    progress: &dyn Progress,
) -> Result<Vec<RoundedInput>, Error> {
    let mut network = open_network(recipe)?;
    let config = network.config().clone();
    let seen = Arc::new(Mutex::new(InputsSeen::default()));
    let mut search = Search {
        waiting: readers(&config),
        shapes: expected_weights(&config).into_iter().collect(),
        recipe,
        seen: Arc::clone(&seen),
        folder,
        found: Vec::new(),
    };
    network.ops().observe(Some(seen.clone()));
    search.want("visual.", tower_runs(&config, samples));
    let mut states = embed(&mut network, samples)?;
    search.finish("visual.", &mut network)?;
    let rotary = rotary(&mut network, &config, samples)?;
    for layer in 0..config.text.num_hidden_layers {
        progress.step("looking at activations", layer, config.text.num_hidden_layers);
        let prefix = format!("model.layers.{layer}.");
        search.want(&prefix, samples.len());
        for (state, rotary) in states.iter_mut().zip(&rotary) {
            *state = decoder_layer(network.ops(), &config.text, layer, state, rotary).map_err(failed)?;
        }
        network.ops().forget(|_| true);
        search.finish(&prefix, &mut network)?;
    }
    let head = config.text.head_name();
    search.want(head, samples.len());
    for state in &states {
        let normed = decoder_norm(network.ops(), &config.text, state).map_err(failed)?;
        locked(&seen).reads(head, &normed).map_err(failed)?;
    }
    search.finish(head, &mut network)?;
    Ok(search.found)
}

/// How often the vision tower is run: once for each sample's pictures, or for each tile.
fn tower_runs(config: &ModelConfig, samples: &[Sample]) -> usize {
    let images = samples.iter().map(|sample| sample.images.len());
    match config.vision {
        Some(Vision::Tiles(_)) => images.sum(),
        _ => images.filter(|images| *images > 0).count(),
    }
}

/// Looks for how what matrices read is best rounded.
struct Search<'a> {
    /// What was not looked at yet.
    waiting: Vec<Readers>,
    shapes: BTreeMap<String, Vec<usize>>,
    recipe: &'a Recipe,
    seen: Arc<Mutex<InputsSeen>>,
    folder: &'a CalibrationFolder,
    found: Vec<RoundedInput>,
}

impl Search<'_> {
    /// From here on looks at matrices whose names begin with `prefix`, unless an earlier run has; each will read `samples` samples.
    fn want(&mut self, prefix: &str, samples: usize) {
        if self.folder.has_inputs(prefix) {
            return;
        }
        let firsts = self.waiting.iter().map(|readers| readers.matrices[0].clone());
        let firsts = firsts.filter(|matrix| matrix.starts_with(prefix));
        locked(&self.seen).want(firsts, samples);
    }

    /// Decides about them. What nothing was read by, as a tower without pictures, is left as it is.
    fn finish(&mut self, prefix: &str, network: &mut Network) -> Result<(), Error> {
        let (ready, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|readers| readers.matrices[0].starts_with(prefix));
        self.waiting = waiting;
        if self.folder.has_inputs(prefix) {
            self.found.extend(self.folder.read_inputs(prefix)?);
            return Ok(());
        }
        let mut found = Vec::new();
        for readers in ready {
            let Some(seen) = locked(&self.seen).take(&readers.matrices[0]) else {
                continue;
            };
            let shapes = readers.matrices.iter().map(|matrix| self.shapes[matrix].clone());
            let shapes: Vec<_> = shapes.collect();
            let range = self.recipe.quantization.activation_range;
            found.push(round_input(network.ops(), readers, &shapes, &seen, range)?);
        }
        self.folder.write_inputs(prefix, &found)?;
        self.found.extend(found);
        Ok(())
    }
}

/// How many of `inputs`, which stand in the order of what they lose, can be rounded at once.
fn bearable(
    recipe: &Recipe,
    inputs: &[RoundedInput],
    samples: &[Sample],
    progress: &dyn Progress,
) -> Result<usize, Error> {
    let mut decoder = RoundedDecoder::new(recipe, inputs, samples)?;
    let (mut fits, mut exceeds) = (0_usize, inputs.len() + 1);
    // A few inputs more or less are not worth another look.
    let near = inputs.len() / 32;
    let most_looks = (inputs.len() + 2).ilog2() as usize + 1;
    for look in 0.. {
        let count = if look == 0 {
            inputs.len()
        } else {
            fits.midpoint(exceeds)
        };
        progress.step("choosing what is rounded", look, most_looks);
        if decoder.divergence(count)? <= MOST_DIVERGENCE {
            fits = count;
        } else {
            exceeds = count;
        }
        if exceeds - fits <= near + 1 {
            break;
        }
    }
    Ok(fits)
}

/// The first `count` of `inputs` rounded, the others left as they are.
fn scales(inputs: Vec<RoundedInput>, count: usize) -> ActivationScales {
    let mut scales = ActivationScales::default();
    for (index, input) in inputs.into_iter().enumerate() {
        let matrices = input.readers.matrices;
        if index >= count {
            scales
                .exact
                .extend(matrices.into_iter().map(|matrix| (matrix, input.error)));
            continue;
        }
        let inverse = |factors: &[f32]| factors.iter().map(|factor| 1.0 / factor).collect::<Vec<_>>();
        match &input.readers.maker {
            Maker::Other => {}
            Maker::Norm(norm) => {
                let factors = inverse(&input.factors);
                // Where a norm has no bias, nobody asks for its factors.
                scales
                    .inputs
                    .insert(norm.replace(".weight", ".bias"), factors.clone());
                scales.inputs.insert(norm.clone(), factors);
            }
            Maker::Outputs(outputs) => {
                let factors = outputs.among_all(&inverse(&outputs.folded(&input.factors)));
                scales.outputs.insert(outputs.layer.clone(), factors);
            }
        }
        for matrix in matrices {
            scales.steps.insert(matrix.clone(), input.step);
            scales.inputs.insert(matrix, input.factors.clone());
        }
    }
    scales
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(error: f64) -> RoundedInput {
        RoundedInput {
            readers: Readers {
                matrices: vec![format!("{error}.weight")],
                maker: Maker::Norm(format!("{error}.norm")),
            },
            factors: vec![4.0],
            step: 0.5,
            error,
        }
    }

    #[test]
    fn what_is_not_rounded_has_no_scales_but_an_error() {
        let scales = scales(vec![input(0.25), input(0.5)], 1);
        assert_eq!(scales.steps.keys().collect::<Vec<_>>(), ["0.25.weight"]);
        assert_eq!(scales.inputs["0.25.norm"], [0.25]);
        assert_eq!(scales.inputs["0.25.weight"], [4.0]);
        assert!(!scales.inputs.contains_key("0.5.norm"));
        assert_eq!(scales.exact["0.5.weight"], 0.5);
    }
}
