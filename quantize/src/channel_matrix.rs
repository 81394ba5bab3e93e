use rayon::prelude::*;

use crate::Error;
use crate::block_matrix::row_count;

/// Largest level of 8 bits, either way: without -128, so that a scale serves both signs alike.
const LARGEST: f32 = 127.0;

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
            let largest = weights
                .iter()
                .fold(0.0_f32, |most, weight| most.max(weight.abs()));
            // A row of zeros keeps a scale that nothing is divided by in vain.
            if largest > 0.0 {
                *scale = largest / LARGEST;
            }
            for (code, weight) in codes.iter_mut().zip(weights) {
                *code = (weight / *scale).round_ties_even().clamp(-LARGEST, LARGEST) as i8;
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
}
