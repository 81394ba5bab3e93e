use fearless_simd::{Simd, SimdBase};

use crate::attention::Heads;
use crate::attention::order::Order;

/// Beside it a number of a byte's size has no room for a fraction, so that a sum is rounded, halves to even: faster than a call,
/// which it is on processors of which nothing is known when this is compiled.
const NO_FRACTION: f32 = 1.5 * 8_388_608.0;

/// How a number stands in the cache.
pub trait Element: Copy + Send + Sync + 'static {
    /// The element nearest to `value`, which was divided by its channel's scale.
    fn nearest(value: f32) -> Self;

    /// `rows` as floats, not yet multiplied by scales: themselves, or written to `room`, which is as long.
    fn widen<'a>(rows: &'a [Self], room: &'a mut [f32]) -> &'a [f32];

    /// `rows` where they are bytes.
    fn bytes(_rows: &[Self]) -> Option<&[i8]> {
        None
    }

    /// 128 more, as a byte without a sign, where it is a byte.
    fn without_sign(self) -> Self {
        self
    }

    /// As many of `elements` as a vector has lanes.
    fn load<S: Simd>(simd: S, elements: &[Self]) -> S::f32s;
}

impl Element for f32 {
    #[inline(always)]
    fn nearest(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn widen<'a>(rows: &'a [Self], _: &'a mut [f32]) -> &'a [f32] {
        rows
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, elements: &[Self]) -> S::f32s {
        S::f32s::from_slice(simd, &elements[..S::f32s::LEN])
    }
}

impl Element for i8 {
    #[inline(always)]
    fn bytes(rows: &[Self]) -> Option<&[i8]> {
        Some(rows)
    }

    #[inline(always)]
    fn without_sign(self) -> Self {
        self ^ i8::MIN
    }

    #[inline(always)]
    fn nearest(value: f32) -> Self {
        (value.clamp(-128.0, 127.0) + NO_FRACTION - NO_FRACTION) as i8
    }

    #[inline(always)]
    fn widen<'a>(rows: &'a [Self], room: &'a mut [f32]) -> &'a [f32] {
        for (wide, narrow) in room.iter_mut().zip(rows) {
            *wide = f32::from(*narrow);
        }
        room
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, elements: &[Self]) -> S::f32s {
        let mut wide = [0.0_f32; 16];
        for (wide, element) in wide[..S::f32s::LEN].iter_mut().zip(&elements[..S::f32s::LEN]) {
            *wide = f32::from(*element);
        }
        S::f32s::from_slice(simd, &wide[..S::f32s::LEN])
    }
}

/// What elements of a cache are to be multiplied by: `[key_value_heads, dim]` each, one scale a channel.
#[derive(Debug, Clone, Copy)]
pub struct Scales<'a> {
    /// Of keys.
    pub keys: &'a [f32],
    /// Of values.
    pub values: &'a [f32],
}

/// The cache of a layer: keys and values, each `[key_value_heads, capacity, dim]`, whose rows lie in some order.
pub struct Cache<'a, T> {
    /// Keys.
    pub keys: &'a mut [T],
    /// Values.
    pub values: &'a mut [T],
    /// Tokens that there is room for.
    pub capacity: usize,
    /// How rows lie in a head's memory.
    pub order: Order,
    /// Where elements are scaled.
    pub scales: Option<Scales<'a>>,
}

impl<T: Element> Cache<'_, T> {
    /// Writes the keys and values of token `position`, `[key_value_heads, dim]` each.
    ///
    /// # Panics
    /// There is no room, or lengths do not fit.
    pub fn append(&mut self, heads: Heads, position: usize, keys: &[f32], values: &[f32]) {
        let Heads { key_value, dim, .. } = heads;
        let order = self.order;
        for head in 0..key_value {
            let channels = head * dim..(head + 1) * dim;
            let memory = head * self.capacity * dim..(head + 1) * self.capacity * dim;
            let row = elements(
                &keys[channels.clone()],
                self.scales.map(|of| &of.keys[channels.clone()]),
            );
            let memory_keys = &mut self.keys[memory.clone()];
            for (channel, element) in row.enumerate() {
                memory_keys[order.key(dim, position, channel)] = order.of_key(element);
            }
            let scales = self.scales.map(|of| &of.values[channels.clone()]);
            let memory_values = &mut self.values[memory];
            for (channel, element) in elements(&values[channels], scales).enumerate() {
                memory_values[order.value(dim, position, channel)] = element;
            }
        }
    }
}

/// How a row stands in a cache with these scales.
fn elements<T: Element>(row: &[f32], scales: Option<&[f32]>) -> impl Iterator<Item = T> {
    row.iter().enumerate().map(move |(channel, value)| {
        let scale = scales.map_or(1.0, |scales| scales[channel]);
        T::nearest(value / scale)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads {
        query: 2,
        key_value: 2,
        dim: 16,
    };

    #[test]
    fn rows_stand_at_their_position_in_every_head() {
        let (mut keys, mut values) = (vec![0.0_f32; 2 * 3 * 16], vec![0.0; 2 * 3 * 16]);
        let mut cache = Cache {
            keys: &mut keys,
            values: &mut values,
            capacity: 3,
            order: Order::Rows,
            scales: None,
        };
        let row: Vec<f32> = (0..32_u8).map(f32::from).collect();
        cache.append(HEADS, 1, &row, &row);
        assert_eq!(keys[16..32], row[..16]);
        assert_eq!(values[4 * 16..5 * 16], row[16..]);
        assert_eq!(keys.iter().filter(|key| **key != 0.0).count(), 31);
    }

    #[test]
    fn eight_bits_are_the_nearest_and_clipped() {
        let scales = [0.5; 32];
        let (mut keys, mut values) = (vec![0_i8; 32], vec![0_i8; 32]);
        let mut cache = Cache {
            keys: &mut keys,
            values: &mut values,
            capacity: 1,
            order: Order::Rows,
            scales: Some(Scales {
                keys: &scales,
                values: &scales,
            }),
        };
        let mut row = [0.0; 32];
        row[..5].copy_from_slice(&[1.2, -1.3, 0.25, 500.0, -500.0]);
        cache.append(HEADS, 0, &row, &row);
        assert_eq!(keys[..5], [2, -3, 0, 127, -128], "halves go to even: 0.25 / 0.5");
    }
}
