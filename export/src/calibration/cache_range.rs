use lwv_train::{Error, Observer, Tensor};

/// How far a layer's cached keys and values go, over all samples.
#[derive(Debug, Default)]
pub(crate) struct CacheRange {
    /// Largest magnitude of each channel of keys and of values, `[key_value_heads · head_dim]`. Keys are rotated with their
    /// position, so that a channel takes from its partner what the samples' positions never showed: of both, it is their common
    /// length.
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
        let half = keys.dim(3)? / 2;
        let [first, second] = [0, half].map(|start| keys.narrow(3, start, half).and_then(|half| half.sqr()));
        let lengths = (first? + second?)?.sqrt()?;
        let lengths = Tensor::cat(&[&lengths, &lengths], 3)?;
        for (largest, x) in self.largest.iter_mut().zip([lengths, values.abs()?]) {
            // [batch, heads, tokens, head_dim] to one number a head and dimension.
            let most: Vec<f32> = x.max(2)?.max(0)?.flatten_all()?.to_vec1()?;
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

    fn scales(samples: &[[&[f32]; 2]]) -> [Vec<f32>; 2] {
        let mut range = CacheRange::default();
        let heads = |values: &[f32]| Tensor::from_slice(values, (1, 1, 2, 2), &Device::Cpu).unwrap();
        for [keys, values] in samples {
            range.cached(0, &heads(keys), &heads(values)).unwrap();
        }
        range.scales()
    }

    #[test]
    fn scales_of_values_hold_the_largest_of_each_channel() {
        let zeros: &[f32] = &[0.0; 4];
        let [keys, values] = scales(&[
            [zeros, &[127.0, 0.0, -254.0, 0.0]],
            [zeros, &[1.0, 0.0, 2.0, 0.0]],
        ]);
        assert_eq!(values[0], 2.0);
        assert!(values[1] > 0.0 && keys.iter().all(|scale| *scale > 0.0));
    }

    /// A key of length 5 · 127, at whatever angle the samples have it.
    #[test]
    fn scales_of_keys_hold_them_at_every_angle() {
        let values: &[f32] = &[1.0; 4];
        for keys in [[635.0, 0.0, 1.0, 1.0], [1.0, 0.0, -381.0, 508.0]] {
            let [keys, _] = scales(&[[&keys, values]]);
            assert!(keys.iter().all(|scale| (scale - 5.0).abs() < 1e-5), "{keys:?}");
        }
    }
}
