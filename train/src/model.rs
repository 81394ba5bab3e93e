use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use lwv_model::{
    ModelConfig, Rotary, Segments, VisionConfig, decoder_head, decoder_layer, decoder_norm, decoder_rotary,
    token_embeddings, vision_block, vision_embedding, vision_merger, vision_rotary,
};

use crate::kernels::cross_entropy::{self, Supervised};
use crate::training_ops::Parameters;
use crate::vision_tensors::vision_inputs;
use crate::{Batch, Result, Traced, TrainingOps};

/// A model that is trained: its configuration and its weights.
pub struct Model {
    config: Rc<ModelConfig>,
    parameters: Rc<Parameters>,
    device: Device,
    dtype: DType,
    recompute: bool,
}

impl Model {
    /// A model of these weights, which all live on `device` and compute in `dtype`. With `recompute`, layers are
    /// computed again in the backward pass instead of keeping their inner values.
    pub fn new(
        config: ModelConfig,
        parameters: Parameters,
        device: Device,
        dtype: DType,
        recompute: bool,
    ) -> Self {
        Self {
            config: Rc::new(config),
            parameters: Rc::new(parameters),
            device,
            dtype,
            recompute,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights by canonical name.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Weighted sum of the cross-entropies of all supervised tokens, whose gradients are added to those of the
    /// weights. With `weight` one over the tokens of a whole step, the batches of the step add up to its mean.
    ///
    /// # Errors
    /// What candle says.
    pub fn learn(&self, batch: &Batch, weight: f64) -> Result<f64> {
        let mut ops = self.ops(batch);
        let x = self.last_hidden(&mut ops, batch)?;
        let head = decoder_head(&mut ops, &self.config.text)?;
        let rows = Supervised {
            x: x.tensor(),
            targets: &batch.targets,
            weight,
        };
        let sum = head.as_parameter().and_then(|head| head.gradient());
        let (loss, gradient) = cross_entropy::loss_and_gradient(&rows, head.tensor(), sum)?;
        if x.node().is_some() {
            ops.backward(&x, gradient)?;
        }
        Ok(loss)
    }

    /// Sum of the cross-entropies of all supervised tokens.
    ///
    /// # Errors
    /// What candle says.
    pub fn evaluate(&self, batch: &Batch) -> Result<f64> {
        let mut ops = self.ops(batch).without_gradients();
        let x = self.last_hidden(&mut ops, batch)?;
        let head = decoder_head(&mut ops, &self.config.text)?;
        let rows = Supervised {
            x: x.tensor(),
            targets: &batch.targets,
            weight: 1.0,
        };
        cross_entropy::loss(&rows, head.tensor()).map_err(Into::into)
    }

    fn ops(&self, batch: &Batch) -> TrainingOps {
        let parameters = Rc::clone(&self.parameters);
        TrainingOps::new(parameters, &batch.lengths, self.device.clone(), self.recompute)
            .with_padding(self.config.text.padding_id)
    }

    /// What the head reads of the supervised tokens: `[supervised, hidden]`.
    fn last_hidden(&self, ops: &mut TrainingOps, batch: &Batch) -> Result<Traced> {
        let tokens = batch.input_ids.len();
        let positions = (self.config.position_axes(), 1, tokens);
        let positions = Traced::constant(Tensor::from_slice(&batch.positions, positions, &self.device)?);
        let rotary = decoder_rotary(ops, &self.config.text, &positions)?;
        let mut x = self.embed(ops, batch)?;
        for layer in 0..self.config.text.num_hidden_layers {
            let (config, rotary) = (Rc::clone(&self.config), rotary.clone());
            x = ops.segment(&[x], move |ops, x| {
                decoder_layer(ops, &config.text, layer, &x[0], &rotary)
            })?;
        }
        let rows = Tensor::new(batch.rows.as_slice(), &self.device)?;
        let x = select_rows(ops, &x, rows)?;
        decoder_norm(ops, &self.config.text, &x)
    }

    /// Embedded tokens, those of images replaced by the images' features: `[1, tokens, hidden]`.
    fn embed(&self, ops: &mut TrainingOps, batch: &Batch) -> Result<Traced> {
        let ids = Traced::constant(Tensor::new(batch.input_ids.as_slice(), &self.device)?.unsqueeze(0)?);
        let embeds = token_embeddings(ops, &self.config.text, &ids)?;
        if batch.images.is_empty() {
            return Ok(embeds);
        }
        let features = self.image_features(ops, batch)?;
        let places: Vec<u32> = (0..batch.input_ids.len() as u32)
            .filter(|&i| Some(batch.input_ids[i as usize]) == self.config.image_token_id)
            .collect();
        put_rows(ops, &embeds, &features, &Tensor::new(places, &self.device)?)
    }

    fn image_features(&self, ops: &mut TrainingOps, batch: &Batch) -> Result<Traced> {
        let config = self
            .config
            .vision
            .as_ref()
            .ok_or(crate::Error::NoVisionTower(batch.images.len()))?;
        let config = Rc::new(config.clone());
        let inputs = vision_inputs(&config, &batch.images, &self.device)?;
        let pixels = Traced::constant(inputs.pixel_values.to_dtype(self.dtype)?);
        let rotary = vision_rotary(ops, &config, &Traced::constant(inputs.positions))?;
        let [windows, frames] = [inputs.windows, inputs.frames].map(|segments| Rc::new(constant(segments)));
        let mut x = vision_embedding(ops, &config, &pixels)?;
        for block in 0..config.depth {
            let segments = if config.is_full_attention(block) {
                &frames
            } else {
                &windows
            };
            x = vision_segment(ops, &config, block, x, &rotary, segments)?;
        }
        ops.segment(&[x], move |ops, x| vision_merger(ops, &config, &x[0]))
    }
}

fn vision_segment(
    ops: &mut TrainingOps,
    config: &Rc<VisionConfig>,
    block: usize,
    x: Traced,
    rotary: &Rotary<Traced>,
    segments: &Rc<Segments<Traced>>,
) -> Result<Traced> {
    let (config, rotary, segments) = (Rc::clone(config), rotary.clone(), Rc::clone(segments));
    ops.segment(&[x], move |ops, x| {
        vision_block(ops, &config, block, &x[0], &rotary, &segments)
    })
}

fn constant(segments: Segments<Tensor>) -> Segments<Traced> {
    Segments {
        gather: Traced::constant(segments.gather),
        lengths: Traced::constant(segments.lengths),
        scatter: Traced::constant(segments.scatter),
    }
}

/// Rows `rows` of `x` `[1, tokens, width]`: `[rows, width]`.
fn select_rows(ops: &mut TrainingOps, x: &Traced, rows: Tensor) -> Result<Traced> {
    let shape = x.tensor().dims3()?;
    let selected = x.tensor().squeeze(0)?.index_select(&rows, 0)?;
    Ok(ops.rearranged(x, selected, move |gradient| {
        let zeros = Tensor::zeros((shape.1, shape.2), gradient.dtype(), gradient.device())?;
        zeros.index_add(&rows, gradient, 0)?.unsqueeze(0)
    }))
}

/// `x` `[1, tokens, width]` with the rows at `places` replaced by `new` `[places, width]`.
fn put_rows(ops: &mut TrainingOps, x: &Traced, new: &Traced, places: &Tensor) -> Result<Traced> {
    let tokens = x.tensor().dim(1)?;
    let mut sources: Vec<u32> = (0..tokens as u32).collect();
    for (i, place) in places.to_vec1::<u32>()?.into_iter().enumerate() {
        sources[place as usize] = (tokens + i) as u32;
    }
    let kept: Vec<f32> = sources
        .iter()
        .map(|&source| f32::from(source < tokens as u32))
        .collect();
    let device = x.tensor().device();
    let all = Tensor::cat(&[&x.tensor().squeeze(0)?, new.tensor()], 0)?;
    let result = all
        .index_select(&Tensor::new(sources, device)?, 0)?
        .unsqueeze(0)?;
    let kept = Tensor::from_vec(kept, (1, tokens, 1), device)?.to_dtype(result.dtype())?;
    let (nodes, places) = ([x.node(), new.node()], places.clone());
    Ok(ops.record(result, nodes != [None, None], move |gradient, flow| {
        flow.add(nodes[0], gradient.broadcast_mul(&kept)?)?;
        let new = gradient.squeeze(0)?.index_select(&places, 0)?;
        Ok(flow.add(nodes[1], new)?)
    }))
}
