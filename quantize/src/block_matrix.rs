use rayon::prelude::*;

use crate::scale::{inverse, plain_scale};
use crate::{Bits, BlockScheme, Error};

/// A quantized matrix in the layout of ONNX Runtime's `MatMulNBits`, whose weight is `[outputs, inputs]`.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockMatrix {
    /// How it is quantized.
    pub scheme: BlockScheme,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// `[rows, blocks, block_bytes]`: each weight's level plus 8 or 128; of two weights in a byte the first in its low half.
    pub codes: Vec<u8>,
    /// `[rows, blocks]`.
    pub scales: Vec<f32>,
}

impl BlockMatrix {
    /// A matrix of zeros.
    pub(crate) fn zeros(rows: usize, columns: usize, scheme: BlockScheme) -> Self {
        let blocks = rows * scheme.blocks(columns);
        let zero = match scheme.bits {
            Bits::Four => 0x88,
            Bits::Eight => 0x80,
        };
        Self {
            scheme,
            rows,
            columns,
            codes: vec![zero; blocks * scheme.block_bytes()],
            scales: vec![0.0; blocks],
        }
    }

    /// Codes and scales of each row, to be written.
    pub(crate) fn rows_mut(&mut self) -> impl IndexedParallelIterator<Item = (&mut [u8], &mut [f32])> {
        let blocks = self.scheme.blocks(self.columns);
        let bytes = blocks * self.scheme.block_bytes();
        self.codes
            .par_chunks_mut(bytes.max(1))
            .zip(self.scales.par_chunks_mut(blocks.max(1)))
    }

    /// The weights that this stands for, `[rows, columns]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut weights = vec![0.0; self.rows * self.columns];
        let blocks = self.scheme.blocks(self.columns);
        let bytes = blocks * self.scheme.block_bytes();
        weights
            .par_chunks_mut(self.columns.max(1))
            .enumerate()
            .for_each(|(row, weights)| {
                let codes = &self.codes[row * bytes..][..bytes];
                let scales = &self.scales[row * blocks..][..blocks];
                for (index, block) in weights.chunks_mut(self.scheme.block_size).enumerate() {
                    let codes = &codes[index * self.scheme.block_bytes()..];
                    for (place, weight) in block.iter_mut().enumerate() {
                        *weight = level_at(codes, place, self.scheme.bits) as f32 * scales[index];
                    }
                }
            });
        weights
    }
}

/// Quantizes `weights` `[rows, columns]`: each block by the scale that represents its largest weight exactly, each weight to
/// the nearest level.
///
/// # Errors
/// A weight that is not finite, no whole number of rows.
pub fn round_to_nearest(weights: &[f32], columns: usize, scheme: BlockScheme) -> Result<BlockMatrix, Error> {
    let rows = row_count(weights, columns)?;
    let mut matrix = BlockMatrix::zeros(rows, columns, scheme);
    let whole = weights.par_chunks(columns.max(1));
    matrix
        .rows_mut()
        .zip(whole)
        .for_each(|((codes, scales), weights)| {
            let blocks = weights
                .chunks(scheme.block_size)
                .zip(codes.chunks_mut(scheme.block_bytes()));
            for ((block, codes), scale) in blocks.zip(scales) {
                *scale = plain_scale(block, scheme);
                let inverse = inverse(*scale);
                for (place, weight) in block.iter().enumerate() {
                    put_level(codes, place, scheme.bits, scheme.bits.level(weight * inverse));
                }
            }
        });
    Ok(matrix)
}

/// How many rows a matrix has, all of whose weights are finite.
pub(crate) fn row_count(weights: &[f32], columns: usize) -> Result<usize, Error> {
    if columns == 0 || !weights.len().is_multiple_of(columns) {
        return Err(Error::Rows {
            weights: weights.len(),
            columns,
        });
    }
    match weights.iter().position(|weight| !weight.is_finite()) {
        Some(index) => Err(Error::NotFinite {
            row: index / columns,
            column: index % columns,
            value: weights[index],
        }),
        None => Ok(weights.len() / columns),
    }
}

/// Writes the level of weight number `place` of a block.
pub(crate) fn put_level(codes: &mut [u8], place: usize, bits: Bits, level: i32) {
    let code = (level + bits.offset()) as u8;
    match bits {
        Bits::Eight => codes[place] = code,
        Bits::Four if place.is_multiple_of(2) => codes[place / 2] = codes[place / 2] & 0xf0 | code,
        Bits::Four => codes[place / 2] = codes[place / 2] & 0x0f | code << 4,
    }
}

fn level_at(codes: &[u8], place: usize, bits: Bits) -> i32 {
    let code = match bits {
        Bits::Eight => codes[place],
        Bits::Four if place.is_multiple_of(2) => codes[place / 2] & 0x0f,
        Bits::Four => codes[place / 2] >> 4,
    };
    i32::from(code) - bits.offset()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * (1.0 + (i % 5) as f32))
            .collect()
    }

    #[test]
    fn no_weight_moves_by_more_than_half_a_step_but_where_levels_end() {
        for bits in [Bits::Four, Bits::Eight] {
            let scheme = BlockScheme::new(bits, 32).unwrap();
            let original = weights(3 * 100);
            let matrix = round_to_nearest(&original, 100, scheme).unwrap();
            let back = matrix.dequantize();
            for (index, (a, b)) in original.iter().zip(&back).enumerate() {
                let scale = matrix.scales[index / 100 * 4 + index % 100 / 32].abs();
                // The side that the largest weight is not on has one level less.
                let most = if b.abs() < scale * (bits.offset() as f32 - 1.5) {
                    0.5
                } else {
                    1.0
                };
                assert!(
                    (a - b).abs() <= scale * (most + 1e-5),
                    "{a} became {b}, a step is {scale}"
                );
            }
        }
    }

    #[test]
    fn weights_on_levels_survive_exactly() {
        let scheme = BlockScheme::new(Bits::Four, 16).unwrap();
        let original: Vec<f32> = (-8..8).map(|level| level as f32 * 0.25).collect();
        let matrix = round_to_nearest(&original, 16, scheme).unwrap();
        assert_eq!(matrix.dequantize(), original);
        // The first of two weights is the low half: levels -8 and -7 are codes 0 and 1.
        assert_eq!((matrix.codes[0], matrix.codes[7]), (0x10, 0xfe));
    }

    #[test]
    fn a_short_last_block_is_filled_with_zeros() {
        let scheme = BlockScheme::new(Bits::Four, 16).unwrap();
        let matrix = round_to_nearest(&[1.0; 20], 20, scheme).unwrap();
        assert_eq!((matrix.codes.len(), matrix.scales.len()), (16, 2));
        assert_eq!(matrix.codes[10..], [0x88; 6]);
        assert_eq!(matrix.dequantize(), [1.0; 20]);
    }

    #[test]
    fn a_weight_that_is_no_number_is_named() {
        let scheme = BlockScheme::new(Bits::Eight, 16).unwrap();
        let error = round_to_nearest(&[0.0, 1.0, 2.0, f32::NAN], 2, scheme).unwrap_err();
        assert!(
            matches!(
                error,
                Error::NotFinite {
                    row: 1,
                    column: 1,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn zeros_stay_zeros() {
        let scheme = BlockScheme::new(Bits::Four, 16).unwrap();
        assert_eq!(
            round_to_nearest(&[0.0; 32], 32, scheme).unwrap().dequantize(),
            [0.0; 32]
        );
    }
}
