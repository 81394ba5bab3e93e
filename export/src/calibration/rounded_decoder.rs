use std::collections::BTreeMap;

use lwv_model::{ModelConfig, Ops as _, Rotary, decoder_head, decoder_layer, decoder_norm, expected_weights};
use lwv_processor::Processor;
use lwv_quantize::round_scaled;
use lwv_train::{InputRounding, Network, Tensor};

use super::rounded_input::{RoundedInput, read};
use super::{Sample, default_samples, embed, failed, open_network, rotary, to_vec};
use crate::divergence::Divergences;
use crate::{Error, Recipe};

/// Tokens that a decoder with rounded inputs reads.
const TOKENS: usize = 512;

/// The decoder as it would be with some of its inputs rounded, beside the checkpoint; one layer's weights in memory at a time.
pub(crate) struct RoundedDecoder<'a> {
    network: Network,
    config: ModelConfig,
    /// What is decided about, in order.
    inputs: &'a [RoundedInput],
    shapes: BTreeMap<String, Vec<usize>>,
    /// What it reads, `[1, tokens, hidden]`.
    embeds: Tensor,
    rotary: Rotary<Tensor>,
    /// The checkpoint's logits after every token.
    expected: Vec<f32>,
}

impl<'a> RoundedDecoder<'a> {
    /// With the longest of `samples` that are text alone, or where there is none with text that comes with the exporter.
    ///
    /// # Errors
    /// The checkpoint cannot be run.
    pub(crate) fn new(
        recipe: &Recipe,
        inputs: &'a [RoundedInput],
        samples: &[Sample],
    ) -> Result<Self, Error> {
        let mut network = open_network(recipe)?;
        let config = network.config().clone();
        let of_text = samples.iter().rev().filter(|sample| sample.images.is_empty());
        let longest = of_text.max_by_key(|sample| sample.ids.len().min(TOKENS));
        let mut sample = match longest {
            Some(sample) => vec![sample.clone()],
            // Text that comes with the exporter, before any picture.
            None => default_samples(&Processor::from_dir(&recipe.checkpoint)?, TOKENS)?,
        };
        sample.truncate(1);
        sample[0].ids.truncate(TOKENS);
        let embeds = embed(&mut network, &sample)?.swap_remove(0);
        let rotary = rotary(&mut network, &config, &sample)?.swap_remove(0);
        let mut decoder = Self {
            shapes: expected_weights(&config).into_iter().collect(),
            network,
            config,
            inputs,
            embeds,
            rotary,
            expected: Vec::new(),
        };
        decoder.expected = decoder.logits(None)?;
        Ok(decoder)
    }

    /// Mean divergence of its predictions from the checkpoint's with all matrices rounded, and the first `count` inputs.
    ///
    /// # Errors
    /// The checkpoint cannot be run.
    pub(crate) fn divergence(&mut self, count: usize) -> Result<f64, Error> {
        let got = self.logits(Some(count))?;
        let mut divergences = Divergences::default();
        let vocabulary = self.config.text.vocab_size;
        let pairs = self
            .expected
            .chunks_exact(vocabulary)
            .zip(got.chunks_exact(vocabulary));
        pairs.for_each(|(expected, got)| divergences.add(expected, got, None));
        Ok(divergences.report().mean_divergence)
    }

    /// Logits after every token; as the checkpoint has them where nothing is rounded.
    fn logits(&mut self, count: Option<usize>) -> Result<Vec<f32>, Error> {
        let mut x = self.embeds.clone();
        for layer in 0..self.config.text.num_hidden_layers {
            if let Some(count) = count {
                self.round(&format!("model.layers.{layer}."), count)?;
            }
            let (ops, text) = (self.network.ops(), &self.config.text);
            x = decoder_layer(ops, text, layer, &x, &self.rotary).map_err(failed)?;
            ops.forget(|_| true);
        }
        let text = &self.config.text;
        let x = decoder_norm(self.network.ops(), text, &x).map_err(failed)?;
        if let Some(count) = count {
            self.round(self.config.text.head_name(), count)?;
        }
        let (ops, text) = (self.network.ops(), &self.config.text);
        let head = decoder_head(ops, text).map_err(failed)?;
        let logits = ops.linear(&x, &head, None).map_err(failed)?;
        ops.forget(|_| true);
        to_vec(&logits)
    }

    /// Rounds the matrices whose names begin with `prefix`, and what they read where it is among the first `count`.
    fn round(&mut self, prefix: &str, count: usize) -> Result<(), Error> {
        for (index, input) in self.inputs.iter().enumerate() {
            let matrices = input.readers.matrices.iter();
            for name in matrices.filter(|name| name.starts_with(prefix)) {
                let shape = &self.shapes[name];
                let ops = self.network.ops();
                let (factors, rounding) = if index < count {
                    let rounding = InputRounding::new(&input.factors, input.step, ops.device());
                    (input.factors.clone(), Some(rounding.map_err(failed)?))
                } else {
                    (vec![1.0; input.factors.len()], None)
                };
                ops.round_input(name, rounding);
                let mut weights = read(ops, name, shape)?;
                round_scaled(&mut weights, &factors).map_err(Error::quantize(name))?;
                ops.replace(name, weights, shape).map_err(failed)?;
            }
        }
        Ok(())
    }
}
