use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::block_matrix::{level_at, put_level, row_count};
use crate::hessian::InverseFactor;
use crate::scale::{best_scale, inverse};
use crate::{BlockMatrix, BlockScheme, Error, Hessian};

/// Rows that one thread works on: enough for products that are worth it, few enough to keep all threads at work.
const ROWS: usize = 32;

/// Quantizes matrices of a layer by what the layer reads. Each block has the scale of least error, inputs counted by what their
/// errors cost; what rounding a weight changes in the layer's output is made up for, as far as inputs vary together, by the
/// weights of its row that come after (GPTQ, arXiv 2210.17323, without reordering). When all levels of a row are chosen, its
/// scales are fitted once more to what the layer reads.
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
    pub fn new(hessian: &Hessian) -> Result<Self, Error> {
        Ok(Self {
            columns: hessian.columns(),
            factors: hessian.inverse_factors()?,
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
    /// Quantizes the inputs of one group.
    fn compensate(&mut self, factor: &InverseFactor) {
        let count = self.weights.len() / self.columns;
        let size = factor.size;
        let original: Vec<f32> = self
            .weights
            .chunks(self.columns)
            .flat_map(|row| &row[factor.start..][..size])
            .copied()
            .collect();
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
        self.refit(factor, original);
    }

    /// Moves each scale to where the squared error of the layer's outputs is least, levels and other scales as they are, block
    /// after block. `left` is the weights as they were.
    fn refit(&mut self, factor: &InverseFactor, mut left: Vec<f32>) {
        let (size, block_size) = (factor.size, self.scheme.block_size);
        let count = self.weights.len() / self.columns;
        let mean = MatRef::from_row_major_slice(&factor.mean, size, size);
        let levels = self.levels(factor);
        for (row, (left, levels)) in left.chunks_mut(size).zip(levels.chunks(size)).enumerate() {
            for (place, (left, level)) in left.iter_mut().zip(levels).enumerate() {
                *left -= level * self.scales[self.block(row, factor.start + place)];
            }
        }
        // By how much the error would fall if a weight grew, but for a factor.
        let mut gain = Mat::<f32>::zeros(count, size);
        matmul(
            gain.as_mut(),
            Accum::Replace,
            MatRef::from_row_major_slice(&left, count, size),
            mean,
            1.0,
            Par::Seq,
        );
        for start in (0..size).step_by(block_size) {
            let length = block_size.min(size - start);
            let block = MatRef::from_row_major_slice(&levels, count, size).subcols(start, length);
            let mut curved = Mat::<f32>::zeros(count, length);
            let own = mean.submatrix(start, start, length, length);
            matmul(curved.as_mut(), Accum::Replace, block, own, 1.0, Par::Seq);
            let mut moved = Mat::<f32>::zeros(count, length);
            for row in 0..count {
                let along = |other: &dyn Fn(usize) -> f32| {
                    (0..length).map(|i| block[(row, i)] * other(i)).sum::<f32>()
                };
                let change = along(&|i| gain[(row, start + i)]) / along(&|i| curved[(row, i)]);
                // A block of zeros has no scale to move.
                if change.is_finite() {
                    let index = self.block(row, factor.start + start);
                    self.scales[index] += change;
                    (0..length).for_each(|i| moved[(row, i)] = change * block[(row, i)]);
                }
            }
            let rest = size - start - length;
            let later = gain.as_mut().subcols_mut(start + length, rest);
            matmul(
                later,
                Accum::Add,
                moved.as_ref(),
                mean.submatrix(start, start + length, length, rest),
                -1.0,
                Par::Seq,
            );
        }
    }

    /// The levels of a group, `[rows, size]`.
    fn levels(&self, factor: &InverseFactor) -> Vec<f32> {
        let (block_size, block_bytes) = (self.scheme.block_size, self.scheme.block_bytes());
        let count = self.weights.len() / self.columns;
        let level = |k: usize| {
            let (row, place) = (k / factor.size, factor.start + k % factor.size);
            let codes = &self.codes[self.block(row, place) * block_bytes..];
            level_at(codes, place % block_size, self.scheme.bits) as f32
        };
        (0..count * factor.size).map(level).collect()
    }

    /// Which block a weight is in.
    fn block(&self, row: usize, column: usize) -> usize {
        row * self.scheme.blocks(self.columns) + column / self.scheme.block_size
    }

    /// Quantizes one block of one row and leaves in `errors` what the inputs after it have to make up for.
    fn quantize_block(&mut self, row: usize, start: usize, factor: &InverseFactor, errors: &mut [f32]) {
        let scheme = self.scheme;
        let index = self.block(row, factor.start + start);
        let block = &mut self.weights[row * self.columns + factor.start + start..][..errors.len()];
        let scale = best_scale(
            block,
            &factor.importance[start..start + errors.len()],
            scheme.bits,
        );
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
            let compensated = Compensator::new(&hessian)
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
        let back = Compensator::new(&hessian)
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
    fn word_for_word(mut row: Vec<f64>, hessian: &[f64], importance: &[f32], block_size: usize) -> Vec<i32> {
        let mut inverse = inverse_of(hessian, COLUMNS);
        let mut scale = 0.0;
        (0..COLUMNS)
            .map(|q| {
                if q.is_multiple_of(block_size) {
                    let block: Vec<f32> = row[q..q + block_size].iter().map(|w| *w as f32).collect();
                    scale = best_scale(&block, &importance[q..q + block_size], Bits::Four);
                }
                let level = Bits::Four.level((row[q] / f64::from(scale)) as f32);
                let error = (row[q] - f64::from(level as f32 * scale)) / inverse[q * COLUMNS + q];
                for later in q..COLUMNS {
                    row[later] -= error * inverse[q * COLUMNS + later];
                }
                take_out(&mut inverse, q);
                level
            })
            .collect()
    }

    /// Takes an input out of an inverse.
    fn take_out(inverse: &mut [f64], q: usize) {
        let taken: Vec<f64> = inverse[q * COLUMNS..][..COLUMNS].to_vec();
        for i in 0..COLUMNS {
            for j in 0..COLUMNS {
                inverse[i * COLUMNS + j] -= taken[i] * taken[j] / taken[q];
            }
        }
    }

    /// What an error of each input costs when those before it are taken out.
    fn importance_of(hessian: &[f64]) -> Vec<f32> {
        let mut inverse = inverse_of(hessian, COLUMNS);
        let cost = |q: usize| {
            let cost = 1.0 / inverse[q * (COLUMNS + 1)];
            take_out(&mut inverse, q);
            cost as f32
        };
        (0..COLUMNS).map(cost).collect()
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
        let damping = (0..COLUMNS).map(|i| matrix[i * (COLUMNS + 1)]).sum::<f64>() / COLUMNS as f64 * 0.05;
        (0..COLUMNS).for_each(|i| matrix[i * (COLUMNS + 1)] += damping);
        let importance = importance_of(&matrix);
        let scheme = BlockScheme::new(Bits::Four, 32).unwrap();
        let got = Compensator::new(&hessian)
            .unwrap()
            .quantize(weights.clone(), scheme)
            .unwrap();
        let level = |k: usize| level_at(&got.codes[k / 32 * 16..], k % 32, Bits::Four);
        let rows = weights
            .chunks(COLUMNS)
            .map(|row| row.iter().map(|w| f64::from(*w)).collect());
        let expected: Vec<i32> = rows
            .flat_map(|row| word_for_word(row, &matrix, &importance, 32))
            .collect();
        let different = (0..expected.len()).filter(|&k| level(k) != expected[k]).count();
        // A weight that lies between two levels to the last digit may be rounded either way, and moves those after it.
        assert!(
            different * 100 < expected.len(),
            "{different} of {} levels differ",
            expected.len()
        );
    }

    #[test]
    fn fitting_scales_once_more_does_not_hurt() {
        let (inputs, weights) = (inputs(), random(ROWS * COLUMNS, 8));
        let mut hessian = Hessian::new(COLUMNS);
        hessian.add(&inputs);
        let scheme = BlockScheme::new(Bits::Four, 32).unwrap();
        let compensator = Compensator::new(&hessian).unwrap();
        let fitted = compensator.quantize(weights.clone(), scheme).unwrap();
        let error = |matrix: &BlockMatrix| output_error(&inputs, &weights, &matrix.dequantize());
        // At the least error, a step to either side makes it larger. Only the last block was fitted after all others.
        for factor in [0.999, 1.001] {
            let mut other = fitted.clone();
            other
                .scales
                .iter_mut()
                .skip(2)
                .step_by(3)
                .for_each(|scale| *scale *= factor);
            assert!(error(&other) > error(&fitted), "{factor}");
        }
    }

    #[test]
    fn samples_of_another_width_are_refused() {
        let scheme = BlockScheme::new(Bits::Four, 32).unwrap();
        let error = Compensator::new(&Hessian::new(32))
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
