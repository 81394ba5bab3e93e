use std::collections::HashMap;

use lwv_quantize::Hessian;
use lwv_train::{Error, Observer, Tensor};

/// What each layer reads of one sample.
#[derive(Default)]
pub(crate) struct Inputs(HashMap<String, Tensor>);

impl Observer for Inputs {
    fn linear(&mut self, weight: &str, x: &Tensor, _: &Tensor) -> Result<(), Error> {
        self.0.insert(weight.to_owned(), x.clone());
        Ok(())
    }

    fn cached(&mut self, _: usize, _: &Tensor, _: &Tensor) -> Result<(), Error> {
        Ok(())
    }
}

/// What the layers of a network read and cache, over all samples.
#[derive(Default)]
pub(crate) struct Statistics {
    /// Whether only what is cached is looked at, and no Hessians are made.
    cache_only: bool,
    /// Layers that read the same tensor share a Hessian: queries, keys and values, or gate and up.
    groups: Vec<(Vec<String>, Hessian)>,
    group_of: HashMap<String, usize>,
    /// What is meant to be read of the sample that comes.
    meant: Inputs,
    /// The tensor that was read last, and its group.
    last: Option<(Tensor, usize)>,
    /// Largest magnitude of each channel of keys and of values, `[key_value_heads · head_dim]`.
    cached: HashMap<usize, [Vec<f32>; 2]>,
}

impl Statistics {
    /// Statistics of nothing yet, of the cache only where Hessians are not wanted.
    pub(crate) fn new(cache_only: bool) -> Self {
        Self {
            cache_only,
            ..Self::default()
        }
    }

    /// Tells what is meant to be read of the sample that comes.
    pub(crate) fn expect(&mut self, inputs: Inputs) {
        self.meant = inputs;
    }

    /// The names of matrices that read the same, and how it varies.
    pub(crate) fn hessians(&self) -> impl Iterator<Item = (&[String], &Hessian)> {
        self.groups
            .iter()
            .map(|(names, hessian)| (names.as_slice(), hessian))
    }

    /// Scales of an 8-bit cache of keys and of values, one a channel.
    pub(crate) fn cache_scales(&self, layer: usize) -> [Vec<f32>; 2] {
        let largest = self.cached.get(&layer).cloned().unwrap_or_default();
        // A channel that was never used must not divide by zero.
        largest.map(|channels| channels.into_iter().map(|most| most.max(1e-6) / 127.0).collect())
    }

    fn group(&mut self, weight: &str, x: &Tensor) -> usize {
        let same = self
            .last
            .as_ref()
            .and_then(|(last, group)| (last.id() == x.id()).then_some(*group));
        match (self.group_of.get(weight), same) {
            (Some(group), _) => *group,
            (None, Some(group)) => {
                self.groups[group].0.push(weight.to_owned());
                self.group_of.insert(weight.to_owned(), group);
                group
            }
            (None, None) => {
                let width = if self.cache_only {
                    0
                } else {
                    x.dims().last().copied().unwrap_or(0)
                };
                self.groups.push((vec![weight.to_owned()], Hessian::new(width)));
                self.group_of.insert(weight.to_owned(), self.groups.len() - 1);
                self.groups.len() - 1
            }
        }
    }
}

impl Observer for Statistics {
    fn linear(&mut self, weight: &str, x: &Tensor, _: &Tensor) -> Result<(), Error> {
        let group = self.group(weight, x);
        self.last = Some((x.clone(), group));
        // The first matrix of a group has counted the rows that the others read too.
        if !self.cache_only && self.groups[group].0[0] == weight {
            let read: Vec<f32> = x.flatten_all()?.to_vec1()?;
            match self.meant.0.get(weight) {
                Some(meant) => self.groups[group]
                    .1
                    .add_drifted(&read, &meant.flatten_all()?.to_vec1()?),
                None => self.groups[group].1.add(&read),
            }
        }
        Ok(())
    }

    fn cached(&mut self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<(), Error> {
        let seen = self.cached.entry(layer).or_default();
        for (largest, x) in seen.iter_mut().zip([keys, values]) {
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

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (values.len() / 2, 2), &Device::Cpu).unwrap()
    }

    #[test]
    fn layers_that_read_the_same_tensor_share_a_hessian() {
        let mut statistics = Statistics::new(false);
        for sample in [tensor(&[1.0, 2.0]), tensor(&[3.0, 4.0, 5.0, 6.0])] {
            let other = tensor(&[0.0, 1.0]);
            for (weight, x) in [("q", &sample), ("k", &sample), ("o", &other)] {
                statistics.linear(weight, x, x).unwrap();
            }
        }
        let groups: Vec<_> = statistics
            .hessians()
            .map(|(names, hessian)| (names.join(" "), hessian.rows()))
            .collect();
        assert_eq!(groups, [("q k".to_owned(), 3), ("o".to_owned(), 2)]);
    }

    #[test]
    fn scales_of_the_cache_hold_the_largest_of_each_channel() {
        let mut statistics = Statistics::new(true);
        let heads = |values: &[f32]| Tensor::from_slice(values, (1, 1, 2, 2), &Device::Cpu).unwrap();
        statistics
            .cached(0, &heads(&[127.0, 0.0, -254.0, 0.0]), &heads(&[1.0; 4]))
            .unwrap();
        statistics
            .cached(0, &heads(&[1.0, 0.0, 2.0, 0.0]), &heads(&[-12.7; 4]))
            .unwrap();
        let [keys, values] = statistics.cache_scales(0);
        assert_eq!(keys[0], 2.0);
        assert!(keys[1] > 0.0 && values.iter().all(|scale| (scale - 0.1).abs() < 1e-6));
    }
}
