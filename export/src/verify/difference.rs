use serde::Serialize;

/// How far one set of vectors is from another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Difference {
    /// Vectors compared.
    pub(crate) vectors: usize,
    /// Largest absolute difference of an element.
    pub(crate) max_abs: f64,
    /// Mean absolute difference of an element.
    pub(crate) mean_abs: f64,
    /// Smallest cosine of two vectors.
    pub(crate) min_cosine: f64,
}

impl Default for Difference {
    fn default() -> Self {
        Self {
            vectors: 0,
            max_abs: 0.0,
            mean_abs: 0.0,
            min_cosine: 1.0,
        }
    }
}

impl Difference {
    /// Takes in one pair of vectors.
    pub(crate) fn add(&mut self, expected: &[f32], got: &[f32]) {
        let (mut dot, mut expected_square, mut got_square, mut sum, mut max) = (0.0, 0.0, 0.0, 0.0, 0.0f64);
        for (&a, &b) in expected.iter().zip(got) {
            let (a, b) = (f64::from(a), f64::from(b));
            dot += a * b;
            expected_square += a * a;
            got_square += b * b;
            sum += (a - b).abs();
            // `max` would pass over a NaN.
            max = if (a - b).abs() > max || (a - b).is_nan() {
                (a - b).abs()
            } else {
                max
            };
        }
        let cosine = if max == 0.0 {
            1.0
        } else {
            dot / (expected_square * got_square).sqrt()
        };
        let mean = if expected.is_empty() {
            0.0
        } else {
            sum / expected.len() as f64
        };
        let (max, mean) = if expected.len() == got.len() {
            (max, mean)
        } else {
            (f64::INFINITY, f64::INFINITY)
        };
        self.merge(&Self {
            vectors: 1,
            max_abs: max,
            mean_abs: mean,
            min_cosine: cosine,
        });
    }

    /// Takes in what another has seen.
    pub(crate) fn merge(&mut self, other: &Self) {
        let total = self.vectors + other.vectors;
        if total == 0 {
            return;
        }
        let weigh = |difference: &Self| difference.mean_abs * difference.vectors as f64;
        self.mean_abs = (weigh(self) + weigh(other)) / total as f64;
        self.vectors = total;
        self.max_abs = if other.max_abs.is_nan() {
            other.max_abs
        } else {
            self.max_abs.max(other.max_abs)
        };
        self.min_cosine = if other.min_cosine.is_nan() {
            -1.0
        } else {
            self.min_cosine.min(other.min_cosine)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_vectors_differ_by_nothing() {
        let mut difference = Difference::default();
        difference.add(&[1.0, -2.0], &[1.0, -2.0]);
        assert_eq!(
            difference,
            Difference {
                vectors: 1,
                max_abs: 0.0,
                mean_abs: 0.0,
                min_cosine: 1.0
            }
        );
    }

    #[test]
    fn the_worst_is_kept_and_the_mean_is_over_all() {
        let mut difference = Difference::default();
        difference.add(&[1.0, 0.0], &[0.0, 1.0]);
        difference.add(&[1.0, 0.0], &[1.0, 0.0]);
        assert_eq!(
            (difference.max_abs, difference.mean_abs, difference.min_cosine),
            (1.0, 0.5, 0.0)
        );
    }

    #[test]
    fn a_nan_is_not_passed_over() {
        let mut difference = Difference::default();
        difference.add(&[1.0, 1.0], &[f32::NAN, 1.0]);
        difference.add(&[1.0, 1.0], &[1.0, 1.0]);
        assert!(difference.min_cosine < 0.0);
    }
}
