use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};

use crate::Error;

/// Most inputs that are looked at together. What a wider layer reads is cut into groups of so many, whose dependence on each
/// other is left out: memory and time stay bounded (64 MiB a group instead of 1.4 GB for the widest layer of a 7B model).
const GROUP: usize = 4096;

/// Part of the mean of the diagonal that is added to it, so that inputs which hardly vary do not blow up the inverse.
const DAMPING: f64 = 0.01;

/// How the inputs of a layer vary together over calibration samples: the sum of `x · xᵀ` over all rows `x` that the layer
/// read. It is half the second derivative of the layer's squared output error by each row of its weight.
#[derive(Debug, Clone)]
pub struct Hessian {
    columns: usize,
    rows: usize,
    groups: Vec<Group>,
}

/// Neighbouring inputs.
#[derive(Debug, Clone)]
struct Group {
    start: usize,
    /// Lower triangle of the sum.
    sum: Mat<f32>,
    /// Sum of `(y - x) · xᵀ` where rows `y` were meant to be read and `x` were.
    drift: Option<Mat<f32>>,
}

/// The inverse of a group's Hessian as `Uᵀ · U`, `U` upper triangular.
pub(crate) struct InverseFactor {
    /// First input of the group.
    pub(crate) start: usize,
    /// `U`, row-major `[size, size]`.
    pub(crate) upper: Vec<f32>,
    /// Inputs of the group.
    pub(crate) size: usize,
    /// Mean square of each input.
    pub(crate) importance: Vec<f32>,
    /// What a row of weights is multiplied by to get its correction for drift, row-major `[size, size]`.
    pub(crate) correction: Option<Vec<f32>>,
}

impl Hessian {
    /// Of a layer with so many inputs that has read nothing yet.
    pub fn new(columns: usize) -> Self {
        let groups = (0..columns).step_by(GROUP).map(|start| {
            let size = GROUP.min(columns - start);
            Group {
                start,
                sum: Mat::zeros(size, size),
                drift: None,
            }
        });
        Self {
            columns,
            rows: 0,
            groups: groups.collect(),
        }
    }

    /// Inputs of the layer.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows that the layer has read.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes in rows that the layer read, `[rows, columns]`.
    ///
    /// # Panics
    /// There is no whole number of rows.
    pub fn add(&mut self, inputs: &[f32]) {
        assert!(
            self.columns > 0 && inputs.len().is_multiple_of(self.columns),
            "inputs are whole rows"
        );
        let rows = inputs.len() / self.columns;
        let inputs = MatRef::from_row_major_slice(inputs, rows, self.columns);
        for group in &mut self.groups {
            let x = inputs.subcols(group.start, group.sum.nrows());
            triangular::matmul(
                group.sum.as_mut(),
                BlockStructure::TriangularLower,
                Accum::Add,
                x.transpose(),
                BlockStructure::Rectangular,
                x,
                BlockStructure::Rectangular,
                1.0,
                Par::rayon(0),
            );
        }
        self.rows += rows;
    }

    /// Takes in rows that the layer read, and what it would have read had nothing before it been rounded, both
    /// `[rows, columns]`. [`Compensator`](crate::Compensator) then also makes up for what came before the layer.
    ///
    /// # Panics
    /// There is no whole number of rows, or not as many of both.
    pub fn add_drifted(&mut self, inputs: &[f32], meant: Vec<f32>) {
        assert_eq!(inputs.len(), meant.len(), "as many rows as were meant");
        self.add(inputs);
        let rows = inputs.len() / self.columns;
        let mut drift = meant;
        drift.iter_mut().zip(inputs).for_each(|(y, x)| *y -= x);
        let drift = MatRef::from_row_major_slice(&drift, rows, self.columns);
        let inputs = MatRef::from_row_major_slice(inputs, rows, self.columns);
        for group in &mut self.groups {
            let size = group.sum.nrows();
            let [drift, x] = [drift, inputs].map(|rows| rows.subcols(group.start, size));
            let sum = group.drift.get_or_insert_with(|| Mat::zeros(size, size));
            matmul(sum.as_mut(), Accum::Add, drift.transpose(), x, 1.0, Par::rayon(0));
        }
    }

    /// Inverts every group. Each is freed before the next is looked at, so that wide layers take their memory once.
    ///
    /// # Errors
    /// A sum that is not finite.
    pub(crate) fn into_inverse_factors(self) -> Result<Vec<InverseFactor>, Error> {
        let rows = self.rows;
        self.groups
            .into_iter()
            .map(|group| group.into_inverse_factor(rows))
            .collect()
    }
}

