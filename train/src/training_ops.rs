use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use lwv_model::{Ops, Rotary, Segments};

use crate::kernels::attention::{self, Pattern};
use crate::kernels::rotation::{Turn, rotate};
use crate::kernels::{activation, embedding, linear, rms_norm, segments};
use crate::tape::{Flow, Tape};
use crate::{Error, Parameter, Result, Traced};

/// The weights of a model by canonical name.
pub type Parameters = BTreeMap<String, Rc<Parameter>>;

/// Computes the network with candle so that it can be differentiated.
///
/// A batch is one row of tokens: sequences stand one after another without padding, and attention keeps them apart.
pub struct TrainingOps {
    parameters: Rc<Parameters>,
    /// First row and number of rows of each sequence.
    sequences: Rc<Vec<(usize, usize)>>,
    device: Device,
    tape: Tape,
    /// Whether operations go onto the tape.
    recording: bool,
    /// Whether a weight that learns was used, on the tape or off it.
    learning: bool,
    recompute: bool,
    padding: Option<u32>,
    /// Kinds of the operations so far.
    kinds: Vec<Kind>,
    /// The operation from which on results are not asked for.
    needless_from: usize,
}

/// What an operation is, as far as its result is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A product with a weight: its way back needs what went in, not what came out.
    Linear,
    /// A sum or a multiple: its way back needs neither.
    Sum,
    /// Any other.
    Other,
}

impl TrainingOps {
    /// An interpreter of `parameters` for a row of sequences of these lengths. With `recompute`, what stands inside
    /// a [`Self::segment`] is forgotten and computed again in the backward pass.
    pub fn new(parameters: Rc<Parameters>, lengths: &[usize], device: Device, recompute: bool) -> Self {
        let starts = lengths.iter().scan(0, |next, &length| {
            *next += length;
            Some((*next - length, length))
        });
        Self {
            parameters,
            sequences: Rc::new(starts.collect()),
            device,
            tape: Tape::default(),
            recording: true,
            learning: false,
            recompute,
            padding: None,
            kinds: Vec::new(),
            needless_from: usize::MAX,
        }
    }

    /// The same with a token whose embedding learns nothing from where it is read.
    pub fn with_padding(mut self, padding: Option<u32>) -> Self {
        self.padding = padding;
        self
    }

    /// The same without a tape, for evaluation.
    pub fn without_gradients(mut self) -> Self {
        self.recording = false;
        self
    }

    /// Where tensors live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A value whose gradient is asked for at the end.
    pub(crate) fn leaf(&mut self, tensor: Tensor) -> Traced {
        if self.recording {
            self.tape.leaf(tensor)
        } else {
            Traced::constant(tensor)
        }
    }

    /// Carries `gradient`, that of `output`, back to all weights and leaves.
    pub(crate) fn backward(self, output: &Traced, gradient: Tensor) -> Result<Flow> {
        self.tape.backward(output, gradient)
    }

    /// Runs a part of the network, `inputs` to its result, which the backward pass runs again instead of keeping what
    /// it computed inside. The numbers are the same to the bit.
    ///
    /// # Errors
    /// What `segment` says.
    pub fn segment<F>(&mut self, inputs: &[Traced], segment: F) -> Result<Traced>
    where
        F: Fn(&mut Self, &[Traced]) -> Result<Traced> + 'static,
    {
        if !self.recording || !self.recompute {
            return segment(self, inputs);
        }
        let mut quiet = self.inside();
        quiet.recording = false;
        let result = segment(&mut quiet, inputs)?;
        self.learning |= quiet.learning;
        if !quiet.learning && inputs.iter().all(|input| input.node().is_none()) {
            return Ok(Traced::constant(result.tensor().clone()));
        }
        let (mut again, inputs) = (self.inside(), inputs.to_vec());
        again.needless_from = needless_from(&quiet.kinds);
        Ok(self.tape.result(result.tensor().clone(), move |gradient, flow| {
            let leaf = |input: &Traced| match input.node() {
                Some(_) => again.leaf(input.tensor().clone()),
                None => input.clone(),
            };
            let leaves: Vec<Traced> = inputs.iter().map(leaf).collect();
            let result = segment(&mut again, &leaves)?;
            let mut inner = again.backward(&result, gradient)?;
            for (input, leaf) in inputs.iter().zip(&leaves) {
                if let Some(gradient) = leaf.node().and_then(|node| inner.take(node)) {
                    flow.add(input.node(), gradient)?;
                }
            }
            Ok(())
        }))
    }

