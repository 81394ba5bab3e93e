use faer::linalg::matmul::matmul;
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::block_matrix::{put_level, row_count};
use crate::hessian::InverseFactor;
use crate::scale::{best_scale, inverse};
use crate::{BlockMatrix, BlockScheme, Error, Hessian};

/// Rows that one thread works on: enough for products that are worth it, few enough to keep all threads at work.
const ROWS: usize = 32;

/// Quantizes matrices of a layer by what the layer reads: each block by the scale of least error, inputs counted by their
/// mean square; and what rounding a weight changes in the layer's output is made up for, as far as inputs vary together, by
/// the weights of its row that come after (GPTQ, arXiv 2210.17323, without reordering). Where the Hessian has seen what the
/// layer was meant to read, weights are first moved to make up for that difference (as GPTAQ, arXiv 2504.02692, does).
///
/// Rows do not depend on each other, so a large matrix may be given in pieces.
pub struct Compensator {
    columns: usize,
    factors: Vec<InverseFactor>,
}

impl Compensator {
    /// For the matrices of a layer that reads what `hessian` has seen.
    ///
    /// # Errors
    /// What was seen is not finite.
    pub fn new(hessian: Hessian) -> Result<Self, Error> {
        Ok(Self {
            columns: hessian.columns(),
            factors: hessian.into_inverse_factors()?,
        })
    }

    /// Quantizes `weights` `[rows, columns]`.
    ///
    /// # Errors
    /// A weight that is not finite, or no whole number of rows of the Hessian's width.
    pub fn quantize(&self, mut weights: Vec<f32>, scheme: BlockScheme) -> Result<BlockMatrix, Error> {
        let columns = self.columns;
        let rows = row_count(&weights, columns)?;
        let mut matrix = BlockMatrix::zeros(rows, columns, scheme);
        let (blocks, bytes) = (
            scheme.blocks(columns),
            scheme.blocks(columns) * scheme.block_bytes(),
        );
        let codes = matrix.codes.par_chunks_mut(ROWS * bytes);
        let scales = matrix.scales.par_chunks_mut(ROWS * blocks);
        weights
            .par_chunks_mut(ROWS * columns)
            .zip(codes.zip(scales))
            .for_each(|(weights, (codes, scales))| {
                let mut rows = Rows {
                    scheme,
                    columns,
                    weights,
                    codes,
                    scales,
                };
                for factor in &self.factors {
                    rows.compensate(factor);
                }
            });
        Ok(matrix)
    }
}

/// Neighbouring rows of a matrix: what is left of their weights, and what comes out.
struct Rows<'a> {
    scheme: BlockScheme,
    columns: usize,
    weights: &'a mut [f32],
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

