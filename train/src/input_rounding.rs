use candle_core::{Device, Tensor};

use crate::Result;

/// Levels of either sign.
const LEVELS: f64 = 127.0;

/// How a linear layer rounds what it reads to 8 bits.
#[derive(Debug, Clone)]
pub struct InputRounding {
    factors: Tensor,
    step: f64,
}

impl InputRounding {
    /// Each channel is divided by its factor, rounded to levels of `step`, and multiplied by the factor again.
    ///
    /// # Errors
    /// What candle says.
    pub fn new(factors: &[f32], step: f32, device: &Device) -> Result<Self> {
        Ok(Self {
            factors: Tensor::new(factors, device)?,
            step: f64::from(step),
        })
    }

    /// `x`, `[…, channels]`, rounded.
    ///
    /// # Errors
    /// Other channels than factors, or what candle says.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let levels = (x.broadcast_div(&self.factors)? / self.step)?;
        let levels = levels.round()?.clamp(-LEVELS - 1.0, LEVELS)?;
        Ok((levels * self.step)?.broadcast_mul(&self.factors)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_on_levels_and_end_at_the_last() {
        let rounding = InputRounding::new(&[1.0, 10.0], 0.5, &Device::Cpu).unwrap();
        let x = Tensor::new(&[[0.7_f32, 7.0], [-100.0, 100.0]], &Device::Cpu).unwrap();
        let rounded: Vec<Vec<f32>> = rounding.apply(&x).unwrap().to_vec2().unwrap();
        assert_eq!(rounded, [[0.5, 5.0], [-64.0, 100.0]]);
    }
}
