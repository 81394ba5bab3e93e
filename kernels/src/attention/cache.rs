use fearless_simd::{Simd, SimdBase};

use crate::attention::Heads;

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
    fn nearest(value: f32) -> Self {
        value.round_ties_even().clamp(-128.0, 127.0) as i8
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

/// The cache of a layer: keys and values, each `[key_value_heads, capacity, dim]`.
pub struct Cache<'a, T> {
    /// Keys.
    pub keys: &'a mut [T],
    /// Values.
    pub values: &'a mut [T],
    /// Tokens that there is room for.
    pub capacity: usize,
    /// Where elements are scaled.
    pub scales: Option<Scales<'a>>,
}

impl<T: Element> Cache<'_, T> {
    /// Writes the keys and values of token `position`, `[key_value_heads, dim]` each.
    ///
    /// # Panics
    /// There is no room, or lengths do not fit.
    pub fn append(&mut self, heads: Heads, position: usize, keys: &[f32], values: &[f32]) {
        let scales = self.scales;
        for (memory, row, scales) in [
            (&mut *self.keys, keys, scales.map(|scales| scales.keys)),
            (&mut *self.values, values, scales.map(|scales| scales.values)),
        ] {
            for head in 0..heads.key_value {
                let start = (head * self.capacity + position) * heads.dim;
                let channels = head * heads.dim..(head + 1) * heads.dim;
                let target = &mut memory[start..start + heads.dim];
                let row = &row[channels.clone()];
                match scales {
                    None => write(target, row.iter().copied()),
                    Some(scales) => {
                        let scales = &scales[channels];
                        write(target, row.iter().zip(scales).map(|(value, scale)| value / scale));
                    }
                }
            }
        }
    }
}

fn write<T: Element>(target: &mut [T], values: impl Iterator<Item = f32>) {
    for (element, value) in target.iter_mut().zip(values) {
        *element = T::nearest(value);
    }
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
