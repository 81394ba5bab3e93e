use crate::product::weight::{Bits, BlockWeight};

/// Outputs of a line.
pub(crate) const LANES: usize = 16;

/// Lines of outputs that are multiplied together.
pub(crate) const PANELS: usize = 2;

/// Outputs that are multiplied together.
pub(crate) const GROUP: usize = PANELS * LANES;

/// How a weight lies in the order in which it is multiplied: 32 outputs at a time, block after block, of each block first the scales
/// of all 32 outputs, then the words of their codes, the first words of all, the second words, and so on. Where there are fewer
/// outputs, zeros stand for them.
///
/// Scales that are the same number in 16 bits take 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    pub(crate) bits: Bits,
    pub(crate) half_scales: bool,
    pub(crate) block_size: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// A weight in the order in which it is multiplied.
#[derive(Debug, Clone, Copy)]
pub struct PackedWeight<'a> {
    pub(crate) packing: Packing,
    lines: &'a [[u32; LANES]],
}

impl Packing {
    /// How `weight` lies.
    pub fn of(weight: &BlockWeight<'_>) -> Self {
        Self {
            bits: weight.bits,
            half_scales: weight.scales().iter().all(|scale| half(*scale).is_some()),
            block_size: weight.block_size,
            inputs: weight.inputs,
            outputs: weight.outputs,
        }
    }

    /// `[outputs, inputs]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.outputs, self.inputs]
    }

    /// Numbers that the weight takes.
    pub fn numbers(&self) -> usize {
        self.groups() * self.group_lines() * LANES
    }

    /// Groups of outputs.
    pub(crate) fn groups(&self) -> usize {
        self.outputs.div_ceil(GROUP)
    }

    /// Blocks of an output.
    pub(crate) fn blocks(&self) -> usize {
        self.inputs.div_ceil(self.block_size)
    }

    /// Inputs with those that fill the last block.
    pub(crate) fn padded_inputs(&self) -> usize {
        self.blocks() * self.block_size
    }

    /// Bytes of a group's codes and scales.
    pub(crate) fn group_bytes(&self) -> usize {
        self.group_lines() * size_of::<[u32; LANES]>()
    }

    /// Lines of a block's scales.
    fn scale_lines(&self) -> usize {
        match self.half_scales {
            true => PANELS / 2,
            false => PANELS,
        }
    }

    fn block_lines(&self) -> usize {
        self.scale_lines() + self.block_size / self.bits.codes_in_byte() / size_of::<u32>() * PANELS
    }

    fn group_lines(&self) -> usize {
        self.blocks() * self.block_lines()
    }

    /// Writes `weight`, which lies like this, to as many zeros as it takes.
    ///
    /// # Panics
    /// There are not as many.
    pub fn pack(&self, weight: &BlockWeight<'_>, numbers: &mut [u32]) {
        assert_eq!(numbers.len(), self.numbers(), "numbers of {self:?}");
        let lines = numbers.as_chunks_mut::<LANES>().0;
        let groups = lines.chunks_exact_mut(self.group_lines());
        for (group, lines) in groups.enumerate() {
            let outputs = group * GROUP..((group + 1) * GROUP).min(self.outputs);
            for (block, lines) in lines.chunks_exact_mut(self.block_lines()).enumerate() {
                let (scales, codes) = lines.split_at_mut(self.scale_lines());
                for (place, output) in outputs.clone().enumerate() {
                    let scale = weight.scale(output, block);
                    match half(scale).filter(|_| self.half_scales) {
                        Some(half) => scales[0][place / 2] |= u32::from(half) << (16 * (place % 2)),
                        None => scales[place / LANES][place % LANES] = scale.to_bits(),
                    }
                    let lines = codes.iter_mut().skip(place / LANES).step_by(PANELS);
                    for (line, word) in lines.zip(weight.words(output, block)) {
                        line[place % LANES] = word;
                    }
                }
            }
        }
    }
}

