//! Ways from candle's tensors to slices and back.

use std::cell::RefCell;
use std::marker::PhantomData;

use candle_core::{
    CpuStorage, Device, InplaceOp1, Layout, Result, Shape, Storage, StorageRef, Tensor, WithDType,
};
use rayon::prelude::*;

use super::Float;
use super::gemm::Target;

/// Rows or elements that one thread takes at a time; fixed, so that sums do not depend on the number of threads.
pub(crate) const CHUNK: usize = 16 << 10;

/// The elements of a tensor that lies in memory without gaps.
pub(crate) struct Elements<'a, T> {
    storage: StorageRef<'a>,
    start: usize,
    length: usize,
    kind: PhantomData<T>,
}

impl<T: WithDType> Elements<'_, T> {
    /// The elements in row-major order.
    pub(crate) fn slice(&self) -> Result<&[T]> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(&T::cpu_storage_as_slice(storage)?[self.start..][..self.length]),
            _ => Err(candle_core::Error::Msg(
                "the tensor is not in the host's memory".into(),
            )),
        }
    }
}

/// Reads `tensor`, which must be contiguous.
pub(crate) fn elements<T: WithDType>(tensor: &Tensor) -> Result<Elements<'_, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| candle_core::Error::Msg("the tensor is not contiguous".into()))?;
    Ok(Elements {
        storage,
        start,
        length: end - start,
        kind: PhantomData,
    })
}

/// A tensor in the host's memory that takes over `values`.
pub(crate) fn tensor<T: WithDType>(values: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Lets `change` write to the elements of `tensor`, which must be contiguous and nobody else's.
pub(crate) fn update<T: Float, R>(tensor: &Tensor, change: impl FnOnce(&mut [T]) -> R) -> Result<R> {
    let state = Update {
        change: RefCell::new(Some(change)),
        result: RefCell::new(None),
        kind: PhantomData,
    };
    tensor.inplace_op1(&state)?;
    state
        .result
        .into_inner()
        .ok_or_else(|| candle_core::Error::Msg("the tensor is not of the type that is written".into()))
}

struct Update<T, F, R> {
    change: RefCell<Option<F>>,
    result: RefCell<Option<R>>,
    kind: PhantomData<T>,
}

impl<T: Float, R, F: FnOnce(&mut [T]) -> R> InplaceOp1 for Update<T, F, R> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(candle_core::Error::Msg("the tensor is not contiguous".into()));
        };
        if let (Some(change), Some(values)) = (self.change.take(), T::elements_mut(storage)) {
            self.result.replace(Some(change(&mut values[start..end])));
        }
        Ok(())
    }
}

/// Runs `f` with the widest vector instructions that the machine has.
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// `f` of every element.
pub(crate) fn map<T: Float>(x: &[T], f: impl Fn(T) -> T + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    let chunks = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    chunks.for_each(|(out, x)| {
        vectorized(
            #[inline(always)]
            || out.iter_mut().zip(x).for_each(|(out, x)| *out = f(*x)),
        );
    });
    out
}

/// `f` of every pair of elements.
pub(crate) fn map2<T: Float>(x: &[T], y: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    let chunks = out
        .par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .zip(y.par_chunks(CHUNK));
    chunks.for_each(|((out, x), y)| {
        vectorized(
            #[inline(always)]
            || {
                for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                    *out = f(*x, *y);
                }
            },
        );
    });
    out
}

/// Rows whose contributions are summed up together before they join the others'.
const ROWS: usize = 64;

/// Sums over the rows of `values`, `width` columns wide. `add(row, index, sums)` adds one row's contribution. The
/// order of the additions depends on nothing but the number of rows.
pub(crate) fn column_sums<T: Float>(
    values: &[T],
    width: usize,
    add: impl Fn(&[T], usize, &mut [T]) + Sync,
) -> Vec<T> {
    let partial = |(block, rows): (usize, &[T])| {
        let mut sums = vec![T::zero(); width];
        vectorized(
            #[inline(always)]
            || {
                for (row, values) in rows.chunks(width).enumerate() {
                    add(values, block * ROWS + row, &mut sums);
                }
            },
        );
        sums
    };
    let partials: Vec<Vec<T>> = values.par_chunks(ROWS * width).enumerate().map(partial).collect();
    let mut total = vec![T::zero(); width];
    for sums in partials {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
    total
}

/// Writes `values` into `target`, or adds them.
pub(crate) fn store<T: Float>(target: &mut [T], values: &[T], keep: Target) {
    match keep {
        Target::Replace => target.copy_from_slice(values),
        Target::Add => target
            .iter_mut()
            .zip(values)
            .for_each(|(target, value)| *target += *value),
    }
}

/// Sum of the squares of `values`, in f64.
#[inline(always)]
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>()
}
