use half::f16;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Bits of one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Bits {
    /// Levels from -8 to 7.
    Four,
    /// Levels from -128 to 127.
    Eight,
}

impl Bits {
    /// How many there are.
    pub const fn count(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The lowest level, negated: 8 or 128. It is what codes are shifted by, since they are stored unsigned.
    pub const fn offset(self) -> i32 {
        1 << (self.count() - 1)
    }

    /// The level nearest to `value`, halves away from zero as in ONNX Runtime's own quantizer.
    pub(crate) fn level(self, value: f32) -> i32 {
        let offset = self.offset();
        (value.round() as i32).clamp(-offset, offset - 1)
    }
}

impl From<Bits> for u8 {
    fn from(bits: Bits) -> Self {
        bits.count() as Self
    }
}

impl TryFrom<u8> for Bits {
    type Error = String;

    fn try_from(count: u8) -> Result<Self, String> {
        match count {
            4 => Ok(Self::Four),
            8 => Ok(Self::Eight),
            other => Err(format!("weights of {other} bits are not to be had; use 4 or 8")),
        }
    }
}

/// How a matrix is quantized: symmetric, with one f32 scale for each block of neighbouring inputs of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockScheme {
    /// Bits of one weight.
    pub bits: Bits,
    /// Weights that share a scale; the last block of a row may be shorter and is stored as if filled with zeros.
    pub block_size: usize,
    /// Whether every scale must be positive. Else a negative one gives the side of the largest weight the level more.
    #[serde(default)]
    pub positive: bool,
    /// Whether scales are rounded to 16 bits before weights are, so that kernels can hold them in so many. Those that are too
    /// small or too large for that stay as they are.
    #[serde(default)]
    pub half_scales: bool,
}

impl BlockScheme {
    /// A scheme that ONNX Runtime's kernels take.
    ///
    /// # Errors
    /// A block size that is no power of two between 16 and 256.
    pub fn new(bits: Bits, block_size: usize) -> Result<Self, Error> {
        if !block_size.is_power_of_two() || !(16..=256).contains(&block_size) {
            return Err(Error::BlockSize(block_size));
        }
        Ok(Self {
            bits,
            block_size,
            positive: false,
            half_scales: false,
        })
    }

    /// `scale` as it is stored.
    pub(crate) fn stored(&self, scale: f32) -> f32 {
        let magnitude = scale.abs();
        let fits = magnitude >= f16::MIN_POSITIVE.to_f32() && magnitude <= f16::MAX.to_f32();
        match self.half_scales && fits {
            true => f16::from_f32(scale).to_f32(),
            false => scale,
        }
    }

    /// Blocks of a row of `columns` weights.
    pub fn blocks(&self, columns: usize) -> usize {
        columns.div_ceil(self.block_size)
    }

    /// Bytes of the codes of one block.
    pub fn block_bytes(&self) -> usize {
        self.block_size * self.bits.count() / 8
    }

    /// Bytes of codes and scales of a matrix.
    pub fn bytes(&self, rows: usize, columns: usize) -> usize {
        rows * self.blocks(columns) * (self.block_bytes() + size_of::<f32>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_those_of_the_kernels() {
        for good in [16, 32, 64, 128, 256] {
            assert!(BlockScheme::new(Bits::Four, good).is_ok());
        }
        for bad in [0, 8, 33, 48, 512] {
            assert!(matches!(BlockScheme::new(Bits::Four, bad), Err(Error::BlockSize(size)) if size == bad));
        }
    }

    #[test]
    fn sizes_count_the_filling() {
        let scheme = BlockScheme::new(Bits::Four, 32).unwrap();
        assert_eq!((scheme.blocks(64), scheme.blocks(65)), (2, 3));
        assert_eq!(scheme.bytes(2, 65), 2 * 3 * (16 + 4));
    }

    #[test]
    fn scales_are_rounded_to_16_bits_where_they_fit() {
        let any = BlockScheme::new(Bits::Four, 32).unwrap();
        let half = BlockScheme {
            half_scales: true,
            ..any
        };
        assert_eq!(any.stored(0.1), 0.1);
        for (scale, stored) in [
            (0.1, 0.099_975_586),
            (-0.1, -0.099_975_586),
            (0.25, 0.25),
            (0.0, 0.0),
            (1e-5, 1e-5),
            (7e4, 7e4),
        ] {
            assert_eq!(half.stored(scale), stored);
        }
    }

    #[test]
    fn bits_are_read_as_numbers() {
        assert_eq!(serde_json::from_str::<Bits>("4").unwrap(), Bits::Four);
        assert!(
            serde_json::from_str::<Bits>("3")
                .unwrap_err()
                .to_string()
                .contains("use 4 or 8")
        );
    }

    #[test]
    fn levels_round_half_away_from_zero_and_stay_inside() {
        let levels = [0.5, -0.5, 7.6, -8.6].map(|value| Bits::Four.level(value));
        assert_eq!(levels, [1, -1, 7, -8]);
    }
}
