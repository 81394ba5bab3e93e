use lwv_train::{Error, Observer, Tensor};

/// How far a layer's cached keys and values go, over all samples.
#[derive(Debug, Default)]
pub(crate) struct CacheRange {
    /// Largest magnitude of each channel of keys and of values, `[key_value_heads · head_dim]`.
    largest: [Vec<f32>; 2],
}

impl CacheRange {
    /// Scales of an 8-bit cache of keys and of values, one a channel.
    pub(crate) fn scales(&self) -> [Vec<f32>; 2] {
        // A channel that was never used must not divide by zero.
        self.largest
            .each_ref()
            .map(|channels| channels.iter().map(|most| most.max(1e-6) / 127.0).collect())
    }
}

impl Observer for CacheRange {
    fn cached(&mut self, _: usize, keys: &Tensor, values: &Tensor) -> Result<(), Error> {
        for (largest, x) in self.largest.iter_mut().zip([keys, values]) {
            // [batch, heads, tokens, head_dim] to one number a head and dimension.
            let most: Vec<f32> = x.abs()?.max(2)?.max(0)?.flatten_all()?.to_vec1()?;
            largest.resize(most.len(), 0.0);
            largest
                .iter_mut()
                .zip(most)
                .for_each(|(largest, most)| *largest = largest.max(most));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lwv_train::Device;

    use super::*;

    #[test]
    fn scales_hold_the_largest_of_each_channel() {
        let mut range = CacheRange::default();
        let heads = |values: &[f32]| Tensor::from_slice(values, (1, 1, 2, 2), &Device::Cpu).unwrap();
        range
            .cached(0, &heads(&[127.0, 0.0, -254.0, 0.0]), &heads(&[1.0; 4]))
            .unwrap();
        range
            .cached(0, &heads(&[1.0, 0.0, 2.0, 0.0]), &heads(&[-12.7; 4]))
            .unwrap();
        let [keys, values] = range.scales();
        assert_eq!(keys[0], 2.0);
        assert!(keys[1] > 0.0 && values.iter().all(|scale| (scale - 0.1).abs() < 1e-6));
    }
}
