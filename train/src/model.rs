use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use lwv_model::{
    ModelConfig, Rotary, Segments, Vision, VisionConfig, decoder_head, decoder_layer, decoder_norm,
    decoder_rotary, token_embeddings, vision_block, vision_embedding, vision_merger, vision_rotary,
};
use lwv_processor::Patches;

use crate::feature_cache::FeatureCache;
use crate::kernels::cross_entropy::{self, Supervised};
use crate::training_ops::Parameters;
use crate::vision_tensors::vision_inputs;
use crate::{Batch, Part, Result, Traced, TrainingOps};

/// A model that is trained: its configuration and its weights.
pub struct Model {
    config: Rc<ModelConfig>,
    parameters: Rc<Parameters>,
    device: Device,
    dtype: DType,
    recompute: bool,
    features: Option<RefCell<FeatureCache>>,
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
            features: None,
        }
    }

    /// The same with up to `bytes` of features of images, which are not computed again where another batch shows them.
    /// Where the vision tower or the projector learns, features change, and none are kept.
    pub fn with_feature_cache(mut self, bytes: usize) -> Self {
        let mut parameters = self.parameters.iter();
        let learns =
            parameters.any(|(name, parameter)| Part::of(name) != Part::LanguageModel && parameter.learns());
        self.features = (!learns && bytes > 0).then(|| RefCell::new(FeatureCache::new(bytes)));
        self
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
        self.descend(ops, batch, &x, &vec![weight; batch.supervised()])
    }

    /// Adds the gradients of any loss of the supervised tokens' log-probabilities. `slopes` is told these, in the order of
    /// [`Batch::rows`], and tells the loss's derivative by each.
    ///
    /// # Errors
    /// What candle or `slopes` says.
    pub fn learn_by(&self, batch: &Batch, slopes: impl FnOnce(&[f64]) -> Result<Vec<f64>>) -> Result<()> {
        let mut ops = self.ops(batch);
        let x = self.last_hidden(&mut ops, batch)?;
        let slopes = slopes(&self.judge(&mut ops, batch, &x)?)?;
        // A loss of log-probabilities falls where cross-entropies rise.
        let weights: Vec<f64> = slopes.iter().map(|slope| -slope).collect();
        self.descend(ops, batch, &x, &weights)?;
        Ok(())
    }

    /// Sum of the cross-entropies of all supervised tokens.
    ///
    /// # Errors
    /// What candle says.
    pub fn evaluate(&self, batch: &Batch) -> Result<f64> {
        Ok(-self.log_probabilities(batch)?.iter().sum::<f64>())
    }

    /// Log-probabilities of the supervised tokens, in nats and in the order of [`Batch::rows`].
    ///
    /// # Errors
    /// What candle says.
    pub fn log_probabilities(&self, batch: &Batch) -> Result<Vec<f64>> {
        let mut ops = self.ops(batch).without_gradients();
        let x = self.last_hidden(&mut ops, batch)?;
        self.judge(&mut ops, batch, &x)
    }

    /// Log-probabilities that follow from what the head reads.
    fn judge(&self, ops: &mut TrainingOps, batch: &Batch, x: &Traced) -> Result<Vec<f64>> {
        let head = decoder_head(ops, &self.config.text)?;
        let losses = cross_entropy::losses(&supervised(batch, x), head.tensor())?;
        Ok(losses.iter().map(|loss| -loss).collect())
    }

    /// Sum of the cross-entropies with these weights, whose gradients go back to the weights of the network.
    fn descend(&self, mut ops: TrainingOps, batch: &Batch, x: &Traced, weights: &[f64]) -> Result<f64> {
        let head = decoder_head(&mut ops, &self.config.text)?;
        let sum = head.as_parameter().and_then(|head| head.gradient());
        let rows = supervised(batch, x);
        let (loss, gradient) = cross_entropy::loss_and_gradient(&rows, weights, head.tensor(), sum)?;
        if x.node().is_some() {
            ops.backward(x, gradient)?;
        }
        Ok(loss)
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
        let vision = self.vision(batch.images.len())?;
        let features = match &self.features {
            None => self.image_features(ops, &batch.images)?,
            Some(cache) => self.cached_features(ops, &batch.images, &mut cache.borrow_mut())?,
        };
        let places: Vec<u32> = (0..batch.input_ids.len() as u32)
            .filter(|&i| Some(batch.input_ids[i as usize]) == self.config.image_token_id)
            .collect();
        put_rows(
            ops,
            &embeds,
            &features,
            &places,
            &shown_rows(batch, vision.spatial_merge_size),
        )
    }

    fn vision(&self, images: usize) -> Result<&VisionConfig> {
        match &self.config.vision {
            Some(Vision::Windows(vision)) => Ok(vision),
            Some(Vision::Tiles(_)) => Err(crate::Error::Untrainable(self.config.family.model_type())),
            None => Err(crate::Error::NoVisionTower(images)),
        }
    }

    /// As [`Self::image_features`], each image's alone: so they are the same whatever else is computed.
    fn cached_features(
        &self,
        ops: &mut TrainingOps,
        images: &[Patches],
        cache: &mut FeatureCache,
    ) -> Result<Traced> {
        let features = images.iter().map(|image| {
            cache.get_or_compute(image, || {
                let features = self.image_features(ops, std::slice::from_ref(image))?;
                Ok(features.tensor().clone())
            })
        });
        let features = features.collect::<Result<Vec<_>>>()?;
        Ok(Traced::constant(Tensor::cat(&features, 0)?))
    }

    /// What the projector makes of images, one after another: `[merged patches, hidden]`.
    fn image_features(&self, ops: &mut TrainingOps, images: &[Patches]) -> Result<Traced> {
        let config = Rc::new(self.vision(images.len())?.clone());
        let inputs = vision_inputs(&config, images, &self.device)?;
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

/// The rows that the loss of a batch is taken of.
fn supervised<'a>(batch: &'a Batch, x: &'a Traced) -> Supervised<'a> {
    Supervised {
        x: x.tensor(),
        targets: &batch.targets,
    }
}

/// For every image token, the row of its feature among those of the batch's images.
fn shown_rows(batch: &Batch, merge: usize) -> Vec<u32> {
    let mut next = 0;
    let ranges: Vec<_> = batch
        .images
        .iter()
        .map(|image| {
            let first = next;
            next += image.grid.merged(merge) as u32;
            first..next
        })
        .collect();
    batch
        .shown
        .iter()
        .flat_map(|&image| ranges[image].clone())
        .collect()
}

/// `x` `[1, tokens, width]` with the rows at `places` replaced by rows `rows` of `new` `[rows, width]`.
fn put_rows(ops: &mut TrainingOps, x: &Traced, new: &Traced, places: &[u32], rows: &[u32]) -> Result<Traced> {
    let tokens = x.tensor().dim(1)?;
    let mut sources: Vec<u32> = (0..tokens as u32).collect();
    for (place, row) in places.iter().zip(rows) {
        sources[*place as usize] = tokens as u32 + row;
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
    let (places, rows) = (Tensor::new(places, device)?, Tensor::new(rows, device)?);
    let (nodes, shape) = ([x.node(), new.node()], new.tensor().dims2()?);
    Ok(ops.record(result, nodes != [None, None], move |gradient, flow| {
        flow.add(nodes[0], gradient.broadcast_mul(&kept)?)?;
        if nodes[1].is_some() {
            let pieces = gradient.squeeze(0)?.index_select(&places, 0)?;
            let zeros = Tensor::zeros(shape, pieces.dtype(), pieces.device())?;
            flow.add(nodes[1], zeros.index_add(&rows, &pieces, 0)?)?;
        }
        Ok(())
    }))
}
