use candle_core::{CpuStorage, WithDType};

/// A float that the host kernels compute in: f32 in training, f64 where a test compares with finite differences.
pub(crate) trait Float: WithDType + num_traits::Float {
    /// `e` to the power of `self`, in a form that the compiler turns into vector instructions. Below about −87 the
    /// result of f32 stays at the smallest normal number.
    fn fast_exp(self) -> Self;

    /// The elements of a storage of this type.
    fn elements_mut(storage: &mut CpuStorage) -> Option<&mut Vec<Self>>;
}

impl Float for f64 {
    fn elements_mut(storage: &mut CpuStorage) -> Option<&mut Vec<Self>> {
        match storage {
            CpuStorage::F64(values) => Some(values),
            _ => None,
        }
    }

    #[inline(always)]
    fn fast_exp(self) -> Self {
        self.exp()
    }
}

impl Float for f32 {
    fn elements_mut(storage: &mut CpuStorage) -> Option<&mut Vec<Self>> {
        match storage {
            CpuStorage::F32(values) => Some(values),
            _ => None,
        }
    }

    #[inline(always)]
    fn fast_exp(self) -> Self {
        lwv_kernels::attention::fast_exp(self)
    }
}

/// Lanes that sums and maxima are kept in: the compiler may not reorder float additions by itself.
const LANES: usize = 16;

/// Sum of `f` over the elements of `values`, in a fixed order that does not depend on the machine.
#[inline(always)]
pub(crate) fn sum<T: Float>(values: &[T], f: impl Fn(T) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f(*value);
        }
    }
    let tail = rest.iter().fold(T::zero(), |sum, value| sum + f(*value));
    lanes.iter().fold(tail, |sum, lane| sum + *lane)
}

/// Sum of the products of `a` and `b`, as [`sum`].
#[inline(always)]
pub(crate) fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = a.mul_add(*b, *lane);
        }
    }
    let tail = a_rest
        .iter()
        .zip(b_rest)
        .fold(T::zero(), |sum, (a, b)| sum + *a * *b);
    lanes.iter().fold(tail, |sum, lane| sum + *lane)
}

/// The largest of `values`, negative infinity where there are none.
#[inline(always)]
pub(crate) fn max<T: Float>(values: &[T]) -> T {
    let larger = |a: T, b: T| if b > a { b } else { a };
    let mut lanes = [T::neg_infinity(); LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    let tail = rest
        .iter()
        .fold(T::neg_infinity(), |max, value| larger(max, *value));
    lanes.iter().fold(tail, |max, lane| larger(max, *lane))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima_see_every_element() {
        let values: Vec<f64> = (0..37).map(f64::from).collect();
        assert_eq!(sum(&values, |v| v), 666.0);
        assert_eq!(dot(&values, &values), values.iter().map(|v| v * v).sum::<f64>());
        assert_eq!((max(&values), max::<f64>(&[])), (36.0, f64::NEG_INFINITY));
    }
}