impl Group {
    /// With the order of inputs reversed, `H = L · Lᵀ` by Cholesky; reversed back, `L⁻¹` is the `U` that is wanted.
    fn into_inverse_factor(self, rows: usize) -> Result<InverseFactor, Error> {
        let size = self.sum.nrows();
        let mean = 1.0 / rows.max(1) as f64;
        let importance: Vec<f32> = (0..size)
            .map(|i| (f64::from(self.sum[(i, i)]) * mean) as f32)
            .collect();
        let diagonal = importance.iter().copied().map(f64::from).sum::<f64>() / size as f64;
        // Where a layer has read nothing but zeros, all inputs are alike.
        let damping = if diagonal > 0.0 { diagonal * DAMPING } else { 1.0 };
        let reversed = Mat::from_fn(size, size, |i, j| {
            let (i, j) = (size - 1 - i, size - 1 - j);
            let sum = f64::from(self.sum[(i.max(j), i.min(j))]) * mean;
            if i == j { sum + damping } else { sum }
        });
        if !diagonal.is_finite() {
            return Err(Error::Singular);
        }
        drop(self.sum);
        let factor = reversed.llt(Side::Lower).map_err(|_| Error::Singular)?;
        drop(reversed);
        let mut inverse = Mat::<f64>::zeros(size, size);
        invert_lower_triangular(inverse.as_mut(), factor.L(), Par::rayon(0));
        drop(factor);
        let mut upper = vec![0.0; size * size];
        let mut rows = MatMut::from_row_major_slice_mut(&mut upper, size, size);
        for j in 0..size {
            for i in 0..=j {
                rows[(i, j)] = inverse[(size - 1 - i, size - 1 - j)] as f32;
            }
        }
        drop(inverse);
        Ok(InverseFactor {
            start: self.start,
            correction: self.drift.as_ref().map(|drift| correction(drift, &upper, mean)),
            upper,
            size,
            importance,
        })
    }
}

/// `drift · H⁻¹ = drift · Uᵀ · U`: what a row `w` of weights is moved by, `w · drift · H⁻¹`, is the least-squares answer to
/// inputs that are not what was meant.
fn correction(drift: &Mat<f32>, upper: &[f32], mean: f64) -> Vec<f32> {
    let size = drift.nrows();
    let upper = MatRef::from_row_major_slice(upper, size, size);
    let mut half = Mat::<f32>::zeros(size, size);
    let parallel = Par::rayon(0);
    matmul(
        half.as_mut(),
        Accum::Replace,
        drift.as_ref(),
        upper.transpose(),
        mean as f32,
        parallel,
    );
    let mut correction = vec![0.0; size * size];
    let target = MatMut::from_row_major_slice_mut(&mut correction, size, size);
    matmul(target, Accum::Replace, half.as_ref(), upper, 1.0, parallel);
    correction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_gives_back_the_inverse() {
        let mut hessian = Hessian::new(3);
        let inputs = [1.0, 2.0, -1.0, 0.5, -1.0, 3.0, 2.0, 0.0, 1.0, -1.0, 1.5, 0.25];
        hessian.add(&inputs[..6]);
        hessian.add(&inputs[6..]);
        let factor = &hessian.clone().into_inverse_factors().unwrap()[0];
        let u = |i: usize, j: usize| f64::from(factor.upper[i * 3 + j]);
        let column = |i: usize| inputs.iter().skip(i).step_by(3);
        let damping = factor.importance.iter().copied().map(f64::from).sum::<f64>() / 3.0 * DAMPING;
        let h = |i, j| {
            let mean = column(i)
                .zip(column(j))
                .map(|(a, b)| f64::from(a * b))
                .sum::<f64>()
                / 4.0;
            if i == j { mean + damping } else { mean }
        };
        for i in 0..3 {
            for j in 0..3 {
                let inverse = |k: usize| (0..3).map(|m| u(m, i) * u(m, k)).sum::<f64>();
                let product: f64 = (0..3).map(|k| inverse(k) * h(k, j)).sum();
                assert!(
                    (product - f64::from(u8::from(i == j))).abs() < 1e-5,
                    "{i} {j}: {product}"
                );
            }
        }
    }

    #[test]
    fn wide_layers_are_cut_into_groups() {
        let columns = GROUP + 10;
        let hessian = Hessian::new(columns);
        let starts: Vec<_> = hessian
            .groups
            .iter()
            .map(|group| (group.start, group.sum.nrows()))
            .collect();
        assert_eq!(starts, [(0, GROUP), (GROUP, 10)]);
    }

    #[test]
    fn inputs_that_overflowed_are_refused() {
        let mut hessian = Hessian::new(2);
        hessian.add(&[1.0, f32::INFINITY]);
        assert!(matches!(hessian.into_inverse_factors(), Err(Error::Singular)));
    }
}
