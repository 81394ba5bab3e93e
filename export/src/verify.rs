//! The parity report: a bundle run by ONNX Runtime against its checkpoint run by candle in f32.
//!
//! Each graph is compared on the same inputs, text and photographs; then both write greedily and the tokens are
//! compared. The report is written into the bundle as `parity.json`.

mod bounds;
mod difference;
mod report;

use std::path::Path;

use lwv_model::{Logits, ModelConfig, ParitySummary, Precision, Target, contract, expected_weights};
use lwv_processor::{PositionBuilder, Prompt};
use lwv_runtime::{Decoder, Device, Engine};
use lwv_train::Network;

use crate::calibration::open_network;
use crate::divergence::highest;
use crate::{Error, Progress, Recipe, prompts, side_files};
use difference::Difference;
use report::{PromptReport, Report};

/// Greedy tokens that are compared for each prompt.
const GREEDY_TOKENS: usize = 48;

/// Text that nothing was calibrated on.
const HELD_OUT: &str = include_str!("../assets/held-out.txt");

/// Tokens of it that are read, one by one as a text is written.
const HELD_OUT_TOKENS: usize = 2048;

/// Tokens of it that the checkpoint reads at a time.
const CHUNK: usize = 128;

/// Compares `bundle` with the checkpoint that `recipe` names, writes `parity.json` into it and returns the summary.
/// `library` is ONNX Runtime's shared library where it is not to be searched for.
///
/// A summary that has not passed is no error here.
///
/// # Errors
/// The checkpoint or the bundle cannot be run.
pub fn verify(
    recipe: &Recipe,
    bundle: &Path,
    library: Option<&Path>,
    progress: &dyn Progress,
) -> Result<ParitySummary, Error> {
    let mut network = open_network(recipe)?;
    let mut builder = Engine::builder(bundle).device(Device::Cpu).dequantize_once();
    if let Some(library) = library {
        builder = builder.library(library);
    }
    let engine = builder.build().map_err(failed)?;
    let mut comparison = Comparison {
        network: &mut network,
        engine: &engine,
        report: Report::new(recipe.precision),
    };
    for (name, images, prompt) in prompts::prompts(engine.processor())? {
        let prompt_report = comparison.compare(&name, images, prompt)?;
        comparison.report.prompts.push(prompt_report);
    }
    let text = match &recipe.held_out {
        Some(path) => std::fs::read_to_string(path).map_err(Error::io("read", path))?,
        None => HELD_OUT.to_owned(),
    };
    comparison.read_held_out(&text, progress)?;
    let report = comparison.report.judged();
    lwv_onnx::write_atomically(bundle.join("parity.json"), &side_files::pretty(&report)?)?;
    Ok(report.summary())
}

/// Bytes that comparing takes: all weights in f32 twice, where the bundle is not smaller.
///
/// # Errors
/// A configuration that cannot be used.
pub fn memory(recipe: &Recipe) -> Result<u64, Error> {
    let config = ModelConfig::from_dir(&recipe.checkpoint)?;
    let shapes = expected_weights(&config).into_iter().map(|(_, shape)| shape);
    let weights: usize = shapes.map(|shape| shape.iter().product::<usize>()).sum();
    let bytes = match recipe.precision {
        // Floats are made of all integers.
        _ if recipe.target == Target::TensorRt => 8,
        Precision::Int4 => 5,
        Precision::Int8 => 6,
        // ONNX Runtime computes in f32 on CPUs and keeps 16-bit weights as such.
        _ => 8,
    };
    Ok((weights * bytes) as u64)
}

/// One checkpoint beside one bundle.
struct Comparison<'a> {
    network: &'a mut Network,
    engine: &'a Engine,
    report: Report,
}

