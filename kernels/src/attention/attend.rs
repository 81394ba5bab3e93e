use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fearless_simd::{Level, Simd, dispatch};

use crate::Tasks;
use crate::attention::Heads;
use crate::attention::cache::{Cache, Element};
use crate::attention::exponential::fast_exp;
use crate::attention::softmax::RunningSoftmax;
use crate::attention::tile::{FEW_ROWS, Room, RowsOverKeys};

/// Rows of queries in one task, about. What they take of the values stays in the second cache.
const TASK_ROWS: usize = 192;

/// Tasks that the tokens of a head are divided into at least, where they are many.
const TOKEN_TASKS: usize = 4;

/// Most tokens whose keys are divided. What each of them takes is the same to the bit as if it came alone.
const FEW_TOKENS: usize = 32;

/// Keys in one task of few tokens, up to [`FIRST_KEYS`] and behind them. Where tasks begin depends on nothing else, so that
/// sums do not depend on how many tokens come together.
const TASK_KEYS: usize = 256;
const LATER_TASK_KEYS: usize = 512;
const FIRST_KEYS: usize = 2048;

/// Attention over a cache.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    heads: Heads,
    scale: f32,
}

/// Memory that is kept from one call to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    parts: Vec<Mutex<Part>>,
}

/// What a task found out.
#[derive(Debug, Default)]
struct Part {
    softmax: Vec<RunningSoftmax>,
    taken: Vec<f32>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// How the work is divided: by heads of keys, by tokens, and where tokens are few, by keys.
#[derive(Debug, Clone, Copy)]
struct Division {
    past: usize,
    tokens: usize,
    tokens_each: usize,
    token_tasks: usize,
    key_tasks: usize,
    /// Whether keys are turned over before they are multiplied.
    turns: bool,
}

impl Attention {
    /// Scores are products of queries and keys times `scale`, usually one over the root of the heads' width.
    pub fn new(heads: Heads, scale: f32) -> Self {
        Self { heads, scale }
    }

    /// Attention of new tokens, whose keys and values stand in the cache already behind `past` others. `queries` and `out` are
    /// `[tokens, query_heads, dim]`.
    ///
    /// The result does not depend on how tasks are spread over threads; and up to 32 tokens take what they take one by one, to
    /// the bit.
    ///
    /// # Panics
    /// Lengths do not fit.
    pub fn attend<T: Element>(
        &self,
        queries: &[f32],
        cache: &Cache<'_, T>,
        past: usize,
        out: &mut [f32],
        scratch: &mut Scratch,
        tasks: &mut Tasks<'_>,
    ) {
        let width = self.heads.query * self.heads.dim;
        let division = Division::of(self.heads, past, queries.len() / width);
        let count = division.tasks(self.heads);
        scratch
            .parts
            .resize_with(count.max(scratch.parts.len()), Mutex::default);
        let parts = &scratch.parts[..count];
        tasks(count, &|task| {
            let mut part = parts[task].lock().unwrap_or_else(PoisonError::into_inner);
            self.run(division, task, queries, cache, &mut part);
        });
        let scales = cache.scales.map(|scales| scales.values);
        for (unit, parts) in parts.chunks(division.key_tasks).enumerate() {
            self.join(division, unit, parts, scales, out);
        }
    }

    fn run<T: Element>(
        &self,
        division: Division,
        task: usize,
        queries: &[f32],
        cache: &Cache<'_, T>,
        part: &mut Part,
    ) {
        let Heads { dim, .. } = self.heads;
        let (head, tokens) = division.unit(self.heads, task / division.key_tasks);
        let keys = division.keys(task % division.key_tasks, &tokens);
        let rows = tokens.len() * self.heads.group();
        part.softmax.clear();
        part.softmax.resize(rows, RunningSoftmax::EMPTY);
        part.taken.clear();
        part.taken.resize(rows * dim, 0.0);
        let head_rows = head * cache.capacity * dim..(head + 1) * cache.capacity * dim;
        ROOM.with_borrow_mut(|room| {
            self.take_queries(&mut room.queries, queries, &tokens, head, cache);
            RowsOverKeys {
                dim,
                order: cache.order,
                keys: &cache.keys[head_rows.clone()],
                values: &cache.values[head_rows],
                range: keys,
                group: self.heads.group(),
                first_sees: division.past + tokens.start + 1,
                turns: division.turns,
                room,
                softmax: &mut part.softmax,
                taken: &mut part.taken,
            }
            .compute();
        });
    }

