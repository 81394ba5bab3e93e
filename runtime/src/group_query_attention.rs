//! The operator `com.microsoft.GroupQueryAttention` on processors, in place of ONNX Runtime's own: bundles keep the standard
//! operator, which every runtime knows, and here it is computed by `lwv-kernels`.
//!
//! What of the operator our exporter writes is computed; all else is refused when the graph is loaded.

use std::sync::{Arc, Mutex, PoisonError};

use lwv_kernels::attention::{Attention, Cache, Element, Heads, Order, Rotation, Scales, Scratch};
use lwv_model::{ElementType, Target};
use ort::Error;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::value::{IntoTensorElementType, PrimitiveTensorElementType, TensorElementType};

use crate::bundle::Bundle;
use crate::operator_tensors::{Input, given, optional, output};
use crate::provider::Device;

type Result<T> = ort::Result<T>;

/// Where inputs stand, as ONNX Runtime's documentation of the operator numbers them.
mod input {
    pub(super) const QUERY: usize = 0;
    pub(super) const KEY: usize = 1;
    pub(super) const VALUE: usize = 2;
    pub(super) const PAST_KEY: usize = 3;
    pub(super) const PAST_VALUE: usize = 4;
    pub(super) const LAST: usize = 5;
    pub(super) const COSINES: usize = 7;
    pub(super) const SINES: usize = 8;
    pub(super) const KEY_SCALES: usize = 12;
    pub(super) const VALUE_SCALES: usize = 13;
}

/// Attributes whose defaults are computed and nothing else.
const DEFAULTS: [(&str, i64); 4] = [
    ("rotary_interleaved", 0),
    ("smooth_softmax", 0),
    ("qk_output", 0),
    ("local_window_size", -1),
];

/// The operator over caches of floats and of 8 bits.
pub(crate) fn add_to(domain: OperatorDomain) -> Result<OperatorDomain> {
    let room = Arc::default();
    domain
        .add(GroupQueryAttention::<f32>::new(&room))?
        .add(GroupQueryAttention::<i8>::new(&room))
}

/// Whether the decoder of `bundle`, run on `device`, has attention that can be computed here and is faster so.
pub(crate) fn replaces(bundle: &Bundle, device: Device) -> bool {
    let text = &bundle.config().text;
    let heads = Heads {
        query: text.num_attention_heads,
        key_value: text.num_key_value_heads,
        dim: text.head_dim,
    };
    device == Device::Cpu
        && bundle.manifest().target == Target::Ort
        && matches!(bundle.cache_type(), ElementType::Float32 | ElementType::Int8)
        && heads.are_supported()
        && lwv_kernels::attention::is_fast()
}

/// The operator over a cache of `T`.
struct GroupQueryAttention<T> {
    /// Layers are computed one after another, so they share it.
    room: Arc<Mutex<Room>>,
    cache: std::marker::PhantomData<fn(T)>,
}

#[derive(Default)]
struct Room {
    scratch: Scratch,
    queries: Vec<f32>,
    row: Vec<f32>,
}

impl<T> GroupQueryAttention<T> {
    fn new(room: &Arc<Mutex<Room>>) -> Self {
        Self {
            room: Arc::clone(room),
            cache: std::marker::PhantomData,
        }
    }
}

