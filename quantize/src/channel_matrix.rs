use rayon::prelude::*;

use crate::Error;
use crate::block_matrix::row_count;

/// Largest level of 8 bits, either way: without -128, so that a scale serves both signs alike.
const LARGEST: f32 = 127.0;

/// Added and taken away again, it leaves the nearest whole number of a small float, halves to even: vector units of every
/// x86-64 can do that, while rounding itself is a call for each weight there.
const WHOLE: f32 = 12_582_912.0;

/// A matrix of 8-bit integers with one positive scale for each output.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelMatrix {
    /// `[rows, columns]`, levels from -127 to 127.
    pub codes: Vec<i8>,
    /// `[rows]`.
    pub scales: Vec<f32>,
}

impl ChannelMatrix {
    /// Quantizes `weights` `[rows, columns]`, each row by the scale that represents its largest weight exactly.
    ///
    /// # Errors
    /// A weight that is not finite, no whole number of rows.
    pub fn round(weights: &[f32], columns: usize) -> Result<Self, Error> {
        let rows = row_count(weights, columns)?;
        let (mut codes, mut scales) = (vec![0; weights.len()], vec![1.0; rows]);
        let rows = weights.par_chunks(columns).zip(codes.par_chunks_mut(columns));
        rows.zip(&mut scales).for_each(|((weights, codes), scale)| {
            *scale = row_scale(weights);
            for (code, weight) in codes.iter_mut().zip(weights) {
                *code = level(*weight, *scale) as i8;
            }
        });
        Ok(Self { codes, scales })
    }

    /// The weights that the codes stand for, `[rows, columns]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let columns = self.codes.len() / self.scales.len().max(1);
        let mut weights = vec![0.0; self.codes.len()];
        let rows = weights
            .par_chunks_mut(columns.max(1))
            .zip(self.codes.par_chunks(columns.max(1)));
        rows.zip(&self.scales).for_each(|((weights, codes), scale)| {
            for (weight, code) in weights.iter_mut().zip(codes) {
                *weight = f32::from(*code) * scale;
            }
        });
        weights
    }
}

/// Rounds `weights` `[rows, factors]` in place: each column is multiplied by its factor, every row rounded as in a
/// [`ChannelMatrix`], and each column divided by its factor again.
///
/// # Errors
/// A weight that is not finite, or is not any more where its column was multiplied; no whole number of rows.
pub fn round_scaled(weights: &mut [f32], factors: &[f32]) -> Result<(), Error> {
    let columns = factors.len();
    row_count(weights, columns)?;
    let rows = weights.par_chunks_mut(columns).enumerate();
    rows.try_for_each(|(row, weights)| {
        for (weight, factor) in weights.iter_mut().zip(factors) {
            *weight *= factor;
        }
        if let Some(column) = weights.iter().position(|weight| !weight.is_finite()) {
            let value = weights[column];
            return Err(Error::NotFinite { row, column, value });
        }
        let scale = row_scale(weights);
        for (weight, factor) in weights.iter_mut().zip(factors) {
            *weight = level(*weight, scale) * scale / factor;
        }
        Ok(())
    })
}

/// The largest magnitude of every column of `weights` `[rows, columns]`.
pub fn column_maxima(weights: &[f32], columns: usize) -> Vec<f32> {
    let raise = |mut maxima: Vec<f32>, row: &[f32]| {
        for (most, weight) in maxima.iter_mut().zip(row) {
            *most = most.max(weight.abs());
        }
        maxima
    };
    let none = || vec![0.0; columns];
    weights
        .par_chunks(columns.max(1))
        .fold(none, raise)
        .reduce(none, |maxima, others| raise(maxima, &others))
}

/// The scale that represents a row's largest weight exactly. A row of zeros has one that nothing is divided by in vain.
fn row_scale(weights: &[f32]) -> f32 {
    let largest = weights
        .iter()
        .fold(0.0_f32, |most, weight| most.max(weight.abs()));
    if largest > 0.0 { largest / LARGEST } else { 1.0 }
}

/// The level of a weight, from -127 to 127.
fn level(weight: f32, scale: f32) -> f32 {
    (weight / scale + WHOLE - WHOLE).clamp(-LARGEST, LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_is_within_half_a_step() {
        let weights: Vec<f32> = (0..96).map(|i| ((i * 37 % 29) as f32 - 14.0) * 0.03).collect();
        let matrix = ChannelMatrix::round(&weights, 32).unwrap();
        let back = matrix.dequantize();
        for (index, (back, weight)) in back.iter().zip(&weights).enumerate() {
            let step = matrix.scales[index / 32];
            assert!((back - weight).abs() <= step * 0.5001, "{back} {weight}");
        }
    }

    #[test]
    fn zeros_stay_zeros_and_no_number_is_refused() {
        let matrix = ChannelMatrix::round(&[0.0; 4], 4).unwrap();
        assert_eq!((matrix.codes, matrix.scales), (vec![0; 4], vec![1.0]));
        assert!(ChannelMatrix::round(&[0.0, f32::NAN], 2).is_err());
    }

    #[test]
    fn levels_are_the_nearest_and_halves_go_to_even() {
        for eighths in -1016..=1016 {
            let level = level(eighths as f32, 8.0);
            assert_eq!(level, (eighths as f32 / 8.0).round_ties_even());
        }
        assert_eq!(level(-1e6, 1.0), -LARGEST);
    }

    #[test]
    fn columns_are_scaled_for_rounding_only() {
        let weights: Vec<f32> = (0..96).map(|i| ((i * 37 % 29) as f32 - 14.0) * 0.03).collect();
        let factors: Vec<f32> = (0..32).map(|i| 0.25 + i as f32 * 0.125).collect();
        let scale = |weights: &[f32], by: fn(f32, f32) -> f32| -> Vec<f32> {
            let factors = factors.iter().cycle();
            weights.iter().zip(factors).map(|(w, f)| by(*w, *f)).collect()
        };
        let matrix = ChannelMatrix::round(&scale(&weights, |w, f| w * f), 32).unwrap();
        let mut rounded = weights.clone();
        round_scaled(&mut rounded, &factors).unwrap();
        assert_eq!(rounded, scale(&matrix.dequantize(), |w, f| w / f));
        assert!(round_scaled(&mut [1.0, f32::INFINITY], &[1.0, 1.0]).is_err());
        assert!(round_scaled(&mut [1.0, 2e38], &[1.0, 256.0]).is_err());
    }

    #[test]
    fn maxima_are_of_magnitudes_of_all_rows() {
        assert_eq!(column_maxima(&[1.0, -5.0, -3.0, 2.0, 0.5, 0.0], 2), [3.0, 5.0]);
    }
}
