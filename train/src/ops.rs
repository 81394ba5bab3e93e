use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{D, DType, Device, Tensor, TensorId};
use lwv_model::{Adapter, Checkpoint, Ops, Rotary, Segments, TileOps};

use crate::attention::{attention, causal_bias, merge_heads, padding_bias, repeat_heads, split_heads};
use crate::{Error, InputRounding};

/// Is shown what goes through a network while it is computed.
pub trait Observer: Send {
    /// A linear layer with the weight of this canonical name is about to read `x`, `[tokens…, inputs]`.
    ///
    /// # Errors
    /// Ends the computation.
    fn reads(&mut self, _weight: &str, _x: &Tensor) -> Result<(), Error> {
        Ok(())
    }

    /// A linear layer with the weight of this canonical name has made `y`, `[tokens, outputs]`, of `x`, `[tokens…, inputs]`.
    ///
    /// # Errors
    /// Ends the computation.
    fn linear(&mut self, _weight: &str, _x: &Tensor, _y: &Tensor) -> Result<(), Error> {
        Ok(())
    }

    /// Attention of `layer` puts `keys` (rotated) and `values` into its cache, `[batch, key_value_heads, tokens, head_dim]`.
    ///
    /// # Errors
    /// Ends the computation.
    fn cached(&mut self, _layer: usize, _keys: &Tensor, _values: &Tensor) -> Result<(), Error> {
        Ok(())
    }
}

/// Computes the network with candle, in f32, for inference.
///
/// Weights are read from the checkpoint when first asked for and kept. With a cache, attention puts the keys and
/// values of earlier calls in front of the new ones.
pub struct CandleOps {
    checkpoint: Checkpoint,
    adapter: Option<Adapter>,
    device: Device,
    weights: HashMap<String, Tensor>,
    cache: Option<HashMap<usize, (Tensor, Tensor)>>,
    observer: Option<Arc<Mutex<dyn Observer>>>,
    /// Whose weights tensors are, for the observer.
    names: HashMap<TensorId, String>,
    /// How linear layers round what they read, by the name of their weight.
    rounding: HashMap<String, InputRounding>,
}

impl CandleOps {
    /// An interpreter without a cache, which reads its weights from `checkpoint`, `adapter` merged in.
    pub fn new(checkpoint: Checkpoint, adapter: Option<Adapter>, device: Device) -> Self {
        Self {
            checkpoint,
            adapter,
            device,
            weights: HashMap::new(),
            cache: None,
            observer: None,
            names: HashMap::new(),
            rounding: HashMap::new(),
        }
    }

    /// Shows everything from here on to `observer`, or nothing any more.
    pub fn observe(&mut self, observer: Option<Arc<Mutex<dyn Observer>>>) {
        self.observer = observer;
    }

    /// Computes with `values` instead of the checkpoint's weight `name`.
    ///
    /// # Errors
    /// `values` has not as many elements as `shape` says.
    pub fn replace(&mut self, name: &str, values: Vec<f32>, shape: &[usize]) -> Result<(), Error> {
        let weight = self.as_matrix(values, shape)?;
        self.keep(name, weight);
        Ok(())
    }

    /// Puts zeros that take no memory in the place of the weight `name`, for a computation that ends before it is multiplied.
    ///
    /// # Errors
    /// Candle cannot make them.
    pub fn stand_in(&mut self, name: &str, shape: &[usize]) -> Result<(), Error> {
        let zero = Tensor::zeros(1, DType::F32, &self.device)?;
        self.keep(name, zero.broadcast_as(shape)?);
        Ok(())
    }

    /// Rounds what the linear layer with the weight `name` reads from here on, or nothing any more.
    pub fn round_input(&mut self, name: &str, rounding: Option<InputRounding>) {
        match rounding {
            Some(rounding) => self.rounding.insert(name.to_owned(), rounding),
            None => self.rounding.remove(name),
        };
    }

    /// Frees the weights that `which` chooses by name. When they are asked for again, they are the checkpoint's.
    pub fn forget(&mut self, which: impl Fn(&str) -> bool) {
        self.weights.retain(|name, _| !which(name));
        self.names.retain(|_, name| !which(name));
    }

