use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{DType, Result, Tensor};

use crate::kernels::gradient::Gradient;

/// The parts of a model that are frozen, or learn at a rate of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `visual.*` but the merger.
    VisionTower,
    /// `visual.merger.*`.
    Projector,
    /// Everything else: embedding, decoder, head.
    LanguageModel,
}

impl Part {
    /// The part that the weight with this canonical name belongs to.
    pub fn of(name: &str) -> Self {
        if name.starts_with("visual.merger.") {
            Self::Projector
        } else if name.starts_with("visual.") {
            Self::VisionTower
        } else {
            Self::LanguageModel
        }
    }
}

/// One weight of the network: what it computes with, and if it is trained, its exact value and gradient.
pub struct Parameter {
    name: String,
    shape: Vec<usize>,
    /// In the type that the network computes in, as a matrix or vector.
    value: RefCell<Tensor>,
    /// In f32 where the network computes in less: small updates would be lost in 16 bits.
    exact: RefCell<Option<Tensor>>,
    trained: Option<Gradient>,
    low_rank: Option<LowRankPair>,
}

/// The update that a LoRA adds to a linear layer: `scale · B · A`.
pub struct LowRankPair {
    /// `[rank, in]`.
    pub a: Rc<Parameter>,
    /// `[out, rank]`.
    pub b: Rc<Parameter>,
    /// `alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA.
    pub scale: f64,
}

impl Parameter {
    /// A weight that stays as it is, computed with in type `dtype`.
    ///
    /// # Errors
    /// What candle says.
    pub fn frozen(name: &str, shape: &[usize], exact: Tensor, dtype: DType) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            value: RefCell::new(exact.to_dtype(dtype)?),
            exact: RefCell::new(None),
            trained: None,
            low_rank: None,
        })
    }

    /// A weight that is trained, computed with in type `dtype`.
    ///
    /// # Errors
    /// What candle says.
    pub fn trained(name: &str, shape: &[usize], exact: Tensor, dtype: DType) -> Result<Self> {
        let value = exact.to_dtype(dtype)?;
        Ok(Self {
            exact: RefCell::new((exact.dtype() != dtype).then_some(exact)),
            trained: Some(Gradient::default()),
            value: RefCell::new(value),
            ..Self::frozen(
                name,
                shape,
                Tensor::zeros((), dtype, &candle_core::Device::Cpu)?,
                dtype,
            )?
        })
    }

    /// The same weight with a LoRA's update.
    pub fn with_low_rank(self, pair: LowRankPair) -> Self {
        Self {
            low_rank: Some(pair),
            ..self
        }
    }

    /// Canonical name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape in the checkpoint.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// What the network computes with.
    pub fn value(&self) -> Tensor {
        self.value.borrow().clone()
    }

    /// The value that the optimizer changes, in f32 (or f64).
    pub fn exact(&self) -> Tensor {
        self.exact.borrow().clone().unwrap_or_else(|| self.value())
    }

    /// Brings what the network computes with up to date, after the exact value was changed in place.
    ///
    /// # Errors
    /// What candle says.
    pub fn refresh(&self) -> Result<()> {
        let exact = self.exact.borrow();
        if let Some(exact) = exact.as_ref() {
            let value = exact.to_dtype(self.value().dtype())?;
            self.value.replace(value);
        }
        Ok(())
    }

    /// Puts a new exact value in the old one's place.
    ///
    /// # Errors
    /// What candle says.
    pub fn replace(&self, exact: Tensor) -> Result<()> {
        if self.exact.borrow().is_none() {
            self.value.replace(exact);
            return Ok(());
        }
        self.exact.replace(Some(exact));
        self.refresh()
    }

    /// The gradient, where the weight is trained.
    pub fn gradient(&self) -> Option<&Gradient> {
        self.trained.as_ref()
    }

    /// The LoRA's update, where there is one.
    pub fn low_rank(&self) -> Option<&LowRankPair> {
        self.low_rank.as_ref()
    }

    /// Whether a backward pass must come by: the weight or its LoRA is trained.
    pub fn learns(&self) -> bool {
        let learns = |p: &Parameter| p.trained.is_some();
        learns(self)
            || self
                .low_rank
                .as_ref()
                .is_some_and(|pair| learns(&pair.a) || learns(&pair.b))
    }

    /// Whether weight decay applies: not to biases and norms.
    pub fn decays(&self) -> bool {
        self.shape.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_the_names() {
        assert_eq!(Part::of("visual.merger.mlp.0.bias"), Part::Projector);
        assert_eq!(Part::of("visual.blocks.0.norm1.weight"), Part::VisionTower);
        assert_eq!(Part::of("lm_head.weight"), Part::LanguageModel);
    }
}
