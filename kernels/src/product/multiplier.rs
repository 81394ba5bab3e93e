use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fearless_simd::{Avx512, Level, Simd, SimdBase};

use crate::Tasks;
use crate::product::packed_weight::{GROUP, LANES, PackedWeight};
use crate::product::rounded_rows::{ROWS, RoundedRows, RoundedTile};
use crate::product::tile;

/// Most rows whose tasks are some outputs each.
const FEW_ROWS: usize = 17;

/// Rows of a task, where there are many.
const TASK_ROWS: usize = 11 * ROWS;

/// The fewest, where there are more threads.
const FEWEST_TASK_ROWS: usize = 4 * ROWS;

/// Tasks of few rows for each thread: if one is slower, others do more.
const TASKS_EACH: usize = 2;

/// Bytes of codes and scales that are worth a task.
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
    rounded: RoundedRows,
    parts: Vec<Mutex<Part>>,
}

/// Memory of a task: activations where it has rows of its own, products where tasks share rows.
#[derive(Debug, Default)]
struct Part {
    rounded: RoundedRows,
    products: Vec<f32>,
}

impl Multiplier {
    /// For tasks that `threads` threads run; `None` where the processor lacks the instructions.
    pub fn new(threads: usize) -> Option<Self> {
        let avx512 = Level::new().as_avx512()?;
        Some(Self { avx512, threads })
    }

    /// Writes `rows` `[rows, inputs]` times the transpose of `weight`, plus `bias` `[outputs]`, to `out` `[rows, outputs]`.
    ///
    /// Rows give what they give one by one, to the bit.
    ///
    /// # Panics
    /// Lengths do not fit.
    pub fn multiply(
        &self,
        weight: &PackedWeight<'_>,
        rows: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
        tasks: &mut Tasks<'_>,
    ) {
        let (inputs, outputs) = (weight.packing.inputs, weight.packing.outputs);
        let count = rows.len() / inputs;
        assert_eq!(
            [rows.len(), out.len()],
            [count * inputs, count * outputs],
            "rows and products of {count} rows"
        );
        if count == 0 {
            return;
        }
        match count <= FEW_ROWS {
            true => self.multiply_few(weight, rows, bias, out, scratch, tasks),
            false => self.multiply_many(weight, rows, bias, out, scratch, tasks),
        }
    }

    /// Tasks are some outputs each.
    fn multiply_few(
        &self,
        weight: &PackedWeight<'_>,
        rows: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
        tasks: &mut Tasks<'_>,
    ) {
        let (avx512, packing) = (self.avx512, weight.packing);
        let Scratch { rounded, parts } = scratch;
        avx512.vectorize(
            #[inline(always)]
            || rounded.fill(avx512, rows, packing),
        );
        let rounded = &*rounded;
        let groups = packing.groups();
        let worth = groups * packing.group_bytes() / TASK_BYTES;
        let count = worth.min(groups).clamp(1, TASKS_EACH * self.threads.max(1));
        let parts = first(parts, count);
        let groups = |task: usize| task * groups / count..(task + 1) * groups / count;
        let outputs = |task: usize| {
            let groups = groups(task);
            groups.start * GROUP..(groups.end * GROUP).min(packing.outputs)
        };
        tasks(count, &|task| {
            let products = &mut lock(&parts[task]).products;
            products.resize(rows.len() / packing.inputs * outputs(task).len(), 0.0);
            avx512.vectorize(
                #[inline(always)]
                || multiply_groups(avx512, weight, groups(task), rounded, products),
            );
        });
        for (task, part) in parts.iter().enumerate() {
            let (products, outputs) = (&lock(part).products, outputs(task));
            let out = out.chunks_exact_mut(packing.outputs);
            for (out, products) in out.zip(products.chunks_exact(outputs.len())) {
                out[outputs.clone()].copy_from_slice(products);
            }
        }
        add(bias, out);
    }

    /// Tasks are some rows each.
    fn multiply_many(
        &self,
        weight: &PackedWeight<'_>,
        rows: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
        tasks: &mut Tasks<'_>,
    ) {
        let (avx512, packing) = (self.avx512, weight.packing);
        let share = (rows.len() / packing.inputs).div_ceil(self.threads.max(1));
        let each = share.clamp(FEWEST_TASK_ROWS, TASK_ROWS).next_multiple_of(ROWS);
        let outs: Vec<_> = out.chunks_mut(each * packing.outputs).map(Mutex::new).collect();
        let parts = first(&mut scratch.parts, outs.len());
        tasks(parts.len(), &|task| {
            let (mut out, mut part) = (lock(&outs[task]), lock(&parts[task]));
            let first = task * each * packing.inputs;
            let rows = &rows[first..][..out.len() / packing.outputs * packing.inputs];
            avx512.vectorize(
                #[inline(always)]
                || {
                    part.rounded.fill(avx512, rows, packing);
                    multiply_groups(avx512, weight, 0..packing.groups(), &part.rounded, &mut out);
                },
            );
            add(bias, &mut out);
        });
    }
}

/// Products of `rows` with outputs of `groups`, `[rows, outputs of these groups]`.
#[inline(always)]
fn multiply_groups(
    avx512: Avx512,
    weight: &PackedWeight<'_>,
    groups: Range<usize>,
    rows: &RoundedRows,
    out: &mut [f32],
) {
    let packing = weight.packing;
    let width = (groups.end * GROUP).min(packing.outputs) - groups.start * GROUP;
    for group in groups.clone() {
        let column = (group - groups.start) * GROUP;
        let columns = column..(column + GROUP).min(width);
        for (index, out) in out.chunks_mut(ROWS * width).enumerate() {
            let tile = rows.tile(index, packing);
            multiply_tile(avx512, weight, group, tile, out, width, columns.clone());
        }
    }
}

/// Multiplies a tile with a group of outputs and writes the products into `columns` of `out`, `[rows, width]`.
#[inline(always)]
fn multiply_tile(
    avx512: Avx512,
    weight: &PackedWeight<'_>,
    group: usize,
    tile: RoundedTile<'_>,
    out: &mut [f32],
    width: usize,
    columns: Range<usize>,
) {
    macro_rules! multiply {
        ($($rows:literal)*) => {
            match out.len() / width {
                $($rows => {
                    let products = tile::multiply::<$rows>(avx512, tile, weight, group);
                    for (row, products) in out.chunks_exact_mut(width).zip(products) {
                        let row = &mut row[columns.clone()];
                        for (out, products) in row.chunks_mut(LANES).zip(products) {
                            match out.len() {
                                LANES => products.store_slice(out),
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
    use crate::product::{Bits, BlockWeight, Packing};

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
            let (packing, numbers) = other.packed();
            let weight = PackedWeight::new(packing, &numbers).unwrap();
            multiplier.multiply(&weight, &[1.0; 320], None, &mut used, &mut scratch, &mut in_turn);
            let (packing, numbers) = self.packed();
            let weight = PackedWeight::new(packing, &numbers).unwrap();
            multiplier.multiply(&weight, rows, bias, &mut out, &mut scratch, &mut in_turn);
            out
        }

        fn packed(&self) -> (Packing, Vec<u32>) {
            let packing = Packing::of(&self.weight());
            let mut numbers = vec![0; packing.numbers()];
            packing.pack(&self.weight(), &mut numbers);
            (packing, numbers)
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
