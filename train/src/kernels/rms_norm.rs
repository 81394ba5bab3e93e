use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::float::{dot, sum};
use super::gradient::{Gradient, wide};
use super::{Float, host, on_host};

/// `x / sqrt(mean(x²) + eps) · weight` over the last dimension.
pub(crate) fn forward(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let x = x.contiguous()?;
    on_host!(x, forward_host(&x, weight, eps), {
        let wide_x = wide(&x)?;
        let scaled = wide_x.broadcast_mul(&inverse_rms(&wide_x, eps)?)?;
        scaled.broadcast_mul(&wide(weight)?)?.to_dtype(x.dtype())
    })
}

/// Gradient of `x`, given that of the result; the gradient of `weight` is added to `sum` where there is one.
pub(crate) fn backward(
    grad: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    sum: Option<&Gradient>,
) -> Result<Tensor> {
    let (grad, x) = (grad.contiguous()?, x.contiguous()?);
    on_host!(x, backward_host(&grad, &x, weight, eps, sum), {
        let (wide_grad, wide_x) = (wide(&grad)?, wide(&x)?);
        let inverse = inverse_rms(&wide_x, eps)?;
        let normed = wide_x.broadcast_mul(&inverse)?;
        if let Some(sum) = sum {
            let width = weight.dim(0)?;
            sum.add(&(&wide_grad * &normed)?.reshape(((), width))?.sum(0)?)?;
        }
        let weighted = wide_grad.broadcast_mul(&wide(weight)?)?;
        let mean = (&weighted * &normed)?.mean_keepdim(D::Minus1)?;
        (weighted - normed.broadcast_mul(&mean)?)?
            .broadcast_mul(&inverse)?
            .to_dtype(x.dtype())
    })
}

fn inverse_rms(x: &Tensor, eps: f64) -> Result<Tensor> {
    (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()
}

#[inline(always)]
fn inverse_rms_of<T: Float>(row: &[T], eps: T) -> T {
    let width = T::from_f64(row.len() as f64);
    (sum(row, |v| v * v) / width + eps).sqrt().recip()
}

fn forward_host<T: Float>(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (width, eps) = (weight.dim(0)?, T::from_f64(eps));
    let (values, weight) = (host::elements::<T>(x)?, host::elements::<T>(weight)?);
    let (values, weight) = (values.slice()?, weight.slice()?);
    let mut out = vec![T::zero(); values.len()];
    let rows = out.par_chunks_mut(width).zip(values.par_chunks(width));
    rows.with_min_len(16).for_each(|(out, row)| {
        host::vectorized(
            #[inline(always)]
            || {
                let inverse = inverse_rms_of(row, eps);
                for ((out, value), weight) in out.iter_mut().zip(row).zip(weight) {
                    *out = *value * inverse * *weight;
                }
            },
        );
    });
    host::tensor(out, x.shape())
}

fn backward_host<T: Float>(
    grad: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    sum: Option<&Gradient>,
) -> Result<Tensor> {
    let (width, eps) = (weight.dim(0)?, T::from_f64(eps));
    let (grad, values, weight) = (
        host::elements::<T>(grad)?,
        host::elements::<T>(x)?,
        host::elements::<T>(weight)?,
    );
    let (grad, values, weight) = (grad.slice()?, values.slice()?, weight.slice()?);
    if let Some(sum) = sum {
        let columns = host::column_sums(grad, width, |grad, index, sums| {
            let row = &values[index * width..][..width];
            let inverse = inverse_rms_of(row, eps);
            for ((sum, grad), value) in sums.iter_mut().zip(grad).zip(row) {
                *sum += *grad * *value * inverse;
            }
        });
        sum.add_with(&[width], |sum, keep| host::store(sum, &columns, keep))?;
    }
    let mut out = vec![T::zero(); values.len()];
    let rows = out
        .par_chunks_mut(width)
        .zip(values.par_chunks(width))
        .zip(grad.par_chunks(width));
    rows.with_min_len(16).for_each(|((out, row), grad)| {
        host::vectorized(
            #[inline(always)]
            || backward_row(out, row, grad, weight, eps),
        );
    });
    host::tensor(out, x.shape())
}

/// With n = x · inverse and w = grad · weight: inverse · (w − n · mean(w · n)).
#[inline(always)]
fn backward_row<T: Float>(out: &mut [T], row: &[T], grad: &[T], weight: &[T], eps: T) {
    let inverse = inverse_rms_of(row, eps);
    out.iter_mut()
        .zip(grad)
        .zip(weight)
        .for_each(|((out, grad), weight)| *out = *grad * *weight);
    let mean = dot(out, row) * inverse / T::from_f64(row.len() as f64);
    for (out, value) in out.iter_mut().zip(row) {
        *out = (*out - *value * inverse * mean) * inverse;
    }
}
