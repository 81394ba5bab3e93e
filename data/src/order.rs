use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::{Error, Result};

/// Megabatches that are sorted by length hold this many batches (`get_length_grouped_indices` in transformers
/// `trainer_pt_utils.py`).
const MEGABATCH: usize = 50;

/// The stream of random numbers that a split takes; epochs take those from 0 on.
const SPLIT_STREAM: u64 = u64::MAX;

/// In which order samples are learned. The same seed gives the same order on every machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// Seed of all epochs.
    pub seed: u64,
    /// Whether each epoch has an order of its own. If not, samples come as they are given.
    pub shuffle: bool,
    /// Puts samples of similar length together.
    pub grouping: Option<LengthGrouping>,
}

/// Lengths to group samples by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LengthGrouping {
    /// The length of every sample of the dataset, such as [`Encoder::token_count`](crate::Encoder::token_count) gives.
    pub lengths: Vec<usize>,
    /// Samples in a batch.
    pub batch_size: usize,
}

impl Order {
    /// The order of `samples` in epoch `epoch`, counted from 0.
    ///
    /// With grouping, as transformers does it: the shuffled samples are cut into megabatches of 50 batches, each is
    /// sorted from long to short, and the longest sample of all comes first, so that memory that does not suffice fails
    /// at once. A sample that has no length there counts as one of length 0.
    pub fn epoch(&self, samples: &[usize], epoch: u64) -> Vec<usize> {
        let mut order = samples.to_vec();
        if self.shuffle {
            shuffle(&mut order, &mut random(self.seed, epoch));
        }
        if let Some(grouping) = &self.grouping {
            grouping.group(&mut order);
        }
        order
    }
}

impl LengthGrouping {
    fn group(&self, order: &mut [usize]) {
        let batch = self.batch_size.max(1);
        let batches = (order.len() / (batch * 4)).clamp(1, MEGABATCH);
        let size = batches * batch;
        for megabatch in order.chunks_mut(size) {
            megabatch.sort_by_key(|sample| std::cmp::Reverse(self.length(*sample)));
        }
        let firsts = (0..order.len()).step_by(size);
        // The first of equals, which `max_by_key` would not give.
        let longest = firsts.reduce(|best, next| {
            if self.length(order[next]) > self.length(order[best]) {
                next
            } else {
                best
            }
        });
        if let Some(longest) = longest {
            order.swap(0, longest);
        }
    }

    fn length(&self, sample: usize) -> usize {
        self.lengths.get(sample).copied().unwrap_or(0)
    }
}

/// How many samples are kept back to measure with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Validation {
    /// A part of all, from 0 to below 1; rounded to whole samples.
    Share(f64),
    /// This many.
    Count(usize),
}

/// Splits `len` samples into those to train on and those to measure with, both in rising order. Which ones is drawn
/// with the seed.
///
/// # Errors
/// None would be left for training, or the share is no number from 0 to 1.
pub fn split(len: usize, validation: Validation, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    let held_out = match validation {
        Validation::Share(share) if (0.0..1.0).contains(&share) => (share * len as f64).round() as usize,
        Validation::Share(_) => len,
        Validation::Count(count) => count,
    };
    if held_out >= len {
        return Err(Error::Split { held_out, len });
    }
    let mut all: Vec<usize> = (0..len).collect();
    shuffle(&mut all, &mut random(seed, SPLIT_STREAM));
    let mut train = all.split_off(held_out);
    all.sort_unstable();
    train.sort_unstable();
    Ok((train, all))
}

fn random(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(key);
    random.set_stream(stream);
    random
}

/// Fisher and Yates' shuffle, written out so that no other crate's release changes an order.
fn shuffle(items: &mut [usize], random: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        // 64 random bits scaled to 0..=last; the bias is below 2^-32 for any number of samples that fits a disk.
        let drawn = (u128::from(random.next_u64()) * (last as u128 + 1)) >> 64;
        items.swap(last, drawn as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shuffled(seed: u64, epoch: u64) -> Vec<usize> {
        let order = Order {
            seed,
            shuffle: true,
            grouping: None,
        };
        order.epoch(&Vec::from_iter(0..8), epoch)
    }

    fn sorted(mut samples: Vec<usize>) -> Vec<usize> {
        samples.sort_unstable();
        samples
    }

    #[test]
    fn the_same_seed_is_the_same_order() {
        assert_eq!(shuffled(42, 0), shuffled(42, 0));
        assert_ne!(shuffled(42, 0), shuffled(42, 1));
        assert_ne!(shuffled(42, 0), shuffled(43, 0));
        assert_eq!(sorted(shuffled(42, 3)), Vec::from_iter(0..8));
        // A change here would let runs that are taken up again see other samples.
        assert_eq!(shuffled(42, 0), GOLDEN);
    }

    /// By a ChaCha8 written in Python.
    const GOLDEN: [usize; 8] = [4, 5, 0, 3, 6, 7, 1, 2];

    #[test]
    fn without_shuffling_samples_stay() {
        assert_eq!(Order::default().epoch(&[3, 1, 2], 5), [3, 1, 2]);
    }

    #[test]
    fn megabatches_fall_in_length_and_the_longest_is_first() {
        let lengths: Vec<usize> = (0..40).map(|i| i * 7 % 40).collect();
        let order = Order {
            seed: 1,
            shuffle: true,
            grouping: Some(LengthGrouping {
                lengths: lengths.clone(),
                batch_size: 2,
            }),
        };
        let epoch = order.epoch(&Vec::from_iter(0..40), 0);
        assert_eq!(lengths[epoch[0]], 39);
        assert_eq!(sorted(epoch.clone()), Vec::from_iter(0..40));
        // 40 samples in batches of 2 are megabatches of 5 batches. Their first ones may be swapped.
        for megabatch in epoch.chunks(10) {
            assert!(
                megabatch[1..].is_sorted_by_key(|sample| std::cmp::Reverse(lengths[*sample])),
                "{megabatch:?}"
            );
        }
        assert_ne!(epoch, order.epoch(&Vec::from_iter(0..40), 1));
    }

    #[test]
    fn a_split_leaves_none_out() {
        let (train, held_out) = split(10, Validation::Share(0.25), 7).unwrap();
        assert_eq!((train.len(), held_out.len()), (7, 3));
        assert!(train.is_sorted() && held_out.is_sorted());
        assert_eq!(sorted([train, held_out].concat()), Vec::from_iter(0..10));
        assert!(split(10, Validation::Count(0), 7).unwrap().1.is_empty());
        for validation in [
            Validation::Count(10),
            Validation::Share(1.0),
            Validation::Share(f64::NAN),
        ] {
            let error = split(10, validation, 7).unwrap_err().to_string();
            assert_eq!(
                error,
                "cannot hold out `10` of `10` samples; keep at least one for training"
            );
        }
    }
}