impl<T> Operator for GroupQueryAttention<T>
where
    T: Element + PrimitiveTensorElementType + IntoTensorElementType + std::fmt::Debug,
{
    type Kernel<'attributes> = GroupQueryKernel<T>;

    fn name(&self) -> &str {
        "GroupQueryAttention"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let cache = T::into_tensor_element_type();
        let optional = OperatorInput::optional;
        [
            OperatorInput::required(TensorElementType::Float32),
            optional(TensorElementType::Float32),
            optional(TensorElementType::Float32),
            optional(cache),
            optional(cache),
            OperatorInput::required(TensorElementType::Int32),
            OperatorInput::required(TensorElementType::Int32),
            optional(TensorElementType::Float32),
            optional(TensorElementType::Float32),
            optional(TensorElementType::Int64),
            optional(TensorElementType::Float32),
            optional(TensorElementType::Float32),
            optional(TensorElementType::Float32),
            optional(TensorElementType::Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let cache = T::into_tensor_element_type();
        [
            OperatorOutput::required(TensorElementType::Float32),
            OperatorOutput::required(cache),
            OperatorOutput::required(cache),
        ]
    }

    fn create_kernel<'attributes>(&self, node: &KernelContext<'attributes>) -> Result<GroupQueryKernel<T>> {
        let count = |name: &str| {
            node.get::<i64>(name)
                .and_then(|count| usize::try_from(count).ok())
        };
        let (Some(query), Some(key_value)) = (count("num_heads"), count("kv_num_heads")) else {
            return Err(Error::new("the node does not say how many heads there are"));
        };
        for (name, default) in DEFAULTS {
            if node.get::<i64>(name).is_some_and(|value| value != default) {
                return Err(Error::new(format!("attribute `{name}` is not computed here")));
            }
        }
        Ok(GroupQueryKernel {
            query,
            key_value,
            rotates: node.get::<i64>("do_rotary").unwrap_or(0) != 0,
            scale: node.get::<f32>("scale").filter(|scale| *scale != 0.0),
            room: Arc::clone(&self.room),
            cache: std::marker::PhantomData,
        })
    }
}

struct GroupQueryKernel<T> {
    query: usize,
    key_value: usize,
    rotates: bool,
    scale: Option<f32>,
    room: Arc<Mutex<Room>>,
    cache: std::marker::PhantomData<fn(T)>,
}

impl<T> Kernel for GroupQueryKernel<T>
where
    T: Element + PrimitiveTensorElementType + IntoTensorElementType + std::fmt::Debug,
{
    fn compute(&mut self, context: &ComputeContext) -> Result<()> {
        let tokens = Tokens::of(context, self.query, self.key_value)?;
        let (heads, count) = (tokens.heads, tokens.count);
        let past = past(context, count)?;
        let (old_keys, old_values) = (
            given(context, input::PAST_KEY)?,
            given(context, input::PAST_VALUE)?,
        );
        let capacity = rows(&old_keys).max(past + count);
        let shape = [1, heads.key_value, capacity, heads.dim].map(|size| size as i64);
        #[expect(unsafe_code, reason = "as operators have their outputs")]
        // SAFETY: the outputs were declared so, and are asked for once; nobody reads the old cache where it is the new one.
        let (keys, values) = unsafe { (output(context, 1, &shape)?, output(context, 2, &shape)?) };
        let key_scales = optional(context, input::KEY_SCALES)?;
        let value_scales = optional(context, input::VALUE_SCALES)?;
        let (keys, keys_stay) = memory::<T>(keys, &old_keys, heads, past)?;
        let (values, values_stay) = memory::<T>(values, &old_values, heads, past)?;
        let mut cache = Cache {
            keys,
            values,
            capacity,
            // What is copied from one memory to another lies as anyone would expect.
            order: match keys_stay && values_stay {
                true => Order::fastest::<T>(heads, capacity),
                false => Order::Rows,
            },
            scales: match (&key_scales, &value_scales) {
                (Some(keys), Some(values)) => Some(Scales {
                    keys: channels(keys, heads)?,
                    values: channels(values, heads)?,
                }),
                _ => None,
            },
        };
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let Room {
            scratch,
            queries,
            row,
        } = &mut *room;
        if self.rotates {
            let (cosines, sines) = (given(context, input::COSINES)?, given(context, input::SINES)?);
            let rotation = Some(rotation(&cosines, &sines)?);
            tokens.place(rotation, past, queries, row, &mut cache)?;
        } else {
            tokens.place(None, past, queries, row, &mut cache)?;
        }
        let width = heads.query * heads.dim;
        #[expect(unsafe_code, reason = "as operators have their outputs")]
        // SAFETY: the output was declared so, and is asked for once.
        let out = unsafe { output(context, 0, &[1, count as i64, width as i64])? };
        let scale = self.scale.unwrap_or_else(|| (heads.dim as f32).sqrt().recip());
        let mut done = Ok(());
        let attention = Attention::new(heads, scale);
        attention.attend(queries, &cache, past, out, scratch, &mut |count, task| {
            done = context.par_for(count, 0, task);
        });
        done
    }
}

/// Tokens in the cache before the `count` new ones.
fn past(context: &ComputeContext, count: usize) -> Result<usize> {
    let last = given(context, input::LAST)?;
    let last = last.values::<i32>()?;
    let total = last.first().and_then(|last| usize::try_from(*last + 1).ok());
    let past = total.and_then(|total| total.checked_sub(count));
    past.ok_or_else(|| Error::new(format!("{count} new tokens, the last of them at {last:?}")))
}

/// The memory of keys or values, and whether it is the old one, as it usually is. What another holds of the first `filled` tokens
/// is copied.
fn memory<'a, T: Copy + PrimitiveTensorElementType>(
    new: &'a mut [T],
    old: &Input<'_>,
    heads: Heads,
    filled: usize,
) -> Result<(&'a mut [T], bool)> {
    let stays = std::ptr::eq(old.address().cast(), new.as_ptr());
    if !stays {
        let rows = old.values::<T>()?;
        let [from, to] = [rows.len(), new.len()].map(|length| length / heads.key_value);
        for head in 0..heads.key_value {
            let rows = &rows[head * from..][..filled * heads.dim];
            new[head * to..][..filled * heads.dim].copy_from_slice(rows);
        }
    }
    Ok((new, stays))
}

