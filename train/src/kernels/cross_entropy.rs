//! Head and cross-entropy in one, over chunks of rows: the logits of all rows are never there at once.

use candle_core::{D, DType, Result, Tensor};
use rayon::prelude::*;

use super::float::{max, sum};
use super::gradient::{Gradient, wide};
use super::{Float, host, linear, on_host};

/// Bytes of logits that are held at a time.
const LOGIT_BYTES: usize = 64 << 20;

/// The rows that a loss is taken of.
pub(crate) struct Supervised<'a> {
    /// `[rows, hidden]`, after the last norm.
    pub(crate) x: &'a Tensor,
    /// The token that each row must predict.
    pub(crate) targets: &'a [u32],
}

impl Supervised<'_> {
    fn chunk_rows(&self, vocabulary: usize) -> usize {
        (LOGIT_BYTES / 4 / vocabulary).max(1).next_multiple_of(64)
    }

    /// The rows in chunks, with their targets.
    fn chunks(&self, vocabulary: usize) -> Result<Vec<(Tensor, &[u32])>> {
        let rows = self.chunk_rows(vocabulary);
        let chunks = self.targets.chunks(rows).enumerate();
        chunks
            .map(|(i, targets)| Ok((self.x.narrow(0, i * rows, targets.len())?, targets)))
            .collect()
    }
}

/// `−log softmax(x · headᵀ)[target]` of each row.
pub(crate) fn losses(rows: &Supervised<'_>, head: &Tensor) -> Result<Vec<f64>> {
    let mut losses = Vec::with_capacity(rows.targets.len());
    for (x, targets) in rows.chunks(head.dim(0)?)? {
        let logits = linear::forward(&x, head, None)?;
        // The gradient comes with the losses, and costs little beside the logits.
        losses.extend(take_losses(&logits, targets, &vec![1.0; targets.len()])?.0);
    }
    Ok(losses)
}

/// The sum of [`losses`], each multiplied with its row's of `weights`, with the gradient of `x`; the head's is added to
/// `sum` where there is one. A loss is the end of the network, so its gradient is known at once, and no logits are
/// computed twice.
pub(crate) fn loss_and_gradient(
    rows: &Supervised<'_>,
    weights: &[f64],
    head: &Tensor,
    sum: Option<&Gradient>,
) -> Result<(f64, Tensor)> {
    let mut total = 0.0;
    let mut pieces = Vec::new();
    let mut weights = weights.iter().copied();
    for (x, targets) in rows.chunks(head.dim(0)?)? {
        let logits = linear::forward(&x, head, None)?;
        let weights: Vec<f64> = weights.by_ref().take(targets.len()).collect();
        let (losses, slopes) = take_losses(&logits, targets, &weights)?;
        drop(logits);
        total += losses
            .iter()
            .zip(&weights)
            .map(|(loss, weight)| loss * weight)
            .sum::<f64>();
        if let Some(sum) = sum {
            linear::add_weight_gradient(&slopes, &x, head.dims(), sum)?;
        }
        pieces.push(linear::input_gradient(&slopes, head)?);
    }
    Ok((total, Tensor::cat(&pieces, 0)?))
}

/// Losses of a chunk's rows, and the gradient of its logits. On the host the logits themselves become the gradient.
fn take_losses(logits: &Tensor, targets: &[u32], weights: &[f64]) -> Result<(Vec<f64>, Tensor)> {
    on_host!(logits, take_losses_host(logits, targets, weights), {
        let wide_logits = wide(logits)?;
        let log_sums = wide_logits.log_sum_exp(D::Minus1)?.unsqueeze(1)?;
        let ids = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
        let losses = (&log_sums - wide_logits.gather(&ids, 1)?)?;
        let losses = losses.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        let weights = Tensor::new(weights, logits.device())?
            .unsqueeze(1)?
            .to_dtype(wide_logits.dtype())?;
        let slopes = wide_logits
            .broadcast_sub(&log_sums)?
            .exp()?
            .broadcast_mul(&weights)?;
        Ok((
            losses,
            slopes
                .scatter_add(&ids, &weights.neg()?, 1)?
                .to_dtype(logits.dtype())?,
        ))
    })
}

fn take_losses_host<T: Float>(
    logits: &Tensor,
    targets: &[u32],
    weights: &[f64],
) -> Result<(Vec<f64>, Tensor)> {
    let vocabulary = logits.dim(1)?;
    let row = |((row, &target), &weight): ((&mut [T], &u32), &f64)| {
        host::vectorized(
            #[inline(always)]
            || take_loss(row, target as usize, T::from_f64(weight)),
        )
    };
    let losses: Vec<f64> = host::update(logits, |values: &mut [T]| {
        let rows = values.par_chunks_mut(vocabulary).zip(targets).zip(weights);
        rows.map(row).collect()
    })?;
    Ok((losses, logits.clone()))
}

/// Loss of one row, whose logits become `weight · (softmax − one-hot)`.
#[inline(always)]
fn take_loss<T: Float>(row: &mut [T], target: usize, weight: T) -> f64 {
    let largest = max(row);
    let wanted = row[target];
    row.iter_mut()
        .for_each(|value| *value = (*value - largest).fast_exp());
    let total = sum(row, |value| value);
    let share = weight / total;
    row.iter_mut().for_each(|value| *value *= share);
    row[target] -= weight;
    (largest + total.ln() - wanted).to_f64()
}
