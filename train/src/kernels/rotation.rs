use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Float, host, on_host};

/// Which way heads are turned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// As the network does.
    Forward,
    /// Back: the transposed rotation, which is the gradient's.
    Back,
}

/// Rotates every head of `x` `[…, heads · head_dim]`, the first half of a head against its second. `cos` and `sin`
/// are `[tokens, head_dim / 2]`.
pub(crate) fn rotate(x: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor, turn: Turn) -> Result<Tensor> {
    let x = x.contiguous()?;
    on_host!(x, rotate_host(&x, heads, cos, sin, turn), {
        let (tokens, half) = cos.dims2()?;
        let split = x.to_dtype(cos.dtype())?.reshape((tokens, heads, 2, half))?;
        let (first, second) = (split.narrow(2, 0, 1)?, split.narrow(2, 1, 1)?);
        let cos = cos.reshape((tokens, 1, 1, half))?;
        let sin = sin.reshape((tokens, 1, 1, half))?;
        let sin = if turn == Turn::Forward { sin } else { sin.neg()? };
        let turned_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
        let turned_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
        Tensor::cat(&[turned_first, turned_second], 2)?
            .reshape(x.shape())?
            .to_dtype(x.dtype())
    })
}

fn rotate_host<T: Float>(x: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor, turn: Turn) -> Result<Tensor> {
    let (_, half) = cos.dims2()?;
    let (cos, sin) = (cos.to_dtype(T::DTYPE)?, sin.to_dtype(T::DTYPE)?);
    let (values, cos, sin) = (
        host::elements::<T>(x)?,
        host::elements::<T>(&cos)?,
        host::elements::<T>(&sin)?,
    );
    let (values, cos, sin) = (values.slice()?, cos.slice()?, sin.slice()?);
    let sign = if turn == Turn::Forward {
        T::one()
    } else {
        -T::one()
    };
    let width = heads * 2 * half;
    let mut out = vec![T::zero(); values.len()];
    let rows = out
        .par_chunks_mut(width)
        .zip(values.par_chunks(width))
        .zip(cos.par_chunks(half).zip(sin.par_chunks(half)));
    rows.with_min_len(16).for_each(|((out, row), (cos, sin))| {
        host::vectorized(
            #[inline(always)]
            || {
                for (out, head) in out.chunks_exact_mut(2 * half).zip(row.chunks_exact(2 * half)) {
                    rotate_head(out, head, cos, sin, sign);
                }
            },
        );
    });
    host::tensor(out, x.shape())
}

#[inline(always)]
fn rotate_head<T: Float>(out: &mut [T], head: &[T], cos: &[T], sin: &[T], sign: T) {
    let half = cos.len();
    let ((out_first, out_second), (first, second)) = (out.split_at_mut(half), head.split_at(half));
    for (i, (a, b)) in first.iter().zip(second).enumerate() {
        let sin = sin[i] * sign;
        out_first[i] = *a * cos[i] - *b * sin;
        out_second[i] = *b * cos[i] + *a * sin;
    }
}