    /// Reads a weight in pieces of a few megabytes, as f32, the adapter merged in.
    ///
    /// # Errors
    /// The weight is missing or cannot be read, or what `take` returns.
    pub fn read(
        &self,
        name: &str,
        shape: &[usize],
        mut take: impl FnMut(&[f32]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let info = self.checkpoint.find(name, shape)?;
        let update = self
            .adapter
            .as_ref()
            .map(|adapter| adapter.update(name, shape))
            .transpose()?
            .flatten();
        let mut done = 0;
        self.checkpoint.read_f32(&info, |floats| {
            if let Some(update) = update {
                update.add_to(floats, done);
            }
            done += floats.len();
            take(floats)
        })
    }

    /// Forgets all cached keys and values, and keeps those to come if `keep` says so.
    pub fn reset_cache(&mut self, keep: bool) {
        self.cache = keep.then(HashMap::new);
    }

    /// Where tensors live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn load(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let info = self.checkpoint.find(name, shape)?;
        let mut values = self.checkpoint.to_f32(&info)?;
        if let Some(adapter) = &self.adapter
            && let Some(update) = adapter.update(name, shape)?
        {
            update.add_to(&mut values, 0);
        }
        self.as_matrix(values, shape)
    }

    fn keep(&mut self, name: &str, weight: Tensor) {
        self.names.insert(weight.id(), name.to_owned());
        self.weights.insert(name.to_owned(), weight);
    }

    /// A convolution whose kernel is its stride is a matrix over flattened patches.
    fn as_matrix(&self, values: Vec<f32>, shape: &[usize]) -> Result<Tensor, Error> {
        let rows = shape.first().copied().unwrap_or(1);
        let flat = if shape.len() > 2 {
            vec![rows, values.len() / rows]
        } else {
            shape.to_vec()
        };
        Ok(Tensor::from_vec(values, flat, &self.device)?)
    }

    /// Appends the new keys and values of a layer to its cache and returns them all, with the number of old rows.
    fn extend_cache(&mut self, layer: usize, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor, usize), Error> {
        let Some(cache) = &mut self.cache else {
            return Ok((k, v, 0));
        };
        let (k, v, past) = match cache.get(&layer) {
            None => (k, v, 0),
            Some((old_k, old_v)) => (
                Tensor::cat(&[old_k, &k], 2)?,
                Tensor::cat(&[old_v, &v], 2)?,
                old_k.dim(2)?,
            ),
        };
        cache.insert(layer, (k.clone(), v.clone()));
        Ok((k, v, past))
    }
}