fn rows(memory: &Input<'_>) -> usize {
    memory.shape.get(2).map_or(0, |rows| *rows as usize)
}

/// What the new tokens bring: queries, keys and values, apart or in rows of all three.
struct Tokens<'context> {
    heads: Heads,
    count: usize,
    queries: Input<'context>,
    keys: Option<Input<'context>>,
    values: Option<Input<'context>>,
}

impl<'context> Tokens<'context> {
    fn of(context: &'context ComputeContext, query: usize, key_value: usize) -> Result<Self> {
        let queries = given(context, input::QUERY)?;
        let [keys, values] = [input::KEY, input::VALUE].map(|index| optional(context, index));
        let (keys, values) = (keys?, values?);
        let [batch, count, width] = queries.shape[..] else {
            return Err(Error::new(format!("queries of shape {:?}", &queries.shape[..])));
        };
        if batch != 1 {
            return Err(Error::new(format!("{batch} texts at once; one can be computed")));
        }
        let shares = match keys {
            Some(_) => query,
            None => query + 2 * key_value,
        };
        let heads = Heads {
            query,
            key_value,
            dim: width as usize / shares,
        };
        if !heads.are_supported() {
            return Err(Error::new(format!("{heads:?} cannot be computed here")));
        }
        Ok(Self {
            heads,
            count: count as usize,
            queries,
            keys,
            values,
        })
    }

    /// Turns queries and keys; puts queries into `queries`, `[tokens, query_heads, dim]`, and the rest into the cache behind
    /// `past` tokens.
    fn place<T: Element>(
        &self,
        rotation: Option<Rotation<'_>>,
        past: usize,
        queries: &mut Vec<f32>,
        turned: &mut Vec<f32>,
        cache: &mut Cache<'_, T>,
    ) -> Result<()> {
        let Heads {
            query,
            key_value,
            dim,
        } = self.heads;
        let (width, narrow) = (query * dim, key_value * dim);
        let first = self.queries.values::<f32>()?;
        let apart = match (&self.keys, &self.values) {
            (Some(keys), Some(values)) => {
                let keys = keys.values::<f32>()?;
                let values = values.values::<f32>()?;
                Some((keys, values))
            }
            _ => None,
        };
        queries.clear();
        for token in 0..self.count {
            let (query, key, value) = match apart {
                Some((keys, values)) => {
                    let narrow = token * narrow..(token + 1) * narrow;
                    (
                        &first[token * width..][..width],
                        &keys[narrow.clone()],
                        &values[narrow],
                    )
                }
                None => {
                    let row = &first[token * (width + 2 * narrow)..][..width + 2 * narrow];
                    (&row[..width], &row[width..width + narrow], &row[width + narrow..])
                }
            };
            let start = queries.len();
            queries.extend_from_slice(query);
            match rotation {
                None => cache.append(self.heads, past + token, key, value),
                Some(rotation) => {
                    rotation.turn(&mut queries[start..], dim, past + token);
                    turned.clear();
                    turned.extend_from_slice(key);
                    rotation.turn(turned, dim, past + token);
                    cache.append(self.heads, past + token, turned, value);
                }
            }
        }
        Ok(())
    }
}

fn rotation<'a>(cosines: &'a Input<'_>, sines: &'a Input<'_>) -> Result<Rotation<'a>> {
    let half = cosines.shape.get(1).map_or(0, |half| *half as usize);
    Ok(Rotation {
        cosines: cosines.values()?,
        sines: sines.values()?,
        half,
    })
}

/// Scales of every channel.
fn channels<'a>(scales: &'a Input<'_>, heads: Heads) -> Result<&'a [f32]> {
    let scales = scales.values()?;
    if scales.len() == heads.key_value * heads.dim {
        Ok(scales)
    } else {
        Err(Error::new(format!(
            "{} scales of a cache of {heads:?}",
            scales.len()
        )))
    }
}
