//! How the rows of a head's cache lie in memory.

#[cfg(target_arch = "x86_64")]
use fearless_simd::{Avx512, Level};

use crate::attention::Heads;
use crate::attention::cache::Element;
#[cfg(target_arch = "x86_64")]
use crate::attention::integer_tile;
#[cfg(target_arch = "x86_64")]
use crate::lines::WORD;

/// Keys of a block: words of a vector.
const BLOCK: usize = 16;

/// How the rows of a head's cache lie in memory: the same for as long as any of them is needed.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// One behind the other, `[capacity, dim]`.
    Rows,
    /// As they are multiplied, so that nothing is to be turned over: words of sixteen keys, or of sixteen channels of values, side by
    /// side. Keys are `[capacity / 16, dim / 4, 16, 4]`, and have no sign; values are `[capacity / 4, dim, 4]`.
    #[cfg(target_arch = "x86_64")]
    Blocks(Blocks),
}

/// What only a processor that multiplies blocks has.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Blocks(pub(crate) Avx512);

impl Order {
    /// In any order, so many rows are together from the first: whoever copies a cache copies a multiple of them, and capacities are
    /// one.
    pub const ROWS: usize = BLOCK;

    /// What this processor is fastest with, for caches of `capacity` tokens.
    pub fn fastest<T: Element>(heads: Heads, capacity: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = Level::new().as_avx512()
            && T::bytes(&[]).is_some()
            && integer_tile::suits(heads.dim)
            && capacity.is_multiple_of(BLOCK)
        {
            return Self::Blocks(Blocks(avx512));
        }
        let _ = (heads, capacity);
        Self::Rows
    }

    /// Where a channel of a key is in the memory of its head.
    pub(crate) fn key(self, dim: usize, position: usize, channel: usize) -> usize {
        match self {
            Self::Rows => position * dim + channel,
            #[cfg(target_arch = "x86_64")]
            Self::Blocks(_) => {
                let word = position / BLOCK * dim / WORD + channel / WORD;
                (word * BLOCK + position % BLOCK) * WORD + channel % WORD
            }
        }
    }

    /// Where a channel of a value is in the memory of its head.
    pub(crate) fn value(self, dim: usize, position: usize, channel: usize) -> usize {
        match self {
            Self::Rows => position * dim + channel,
            #[cfg(target_arch = "x86_64")]
            Self::Blocks(_) => (position / WORD * dim + channel) * WORD + position % WORD,
        }
    }

    /// How a key's `element` stands in memory.
    pub(crate) fn of_key<T: Element>(self, element: T) -> T {
        match self {
            Self::Rows => element,
            #[cfg(target_arch = "x86_64")]
            Self::Blocks(_) => element.without_sign(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_channel_has_a_place_of_its_own() {
        let heads = Heads {
            query: 2,
            key_value: 1,
            dim: 128,
        };
        let capacity = 3 * Order::ROWS;
        for order in [Order::Rows, Order::fastest::<i8>(heads, capacity)] {
            let mut places = [const { Vec::new() }; 2];
            for position in 0..capacity {
                for channel in 0..heads.dim {
                    places[0].push(order.key(heads.dim, position, channel));
                    places[1].push(order.value(heads.dim, position, channel));
                }
                let filled = (position + 1).next_multiple_of(Order::ROWS) * heads.dim;
                assert!(places.iter().flatten().all(|place| *place < filled), "{position}");
            }
            for places in places {
                assert_eq!(places.iter().collect::<HashSet<_>>().len(), capacity * heads.dim);
            }
        }
    }

    #[test]
    fn floats_and_odd_capacities_lie_in_rows() {
        let heads = Heads {
            query: 2,
            key_value: 2,
            dim: 64,
        };
        assert!(matches!(Order::fastest::<f32>(heads, 64), Order::Rows));
        assert!(matches!(Order::fastest::<i8>(heads, 65), Order::Rows));
    }
}