    /// An interpreter of the same weights and sequences with a tape of its own.
    fn inside(&self) -> Self {
        Self {
            parameters: Rc::clone(&self.parameters),
            sequences: Rc::clone(&self.sequences),
            device: self.device.clone(),
            tape: Tape::default(),
            recording: true,
            learning: false,
            recompute: self.recompute,
            padding: self.padding,
            kinds: Vec::new(),
            needless_from: usize::MAX,
        }
    }

    /// Puts the result of an operation on the tape, if anything in front of it needs a gradient.
    pub(crate) fn record(
        &mut self,
        tensor: Tensor,
        needed: bool,
        backward: impl FnOnce(Tensor, &mut Flow) -> Result<()> + 'static,
    ) -> Traced {
        self.learning |= needed;
        if needed && self.recording {
            self.tape.result(tensor, backward)
        } else {
            Traced::constant(tensor)
        }
    }

    /// Computes the result of an operation, or only its shape where a segment that is run again ends with it: its way
    /// back needs no more.
    fn computed(
        &mut self,
        kind: Kind,
        shape: impl FnOnce() -> Vec<usize>,
        like: &Tensor,
        compute: impl FnOnce() -> candle_core::Result<Tensor>,
    ) -> Result<Tensor> {
        self.kinds.push(kind);
        if self.kinds.len() <= self.needless_from {
            return Ok(compute()?);
        }
        Ok(Tensor::zeros((), like.dtype(), like.device())?.broadcast_as(shape())?)
    }

    fn plain_linear(&mut self, x: &Traced, weight: &Traced, bias: Option<&Traced>) -> Result<Traced> {
        let shape = || linear::with_width(x.tensor(), weight.tensor().dims()[0]);
        let compute = || linear::forward(x.tensor(), weight.tensor(), bias.map(Traced::tensor));
        let result = self.computed(Kind::Linear, shape, x.tensor(), compute)?;
        let needed = x.node().is_some() || trains(weight) || bias.is_some_and(trains);
        let (x, weight, bias) = (x.clone(), weight.clone(), bias.cloned());
        Ok(self.record(result, needed, move |gradient, flow| {
            let bias = bias.as_ref().and_then(Traced::as_parameter);
            if let Some(sum) = bias.and_then(|bias| bias.gradient()) {
                linear::add_bias_gradient(&gradient, sum)?;
            }
            if let Some(parameter) = weight.as_parameter()
                && let Some(sum) = parameter.gradient()
            {
                linear::add_weight_gradient(&gradient, x.tensor(), parameter.shape(), sum)?;
            }
            if x.node().is_some() {
                flow.add(x.node(), linear::input_gradient(&gradient, weight.tensor())?)?;
            }
            Ok(())
        }))
    }

    /// `(scale · (x · aᵀ)) · bᵀ`.
    fn low_rank(&mut self, x: &Traced, parameter: &Parameter) -> Result<Option<Traced>> {
        let Some(pair) = parameter.low_rank() else {
            return Ok(None);
        };
        let (a, b) = (
            Traced::parameter(Rc::clone(&pair.a)),
            Traced::parameter(Rc::clone(&pair.b)),
        );
        let inner = self.plain_linear(x, &a, None)?;
        // Where the numbers are fewest.
        let (scale, node) = (pair.scale, inner.node());
        let shape = || inner.tensor().dims().to_vec();
        let scaled = self.computed(Kind::Sum, shape, inner.tensor(), || inner.tensor() * scale)?;
        let scaled = self.record(scaled, node.is_some(), move |gradient, flow| {
            Ok(flow.add(node, (gradient * scale)?)?)
        });
        self.plain_linear(&scaled, &b, None).map(Some)
    }

    fn attend(&mut self, [q, k, v]: [&Traced; 3], pattern: Pattern) -> Result<Traced> {
        self.kinds.push(Kind::Other);
        let attended = attention::forward(q.tensor(), k.tensor(), v.tensor(), &pattern)?;
        let needed = [q, k, v].iter().any(|x| x.node().is_some());
        let inputs = [q, k, v].map(Traced::clone);
        Ok(self.record(attended.out.clone(), needed, move |gradient, flow| {
            let tensors = inputs.each_ref().map(Traced::tensor);
            let gradients = attention::backward(&gradient, tensors, &attended, &pattern)?;
            for (input, gradient) in inputs.iter().zip(gradients) {
                flow.add(input.node(), gradient)?;
            }
            Ok(())
        }))
    }