    /// Queries of `tokens` that look at `head`, token by token, times the scores' scale and the keys' scales.
    fn take_queries<T: Element>(
        &self,
        taken: &mut Vec<f32>,
        queries: &[f32],
        tokens: &Range<usize>,
        head: usize,
        cache: &Cache<'_, T>,
    ) {
        let Heads { query, dim, .. } = self.heads;
        let width = self.heads.group() * dim;
        taken.clear();
        for token in tokens.clone() {
            let start = token * query * dim + head * width;
            taken.extend(
                queries[start..start + width]
                    .iter()
                    .map(|value| value * self.scale),
            );
        }
        if let Some(scales) = cache.scales {
            let scales = &scales.keys[head * dim..(head + 1) * dim];
            for row in taken.chunks_exact_mut(dim) {
                row.iter_mut()
                    .zip(scales)
                    .for_each(|(value, scale)| *value *= scale);
            }
        }
    }

    /// Joins what was found out over all keys into rows of `out`.
    fn join(
        &self,
        division: Division,
        unit: usize,
        parts: &[Mutex<Part>],
        scales: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let Heads { query, dim, .. } = self.heads;
        let group = self.heads.group();
        let (head, tokens) = division.unit(self.heads, unit);
        let parts: Vec<_> = parts
            .iter()
            .map(|part| part.lock().unwrap_or_else(PoisonError::into_inner))
            .collect();
        let scales = scales.map(|scales| &scales[head * dim..(head + 1) * dim]);
        dispatch!(Level::new(), simd => for row in 0..tokens.len() * group {
            let start = ((tokens.start + row / group) * query + head * group + row % group) * dim;
            join_row(simd, &parts, row, scales, &mut out[start..start + dim]);
        });
    }
}

/// Joins what was found out for a row.
#[inline(always)]
fn join_row<S: Simd>(
    _: S,
    parts: &[MutexGuard<'_, Part>],
    row: usize,
    scales: Option<&[f32]>,
    out: &mut [f32],
) {
    let dim = out.len();
    let largest = parts.iter().fold(f32::NEG_INFINITY, |largest, part| {
        largest.max(part.softmax[row].largest)
    });
    let weight = |softmax: RunningSoftmax| match softmax.largest {
        f32::NEG_INFINITY => 0.0,
        own => fast_exp(own - largest),
    };
    let mut sum = 0.0;
    out.fill(0.0);
    for part in parts {
        let weight = weight(part.softmax[row]);
        sum += weight * part.softmax[row].sum();
        let taken = &part.taken[row * dim..(row + 1) * dim];
        out.iter_mut()
            .zip(taken)
            .for_each(|(out, taken)| *out += weight * taken);
    }
    let inverse = sum.recip();
    match scales {
        Some(scales) => out
            .iter_mut()
            .zip(scales)
            .for_each(|(out, scale)| *out *= inverse * scale),
        None => out.iter_mut().for_each(|out| *out *= inverse),
    }
}

impl Division {
    fn of(heads: Heads, past: usize, tokens: usize) -> Self {
        let few = tokens <= FEW_TOKENS;
        let tokens_each = match few {
            true => tokens.max(1),
            false => (TASK_ROWS / heads.group()).clamp(1, tokens.div_ceil(TOKEN_TASKS)),
        };
        let rows = heads.group() * if few { 1 } else { tokens_each };
        Self {
            past,
            tokens,
            tokens_each,
            token_tasks: tokens.div_ceil(tokens_each),
            key_tasks: if few { key_tasks(past + tokens) } else { 1 },
            turns: rows > FEW_ROWS,
        }
    }

    fn tasks(&self, heads: Heads) -> usize {
        heads.key_value * self.token_tasks * self.key_tasks
    }

    /// Head and tokens of a unit, all of whose keys are joined. Tokens that see many keys alternate with such that see few, so
    /// that whoever takes a half of the tasks takes a half of the work.
    fn unit(&self, heads: Heads, unit: usize) -> (usize, Range<usize>) {
        let (index, head) = (unit / heads.key_value, unit % heads.key_value);
        let index = match index % 2 {
            0 => index / 2,
            _ => self.token_tasks - 1 - index / 2,
        };
        let start = index * self.tokens_each;
        (head, start..(start + self.tokens_each).min(self.tokens))
    }

    /// Keys of a task that any of the tokens sees.
    fn keys(&self, index: usize, tokens: &Range<usize>) -> Range<usize> {
        let seen = self.past + tokens.end;
        match self.key_tasks {
            1 => 0..seen,
            _ => first_key(index).min(seen)..first_key(index + 1).min(seen),
        }
    }
}

/// Tasks that so many keys are divided into.
fn key_tasks(keys: usize) -> usize {
    let later = keys.saturating_sub(FIRST_KEYS).div_ceil(LATER_TASK_KEYS);
    keys.min(FIRST_KEYS).div_ceil(TASK_KEYS).max(1) + later
}

/// The first key of a task.
fn first_key(task: usize) -> usize {
    let later = task.saturating_sub(FIRST_KEYS / TASK_KEYS);
    (task - later) * TASK_KEYS + later * LATER_TASK_KEYS
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::attention::tile::KEYS;
    use crate::attention::{Order, Scales};

    struct Case {
        heads: Heads,
        past: usize,
        tokens: usize,
        capacity: usize,
    }

    fn case([query, key_value, dim]: [usize; 3], past: usize, tokens: usize) -> Case {
        let heads = Heads {
            query,
            key_value,
            dim,
        };
        assert!(heads.are_supported());
        Case {
            heads,
            past,
            tokens,
            capacity: (past + tokens + 3).next_multiple_of(Order::ROWS),
        }
    }

    const CASES: [([usize; 3], usize, usize); 12] = [
        ([1, 1, 16], 0, 1),
        ([9, 3, 64], 0, 1),
        ([9, 3, 64], 700, 1),
        ([9, 3, 64], 63, 1),
        ([9, 3, 64], 2_500, 4),
        ([9, 3, 64], 0, 130),
        ([9, 3, 64], 77, 67),
        ([28, 4, 128], 300, 5),
        ([28, 4, 128], 0, 29),
        ([16, 2, 80], 20, 40),
        ([4, 4, 48], 130, 200),
        ([2, 2, 96], 1_000, 2),
    ];

    fn random(seed: u64, count: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    /// In f64, one row after another, as the formula says.
    fn reference(case: &Case, queries: &[f32], keys: &[f32], values: &[f32]) -> Vec<f64> {
        let Heads { query, dim, .. } = case.heads;
        let mut out = vec![0.0; queries.len()];
        for token in 0..case.tokens {
            for head in 0..query {
                let row = (token * query + head) * dim;
                let memory = head / case.heads.group() * case.capacity * dim;
                let at = |key: usize, channel: usize| memory + key * dim + channel;
                let scores: Vec<f64> = (0..=case.past + token)
                    .map(|key| {
                        let products = (0..dim).map(|channel| {
                            f64::from(queries[row + channel]) * f64::from(keys[at(key, channel)])
                        });
                        (products.sum::<f64>() / (dim as f64).sqrt() * 5.0).exp()
                    })
                    .collect();
                let sum: f64 = scores.iter().sum();
                for channel in 0..dim {
                    let taken = scores.iter().enumerate();
                    let taken = taken.map(|(key, score)| score * f64::from(values[at(key, channel)]));
                    out[row + channel] = taken.sum::<f64>() / sum;
                }
            }
        }
        out
    }

    fn attend<T: Element>(case: &Case, queries: &[f32], cache: &Cache<'_, T>, backwards: bool) -> Vec<f32> {
        let mut out = vec![f32::NAN; queries.len()];
        let scale = 5.0 / (case.heads.dim as f32).sqrt();
        let mut tasks = |count: usize, task: &(dyn Fn(usize) + Sync)| {
            (0..count).for_each(|index| task(if backwards { count - 1 - index } else { index }));
        };
        let mut scratch = Scratch::default();
        let attention = Attention::new(case.heads, scale);
        attention.attend(queries, cache, case.past, &mut out, &mut scratch, &mut tasks);
        // Memory of an earlier call is no part of the next.
        let mut again = vec![f32::NAN; queries.len()];
        attention.attend(queries, cache, case.past, &mut again, &mut scratch, &mut tasks);
        assert_eq!(out, again);
        out
    }

    fn furthest(got: &[f32], want: &[f64]) -> f64 {
        let differences = got
            .iter()
            .zip(want)
            .map(|(got, want)| (f64::from(*got) - want).abs());
        differences.fold(0.0, f64::max)
    }

    #[test]
    fn floats_are_attended_to_as_the_formula_says() {
        for (heads, past, tokens) in CASES {
            let case = case(heads, past, tokens);
            let size = case.heads.key_value * case.capacity * case.heads.dim;
            let queries = random(1, tokens * case.heads.query * case.heads.dim);
            let (mut keys, mut values) = (random(2, size), random(3, size));
            let want = reference(&case, &queries, &keys, &values);
            // What nobody may look at.
            for head in 0..case.heads.key_value {
                let rows = (head * case.capacity + past + tokens) * case.heads.dim
                    ..(head + 1) * case.capacity * case.heads.dim;
                keys[rows.clone()].fill(f32::NAN);
                values[rows].fill(f32::NAN);
            }
            let cache = Cache {
                keys: &mut keys,
                values: &mut values,
                capacity: case.capacity,
                order: Order::Rows,
                scales: None,
            };
            let got = attend(&case, &queries, &cache, false);
            let off = furthest(&got, &want);
            assert!(off < 2e-6, "{heads:?} {past} {tokens}: {off}");
            assert_eq!(
                got,
                attend(&case, &queries, &cache, true),
                "the order of tasks changes the result"
            );
        }
    }

    #[test]
    fn eight_bits_are_attended_to_as_what_they_stand_for() {
        for (heads, past, tokens) in CASES {
            let case = case(heads, past, tokens);
            let (dim, key_value) = (case.heads.dim, case.heads.key_value);
            let size = key_value * case.capacity * dim;
            let queries = random(1, tokens * case.heads.query * dim);
            let scales: Vec<f32> = random(4, key_value * dim)
                .iter()
                .map(|x| 0.005 + x.abs() * 0.01)
                .collect();
            let filled = |order| {
                // What nobody may look at.
                let (mut keys, mut values) = (vec![-77_i8; size], vec![99_i8; size]);
                let mut cache = Cache {
                    keys: &mut keys,
                    values: &mut values,
                    capacity: case.capacity,
                    order,
                    scales: Some(Scales {
                        keys: &scales,
                        values: &scales,
                    }),
                };
                for position in 0..past + tokens {
                    let row = random(10 + position as u64, 2 * key_value * dim);
                    let (keys, values) = row.split_at(key_value * dim);
                    cache.append(case.heads, position, keys, values);
                }
                (attend(&case, &queries, &cache, false), keys, values)
            };
            let wide = |memory: &[i8]| -> Vec<f32> {
                let channel = |index: usize| index / (case.capacity * dim) * dim + index % dim;
                let scaled = memory.iter().enumerate();
                scaled
                    .map(|(index, value)| f32::from(*value) * scales[channel(index)])
                    .collect()
            };
            let (in_rows, keys, values) = filled(Order::Rows);
            let want = reference(&case, &queries, &wide(&keys), &wide(&values));
            let off = furthest(&in_rows, &want);
            assert!(off < 2e-6, "{heads:?} {past} {tokens}: {off}");
            let fastest = Order::fastest::<i8>(case.heads, case.capacity);
            let limit = match fastest {
                Order::Rows => 2e-6,
                #[cfg(target_arch = "x86_64")]
                Order::Blocks(_) => SIXTEEN_BITS,
            };
            let off = furthest(&filled(fastest).0, &want);
            assert!(off < limit, "{heads:?} {past} {tokens}, {fastest:?}: {off}");
        }
    }

    /// How far results may be off, of values of 1 and less: queries are rounded to a part in 65,534 of the largest, which moves
    /// scores by 2.5e-5 each here. What 8 bits in the cache change is a hundred times as much.
    #[cfg(target_arch = "x86_64")]
    const SIXTEEN_BITS: f64 = 2e-4;

    /// Pasts around the borders of tiles and of tasks.
    const PASTS: [usize; 9] = [0, 1, 50, 60, 125, 1_000, 2_040, 2_555, 3_100];

    fn one_by_one<T: Element>(
        heads: Heads,
        past: usize,
        tokens: usize,
        cache: &Cache<'_, T>,
    ) -> [Vec<f32>; 2] {
        let width = heads.query * heads.dim;
        let queries = random(7, tokens * width);
        let attend = |past, queries: &[f32]| {
            let case = Case {
                heads,
                past,
                tokens: queries.len() / width,
                capacity: cache.capacity,
            };
            attend(&case, queries, cache, false)
        };
        let single = queries.chunks(width).enumerate();
        let single = single.flat_map(|(token, queries)| attend(past + token, queries));
        [single.collect(), attend(past, &queries)]
    }

    #[test]
    fn few_tokens_take_what_they_take_one_by_one() {
        for (index, counts) in [[9, 3, 64], [14, 2, 64], [4, 4, 48], [16, 1, 16]]
            .iter()
            .enumerate()
        {
            for past in PASTS {
                let tokens = [2, 9, 17, FEW_TOKENS][(past + index) % 4];
                let Case { heads, capacity, .. } = case(*counts, past, tokens);
                let size = heads.key_value * capacity * heads.dim;
                let (mut keys, mut values) = (random(2, size), random(3, size));
                let mut codes: Vec<i8> = keys.iter().map(|key| (key * 127.0) as i8).collect();
                let mut more_codes = codes.clone();
                let scales: Vec<f32> = random(4, heads.key_value * heads.dim);
                let cache = Cache {
                    keys: &mut keys,
                    values: &mut values,
                    capacity,
                    order: Order::Rows,
                    scales: None,
                };
                let [single, together] = one_by_one(heads, past, tokens, &cache);
                assert_eq!(single, together, "{counts:?} {past} {tokens}");
                let cache = Cache {
                    keys: &mut codes,
                    values: &mut more_codes,
                    capacity,
                    order: Order::fastest::<i8>(heads, capacity),
                    scales: Some(Scales {
                        keys: &scales,
                        values: &scales,
                    }),
                };
                let [single, together] = one_by_one(heads, past, tokens, &cache);
                assert_eq!(single, together, "8 bits, {counts:?} {past} {tokens}");
            }
        }
    }

    #[test]
    fn every_key_is_in_one_task() {
        for keys in [1, 127, 128, 129, 2_047, 2_048, 2_049, 2_560, 2_561, 40_000] {
            let count = key_tasks(keys);
            assert_eq!(first_key(0), 0);
            assert!(first_key(count - 1) < keys && keys <= first_key(count), "{keys}");
            assert!(
                (0..count).all(|task| first_key(task) < first_key(task + 1) && first_key(task).is_multiple_of(KEYS))
            );
        }
    }

    #[test]
    fn every_unit_is_there_once() {
        for (heads, past, tokens) in CASES {
            let Case { heads, .. } = case(heads, past, tokens);
            let division = Division::of(heads, past, tokens);
            let mut seen = vec![0; heads.key_value * tokens];
            for unit in 0..heads.key_value * division.token_tasks {
                let (head, range) = division.unit(heads, unit);
                range.for_each(|token| seen[head * tokens + token] += 1);
            }
            assert!(seen.iter().all(|count| *count == 1), "{heads:?} {past} {tokens}");
        }
    }
}
