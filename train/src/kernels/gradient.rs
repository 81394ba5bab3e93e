use std::cell::RefCell;

use candle_core::{DType, Result, Tensor};

use super::gemm::Target;
use super::{Float, host};

/// The gradient of one parameter, summed up over the batches of a step. Nothing is allocated before the first piece.
#[derive(Default)]
pub struct Gradient {
    sum: RefCell<Option<Tensor>>,
}

impl Gradient {
    /// The sum so far.
    pub fn get(&self) -> Option<Tensor> {
        self.sum.borrow().clone()
    }

    /// Forgets the sum and frees its memory.
    pub fn clear(&self) {
        self.sum.take();
    }

    /// Adds `piece`, of the parameter's shape, in f32 (or f64).
    pub(crate) fn add(&self, piece: &Tensor) -> Result<()> {
        let piece = wide(piece)?;
        let sum = match self.get() {
            Some(sum) => (sum + piece)?,
            None => piece,
        };
        self.sum.replace(Some(sum));
        Ok(())
    }

    /// Lets `add` write the next piece into the sum, in the host's memory, told whether there is something to add to.
    pub(crate) fn add_with<T: Float>(
        &self,
        shape: &[usize],
        add: impl FnOnce(&mut [T], Target),
    ) -> Result<()> {
        let (sum, keep) = match self.get() {
            Some(sum) => (sum, Target::Add),
            None => (
                host::tensor(vec![T::zero(); shape.iter().product()], shape)?,
                Target::Replace,
            ),
        };
        host::update(&sum, |sum| add(sum, keep))?;
        self.sum.replace(Some(sum));
        Ok(())
    }
}

/// In at least 32 bits.
pub(crate) fn wide(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F64 => Ok(x.clone()),
        _ => x.to_dtype(DType::F32),
    }
}