impl Ops for CandleOps {
    type Tensor = Tensor;
    type Error = Error;

    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        if let Some(weight) = self.weights.get(name) {
            return Ok(weight.clone());
        }
        let weight = self.load(name, shape)?;
        self.keep(name, weight.clone());
        Ok(weight)
    }

    fn embedding(&mut self, ids: &Tensor, table: &Tensor) -> Result<Tensor, Error> {
        let rows = table.index_select(&ids.flatten_all()?, 0)?;
        let shape = [ids.dims(), &[table.dim(1)?]].concat();
        Ok(rows.reshape(shape)?)
    }

    fn linear(&mut self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor, Error> {
        let name = self.names.get(&weight.id());
        let observer = self.observer.as_ref().zip(name);
        if let Some((observer, name)) = observer {
            locked(observer).reads(name, x)?;
        }
        let rounding = name.and_then(|name| self.rounding.get(name));
        let rounded = rounding.map(|rounding| rounding.apply(x)).transpose()?;
        let read = rounded.as_ref().unwrap_or(x);
        let (out, width) = weight.dims2()?;
        let rows = read.contiguous()?.reshape(((), width))?.matmul(&weight.t()?)?;
        let rows = match bias {
            Some(bias) => rows.broadcast_add(bias)?,
            None => rows,
        };
        if let Some((observer, name)) = observer {
            locked(observer).linear(name, x, &rows)?;
        }
        let (_, tokens) = x
            .dims()
            .split_last()
            .ok_or_else(|| candle_core::Error::Msg("linear of a scalar".into()))?;
        Ok(rows.reshape([tokens, &[out]].concat())?)
    }

    fn rms_norm(&mut self, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, Error> {
        Ok(candle_nn::ops::rms_norm(&x.contiguous()?, weight, eps as f32)?)
    }

    fn add(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
        Ok((a + b)?)
    }

    fn mul(&mut self, a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
        Ok((a * b)?)
    }

    fn silu(&mut self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.silu()?)
    }

    fn gelu(&mut self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.gelu_erf()?)
    }

    fn columns(&mut self, x: &Tensor, start: usize, length: usize) -> Result<Tensor, Error> {
        Ok(x.narrow(D::Minus1, start, length)?)
    }

    fn join_rows(&mut self, x: &Tensor, count: usize) -> Result<Tensor, Error> {
        let (rows, width) = x.dims2()?;
        Ok(x.reshape((rows / count, count * width))?)
    }

    fn last_position(&mut self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.narrow(1, x.dim(1)? - 1, 1)?)
    }

    fn rotary(
        &mut self,
        positions: &Tensor,
        axes: &[usize],
        inverse: &[f32],
    ) -> Result<Rotary<Tensor>, Error> {
        let axis_count = axes.iter().max().map_or(1, |last| last + 1);
        let positions = positions.to_dtype(DType::F32)?.reshape((axis_count, ()))?;
        let axes: Vec<u32> = axes.iter().map(|&axis| axis as u32).collect();
        let turned = positions
            .index_select(&Tensor::new(axes, &self.device)?, 0)?
            .t()?;
        let angles = turned.broadcast_mul(&Tensor::new(inverse, &self.device)?)?;
        Ok(Rotary {
            cos: angles.cos()?,
            sin: angles.sin()?,
        })
    }

    fn rotate(&mut self, x: &Tensor, heads: usize, rotary: &Rotary<Tensor>) -> Result<Tensor, Error> {
        let (tokens, half) = rotary.cos.dims2()?;
        let split = x.reshape((tokens, heads, 2, half))?;
        let (first, second) = (split.narrow(2, 0, 1)?, split.narrow(2, 1, 1)?);
        let cos = rotary.cos.reshape((tokens, 1, 1, half))?;
        let sin = rotary.sin.reshape((tokens, 1, 1, half))?;
        let turned_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
        let turned_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
        Ok(Tensor::cat(&[turned_first, turned_second], 2)?.reshape(x.shape())?)
    }

    fn causal_attention(
        &mut self,
        layer: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: usize,
        key_value_heads: usize,
    ) -> Result<Tensor, Error> {
        let (q, k, v) = (
            split_heads(q, heads)?,
            split_heads(k, key_value_heads)?,
            split_heads(v, key_value_heads)?,
        );
        if let Some(observer) = &self.observer {
            locked(observer).cached(layer, &k, &v)?;
        }
        let new = q.dim(2)?;
        let (k, v, past) = self.extend_cache(layer, k, v)?;
        let groups = heads / key_value_heads;
        let bias = (new > 1)
            .then(|| causal_bias(new, past, &self.device))
            .transpose()?;
        let attended = attention(
            &q,
            &repeat_heads(&k, groups)?,
            &repeat_heads(&v, groups)?,
            bias.as_ref(),
        )?;
        Ok(merge_heads(&attended)?)
    }

    fn segment_attention(
        &mut self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: usize,
        segments: &Segments<Tensor>,
    ) -> Result<Tensor, Error> {
        let (count, length) = segments.gather.dims2()?;
        let places = segments.gather.flatten_all()?;
        let laid_out = |x: &Tensor| -> Result<Tensor, Error> {
            let rows = x.contiguous()?.index_select(&places, 0)?;
            Ok(split_heads(&rows.reshape((count, length, ()))?, heads)?)
        };
        let bias = padding_bias(&segments.lengths, length)?;
        let attended = attention(&laid_out(q)?, &laid_out(k)?, &laid_out(v)?, Some(&bias))?;
        let rows = merge_heads(&attended)?.flatten(0, 1)?;
        Ok(rows.index_select(&segments.scatter, 0)?)
    }
}

impl TileOps for CandleOps {
    fn layer_norm(&mut self, x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor, Error> {
        Ok(candle_nn::ops::layer_norm(
            &x.contiguous()?,
            weight,
            bias,
            eps as f32,
        )?)
    }

    fn gelu_tanh(&mut self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.gelu()?)
    }

    fn add_to_tiles(&mut self, x: &Tensor, table: &Tensor, order: &[usize]) -> Result<Tensor, Error> {
        let order: Vec<u32> = order.iter().map(|&row| row as u32).collect();
        let rows = table.index_select(&Tensor::new(order, &self.device)?, 0)?;
        let (count, width) = rows.dims2()?;
        let tiles = x.reshape(((), count, width))?.broadcast_add(&rows)?;
        Ok(tiles.flatten(0, 1)?)
    }

    fn tile_attention(
        &mut self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: usize,
        rows: usize,
    ) -> Result<Tensor, Error> {
        let width = q.dim(D::Minus1)?;
        let [q, k, v] = [q, k, v].map(|x| split_heads(&x.reshape(((), rows, width))?, heads));
        let attended = attention(&q?, &k?, &v?, None)?;
        Ok(merge_heads(&attended)?.flatten(0, 1)?)
    }
}

fn locked<'a>(observer: &'a Mutex<dyn Observer + 'static>) -> MutexGuard<'a, dyn Observer + 'static> {
    observer.lock().unwrap_or_else(PoisonError::into_inner)
}