impl Comparison<'_> {
    /// Compares embeddings, features and, along the checkpoint's own greedy tokens, the logits of both.
    fn compare(&mut self, name: &str, images: Vec<String>, prompt: Prompt) -> Result<PromptReport, Error> {
        self.network.reset();
        let mut decoder = self.engine.decoder().map_err(failed)?;
        decoder
            .reserve(prompt.input_ids.len() + GREEDY_TOKENS)
            .map_err(failed)?;
        let mut positions = self.positions();
        let logits = self
            .network
            .extend(&prompt.input_ids, &prompt.images, Logits::LastPosition)
            .map_err(failed)?;
        let mut expected = to_vec(&logits)?;
        self.prefill(decoder.as_mut(), &prompt, &mut positions)?;
        let mut difference = Difference::default();
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        loop {
            difference.add(&expected, decoder.logits());
            let token = highest(&expected);
            theirs.push(token);
            ours.push(highest(decoder.logits()));
            if theirs.len() == GREEDY_TOKENS {
                break;
            }
            expected = to_vec(&self.network.step(token).map_err(failed)?)?;
            decoder.step(token, &positions.extend_text(1)).map_err(failed)?;
        }
        self.report.graph(contract::DECODER).merge(&difference);
        Ok(PromptReport::new(
            name,
            images,
            prompt.input_ids.len(),
            theirs,
            ours,
            &difference,
        ))
    }

    /// Compares what both expect after every token of a long text.
    fn read_held_out(&mut self, text: &str, progress: &dyn Progress) -> Result<(), Error> {
        let context = self.engine.bundle().manifest().context_length;
        let mut ids = self.engine.processor().raw_prompt(text, &[])?.input_ids;
        ids.truncate(HELD_OUT_TOKENS.min(context));
        self.network.reset();
        let mut decoder = self.engine.decoder().map_err(failed)?;
        decoder.reserve(ids.len()).map_err(failed)?;
        let mut positions = self.positions();
        let mut next = ids.iter().copied().skip(1);
        for (index, chunk) in ids.chunks(CHUNK).enumerate() {
            progress.step("comparing", index, ids.len().div_ceil(CHUNK));
            let expected = self
                .network
                .extend(chunk, &[], Logits::EveryPosition)
                .map_err(failed)?;
            let expected = to_vec(&expected)?;
            for (id, expected) in chunk.iter().zip(expected.chunks_exact(decoder.vocabulary())) {
                decoder.step(*id, &positions.extend_text(1)).map_err(failed)?;
                self.report.held_out.add(expected, decoder.logits(), next.next());
            }
        }
        Ok(())
    }

    /// Runs the prompt through the bundle, comparing embeddings and features on the way.
    fn prefill(
        &mut self,
        decoder: &mut dyn Decoder,
        prompt: &Prompt,
        positions: &mut PositionBuilder,
    ) -> Result<(), Error> {
        let grids: Vec<_> = prompt.images.iter().map(|image| image.grid).collect();
        let axes = positions.axes();
        let ids = &prompt.input_ids;
        let all = positions.extend(ids, &grids)?;
        let features = self.features(decoder, prompt)?;
        let mut feature_rows = features.chunks_exact(decoder.hidden_size());
        let (width, image_token) = (decoder.hidden_size(), self.network.config().image_token_id);
        for start in (0..ids.len()).step_by(decoder.chunk()) {
            let end = ids.len().min(start + decoder.chunk());
            let embeds = decoder.embed(&ids[start..end]).map_err(failed)?;
            let expected = to_vec(&self.network.embed(&ids[start..end], &[]).map_err(failed)?)?;
            self.report.graph(contract::EMBED_TOKENS).add(&expected, embeds);
            for (id, row) in ids[start..end].iter().zip(embeds.chunks_exact_mut(width)) {
                if Some(*id) == image_token
                    && let Some(features) = feature_rows.next()
                {
                    row.copy_from_slice(features);
                }
            }
            let chunk: Vec<i64> = (0..axes)
                .flat_map(|axis| all[axis * ids.len()..][start..end].iter().copied())
                .collect();
            decoder.prefill(end - start, &chunk).map_err(failed)?;
        }
        Ok(())
    }

    /// Features of the prompt's images, one row a token.
    fn features(&mut self, decoder: &mut dyn Decoder, prompt: &Prompt) -> Result<Vec<f32>, Error> {
        let mut all = Vec::new();
        for image in &prompt.images {
            let features = decoder.encode_image(image).map_err(failed)?;
            let expected = to_vec(
                &self
                    .network
                    .image_features(std::slice::from_ref(image))
                    .map_err(failed)?,
            )?;
            let width = decoder.hidden_size();
            let graph = self.report.graph(contract::VISION_ENCODER);
            for (expected, got) in expected.chunks_exact(width).zip(features.chunks_exact(width)) {
                graph.add(expected, got);
            }
            all.extend(features);
        }
        Ok(all)
    }

    fn positions(&self) -> PositionBuilder {
        PositionBuilder::of(self.network.config())
    }
}

fn to_vec(tensor: &lwv_train::Tensor) -> Result<Vec<f32>, Error> {
    tensor
        .flatten_all()
        .and_then(|flat| flat.to_vec1())
        .map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Verify(error.to_string())
}
