/// Weights of the largest block.
pub(crate) const MAX_BLOCK: usize = 256;

/// Bytes of a word of codes.
const WORD: usize = 4;

/// Bits of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// Two codes in a byte, the first in its low half.
    Four,
    /// A code in a byte.
    Eight,
}

impl Bits {
    /// Codes in a byte.
    pub(crate) fn codes_in_byte(self) -> usize {
        match self {
            Bits::Four => 2,
            Bits::Eight => 1,
        }
    }

    /// The code of 0: weights are symmetric.
    pub(crate) fn zero(self) -> i32 {
        match self {
            Bits::Four => 8,
            Bits::Eight => 128,
        }
    }
}

/// A weight `[outputs, inputs]` whose rows are divided into blocks, each with a scale: a weight is its code less the code of zero
/// (8 or 128), times its block's scale. The last block of a row is filled up. The layout is that of `MatMulNBits` of ONNX Runtime.
#[derive(Debug, Clone, Copy)]
pub struct BlockWeight<'a> {
    pub(crate) bits: Bits,
    pub(crate) block_size: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    codes: &'a [u8],
    scales: &'a [f32],
}

impl<'a> BlockWeight<'a> {
    /// Whether blocks of `block_size` weights can be multiplied.
    pub fn supports(bits: Bits, block_size: usize) -> bool {
        let bytes = block_size / bits.codes_in_byte();
        block_size.is_power_of_two() && block_size <= MAX_BLOCK && bytes >= 16
    }

    /// A weight of `[outputs, inputs]`; `None` if the codes or scales are not as many as that, or blocks are not supported.
    pub fn new(
        bits: Bits,
        block_size: usize,
        [outputs, inputs]: [usize; 2],
        codes: &'a [u8],
        scales: &'a [f32],
    ) -> Option<Self> {
        let weight = Self {
            bits,
            block_size,
            inputs,
            outputs,
            codes,
            scales,
        };
        let fits = Self::supports(bits, block_size)
            && codes.len() == outputs * weight.row_bytes()
            && scales.len() == outputs * weight.blocks();
        fits.then_some(weight)
    }

    /// Blocks of an output.
    pub(crate) fn blocks(&self) -> usize {
        self.inputs.div_ceil(self.block_size)
    }

    /// Bytes of an output's codes.
    fn row_bytes(&self) -> usize {
        self.blocks() * self.block_size / self.bits.codes_in_byte()
    }

    /// Codes of a block of an output, in words as they lie.
    pub(crate) fn words(&self, output: usize, block: usize) -> impl Iterator<Item = u32> {
        let bytes = self.row_bytes() / self.blocks();
        let codes = &self.codes[output * self.row_bytes() + block * bytes..][..bytes];
        codes
            .as_chunks::<WORD>()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word))
    }

    /// The scale of a block of an output.
    pub(crate) fn scale(&self, output: usize, block: usize) -> f32 {
        self.scales[output * self.blocks() + block]
    }

    /// All scales.
    pub(crate) fn scales(&self) -> &'a [f32] {
        self.scales
    }
}