impl<'a> PackedWeight<'a> {
    /// The weight that [`Packing::pack`] wrote; `None` if there are not as many numbers.
    pub fn new(packing: Packing, numbers: &'a [u32]) -> Option<Self> {
        let lines = numbers.as_chunks().0;
        (numbers.len() == packing.numbers()).then_some(Self { packing, lines })
    }

    /// Lines of a group of outputs and of all behind it.
    pub(crate) fn lines_from(&self, group: usize) -> &'a [[u32; LANES]] {
        &self.lines[group * self.packing.group_lines()..]
    }

    /// Lines of a group of outputs.
    pub(crate) fn lines(&self, group: usize) -> &'a [[u32; LANES]] {
        &self.lines_from(group)[..self.packing.group_lines()]
    }
}

/// The bits of `number` as a float of 16 bits; `None` where there is no such float.
fn half(number: f32) -> Option<u16> {
    /// The smallest normal float of 16 bits, and the step of those below.
    const SMALLEST: f32 = 6.103_515_6e-5;
    const STEP: f32 = SMALLEST / 1024.0;
    /// What is taken from an exponent, and bits that are cut off a fraction.
    const BIAS: u32 = 127 - 15;
    const CUT: u32 = 23 - 10;
    let sign = (number.to_bits() >> 16) as u16 & 0x8000;
    let magnitude = number.abs();
    if magnitude < SMALLEST {
        let steps = magnitude / STEP;
        return (steps.fract() == 0.0).then_some(sign | steps as u16);
    }
    let bits = magnitude.to_bits();
    let is_exact = bits.trailing_zeros() >= CUT && magnitude < 65536.0;
    is_exact.then(|| sign | ((bits - (BIAS << 23)) >> CUT) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_16_bits_are_found() {
        let cases = [
            (0.0, Some(0)),
            (-0.0, Some(0x8000)),
            (1.0, Some(0x3c00)),
            (-1.5, Some(0xbe00)),
            (65504.0, Some(0x7bff)),
            (65536.0, None),
            (6.103_515_6e-5, Some(0x0400)),
            (5.960_464_5e-8, Some(1)),
            (2.980_232_2e-8, None),
            (6.097_555e-5, Some(0x03ff)),
            (1.0 + 1.0 / 1024.0, Some(0x3c01)),
            (1.0 + 1.0 / 2048.0, None),
            (f32::INFINITY, None),
            (f32::NAN, None),
        ];
        for (number, bits) in cases {
            assert_eq!(half(number), bits, "{number}");
        }
    }

    #[test]
    fn every_code_and_scale_has_its_place() {
        // Two blocks of 35 outputs, codes that tell where they were.
        let codes: Vec<u8> = (0..35 * 64).map(|code| (code % 251) as u8).collect();
        for step in [0.25, 0.1] {
            let scales: Vec<f32> = (0..70).map(|scale| scale as f32 * step).collect();
            let weight = BlockWeight::new(Bits::Eight, 32, [35, 60], &codes, &scales).unwrap();
            let packing = Packing::of(&weight);
            assert_eq!(packing.half_scales, step == 0.25);
            let mut numbers = vec![0; packing.numbers()];
            packing.pack(&weight, &mut numbers);
            let packed = PackedWeight::new(packing, &numbers).unwrap();
            // Output 33, the second of the second group; its second block; the third word.
            let block = &packed.lines(1)[packing.block_lines()..];
            let (scales, words) = block.split_at(packing.scale_lines());
            match packing.half_scales {
                true => assert_eq!((scales[0][0] >> 16) as u16, half(67.0 * step).unwrap()),
                false => assert_eq!(scales[0][1], (67.0 * step).to_bits()),
            }
            let word = [8, 9, 10, 11].map(|place| codes[33 * 64 + 32 + place]);
            assert_eq!(words[2 * PANELS][1], u32::from_le_bytes(word));
            assert_eq!(words[2 * PANELS][5], 0, "there are 35 outputs");
            assert!(PackedWeight::new(packing, &numbers[1..]).is_none());
        }
    }
}
