use lwv_data::{Dataset, Encoded, Encoder, Example};

use super::{Objective, Preparation, Share};
use crate::{Batch, Model, Result, Sequence};

/// Supervised fine-tuning: the cross-entropy of answers, divided by their tokens.
#[derive(Debug)]
pub struct Supervised;

impl Supervised {
    fn share(examples: &[Example], model: &Model, loss: impl FnOnce(&Batch) -> Result<f64>) -> Result<Share> {
        let batch = Batch::new(model.config(), examples.iter().map(Sequence::from))?;
        Ok(Share {
            loss: if batch.supervised() > 0 {
                loss(&batch)?
            } else {
                0.0
            },
            divisor: batch.supervised() as f64,
            tokens: batch.input_ids.len(),
            origins: examples
                .iter()
                .map(|example| example.origin.to_string())
                .collect(),
            ..Share::default()
        })
    }
}

impl Objective for Supervised {
    type Example = Example;

    fn prepare(_of: &Preparation<'_>) -> Result<Self> {
        Ok(Self)
    }

    fn encode(dataset: &Dataset, encoder: &Encoder, sample: usize) -> lwv_data::Result<Encoded<Example>> {
        encoder.encode(&dataset.get(sample)?)
    }

    fn learn(&self, model: &Model, examples: &[Example]) -> Result<Share> {
        Self::share(examples, model, |batch| model.learn(batch, 1.0))
    }

    fn measure(&self, model: &Model, examples: &[Example]) -> Result<Share> {
        Self::share(examples, model, |batch| model.evaluate(batch))
    }
}
