use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fearless_simd::{Avx512, Level, Simd, SimdBase};

use crate::Tasks;
use crate::product::FEW_ROWS;
use crate::product::few_rows::FewRows;
use crate::product::panel::{OUTPUTS, Panel};
use crate::product::rounded_rows::{ROWS, RoundedRows, RoundedTile};
use crate::product::steps::Steps;
use crate::product::tile;
use crate::product::weight::BlockWeight;

/// Panels that are multiplied together.
const PANELS: usize = 2;

/// Rows of a task, where there are many; outputs are turned over in every task, which so many rows pay for.
const TASK_ROWS: usize = 11 * ROWS;

/// The fewest rows that pay for it where there are more threads.
const FEWEST_TASK_ROWS: usize = 4 * ROWS;

/// Tasks of few rows for each thread: if one is slower, others do more.
const TASKS_EACH: usize = 2;

/// Bytes of codes that are worth a task.
const TASK_BYTES: usize = 8 << 10;

/// What multiplies.
#[derive(Debug, Clone, Copy)]
pub struct Multiplier {
    avx512: Avx512,
    threads: usize,
}

/// Memory that is kept from one call to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    few_rows: FewRows,
    parts: Vec<Mutex<Part>>,
}

/// Memory of a task: activations where it has rows of its own, products where tasks share rows.
#[derive(Debug, Default)]
struct Part {
    rounded: RoundedRows,
    products: Vec<f32>,
}

thread_local! {
    static PANELS_OF_THREAD: RefCell<[Panel; PANELS]> = RefCell::default();
}

impl Multiplier {
    /// For tasks that `threads` threads run; `None` where the processor lacks the instructions.
    pub fn new(threads: usize) -> Option<Self> {
        let avx512 = Level::new().as_avx512()?;
        Some(Self { avx512, threads })
    }

    /// Writes `rows` `[rows, inputs]` times the transpose of `weight`, plus `bias` `[outputs]`, to `out` `[rows, outputs]`.
    ///
    /// Up to [`FEW_ROWS`] rows give what they give one by one, to the bit; and so do more than that among themselves.
    ///
    /// # Panics
    /// Lengths do not fit.
    pub fn multiply(
        &self,
        weight: &BlockWeight<'_>,
        rows: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
        tasks: &mut Tasks<'_>,
    ) {
        let count = rows.len() / weight.inputs;
        assert_eq!(
            [rows.len(), out.len()],
            [count * weight.inputs, count * weight.outputs],
            "rows and products of {count} rows"
        );
        if count == 0 {
            return;
        }
        let few = count <= FEW_ROWS && Steps::suit(weight);
        match few {
            true => self.multiply_few(weight, rows, bias, out, scratch, tasks),
            false => self.multiply_many(weight, rows, bias, out, scratch, tasks),
        }
    }

    /// Tasks are some outputs each.
    fn multiply_few(
        &self,
        weight: &BlockWeight<'_>,
        rows: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
        tasks: &mut Tasks<'_>,
    ) {
        let avx512 = self.avx512;
        let count = rows.len() / weight.inputs;
        let Scratch { few_rows, parts } = scratch;
        avx512.vectorize(
            #[inline(always)]
            || few_rows.fill(avx512, rows, weight),
        );
        let share = weight.outputs.div_ceil(TASKS_EACH * self.threads.max(1));
        let worth = TASK_BYTES.div_ceil(weight.row_bytes());
        let each = share.max(worth).next_multiple_of(4);
        let parts = first(parts, weight.outputs.div_ceil(each));
        let outputs = |task: usize| task * each..((task + 1) * each).min(weight.outputs);
        let few_rows = &*few_rows;
        tasks(parts.len(), &|task| {
            let products = &mut lock(&parts[task]).products;
            let outputs = outputs(task);
            products.resize(count * outputs.len(), 0.0);
            avx512.vectorize(
                #[inline(always)]
                || few_rows.multiply(avx512, weight, outputs, products),
            );
        });
        for (task, part) in parts.iter().enumerate() {
            let (products, outputs) = (&lock(part).products, outputs(task));
            let out = out.chunks_exact_mut(weight.outputs);
            for (out, products) in out.zip(products.chunks_exact(outputs.len())) {
                out[outputs.clone()].copy_from_slice(products);
            }
        }
        add(bias, out);
    }

    /// Tasks are some rows each.
    fn multiply_many(
        &self,
        weight: &BlockWeight<'_>,
        rows: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
        tasks: &mut Tasks<'_>,
    ) {
        let share = (rows.len() / weight.inputs).div_ceil(self.threads.max(1));
        let each = share.clamp(FEWEST_TASK_ROWS, TASK_ROWS).next_multiple_of(ROWS);
        let outs: Vec<_> = out.chunks_mut(each * weight.outputs).map(Mutex::new).collect();
        let parts = first(&mut scratch.parts, outs.len());
        tasks(parts.len(), &|task| {
            let (mut out, mut part) = (lock(&outs[task]), lock(&parts[task]));
            let first = task * each * weight.inputs;
            let rows = &rows[first..][..out.len() / weight.outputs * weight.inputs];
            self.multiply_rows(weight, rows, &mut part.rounded, &mut out);
            add(bias, &mut out);
        });
    }

