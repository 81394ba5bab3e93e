use std::collections::BTreeMap;

use lwv_train::{Device, Error, Observer, Tensor};

use super::histogram::Histogram;
use crate::ActivationRange;

/// Rows that are kept of what a matrix reads, beside the first ones of some samples.
const ROWS: usize = 512;

/// Samples whose first row is kept: a model's first token is like no other.
const FIRST_ROWS: usize = 8;

/// What a matrix has read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Largest magnitude of every channel.
    pub(crate) maxima: Vec<f32>,
    /// Some rows, one after another.
    kept: Vec<f32>,
    samples: usize,
}

impl Seen {
    /// Channels.
    pub(crate) fn width(&self) -> usize {
        self.maxima.len()
    }

    /// The rows that were kept, `[rows, width]`.
    ///
    /// # Errors
    /// What candle says.
    pub(crate) fn rows(&self) -> lwv_train::Result<Tensor> {
        let shape = (self.kept.len() / self.width().max(1), self.width());
        Ok(Tensor::from_slice(&self.kept, shape, &Device::Cpu)?)
    }

    /// The largest magnitude of all channels, each over its factor.
    pub(crate) fn largest(&self, factors: &[f32]) -> f32 {
        let scaled = self
            .maxima
            .iter()
            .zip(factors)
            .map(|(most, factor)| most / factor);
        scaled.fold(f32::MIN_POSITIVE, f32::max)
    }

    /// How far values may go, each over its factor, as part of the largest.
    pub(crate) fn limit(&self, factors: &[f32], range: ActivationRange) -> f32 {
        let largest = self.largest(factors);
        let mut histogram = Histogram::new(largest);
        for row in self.kept.chunks(self.width().max(1)) {
            row.iter()
                .zip(factors)
                .for_each(|(x, factor)| histogram.add(x / factor));
        }
        histogram.limit(range) / largest
    }

    /// Takes in one of `samples` samples, of which as many rows are kept as its share is, evenly spread.
    fn add(&mut self, x: &Tensor, samples: usize) -> lwv_train::Result<()> {
        let width = x.dims().last().copied().unwrap_or(1);
        let x = x.reshape(((), width))?;
        let most: Vec<f32> = x.abs()?.max(0)?.to_vec1()?;
        self.maxima.resize(width, 0.0);
        let largest = self.maxima.iter_mut().zip(most);
        largest.for_each(|(largest, most)| *largest = largest.max(most));
        let (rows, wanted) = (x.dim(0)?, ROWS.div_ceil(samples.max(1)));
        let stride = (rows / wanted).max(1);
        // Samples are of one length, and not all rows of one place are wanted.
        let start = self.samples * 7 % stride;
        let first = (self.samples < FIRST_ROWS && start > 0).then_some(0);
        for row in first.into_iter().chain((start..rows).step_by(stride)) {
            self.kept.extend(x.get(row)?.to_vec1::<f32>()?);
        }
        self.samples += 1;
        Ok(())
    }
}

/// Looks at what matrices read.
#[derive(Debug, Default)]
pub(crate) struct InputsSeen {
    /// How many samples are to come for each of these matrices; others are not looked at.
    wanted: BTreeMap<String, usize>,
    seen: BTreeMap<String, Seen>,
}

impl InputsSeen {
    /// Looks at `matrices` from here on, of which each will read `samples` samples.
    pub(crate) fn want(&mut self, matrices: impl Iterator<Item = String>, samples: usize) {
        self.wanted.extend(matrices.map(|matrix| (matrix, samples)));
    }

    /// What a matrix has read, which is forgotten here.
    pub(crate) fn take(&mut self, matrix: &str) -> Option<Seen> {
        self.wanted.remove(matrix);
        self.seen.remove(matrix)
    }
}

impl Observer for InputsSeen {
    fn reads(&mut self, weight: &str, x: &Tensor) -> Result<(), Error> {
        let Some(samples) = self.wanted.get(weight) else {
            return Ok(());
        };
        self.seen.entry(weight.to_owned()).or_default().add(x, *samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maxima_are_of_all_rows_and_some_are_kept() {
        let mut seen = Seen::default();
        let rows: Vec<f32> = (0..2048).map(|i| i as f32 - 1024.0).collect();
        let x = Tensor::from_vec(rows, (1024, 2), &Device::Cpu).unwrap();
        seen.add(&x, 2).unwrap();
        assert_eq!(seen.maxima, [1024.0, 1023.0]);
        assert_eq!(seen.rows().unwrap().dims(), [256, 2]);
        assert_eq!(seen.largest(&[2.0, 1.0]), 1023.0);
        assert!(seen.limit(&[1.0, 1.0], ActivationRange::Largest) == 1.0);
    }

    #[test]
    fn nothing_is_kept_of_what_nobody_wants() {
        let mut inputs = InputsSeen::default();
        inputs.want(["a".to_owned()].into_iter(), 1);
        let x = Tensor::from_vec(vec![0.0_f32; 12], (3, 4), &Device::Cpu).unwrap();
        inputs.reads("a", &x).unwrap();
        inputs.reads("b", &x).unwrap();
        assert!(inputs.take("b").is_none());
        assert_eq!(inputs.take("a").unwrap().width(), 4);
        assert!(inputs.take("a").is_none());
    }
}
