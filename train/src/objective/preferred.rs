use lwv_data::{Dataset, Encoded, Encoder, PairExample};

use super::{Objective, PairSums, Preparation, Share};
use crate::recipe::PreferenceRecipe;
use crate::reference::{Reference, pair_digest};
use crate::token_weights::TokenWeights;
use crate::{Batch, Judgement, Model, PreferenceLoss, Result, Scores};

/// IterDPO: the better of two answers is made likelier than the worse one, compared with what a reference thinks of both.
///
/// A step's loss is the mean over its pairs, each multiplied with its weight over the mean weight of all that are trained on.
pub struct Preferred {
    loss: PreferenceLoss,
    token_weights: TokenWeights,
    /// None where the answers are compared with each other alone.
    reference: Option<Reference>,
    mean_weight: f64,
}

/// A pair, and what its content is known by.
pub struct KnownPair {
    pub(crate) example: PairExample,
    pub(crate) digest: [u8; 32],
}

impl Preferred {
    /// What is thought of a pair whose answers have these log-probabilities, token by token, and the loss's derivative by
    /// each of them.
    fn judge(&self, pair: &KnownPair, policy: [&[f64]; 2]) -> Result<(Scores, Judgement, [Vec<f64>; 2])> {
        let edited = pair
            .example
            .answers
            .each_ref()
            .map(|answer| answer.edited.as_slice());
        let weights = self.token_weights.of(edited);
        let reference = match &self.reference {
            Some(reference) => reference.get(&pair.digest, &pair.example)?,
            None => policy.map(|logps| vec![0.0; logps.len()]),
        };
        let chosen = policy[0].len().max(1) as f64;
        let scores = Scores {
            policy: [0, 1].map(|side| weights[side].sum(policy[side])),
            reference: [0, 1].map(|side| weights[side].sum(&reference[side])),
            tokens: weights.each_ref().map(|weights| weights.total),
            chosen_mean: policy[0].iter().sum::<f64>() / chosen,
        };
        let judged = self.loss.judge(&scores);
        let mean_slopes = [judged.mean_slope / chosen, 0.0];
        let slopes = [0, 1].map(|side| {
            let weights = weights[side].each.iter();
            weights
                .map(|weight| weight * judged.slopes[side] + mean_slopes[side])
                .collect()
        });
        Ok((scores, judged, slopes))
    }

    /// The share of a batch whose tokens have these log-probabilities, and the loss's derivative by each of them.
    fn share(&self, batch: &Batch, pairs: &[KnownPair], logps: &[f64]) -> Result<(Share, Vec<f64>)> {
        let mut share = Share {
            tokens: batch.input_ids.len(),
            ..Share::default()
        };
        let mut slopes = Vec::with_capacity(logps.len());
        for (pair, answers) in pairs.iter().zip(batch.answers.chunks(2)) {
            let policy = [0, 1].map(|side| &logps[answers[side].clone()]);
            let (scores, judged, by_token) = self.judge(pair, policy)?;
            let weight = pair.example.weight / self.mean_weight;
            share.add(Share {
                loss: weight * judged.loss,
                divisor: 1.0,
                tokens: 0,
                origins: vec![pair.example.origin.to_string()],
                pairs: PairSums::of(self.loss.rewards(&scores), scores.policy),
            });
            slopes.extend(by_token.into_iter().flatten().map(|slope| weight * slope));
        }
        Ok((share, slopes))
    }
}

impl Objective for Preferred {
    type Example = KnownPair;

    fn prepare(of: &Preparation<'_>) -> Result<Self> {
        let default = PreferenceRecipe::default();
        let recipe = of.recipe.preference.as_ref().unwrap_or(&default);
        let reference = (!recipe.reference_free).then(|| Reference::prepare(of));
        Ok(Self {
            loss: PreferenceLoss::from(recipe),
            token_weights: TokenWeights {
                edited: recipe.edit_weight,
                tail: recipe.ld_alpha,
            },
            reference: reference.transpose()?,
            mean_weight: of.samples.mean_weight(),
        })
    }

    fn encode(dataset: &Dataset, encoder: &Encoder, sample: usize) -> lwv_data::Result<Encoded<KnownPair>> {
        Ok(match encoder.encode_pair(&dataset.pair(sample)?)? {
            Encoded::TooLong(too_long) => Encoded::TooLong(too_long),
            Encoded::Example(example) => Encoded::Example(KnownPair {
                digest: pair_digest(&example),
                example,
            }),
        })
    }

    fn learn(&self, model: &Model, pairs: &[KnownPair]) -> Result<Share> {
        if pairs.is_empty() {
            // None of the batch's samples can be used.
            return Ok(Share::default());
        }
        let batch = Batch::of_pairs(model.config(), pairs.iter().map(|pair| &pair.example))?;
        let mut learned = Share::default();
        model.learn_by(&batch, |logps| {
            let (share, slopes) = self.share(&batch, pairs, logps)?;
            learned = share;
            Ok(slopes)
        })?;
        Ok(learned)
    }

    fn measure(&self, model: &Model, pairs: &[KnownPair]) -> Result<Share> {
        let batch = Batch::of_pairs(model.config(), pairs.iter().map(|pair| &pair.example))?;
        let logps = model.log_probabilities(&batch)?;
        Ok(self.share(&batch, pairs, &logps)?.0)
    }
}
