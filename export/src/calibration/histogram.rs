use crate::ActivationRange;

/// Bins of magnitudes.
const BINS: usize = 2048;

/// Levels of a magnitude in 8 bits with sign.
const LEVELS: usize = 128;

/// Share of values that [`ActivationRange::Percentile`] keeps.
const KEPT: f64 = 0.9999;

/// How often which magnitudes were seen, up to a largest that is known before.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    largest: f32,
    counts: Vec<u64>,
}

impl Histogram {
    pub(crate) fn new(largest: f32) -> Self {
        Self {
            largest,
            counts: vec![0; BINS],
        }
    }

    /// Counts a value.
    pub(crate) fn add(&mut self, value: f32) {
        let bin = (value.abs() / self.largest * BINS as f32) as usize;
        self.counts[bin.min(BINS - 1)] += 1;
    }

    /// The magnitude that values are kept up to.
    pub(crate) fn limit(&self, range: ActivationRange) -> f32 {
        let bins = match range {
            ActivationRange::Largest | ActivationRange::LeastError => BINS,
            ActivationRange::Percentile => self.percentile(),
            ActivationRange::Entropy => self.least_entropy(),
        };
        self.largest * bins as f32 / BINS as f32
    }

    fn percentile(&self) -> usize {
        let wanted = self.counts.iter().sum::<u64>() as f64 * KEPT;
        let mut seen = 0;
        let enough = self.counts.iter().position(|count| {
            seen += count;
            seen as f64 >= wanted
        });
        enough.map_or(BINS, |bin| bin + 1)
    }

    /// The number of bins whose distribution, what is beyond counted into the last, differs least from itself in 128 levels.
    fn least_entropy(&self) -> usize {
        let divergence = |bins: usize| (bins, self.divergence(bins));
        let best = (LEVELS..=BINS).map(divergence).min_by(|a, b| a.1.total_cmp(&b.1));
        best.map_or(BINS, |(bins, _)| bins)
    }

    fn divergence(&self, bins: usize) -> f64 {
        let inside = &self.counts[..bins];
        let beyond: u64 = self.counts[bins..].iter().sum();
        let total = (inside.iter().sum::<u64>() + beyond) as f64;
        let kept = inside.iter().sum::<u64>() as f64;
        if kept == 0.0 {
            return f64::INFINITY;
        }
        let mut sum = 0.0;
        for level in 0..LEVELS {
            let range = level * bins / LEVELS..(level + 1) * bins / LEVELS;
            let counts = &inside[range.clone()];
            let filled = counts.iter().filter(|count| **count > 0).count() as f64;
            let mean = counts.iter().sum::<u64>() as f64 / filled.max(1.0);
            for (count, bin) in counts.iter().zip(range) {
                let clipped = if bin + 1 == bins { beyond } else { 0 };
                let (p, q) = ((count + clipped) as f64 / total, mean / kept);
                if p > 0.0 {
                    // A level that nothing fell on cannot stand for what was clipped to it.
                    sum += if *count > 0 {
                        p * (p / q).ln()
                    } else {
                        p * (p * total).max(1.0).ln()
                    };
                }
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Magnitudes that fall off like a bell's, and one far away.
    fn histogram() -> Histogram {
        let mut histogram = Histogram::new(100.0);
        for step in 0..20_000_u32 {
            let share = (f64::from(step) + 0.5) / 20_000.0;
            histogram.add((-2.0 * (1.0 - share).ln()).sqrt() as f32);
        }
        histogram.add(100.0);
        histogram
    }

    #[test]
    fn the_largest_keeps_all() {
        assert_eq!(histogram().limit(ActivationRange::Largest), 100.0);
    }

    #[test]
    fn a_percentile_leaves_out_what_is_rare() {
        let limit = histogram().limit(ActivationRange::Percentile);
        assert!((3.0..6.0).contains(&limit), "{limit}");
    }

    #[test]
    fn entropy_clips_what_is_far_away() {
        let limit = histogram().limit(ActivationRange::Entropy);
        assert!((3.0..20.0).contains(&limit), "{limit}");
    }

    #[test]
    fn equal_counts_are_not_clipped() {
        let mut histogram = Histogram::new(1.0);
        (0..BINS * 4).for_each(|i| histogram.add(i as f32 / (BINS * 4) as f32));
        assert!(histogram.limit(ActivationRange::Entropy) > 0.95);
    }
}
