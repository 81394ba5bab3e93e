use lwv_quantize::{BlockScheme, round_to_nearest};

use super::{Placed, WeightStore};
use crate::Error;

/// Where a quantized matrix went.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlacedBlocks {
    /// Codes of all blocks.
    pub(crate) codes: Placed,
    /// Scales of all blocks, f32.
    pub(crate) scales: Placed,
}

impl WeightStore<'_> {
    /// Places the matrix with the canonical `name` and `shape`, all but its first dimension taken as one, as small integers.
    ///
    /// # Errors
    /// The weight is missing, has another shape or is not finite, or a file cannot be read or written.
    pub(crate) fn place_blocks(
        &mut self,
        name: &str,
        shape: &[usize],
        scheme: BlockScheme,
    ) -> Result<PlacedBlocks, Error> {
        if let Some(placed) = self.placed_blocks.get(name) {
            return Ok(placed.clone());
        }
        let placed = match self.calibrated.and_then(|weights| weights.find(name)) {
            Some(matrix) => {
                let [codes, scales] = matrix?;
                PlacedBlocks {
                    codes: self.place_bytes(codes.len(), |_, take| take(codes))?,
                    scales: self.place_bytes(scales.len(), |_, take| take(scales))?,
                }
            }
            None => self.round(name, shape, scheme)?,
        };
        // What stands in one graph cannot be pointed to by another.
        if let Placed::External(_) = placed.codes {
            self.placed_blocks.insert(name.to_owned(), placed.clone());
        }
        Ok(placed)
    }

    /// Rounds a matrix row by row as it is read; only its scales are held until the end.
    fn round(&mut self, name: &str, shape: &[usize], scheme: BlockScheme) -> Result<PlacedBlocks, Error> {
        let info = self.checkpoint.find(name, shape)?;
        let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
        let bytes = rows * scheme.blocks(columns) * scheme.block_bytes();
        let mut scales = Vec::new();
        let codes = self.place_bytes(bytes, |store, take| {
            let mut waiting: Vec<f32> = Vec::new();
            store.read(name, &info, |floats| {
                waiting.extend_from_slice(floats);
                let whole = waiting.len() / columns * columns;
                let matrix =
                    round_to_nearest(&waiting[..whole], columns, scheme).map_err(Error::quantize(name))?;
                waiting.drain(..whole);
                scales.extend(matrix.scales.iter().flat_map(|scale| scale.to_le_bytes()));
                take(&matrix.codes)
            })
        })?;
        let scales = self.place_bytes(scales.len(), |_, take| take(&scales))?;
        Ok(PlacedBlocks { codes, scales })
    }
}
