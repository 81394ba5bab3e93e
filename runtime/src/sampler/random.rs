use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A sequence of random numbers that can be gone on with at any place.
#[derive(Debug, Clone)]
pub(super) struct RandomNumbers {
    seed: u64,
    generator: ChaCha12Rng,
}

impl RandomNumbers {
    /// The sequence of `seed` after `words` words of 32 bits.
    pub(super) fn at(seed: u64, words: u64) -> Self {
        let mut generator = ChaCha12Rng::seed_from_u64(seed);
        generator.set_word_pos(u128::from(words));
        Self { seed, generator }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Words of 32 bits that were drawn.
    pub(super) fn words_drawn(&self) -> u64 {
        u64::try_from(self.generator.get_word_pos()).unwrap_or(u64::MAX)
    }

    /// 53 random bits as a number in [0, 1).
    pub(super) fn unit(&mut self) -> f64 {
        (self.generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