    /// Products of `rows` with all outputs, panel after panel.
    fn multiply_rows(
        &self,
        weight: &BlockWeight<'_>,
        rows: &[f32],
        rounded: &mut RoundedRows,
        out: &mut [f32],
    ) {
        let avx512 = self.avx512;
        PANELS_OF_THREAD.with_borrow_mut(|panels| {
            avx512.vectorize(
                #[inline(always)]
                || {
                    rounded.fill(avx512, rows, weight);
                    for first in (0..weight.outputs).step_by(PANELS * OUTPUTS) {
                        for (index, panel) in panels.iter_mut().enumerate() {
                            panel.fill(avx512, weight, first + index * OUTPUTS);
                        }
                        let columns = first..(first + PANELS * OUTPUTS).min(weight.outputs);
                        for (index, out) in out.chunks_mut(ROWS * weight.outputs).enumerate() {
                            let tile = rounded.tile(index, weight);
                            multiply_tile(avx512, weight, tile, panels, out, columns.clone());
                        }
                    }
                },
            );
        });
    }
}

/// Multiplies a tile with panels and writes the products into `columns` of `out`, `[rows, outputs]`.
#[inline(always)]
fn multiply_tile(
    avx512: Avx512,
    weight: &BlockWeight<'_>,
    tile: RoundedTile<'_>,
    panels: &[Panel; PANELS],
    out: &mut [f32],
    columns: Range<usize>,
) {
    macro_rules! multiply {
        ($($rows:literal)*) => {
            match out.len() / weight.outputs {
                $($rows => {
                    let products = tile::multiply::<$rows, PANELS>(avx512, weight.bits, tile, panels);
                    for (row, products) in out.chunks_exact_mut(weight.outputs).zip(products) {
                        let row = &mut row[columns.clone()];
                        for (out, products) in row.chunks_mut(OUTPUTS).zip(products) {
                            match out.len() {
                                OUTPUTS => products.store_slice(out),
                                some => out.copy_from_slice(&products.as_slice()[..some]),
                            }
                        }
                    }
                })*
                _ => {}
            }
        };
    }
    multiply!(1 2 3 4 5 6);
}

/// The first `count` parts, which are made where there are fewer.
fn first(parts: &mut Vec<Mutex<Part>>, count: usize) -> &[Mutex<Part>] {
    parts.resize_with(count.max(parts.len()), Mutex::default);
    &parts[..count]
}

