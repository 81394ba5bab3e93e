use lwv_quantize::{column_maxima, round_scaled};
use lwv_train::{CandleOps, Device, InputRounding, Tensor};

use serde::{Deserialize, Serialize};

use super::failed;
use super::inputs_seen::Seen;
use super::readers::{Maker, Readers};
use crate::{ActivationRange, Error};

/// Levels of either sign.
const LEVELS: f32 = 127.0;

/// Largest factor that a channel is divided by, and its inverse the smallest: beyond, 16 bits lose in the norm what 8 bits gain.
const MOST_MOVED: f32 = 256.0;

/// How much of a channel's size may be moved into the weights that read it: none, or this exponent of SmoothQuant
/// (arXiv 2211.10438, equation 4). Weights have a scale an output, so they take more than half of it.
const STRENGTHS: [Option<f32>; 5] = [None, Some(0.5), Some(0.65), Some(0.8), Some(0.9)];

/// SmoothQuant's own choice, where it can be had.
const AS_PUBLISHED: [Option<f32>; 2] = [Some(0.5), None];

/// How far values may go, as parts of the largest, where the least error decides.
const LIMITS: [f32; 6] = [1.0, 0.85, 0.7, 0.6, 0.5, 0.35];

/// The limit at which strengths are compared.
const USUAL_LIMIT: f32 = 0.85;

/// How what some matrices read is rounded to 8 bits, and what that costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RoundedInput {
    pub(crate) readers: Readers,
    /// What each channel is divided by before.
    pub(crate) factors: Vec<f32>,
    /// Value of one level after.
    pub(crate) step: f32,
    /// How much that and the rounding of weights change what the matrices make: squared, over what it should be squared, mean
    /// over tokens.
    pub(crate) error: f64,
}

/// Chooses factors and step by what the matrices then make of `seen`.
///
/// # Errors
/// Weights that cannot be read.
pub(crate) fn round_input(
    ops: &CandleOps,
    readers: Readers,
    shapes: &[Vec<usize>],
    seen: &Seen,
    range: ActivationRange,
) -> Result<RoundedInput, Error> {
    let trial = Trial::new(ops, &readers, shapes, seen)?;
    let unscaled = vec![1.0; seen.width()];
    let mut best = RoundedInput {
        readers: readers.clone(),
        factors: unscaled,
        step: 0.0,
        error: f64::INFINITY,
    };
    let strengths = match range {
        ActivationRange::LeastError => &STRENGTHS[..],
        _ => &AS_PUBLISHED[..],
    };
    for strength in strengths {
        let Some(factors) = trial.factors(&readers.maker, *strength) else {
            continue;
        };
        let limit = match range {
            ActivationRange::LeastError => USUAL_LIMIT,
            _ => seen.limit(&factors, range),
        };
        trial.improve(&mut best, &factors, &[limit])?;
        if range != ActivationRange::LeastError {
            break;
        }
    }
    if range == ActivationRange::LeastError {
        let factors = best.factors.clone();
        trial.improve(&mut best, &factors, &LIMITS)?;
    }
    Ok(best)
}

/// Matrices and what they are meant to make of what was seen.
struct Trial<'a> {
    seen: &'a Seen,
    /// `[rows, width]`.
    x: Tensor,
    weights: Vec<Vec<f32>>,
    /// The largest magnitude of all weights that read each channel.
    largest: Vec<f32>,
    /// Each `[rows, outputs]`.
    meant: Vec<Tensor>,
    /// Sum of squares over all outputs of each row.
    sizes: Vec<f32>,
}

impl<'a> Trial<'a> {
    fn new(ops: &CandleOps, readers: &Readers, shapes: &[Vec<usize>], seen: &'a Seen) -> Result<Self, Error> {
        let (x, width) = (seen.rows().map_err(failed)?, seen.width());
        let mut largest = vec![0.0_f32; width];
        let (mut weights, mut meant) = (Vec::new(), Vec::new());
        for (name, shape) in readers.matrices.iter().zip(shapes) {
            let weight = read(ops, name, shape)?;
            let maxima = column_maxima(&weight, width);
            largest
                .iter_mut()
                .zip(maxima)
                .for_each(|(all, one)| *all = all.max(one));
            let made = matrix(weight.clone(), width).and_then(|weight| product(&x, &weight));
            meant.push(made.map_err(failed)?);
            weights.push(weight);
        }
        let sizes = squares(&meant).map_err(failed)?;
        Ok(Self {
            seen,
            x,
            weights,
            largest,
            meant,
            sizes,
        })
    }

