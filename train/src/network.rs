use std::path::Path;

use candle_core::{Device, Tensor};
use lwv_model::{
    Adapter, Checkpoint, DecoderInputs, Logits, ModelConfig, Vision, decoder, tile_tower, token_embeddings,
    vision_tower,
};
use lwv_processor::{Patches, PositionBuilder};

use crate::vision_tensors::{tile_pixels, vision_inputs};
use crate::{CandleOps, Error};

/// A checkpoint run by candle in f32: the reference that bundles are compared with.
pub struct Network {
    config: ModelConfig,
    ops: CandleOps,
    positions: PositionBuilder,
}

impl Network {
    /// Opens the checkpoint `dir`, merging the LoRA in `adapter` where one is given.
    ///
    /// # Errors
    /// A checkpoint or an adapter that cannot be used, naming the file and the tensor.
    pub fn open(dir: &Path, adapter: Option<&Path>) -> Result<Self, Error> {
        Self::new(ModelConfig::from_dir(dir)?, Checkpoint::open(dir)?, adapter)
    }

    /// The network of `config` with the weights of `checkpoint`, merging the LoRA in `adapter` where one is given.
    ///
    /// # Errors
    /// A weight that is missing or has another shape, an adapter that cannot be used.
    pub fn new(config: ModelConfig, checkpoint: Checkpoint, adapter: Option<&Path>) -> Result<Self, Error> {
        checkpoint.check(&config)?;
        let adapter = adapter.map(Adapter::open).transpose()?;
        if let Some(adapter) = &adapter {
            adapter.check(&config)?;
        }
        let ops = CandleOps::new(checkpoint, adapter, Device::Cpu);
        let positions = PositionBuilder::of(&config);
        Ok(Self {
            config,
            ops,
            positions,
        })
    }

    /// The checkpoint's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What computes it.
    pub fn ops(&mut self) -> &mut CandleOps {
        &mut self.ops
    }

    /// Forgets the text so far.
    pub fn reset(&mut self) {
        self.ops.reset_cache(true);
        self.positions = PositionBuilder::of(&self.config);
    }

    /// Features of `images`, one row a token, in order: f32 `[tokens, hidden]`.
    ///
    /// # Errors
    /// A model without a vision tower, or what candle says.
    pub fn image_features(&mut self, images: &[Patches]) -> Result<Tensor, Error> {
        let vision = self
            .config
            .vision
            .clone()
            .ok_or(Error::NoVisionTower(images.len()))?;
        match vision {
            Vision::Windows(vision) => {
                let inputs = vision_inputs(&vision, images, self.ops.device())?;
                vision_tower(&mut self.ops, &vision, &inputs)
            }
            Vision::Tiles(vision) => {
                // One by one: all tiles of a picture at once would have as many times the scores of attention in memory.
                let features = images.iter().map(|tile| {
                    let pixels = tile_pixels(&vision, tile, self.ops.device())?;
                    tile_tower(&mut self.ops, &vision, &pixels)
                });
                Ok(Tensor::cat(&features.collect::<Result<Vec<_>, Error>>()?, 0)?)
            }
        }
    }

    /// Embeddings of `ids`, rows of image tokens replaced by the features of `images`: f32 `[1, ids, hidden]`.
    ///
    /// # Errors
    /// As [`Self::image_features`].
    pub fn embed(&mut self, ids: &[u32], images: &[Patches]) -> Result<Tensor, Error> {
        let features = match images {
            [] => None,
            images => Some(self.image_features(images)?),
        };
        self.embed_with(ids, features)
    }

    /// Embeddings of `ids`, rows of image tokens replaced by `features`, where there are any: f32 `[1, ids, hidden]`.
    ///
    /// # Errors
    /// What candle says.
    pub fn embed_with(&mut self, ids: &[u32], features: Option<Tensor>) -> Result<Tensor, Error> {
        let tokens = Tensor::new(ids, self.ops.device())?.unsqueeze(0)?;
        let embeds = token_embeddings(&mut self.ops, &self.config.text, &tokens)?;
        let Some(features) = features else {
            return Ok(embeds);
        };
        let all = Tensor::cat(&[embeds.squeeze(0)?, features], 0)?;
        let mut next_feature = ids.len() as u32;
        let rows: Vec<u32> = (0..ids.len())
            .map(|i| {
                if Some(ids[i]) != self.config.image_token_id {
                    return i as u32;
                }
                next_feature += 1;
                next_feature - 1
            })
            .collect();
        Ok(all
            .index_select(&Tensor::new(rows, self.ops.device())?, 0)?
            .unsqueeze(0)?)
    }

    /// Appends `ids` (with `images`) to the text so far and returns logits, f32 `[positions, vocabulary]`: of every
    /// new token, or of the last only.
    ///
    /// # Errors
    /// Images that do not fit the image tokens, or what candle says.
    pub fn extend(&mut self, ids: &[u32], images: &[Patches], logits: Logits) -> Result<Tensor, Error> {
        let grids: Vec<_> = images.iter().map(|image| image.grid).collect();
        let positions = self.positions.extend(ids, &grids)?;
        self.extend_at(ids, images, positions, logits)
    }

    /// Appends one token that the model wrote itself; an image token here stands for itself.
    ///
    /// # Errors
    /// What candle says.
    pub fn step(&mut self, id: u32) -> Result<Tensor, Error> {
        let positions = self.positions.extend_text(1);
        self.extend_at(&[id], &[], positions, Logits::LastPosition)
    }

    /// The `count` tokens of highest logit, one after another, after the prompt `ids` with `images`.
    ///
    /// # Errors
    /// As [`Self::extend`].
    pub fn greedy(&mut self, ids: &[u32], images: &[Patches], count: usize) -> Result<Vec<u32>, Error> {
        self.reset();
        let mut logits = self.extend(ids, images, Logits::LastPosition)?;
        let mut tokens = Vec::with_capacity(count);
        while tokens.len() < count {
            let token = logits.flatten_all()?.argmax(0)?.to_scalar::<u32>()?;
            tokens.push(token);
            if tokens.len() < count {
                logits = self.step(token)?;
            }
        }
        Ok(tokens)
    }

    fn extend_at(
        &mut self,
        ids: &[u32],
        images: &[Patches],
        positions: Vec<i64>,
        logits: Logits,
    ) -> Result<Tensor, Error> {
        let embeds = self.embed(ids, images)?;
        let positions = Tensor::from_vec(
            positions,
            (self.config.position_axes(), 1, ids.len()),
            self.ops.device(),
        )?;
        let inputs = DecoderInputs { embeds, positions };
        Ok(decoder(&mut self.ops, &self.config.text, &inputs, logits)?.squeeze(0)?)
    }
}