/// A panic in a task leaves nothing behind that a later one would read.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds `bias` to rows that are as long.
fn add(bias: Option<&[f32]>, rows: &mut [f32]) {
    let Some(bias) = bias else { return };
    for row in rows.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::product::Bits;

    /// A weight of random codes and scales.
    struct Case {
        bits: Bits,
        block_size: usize,
        shape: [usize; 2],
        codes: Vec<u8>,
        scales: Vec<f32>,
    }

    impl Case {
        fn new(bits: Bits, block_size: usize, shape: [usize; 2]) -> Self {
            let mut random = ChaCha8Rng::seed_from_u64(5);
            let weights = shape[0] * shape[1].next_multiple_of(block_size);
            Self {
                bits,
                block_size,
                shape,
                codes: (0..weights / bits.codes_in_byte())
                    .map(|_| random.random())
                    .collect(),
                scales: (0..weights / block_size)
                    .map(|_| random.random_range(0.001..0.01))
                    .collect(),
            }
        }

        fn weight(&self) -> BlockWeight<'_> {
            BlockWeight::new(self.bits, self.block_size, self.shape, &self.codes, &self.scales).unwrap()
        }

        fn at(&self, output: usize, input: usize) -> f64 {
            let index = output * self.shape[1].next_multiple_of(self.block_size) + input;
            let code = match self.bits {
                Bits::Four => (self.codes[index / 2] >> (4 * (index % 2))) & 15,
                Bits::Eight => self.codes[index],
            };
            let scale = self.scales[index / self.block_size];
            f64::from(i32::from(code) - self.bits.zero()) * f64::from(scale)
        }

        /// Products with activations that are rounded as they should be.
        fn reference(&self, rows: &[f32], bias: &[f32]) -> Vec<f64> {
            let blocks = rows
                .chunks(self.shape[1])
                .flat_map(|row| row.chunks(self.block_size));
            let rounded: Vec<f64> = blocks.flat_map(round).collect();
            let mut products = Vec::new();
            for row in rounded.chunks(self.shape[1]) {
                for (output, bias) in bias.iter().enumerate() {
                    let terms = row.iter().enumerate();
                    let sum: f64 = terms.map(|(input, value)| value * self.at(output, input)).sum();
                    products.push(sum + f64::from(*bias));
                }
            }
            products
        }

        fn multiply(&self, rows: &[f32], bias: Option<&[f32]>, threads: usize) -> Vec<f32> {
            let mut out = vec![f32::NAN; rows.len() / self.shape[1] * self.shape[0]];
            let multiplier = Multiplier::new(threads).unwrap();
            let mut scratch = Scratch::default();
            // Memory of other products stands in the scratch.
            let other = Case::new(Bits::Eight, 32, [70, 320]);
            let mut used = vec![0.0; 70];
            multiplier.multiply(
                &other.weight(),
                &[1.0; 320],
                None,
                &mut used,
                &mut scratch,
                &mut in_turn,
            );
            multiplier.multiply(&self.weight(), rows, bias, &mut out, &mut scratch, &mut in_turn);
            out
        }
    }

    fn round(block: &[f32]) -> Vec<f64> {
        let scale = block
            .iter()
            .fold(0.0_f32, |largest, value| largest.max(value.abs()))
            / 127.0;
        let levels = block
            .iter()
            .map(|value| (value * scale.recip()).round_ties_even());
        levels.map(|level| f64::from(level) * f64::from(scale)).collect()
    }

    fn in_turn(count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).rev().for_each(task);
    }

    fn random(count: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(9);
        (0..count).map(|_| random.random_range(-2.0..2.0)).collect()
    }

    fn is_here() -> bool {
        Multiplier::new(1).is_some()
    }

    /// Shapes around the borders of vectors, panels and tasks; the smallest have no vector of codes.
    const CASES: [(Bits, usize, [usize; 2]); 11] = [
        (Bits::Four, 32, [32, 48]),
        (Bits::Eight, 64, [19, 488]),
        (Bits::Four, 32, [96, 576]),
        (Bits::Four, 32, [37, 1536]),
        (Bits::Four, 32, [5, 32]),
        (Bits::Four, 64, [33, 640]),
        (Bits::Four, 128, [17, 1152]),
        (Bits::Four, 256, [16, 1024]),
        (Bits::Eight, 32, [70, 576]),
        (Bits::Eight, 16, [35, 80]),
        (Bits::Eight, 128, [31, 640]),
    ];

    #[test]
    fn products_are_those_of_rounded_activations() {
        if !is_here() {
            return;
        }
        for (bits, block_size, shape) in CASES {
            let case = Case::new(bits, block_size, shape);
            let bias = random(shape[0]);
            for count in [1, 2, 3, 5, 8, 17, 18, 64, 131] {
                let rows = random(count * shape[1]);
                let want = case.reference(&rows, &bias);
                let got = case.multiply(&rows, Some(&bias), 3);
                for (got, want) in got.iter().zip(&want) {
                    let off = (f64::from(*got) - want).abs();
                    assert!(
                        off < 2e-5 * want.abs().max(1.0),
                        "{bits:?} {block_size} {shape:?} {count}: {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn rows_give_what_they_give_in_other_company() {
        if !is_here() {
            return;
        }
        for (bits, block_size, shape) in CASES {
            let case = Case::new(bits, block_size, shape);
            let rows = random(160 * shape[1]);
            let part = |range: Range<usize>, threads: usize| {
                case.multiply(&rows[range.start * shape[1]..range.end * shape[1]], None, threads)
            };
            let single: Vec<f32> = (0..FEW_ROWS).flat_map(|row| part(row..row + 1, 1)).collect();
            for count in [2, 7, FEW_ROWS] {
                assert_eq!(
                    part(0..count, 2),
                    single[..count * shape[0]],
                    "{bits:?} {shape:?} {count}"
                );
            }
            let all = part(0..160, 2);
            assert_eq!(part(0..160, 7), all);
            assert_eq!(part(40..140, 2), all[40 * shape[0]..140 * shape[0]]);
        }
    }

    #[test]
    fn nothing_and_what_is_no_number_is_kept() {
        if !is_here() {
            return;
        }
        let case = Case::new(Bits::Four, 32, [40, 576]);
        for count in [1, 40] {
            let mut rows = vec![0.0; count * 576];
            assert!(
                case.multiply(&rows, None, 1)
                    .iter()
                    .all(|product| *product == 0.0)
            );
            rows[100] = f32::NAN;
            let products = case.multiply(&rows, None, 1);
            assert!(products[..40].iter().all(|product| product.is_nan()));
            assert!(products[40..].iter().all(|product| *product == 0.0));
            rows[100] = f32::INFINITY;
            assert!(
                case.multiply(&rows, None, 1)[..40]
                    .iter()
                    .all(|product| !product.is_finite())
            );
        }
    }

    #[test]
    fn weights_that_are_too_short_are_refused() {
        let case = Case::new(Bits::Four, 32, [40, 576]);
        let new = |shape, codes| BlockWeight::new(Bits::Four, 32, shape, codes, &case.scales);
        assert!(new([40, 576], &case.codes).is_some());
        assert!(new([40, 576], &case.codes[1..]).is_none());
        assert!(new([41, 576], &case.codes).is_none());
        assert!(!BlockWeight::supports(Bits::Four, 16) && BlockWeight::supports(Bits::Eight, 16));
    }
}
