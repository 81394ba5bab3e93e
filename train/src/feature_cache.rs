use candle_core::Tensor;
use lru::LruCache;
use lwv_processor::Patches;
use sha2::{Digest, Sha256};

use crate::Result;

/// Features of images by the images' content, the least recently used of which are forgotten.
pub(crate) struct FeatureCache {
    features: LruCache<[u8; 32], Tensor>,
    /// Bytes that features may take.
    limit: usize,
    bytes: usize,
}

impl FeatureCache {
    /// A cache for `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            features: LruCache::unbounded(),
            limit,
            bytes: 0,
        }
    }

    /// The features of `image`, which `compute` makes if they are not known.
    pub(crate) fn get_or_compute(
        &mut self,
        image: &Patches,
        compute: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        let key = digest(image);
        if let Some(known) = self.features.get(&key) {
            return Ok(known.clone());
        }
        let computed = compute()?;
        self.bytes += size(&computed);
        self.features.put(key, computed.clone());
        // What was just computed stays, whatever its size: the batch at hand has it anyway.
        while self.bytes > self.limit && self.features.len() > 1 {
            if let Some((_, oldest)) = self.features.pop_lru() {
                self.bytes -= size(&oldest);
            }
        }
        Ok(computed)
    }
}

/// SHA-256 of an image's size and pixels.
pub(crate) fn digest(image: &Patches) -> [u8; 32] {
    let mut digest = Sha256::new();
    for side in image.grid.thw() {
        digest.update(side.to_le_bytes());
    }
    digest.update(bytemuck::cast_slice::<f32, u8>(&image.values));
    digest.finalize().into()
}

fn size(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use lwv_processor::Grid;

    use super::*;

    fn image(value: f32) -> Patches {
        Patches {
            grid: Grid { t: 1, h: 2, w: 2 },
            values: vec![value; 8],
        }
    }

    /// Whether the features of an image had to be computed.
    fn computes(cache: &mut FeatureCache, value: f32) -> bool {
        let mut computed = false;
        let compute = || {
            computed = true;
            Ok(Tensor::zeros((1, 4), DType::F32, &Device::Cpu)?)
        };
        cache.get_or_compute(&image(value), compute).unwrap();
        computed
    }

    #[test]
    fn the_least_recently_used_are_forgotten() {
        let mut cache = FeatureCache::new(40);
        assert!(computes(&mut cache, 1.0) && computes(&mut cache, 2.0));
        assert!(!computes(&mut cache, 1.0));
        assert!(computes(&mut cache, 3.0));
        assert!(!computes(&mut cache, 1.0) && computes(&mut cache, 2.0));
        assert_eq!((cache.bytes, cache.features.len()), (32, 2));
    }
}