    /// An operation whose gradient is itself an operation on the gradient alone.
    pub(crate) fn rearranged(
        &mut self,
        x: &Traced,
        result: Tensor,
        back: impl FnOnce(&Tensor) -> candle_core::Result<Tensor> + 'static,
    ) -> Traced {
        self.kinds.push(Kind::Other);
        let node = x.node();
        self.record(result, node.is_some(), move |gradient, flow| {
            Ok(flow.add(node, back(&gradient)?)?)
        })
    }
}

/// The operation from which on a segment's results are not needed when it is run again: its last product with a weight,
/// where only sums follow.
fn needless_from(kinds: &[Kind]) -> usize {
    let sums = kinds.iter().rev().take_while(|kind| **kind == Kind::Sum).count();
    match kinds.len().checked_sub(sums + 1) {
        Some(last) if kinds[last] == Kind::Linear => last,
        _ => usize::MAX,
    }
}

/// Whether `x` is a weight with a gradient.
fn trains(x: &Traced) -> bool {
    x.as_parameter()
        .is_some_and(|parameter| parameter.gradient().is_some())
}

impl Ops for TrainingOps {
    type Tensor = Traced;
    type Error = Error;

    fn weight(&mut self, name: &str, _shape: &[usize]) -> Result<Traced> {
        let parameter = self
            .parameters
            .get(name)
            .ok_or_else(|| Error::UnknownParameter(name.to_owned()))?;
        Ok(Traced::parameter(Rc::clone(parameter)))
    }

    fn embedding(&mut self, ids: &Traced, table: &Traced) -> Result<Traced> {
        self.kinds.push(Kind::Other);
        let rows = embedding::forward(ids.tensor(), table.tensor())?;
        let (ids, table, padding) = (ids.clone(), table.clone(), self.padding);
        Ok(self.record(rows, trains(&table), move |gradient, _| {
            if let Some(parameter) = table.as_parameter()
                && let Some(sum) = parameter.gradient()
            {
                embedding::add_table_gradient(&gradient, ids.tensor(), padding, parameter.shape(), sum)?;
            }
            Ok(())
        }))
    }

    fn linear(&mut self, x: &Traced, weight: &Traced, bias: Option<&Traced>) -> Result<Traced> {
        let result = self.plain_linear(x, weight, bias)?;
        let Some(parameter) = weight.as_parameter() else {
            return Ok(result);
        };
        match self.low_rank(x, parameter)? {
            Some(update) => self.add(&result, &update),
            None => Ok(result),
        }
    }

    fn rms_norm(&mut self, x: &Traced, weight: &Traced, eps: f64) -> Result<Traced> {
        self.kinds.push(Kind::Other);
        let result = rms_norm::forward(x.tensor(), weight.tensor(), eps)?;
        let needed = x.node().is_some() || trains(weight);
        let (x, weight) = (x.clone(), weight.clone());
        Ok(self.record(result, needed, move |gradient, flow| {
            let sum = weight.as_parameter().and_then(|parameter| parameter.gradient());
            let gradient = rms_norm::backward(&gradient, x.tensor(), weight.tensor(), eps, sum)?;
            Ok(flow.add(x.node(), gradient)?)
        }))
    }

    fn add(&mut self, a: &Traced, b: &Traced) -> Result<Traced> {
        let shape = || a.tensor().dims().to_vec();
        let result = self.computed(Kind::Sum, shape, a.tensor(), || {
            activation::add(a.tensor(), b.tensor())
        })?;
        let nodes = [a.node(), b.node()];
        Ok(self.record(result, nodes != [None, None], move |gradient, flow| {
            flow.add(nodes[0], gradient.clone())?;
            Ok(flow.add(nodes[1], gradient)?)
        }))
    }

    fn mul(&mut self, a: &Traced, b: &Traced) -> Result<Traced> {
        self.kinds.push(Kind::Other);
        let result = activation::mul(a.tensor(), b.tensor())?;
        let (a, b) = (a.clone(), b.clone());
        let needed = a.node().is_some() || b.node().is_some();
        Ok(self.record(result, needed, move |gradient, flow| {
            if a.node().is_some() {
                flow.add(a.node(), activation::mul(&gradient, b.tensor())?)?;
            }
            if b.node().is_some() {
                flow.add(b.node(), activation::mul(&gradient, a.tensor())?)?;
            }
            Ok(())
        }))
    }

    fn silu(&mut self, x: &Traced) -> Result<Traced> {
        let input = x.tensor().clone();
        let result = activation::silu(&input)?;
        Ok(self.rearranged(x, result, move |gradient| {
            activation::silu_backward(gradient, &input)
        }))
    }

    fn gelu(&mut self, x: &Traced) -> Result<Traced> {
        let input = x.tensor().clone();
        let result = activation::gelu(&input)?;
        Ok(self.rearranged(x, result, move |gradient| {
            activation::gelu_backward(gradient, &input)
        }))
    }

