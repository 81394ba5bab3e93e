use half::f16;
use lwv_model::Target;
use lwv_quantize::{BlockScheme, ChannelMatrix, round_to_nearest};

use super::{Placed, WeightStore};
use crate::Error;

/// Turns codes that count from 0 into numbers with a sign, in each half of a byte.
const SIGNS: u8 = 0x88;

/// Where a quantized matrix went.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlacedBlocks {
    /// Codes of all blocks.
    pub(crate) codes: Placed,
    /// Scales of all blocks, f32.
    pub(crate) scales: Placed,
}

impl WeightStore<'_> {
    /// Places matrices of equal width as small integers, the rows of one after those of the other, under `name`. Each has a
    /// canonical name and a shape, all but whose first dimension are taken as one.
    ///
    /// # Errors
    /// A weight is missing, has another shape or is not finite, or a file cannot be read or written.
    pub(crate) fn place_blocks(
        &mut self,
        name: &str,
        weights: &[(&str, &[usize])],
        scheme: BlockScheme,
    ) -> Result<PlacedBlocks, Error> {
        if let Some(placed) = self.placed_blocks.get(name) {
            return Ok(placed.clone());
        }
        let code_bytes = |(_, shape): &(&str, &[usize])| {
            shape[0] * scheme.blocks(shape[1..].iter().product()) * scheme.block_bytes()
        };
        let signed = self.formats.target() == Target::TensorRt;
        let mut scales = Vec::new();
        let codes = self.place_bytes(weights.iter().map(code_bytes).sum(), |store, take| {
            weights.iter().try_for_each(|(name, shape)| {
                let mut take = |codes: &[u8]| match signed {
                    true => take(&codes.iter().map(|code| code ^ SIGNS).collect::<Vec<_>>()),
                    false => take(codes),
                };
                match store
                    .calibrated
                    .and_then(|calibrated| calibrated.weights.find(name))
                {
                    Some(matrix) => {
                        matrix.scales(|own| {
                            scales.extend_from_slice(own);
                            Ok(())
                        })?;
                        matrix.codes(take)
                    }
                    None => store.round(name, shape, scheme, &mut scales, &mut take),
                }
            })
        })?;
        if signed {
            scales = to_halves(&scales);
        }
        let scales = self.place_bytes(scales.len(), |_, take| take(&scales))?;
        let placed = PlacedBlocks { codes, scales };
        // What stands in one graph cannot be pointed to by another.
        if let Placed::External(_) = placed.codes {
            self.placed_blocks.insert(name.to_owned(), placed.clone());
        }
        Ok(placed)
    }

    /// Places the matrix with the canonical `name` and `shape` as 8-bit integers with signs, and a scale of 16 bits for each output.
    ///
    /// # Errors
    /// As for [`place_blocks`](Self::place_blocks).
    pub(crate) fn place_channels(&mut self, name: &str, shape: &[usize]) -> Result<PlacedBlocks, Error> {
        let info = self.checkpoint.find(name, shape)?;
        let columns = shape[1..].iter().product::<usize>();
        let mut scales = Vec::new();
        let codes = self.place_bytes(shape[0] * columns, |store, take| {
            let mut waiting: Vec<f32> = Vec::new();
            store.read(name, &info, store.moved(), |floats| {
                waiting.extend_from_slice(floats);
                let whole = waiting.len() / columns * columns;
                let matrix =
                    ChannelMatrix::round(&waiting[..whole], columns).map_err(Error::quantize(name))?;
                waiting.drain(..whole);
                scales.extend(matrix.scales.iter().flat_map(|scale| scale.to_le_bytes()));
                take(
                    &matrix
                        .codes
                        .iter()
                        .map(|code| code.to_le_bytes()[0])
                        .collect::<Vec<_>>(),
                )
            })
        })?;
        let scales = to_halves(&scales);
        let scales = self.place_bytes(scales.len(), |_, take| take(&scales))?;
        Ok(PlacedBlocks { codes, scales })
    }

    /// Rounds a matrix row by row as it is read; only its scales are held until the end.
    fn round(
        &self,
        name: &str,
        shape: &[usize],
        scheme: BlockScheme,
        scales: &mut Vec<u8>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let info = self.checkpoint.find(name, shape)?;
        let columns = shape[1..].iter().product::<usize>();
        let mut waiting: Vec<f32> = Vec::new();
        self.read(name, &info, None, |floats| {
            waiting.extend_from_slice(floats);
            let whole = waiting.len() / columns * columns;
            let matrix =
                round_to_nearest(&waiting[..whole], columns, scheme).map_err(Error::quantize(name))?;
            waiting.drain(..whole);
            scales.extend(matrix.scales.iter().flat_map(|scale| scale.to_le_bytes()));
            take(&matrix.codes)
        })
    }
}

/// Bytes of f32 as bytes of f16.
fn to_halves(floats: &[u8]) -> Vec<u8> {
    let (floats, _) = floats.as_chunks::<4>();
    floats
        .iter()
        .flat_map(|bytes| f16::from_f32(f32::from_le_bytes(*bytes)).to_le_bytes())
        .collect()
}