impl Rows<'_> {
    /// Moves the weights of one group so that they answer what the layer reads as they would have answered what it was meant
    /// to read.
    fn correct(&mut self, factor: &InverseFactor) {
        let (count, size) = (self.weights.len() / self.columns, factor.size);
        let Some(correction) = &factor.correction else {
            return;
        };
        let correction = MatRef::from_row_major_slice(correction, size, size);
        let weights = MatMut::from_row_major_slice_mut(self.weights, count, self.columns);
        let mut weights = weights.subcols_mut(factor.start, size);
        let before = weights.rb().to_owned();
        matmul(
            weights.rb_mut(),
            Accum::Add,
            before.as_ref(),
            correction,
            1.0,
            Par::Seq,
        );
    }

    /// Quantizes the inputs of one group.
    fn compensate(&mut self, factor: &InverseFactor) {
        self.correct(factor);
        let count = self.weights.len() / self.columns;
        let size = factor.size;
        for start in (0..size).step_by(self.scheme.block_size) {
            let length = self.scheme.block_size.min(size - start);
            let mut errors = vec![0.0; count * length];
            for row in 0..count {
                self.quantize_block(row, start, factor, &mut errors[row * length..][..length]);
            }
            let rest = size - start - length;
            if rest == 0 {
                continue;
            }
            let weights = MatMut::from_row_major_slice_mut(self.weights, count, self.columns);
            let later = weights.subcols_mut(factor.start + start + length, rest);
            let upper = MatRef::from_row_major_slice(&factor.upper, size, size);
            let upper = upper.submatrix(start, start + length, length, rest);
            let errors = MatRef::from_row_major_slice(&errors, count, length);
            matmul(later, Accum::Add, errors, upper, -1.0, Par::Seq);
        }
    }

    /// Quantizes one block of one row and leaves in `errors` what the inputs after it have to make up for.
    fn quantize_block(&mut self, row: usize, start: usize, factor: &InverseFactor, errors: &mut [f32]) {
        let scheme = self.scheme;
        let index = row * scheme.blocks(self.columns) + (factor.start + start) / scheme.block_size;
        let block = &mut self.weights[row * self.columns + factor.start + start..][..errors.len()];
        let scale = best_scale(block, &factor.importance[start..start + errors.len()], scheme);
        let inverse = inverse(scale);
        let codes = &mut self.codes[index * scheme.block_bytes()..][..scheme.block_bytes()];
        for place in 0..block.len() {
            let level = scheme.bits.level(block[place] * inverse);
            put_level(codes, place, scheme.bits, level);
            let upper = &factor.upper[(start + place) * factor.size + start..][..block.len()];
            errors[place] = (block[place] - level as f32 * scale) / upper[place];
            for later in place + 1..block.len() {
                block[later] -= errors[place] * upper[later];
            }
        }
        self.scales[index] = scale;
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{Bits, round_to_nearest};

    const ROWS: usize = 40;
    const COLUMNS: usize = 96;
    const SAMPLES: usize = 400;

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    /// Inputs that vary together: each is a mixture of a few causes.
    fn inputs() -> Vec<f32> {
        let (causes, mixture) = (random(SAMPLES * 8, 1), random(8 * COLUMNS, 2));
        let noise = random(SAMPLES * COLUMNS, 3);
        let mixed = |row: usize, column: usize| -> f32 {
            (0..8)
                .map(|k| causes[row * 8 + k] * mixture[k * COLUMNS + column])
                .sum()
        };
        (0..SAMPLES * COLUMNS)
            .map(|i| mixed(i / COLUMNS, i % COLUMNS) + 0.1 * noise[i])
            .collect()
    }

    /// Squared error of a layer's outputs.
    fn output_error(inputs: &[f32], weights: &[f32], other: &[f32]) -> f64 {
        let change: Vec<f32> = weights.iter().zip(other).map(|(a, b)| a - b).collect();
        let outputs = inputs.chunks(COLUMNS).flat_map(|x| {
            change
                .chunks(COLUMNS)
                .map(move |w| f64::from(x.iter().zip(w).map(|(a, b)| a * b).sum::<f32>()))
        });
        outputs.map(|output| output * output).sum()
    }

    #[test]
    fn outputs_change_far_less_than_by_rounding() {
        let (inputs, weights) = (inputs(), random(ROWS * COLUMNS, 4));
        let mut hessian = Hessian::new(COLUMNS);
        hessian.add(&inputs);
        for block_size in [32, 64] {
            let scheme = BlockScheme::new(Bits::Four, block_size).unwrap();
            let rounded = round_to_nearest(&weights, COLUMNS, scheme).unwrap().dequantize();
            let compensated = Compensator::new(hessian.clone())
                .unwrap()
                .quantize(weights.clone(), scheme)
                .unwrap()
                .dequantize();
            let [before, after] = [rounded, compensated].map(|other| output_error(&inputs, &weights, &other));
            assert!(after < before / 3.0, "{after} against {before}");
        }
    }

    #[test]
    fn independent_inputs_have_nothing_to_make_up_for() {
        let mut hessian = Hessian::new(COLUMNS);
        for column in 0..COLUMNS {
            let mut input = vec![0.0; COLUMNS];
            input[column] = 1.0;
            hessian.add(&input);
        }
        let scheme = BlockScheme::new(Bits::Eight, 32).unwrap();
        let weights = random(ROWS * COLUMNS, 5);
        let back = Compensator::new(hessian.clone())
            .unwrap()
            .quantize(weights.clone(), scheme)
            .unwrap()
            .dequantize();
        let largest = weights
            .iter()
            .zip(&back)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(largest < 1.3 / 128.0, "{largest}");
    }

    /// The published procedure word for word, in f64: after each weight all later ones of the row are moved, and the input is
    /// taken out of the inverse.
    fn word_for_word(mut row: Vec<f64>, hessian: &[f64], importance: &[f32], block_size: usize) -> Vec<f32> {
        let mut inverse = inverse_of(hessian, COLUMNS);
        let mut scale = 0.0;
        (0..COLUMNS)
            .map(|q| {
                if q.is_multiple_of(block_size) {
                    let block: Vec<f32> = row[q..q + block_size].iter().map(|w| *w as f32).collect();
                    scale = best_scale(
                        &block,
                        &importance[q..q + block_size],
                        BlockScheme::new(Bits::Four, block_size).unwrap(),
                    );
                }
                let rounded = f64::from(Bits::Four.level((row[q] / f64::from(scale)) as f32) as f32 * scale);
                let error = (row[q] - rounded) / inverse[q * COLUMNS + q];
                for later in q..COLUMNS {
                    row[later] -= error * inverse[q * COLUMNS + later];
                }
                let taken: Vec<f64> = inverse[q * COLUMNS..][..COLUMNS].to_vec();
                for i in 0..COLUMNS {
                    for j in 0..COLUMNS {
                        inverse[i * COLUMNS + j] -= taken[i] * taken[j] / taken[q];
                    }
                }
                rounded as f32
            })
            .collect()
    }

    /// By Gauss and Jordan.
    fn inverse_of(matrix: &[f64], size: usize) -> Vec<f64> {
        let mut left = matrix.to_vec();
        let mut right: Vec<f64> = (0..size * size)
            .map(|i| f64::from(u8::from(i / size == i % size)))
            .collect();
        for pivot in 0..size {
            let factor = 1.0 / left[pivot * size + pivot];
            for j in 0..size {
                left[pivot * size + j] *= factor;
                right[pivot * size + j] *= factor;
            }
            for i in (0..size).filter(|&i| i != pivot) {
                let factor = left[i * size + pivot];
                for j in 0..size {
                    left[i * size + j] -= factor * left[pivot * size + j];
                    right[i * size + j] -= factor * right[pivot * size + j];
                }
            }
        }
        right
    }

    #[test]
    fn it_does_what_the_paper_says() {
        let (inputs, weights) = (inputs(), random(ROWS * COLUMNS, 6));
        let mut hessian = Hessian::new(COLUMNS);
        hessian.add(&inputs);
        let product = |i: usize, j: usize| {
            let column = |i| inputs.iter().skip(i).step_by(COLUMNS).map(|x| f64::from(*x));
            column(i).zip(column(j)).map(|(a, b)| a * b).sum::<f64>() / SAMPLES as f64
        };
        let mut matrix: Vec<f64> = (0..COLUMNS * COLUMNS)
            .map(|k| product(k / COLUMNS, k % COLUMNS))
            .collect();
        let importance: Vec<f32> = (0..COLUMNS).map(|i| matrix[i * (COLUMNS + 1)] as f32).collect();
        let damping = importance.iter().map(|x| f64::from(*x)).sum::<f64>() / COLUMNS as f64 * 0.01;
        (0..COLUMNS).for_each(|i| matrix[i * (COLUMNS + 1)] += damping);
        let scheme = BlockScheme::new(Bits::Four, 32).unwrap();
        let got = Compensator::new(hessian.clone())
            .unwrap()
            .quantize(weights.clone(), scheme)
            .unwrap()
            .dequantize();
        let rows = weights
            .chunks(COLUMNS)
            .map(|row| row.iter().map(|w| f64::from(*w)).collect());
        let expected: Vec<f32> = rows
            .flat_map(|row| word_for_word(row, &matrix, &importance, 32))
            .collect();
        let different = got
            .iter()
            .zip(&expected)
            .filter(|(a, b)| (*a - *b).abs() > 1e-3)
            .count();
        // A weight that lies between two levels to the last digit may be rounded either way, and moves those after it.
        assert!(
            different * 100 < got.len(),
            "{different} of {} weights differ",
            got.len()
        );
    }

    /// What a layer reads is off by a part of itself, as when the matrices before it were rounded.
    #[test]
    fn drift_of_what_is_read_is_made_up_for() {
        let (meant, weights) = (inputs(), random(ROWS * COLUMNS, 6));
        let mixing = random(COLUMNS * COLUMNS, 9);
        let mut read = meant.clone();
        for (row, meant) in read.chunks_mut(COLUMNS).zip(meant.chunks(COLUMNS)) {
            for (column, value) in row.iter_mut().enumerate() {
                let mixed = meant.iter().zip(&mixing[column * COLUMNS..]).map(|(x, m)| x * m);
                *value += 0.02 * mixed.sum::<f32>();
            }
        }
        let scheme = BlockScheme::new(Bits::Eight, 32).unwrap();
        let error_of = |hessian: &Hessian| {
            let quantized = Compensator::new(hessian.clone())
                .unwrap()
                .quantize(weights.clone(), scheme);
            let quantized = quantized.unwrap().dequantize();
            let output = |weights: &[f32], inputs: &[f32]| -> Vec<f32> {
                let rows = inputs.chunks(COLUMNS);
                let of_row = |x: &[f32]| -> Vec<f32> {
                    let outputs = weights.chunks(COLUMNS);
                    outputs
                        .map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum())
                        .collect()
                };
                rows.flat_map(of_row).collect()
            };
            let (got, wanted) = (output(&quantized, &read), output(&weights, &meant));
            got.iter().zip(&wanted).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
        };
        let (mut blind, mut told) = (Hessian::new(COLUMNS), Hessian::new(COLUMNS));
        blind.add(&read);
        told.add_drifted(&read, meant.clone());
        let [blind, told] = [&blind, &told].map(error_of);
        assert!(told * 4.0 < blind, "{told} instead of {blind}");
    }

    #[test]
    fn samples_of_another_width_are_refused() {
        let scheme = BlockScheme::new(Bits::Four, 32).unwrap();
        let error = Compensator::new(Hessian::new(32))
            .unwrap()
            .quantize(vec![0.0; 33], scheme)
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Rows {
                    weights: 33,
                    columns: 32
                }
            ),
            "{error}"
        );
    }
}