    fn columns(&mut self, x: &Traced, start: usize, length: usize) -> Result<Traced> {
        let last = x.tensor().rank() - 1;
        let after = x.tensor().dim(last)? - start - length;
        let result = x.tensor().narrow(last, start, length)?.contiguous()?;
        Ok(self.rearranged(x, result, move |gradient| {
            gradient.pad_with_zeros(last, start, after)
        }))
    }

    fn join_rows(&mut self, x: &Traced, count: usize) -> Result<Traced> {
        let (rows, width) = x.tensor().dims2()?;
        let result = x.tensor().reshape((rows / count, count * width))?;
        Ok(self.rearranged(x, result, move |gradient| gradient.reshape((rows, width))))
    }

    fn last_position(&mut self, x: &Traced) -> Result<Traced> {
        let before = x.tensor().dim(1)? - 1;
        let result = x.tensor().narrow(1, before, 1)?;
        Ok(self.rearranged(x, result, move |gradient| gradient.pad_with_zeros(1, before, 0)))
    }

    fn rotary(&mut self, positions: &Traced, axes: &[usize], inverse: &[f32]) -> Result<Rotary<Traced>> {
        let axis_count = axes.iter().max().map_or(1, |last| last + 1);
        let positions = positions
            .tensor()
            .to_dtype(DType::F32)?
            .reshape((axis_count, ()))?;
        let axes: Vec<u32> = axes.iter().map(|&axis| axis as u32).collect();
        let turned = positions
            .index_select(&Tensor::new(axes, &self.device)?, 0)?
            .t()?;
        let angles = turned
            .broadcast_mul(&Tensor::new(inverse, &self.device)?)?
            .contiguous()?;
        Ok(Rotary {
            cos: Traced::constant(angles.cos()?),
            sin: Traced::constant(angles.sin()?),
        })
    }

    fn rotate(&mut self, x: &Traced, heads: usize, rotary: &Rotary<Traced>) -> Result<Traced> {
        let (cos, sin) = (rotary.cos.tensor().clone(), rotary.sin.tensor().clone());
        let result = rotate(x.tensor(), heads, &cos, &sin, Turn::Forward)?;
        Ok(self.rearranged(x, result, move |gradient| {
            rotate(gradient, heads, &cos, &sin, Turn::Back)
        }))
    }

    fn causal_attention(
        &mut self,
        _layer: usize,
        q: &Traced,
        k: &Traced,
        v: &Traced,
        heads: usize,
        key_value_heads: usize,
    ) -> Result<Traced> {
        let pattern = Pattern {
            heads,
            key_value_heads,
            causal: true,
            runs: self.sequences.to_vec(),
        };
        let shape = q.tensor().dims().to_vec();
        let rows = |ops: &mut Self, x: &Traced| -> Result<Traced> {
            let shape = x.tensor().dims().to_vec();
            let flat = x.tensor().flatten_to(1)?;
            Ok(ops.rearranged(x, flat, move |gradient| gradient.reshape(shape)))
        };
        let (q, k, v) = (rows(self, q)?, rows(self, k)?, rows(self, v)?);
        let attended = self.attend([&q, &k, &v], pattern)?;
        let result = attended.tensor().reshape(shape)?;
        Ok(self.rearranged(&attended, result, |gradient| gradient.flatten_to(1)))
    }

    fn segment_attention(
        &mut self,
        q: &Traced,
        k: &Traced,
        v: &Traced,
        heads: usize,
        segments: &Segments<Traced>,
    ) -> Result<Traced> {
        let segments = Rc::new(Segments {
            gather: segments.gather.tensor().clone(),
            lengths: segments.lengths.tensor().clone(),
            scatter: segments.scatter.tensor().clone(),
        });
        let lay_out = |ops: &mut Self, x: &Traced| -> Result<Traced> {
            let laid_out = segments::lay_out(x.tensor(), &segments)?;
            let segments = Rc::clone(&segments);
            Ok(ops.rearranged(x, laid_out, move |gradient| {
                segments::take_back(gradient, &segments)
            }))
        };
        let (q, k, v) = (lay_out(self, q)?, lay_out(self, k)?, lay_out(self, v)?);
        let attended = self.attend([&q, &k, &v], segments::pattern(heads, &segments)?)?;
        let result = segments::take_back(attended.tensor(), &segments)?;
        Ok(self.rearranged(&attended, result, move |gradient| {
            segments::lay_out(gradient, &segments)
        }))
    }
}