    /// What channels are divided by at a strength; `None` where nothing can be moved.
    fn factors(&self, maker: &Maker, strength: Option<f32>) -> Option<Vec<f32>> {
        let Some(strength) = strength else {
            return Some(vec![1.0; self.seen.width()]);
        };
        let (channels, weights) = (&self.seen.maxima, &self.largest);
        match maker {
            Maker::Other => None,
            Maker::Norm(_) => Some(balanced(channels, weights, strength)),
            Maker::Outputs(outputs) => {
                let factors = balanced(&outputs.folded(channels), &outputs.folded(weights), strength);
                Some(outputs.spread(&factors))
            }
        }
    }

    /// The matrices as they stand in the bundle, seen from the channels as they were, each `[outputs, width]`.
    fn rounded(&self, factors: &[f32]) -> Result<Vec<Tensor>, Error> {
        let round = |weight: &Vec<f32>| {
            let mut weight = weight.clone();
            round_scaled(&mut weight, factors).map_err(failed)?;
            matrix(weight, factors.len()).map_err(failed)
        };
        self.weights.iter().map(round).collect()
    }

    /// Takes one of `limits` for `best` where it has less error.
    fn improve(&self, best: &mut RoundedInput, factors: &[f32], limits: &[f32]) -> Result<(), Error> {
        let weights = self.rounded(factors)?;
        for limit in limits {
            let step = self.seen.largest(factors) * limit / LEVELS;
            let error = self.error(factors, &weights, step).map_err(failed)?;
            if error < best.error {
                *best = RoundedInput {
                    readers: best.readers.clone(),
                    factors: factors.to_vec(),
                    step,
                    error,
                };
            }
        }
        Ok(())
    }

    fn error(&self, factors: &[f32], weights: &[Tensor], step: f32) -> lwv_train::Result<f64> {
        let x = InputRounding::new(factors, step, self.x.device())?.apply(&self.x)?;
        let made: lwv_train::Result<Vec<_>> = weights.iter().map(|weight| product(&x, weight)).collect();
        let off: Vec<Tensor> = made?
            .iter()
            .zip(&self.meant)
            .map(|(made, meant)| made - meant)
            .collect::<Result<_, _>>()?;
        let off = squares(&off)?;
        let relative = off
            .iter()
            .zip(&self.sizes)
            .map(|(off, size)| f64::from(off / size.max(f32::MIN_POSITIVE)));
        Ok(relative.sum::<f64>() / self.sizes.len().max(1) as f64)
    }
}

/// Factors that make channels alike at the cost of the weights that read them, 1 in geometric mean.
fn balanced(channels: &[f32], weights: &[f32], strength: f32) -> Vec<f32> {
    let factor = |(channel, weight): (&f32, &f32)| channel.powf(strength) / weight.powf(1.0 - strength);
    let mut factors: Vec<f32> = channels.iter().zip(weights).map(factor).collect();
    let is_factor = |factor: &f32| factor.is_finite() && *factor > 0.0;
    let logarithms = factors.iter().filter(|factor| is_factor(factor));
    let (sum, count) = logarithms.fold((0.0, 0), |(sum, count), factor| (sum + factor.ln(), count + 1));
    let mean = (sum / count.max(1) as f32).exp();
    for factor in &mut factors {
        *factor = match is_factor(factor) {
            true => (*factor / mean).clamp(1.0 / MOST_MOVED, MOST_MOVED),
            false => 1.0,
        };
    }
    factors
}

/// `[outputs, width]`
fn matrix(weights: Vec<f32>, width: usize) -> lwv_train::Result<Tensor> {
    let outputs = weights.len() / width.max(1);
    Ok(Tensor::from_vec(weights, (outputs, width), &Device::Cpu)?)
}

fn product(x: &Tensor, weight: &Tensor) -> lwv_train::Result<Tensor> {
    Ok(x.matmul(&weight.t()?)?)
}

/// Sum of squares of each row over all tensors.
fn squares(tensors: &[Tensor]) -> lwv_train::Result<Vec<f32>> {
    let mut sums = Vec::new();
    for tensor in tensors {
        let of_rows: Vec<f32> = tensor.sqr()?.sum(1)?.to_vec1()?;
        sums.resize(of_rows.len(), 0.0);
        sums.iter_mut().zip(of_rows).for_each(|(sum, row)| *sum += row);
    }
    Ok(sums)
}

/// A matrix, all but its first dimension taken as one.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read(ops: &CandleOps, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
    let mut weights = Vec::with_capacity(shape.iter().product());
    let read = ops.read(name, shape, |floats| {
        weights.extend_from_slice(floats);
        Ok(())
    });
    read.map_err(failed)?;
    Ok(weights)
}
