use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Inner, Result};

/// Scores this far below the best one have a probability under 1e-17 and are not looked at.
const NEGLIGIBLE: f32 = 40.0;

/// How tokens are chosen from scores.
///
/// The order is fixed: repetition penalty, temperature, top-k, top-p, min-p, draw. Each step means what the logits
/// processor of that name in transformers means. Greedy choice takes the penalty and nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplerSettings {
    /// Take the token with the highest score, among equals the one with the lowest id. A temperature of 0 is the same.
    pub greedy: bool,
    /// Scores are divided by this.
    pub temperature: f32,
    /// Keep the k highest scores, and those equal to the k-th. 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest tokens whose probabilities add up to this; the token that crosses it stays. 1 keeps all.
    pub top_p: f32,
    /// Keep tokens that have at least this part of the best token's probability. 0 keeps all.
    pub min_p: f32,
    /// Positive scores of tokens that were there already are divided by this, negative ones multiplied. 1 changes nothing.
    pub repetition_penalty: f32,
    /// How many of the last tokens the penalty looks at.
    pub penalty_window: usize,
    /// Whether the penalty looks at the prompt too, as transformers does. Over a prompt in another language it makes
    /// the text drift, so it does not by default.
    pub penalize_prompt: bool,
    /// Seed of the draws. The same seed on the same device gives the same text.
    pub seed: u64,
}

impl Default for SamplerSettings {
    fn default() -> Self {
        Self {
            greedy: false,
            temperature: 0.6,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            penalty_window: 1024,
            penalize_prompt: false,
            seed: 0,
        }
    }
}

impl SamplerSettings {
    /// The greedy choice.
    pub fn greedy() -> Self {
        Self {
            greedy: true,
            ..Self::default()
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |setting, value: f32, reason| Err(Error::setting(setting, value, reason));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong(
                "temperature",
                self.temperature,
                "use a number of 0 or more; 0.6 is usual",
            );
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong(
                "top_p",
                self.top_p,
                "use a number above 0 and up to 1; 1 switches it off",
            );
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return wrong("min_p", self.min_p, "use a number from 0 to 1; 0 switches it off");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return wrong(
                "repetition_penalty",
                self.repetition_penalty,
                "use a number above 0; 1 switches it off",
            );
        }
        Ok(())
    }
}

/// Where a sampler stands in its sequence of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerState {
    /// The seed it was made with.
    pub seed: u64,
    /// 32-bit words drawn so far.
    pub words_drawn: u64,
}

/// Chooses tokens.
///
/// ```
/// use lwv_runtime::{Sampler, SamplerSettings};
/// let mut sampler = Sampler::new(SamplerSettings::greedy()).unwrap();
/// assert_eq!(sampler.choose(&mut [0.5, 2.0, 2.0], &[], &[]).unwrap(), 1);
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: SamplerSettings,
    random: ChaCha12Rng,
    /// Kept between calls so that a token costs no allocation.
    candidates: Vec<Candidate>,
    penalized: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    score: f32,
    probability: f32,
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn new(settings: SamplerSettings) -> Result<Self> {
        settings.check()?;
        let random = ChaCha12Rng::seed_from_u64(settings.seed);
        Ok(Self {
            settings,
            random,
            candidates: Vec::new(),
            penalized: Vec::new(),
        })
    }

    /// Where the sampler stands; [`restore`](Self::restore) goes on from there.
    pub fn state(&self) -> SamplerState {
        let words_drawn = u64::try_from(self.random.get_word_pos()).unwrap_or(u64::MAX);
        SamplerState {
            seed: self.settings.seed,
            words_drawn,
        }
    }

    /// Goes on where another sampler stood.
    pub fn restore(&mut self, state: SamplerState) {
        self.settings.seed = state.seed;
        self.random = ChaCha12Rng::seed_from_u64(state.seed);
        self.random.set_word_pos(u128::from(state.words_drawn));
    }

    /// The settings.
    pub fn settings(&self) -> &SamplerSettings {
        &self.settings
    }

    /// Chooses a token by `logits`, one score for each id, which are overwritten. `prompt` and `generated` are the tokens
    /// before it.
    ///
    /// # Errors
    /// A score is not a number, or none is above minus infinity.
    pub fn choose(&mut self, logits: &mut [f32], prompt: &[u32], generated: &[u32]) -> Result<u32> {
        self.penalize(logits, prompt, generated);
        let best = argmax(logits)?;
        if self.settings.greedy || self.settings.temperature == 0.0 {
            return Ok(best as u32);
        }
        self.collect(logits, logits[best]);
        self.keep_top_k();
        self.weigh();
        self.keep_top_p();
        self.keep_min_p();
        Ok(self.draw())
    }

    fn penalize(&mut self, logits: &mut [f32], prompt: &[u32], generated: &[u32]) {
        let penalty = self.settings.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        let window = self.settings.penalty_window;
        let from_generated = &generated[generated.len().saturating_sub(window)..];
        let left = if self.settings.penalize_prompt {
            window - from_generated.len()
        } else {
            0
        };
        let from_prompt = &prompt[prompt.len().saturating_sub(left)..];
        self.penalized.clear();
        self.penalized.extend(from_prompt.iter().chain(from_generated));
        // A token that occurs often is penalized once.
        self.penalized.sort_unstable();
        self.penalized.dedup();
        for id in &self.penalized {
            if let Some(score) = logits.get_mut(*id as usize) {
                *score = if *score > 0.0 {
                    *score / penalty
                } else {
                    *score * penalty
                };
            }
        }
    }

    /// Takes scores over temperature as candidates, but for those that can never be drawn.
    fn collect(&mut self, logits: &[f32], best: f32) {
        let scale = self.settings.temperature.recip();
        let floor = best - NEGLIGIBLE * self.settings.temperature;
        self.candidates.clear();
        self.candidates
            .extend(
                logits
                    .iter()
                    .zip(0..)
                    .filter(|(score, _)| **score >= floor)
                    .map(|(score, id)| Candidate {
                        id,
                        score: (score - best) * scale,
                        probability: 0.0,
                    }),
            );
    }

    fn keep_top_k(&mut self) {
        let k = self.settings.top_k;
        if k == 0 || k >= self.candidates.len() {
            return;
        }
        let (_, kth, _) = self
            .candidates
            .select_nth_unstable_by(k - 1, |a, b| b.score.total_cmp(&a.score));
        let threshold = kth.score;
        self.candidates.retain(|candidate| candidate.score >= threshold);
    }

    /// Turns scores into probabilities.
    fn weigh(&mut self) {
        // The best score was subtracted already, so no exponential overflows.
        let mut total = 0.0;
        for candidate in &mut self.candidates {
            candidate.probability = candidate.score.exp();
            total += f64::from(candidate.probability);
        }
        let scale = total.recip() as f32;
        self.candidates
            .iter_mut()
            .for_each(|candidate| candidate.probability *= scale);
    }

    fn keep_top_p(&mut self) {
        let top_p = self.settings.top_p;
        if top_p >= 1.0 {
            return;
        }
        // All tokens below this share together have less than `1 - top_p`, so none of them is kept; they need not be
        // sorted.
        let share = (1.0 - top_p) / self.candidates.len() as f32;
        self.candidates.retain(|candidate| candidate.probability >= share);
        self.sort();
        let mut before = 0.0;
        let kept = self.candidates.iter().take_while(|candidate| {
            let kept = before < top_p;
            before += candidate.probability;
            kept
        });
        let kept = kept.count().max(1);
        self.candidates.truncate(kept);
    }

    fn keep_min_p(&mut self) {
        let best = self
            .candidates
            .iter()
            .map(|candidate| candidate.probability)
            .fold(0.0, f32::max);
        let least = self.settings.min_p * best;
        self.candidates.retain(|candidate| candidate.probability >= least);
    }

    fn sort(&mut self) {
        self.candidates
            .sort_unstable_by(|a, b| b.probability.total_cmp(&a.probability).then(a.id.cmp(&b.id)));
    }

    fn draw(&mut self) -> u32 {
        let total: f64 = self
            .candidates
            .iter()
            .map(|candidate| f64::from(candidate.probability))
            .sum();
        // 53 random bits as a number in [0, 1).
        let unit = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let mut left = unit * total;
        for candidate in &self.candidates {
            left -= f64::from(candidate.probability);
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding can leave a hair's breadth; there is always the best token.
        self.candidates.last().map_or(0, |candidate| candidate.id)
    }
}

/// The highest score's place, the first among equals, as `torch.argmax`.
fn argmax(logits: &[f32]) -> Result<usize> {
    let mut best = (0, f32::NEG_INFINITY);
    let mut not_a_number = false;
    for (id, score) in logits.iter().enumerate() {
        not_a_number |= score.is_nan();
        if *score > best.1 {
            best = (id, *score);
        }
    }
    if not_a_number || best.1 == f32::NEG_INFINITY {
        let id = logits.iter().position(|score| score.is_nan()).unwrap_or(0);
        return Err(Inner::NotANumber { id }.into());
    }
    Ok(best.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    /// Probabilities 0.5, 0.25, 0.125, 0.125 at temperature 1.
    fn logits() -> [f32; 4] {
        [0.5_f32.ln(), 0.25_f32.ln(), 0.125_f32.ln(), 0.125_f32.ln()]
    }

    fn neutral() -> SamplerSettings {
        SamplerSettings {
            temperature: 1.0,
            top_p: 1.0,
            ..SamplerSettings::default()
        }
    }

    /// Ids and rounded probabilities that are left to draw from.
    fn left(settings: SamplerSettings, logits: &[f32]) -> Vec<(u32, i32)> {
        let mut sampler = Sampler::new(settings).unwrap();
        sampler.choose(&mut logits.to_vec(), &[], &[]).unwrap();
        let total: f32 = sampler.candidates.iter().map(|c| c.probability).sum();
        let mut left: Vec<_> = sampler
            .candidates
            .iter()
            .map(|c| (c.id, (c.probability / total * 1000.0).round() as i32))
            .collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        let mut sampler = Sampler::new(SamplerSettings::greedy()).unwrap();
        assert_eq!(sampler.choose(&mut [-1.0, 3.0, 3.0], &[], &[]).unwrap(), 1);
        let zero = SamplerSettings {
            temperature: 0.0,
            ..neutral()
        };
        assert_eq!(
            Sampler::new(zero)
                .unwrap()
                .choose(&mut [1.0, 3.0, 3.0], &[], &[])
                .unwrap(),
            1
        );
    }

    #[test]
    fn temperature_divides_scores() {
        // Squares of the probabilities: 16 : 4 : 1 : 1 of 22.
        let settings = SamplerSettings {
            temperature: 0.5,
            ..neutral()
        };
        assert_eq!(left(settings, &logits()), [(0, 727), (1, 182), (2, 45), (3, 45)]);
        assert_eq!(
            left(neutral(), &logits()),
            [(0, 500), (1, 250), (2, 125), (3, 125)]
        );
    }

    #[test]
    fn top_k_keeps_ties_with_the_last() {
        let top_k = |top_k| SamplerSettings { top_k, ..neutral() };
        assert_eq!(left(top_k(2), &logits()), [(0, 667), (1, 333)]);
        assert_eq!(
            left(top_k(3), &logits()).len(),
            4,
            "the third and the fourth are equal"
        );
        assert_eq!(left(top_k(1), &logits()), [(0, 1000)]);
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses() {
        let top_p = |top_p| SamplerSettings { top_p, ..neutral() };
        // 0.5 is short of 0.7, so the second token crosses it and stays.
        assert_eq!(left(top_p(0.7), &logits()), [(0, 667), (1, 333)]);
        assert_eq!(left(top_p(0.4), &logits()), [(0, 1000)]);
        assert_eq!(
            left(top_p(1e-6), &logits()),
            [(0, 1000)],
            "one token always stays"
        );
        // Among equals the lower id stays.
        assert_eq!(left(top_p(0.8), &logits()), [(0, 571), (1, 286), (2, 143)]);
    }

    #[test]
    fn min_p_is_relative_to_the_best() {
        let min_p = |min_p| SamplerSettings { min_p, ..neutral() };
        assert_eq!(left(min_p(0.4), &logits()), [(0, 667), (1, 333)]);
        assert_eq!(left(min_p(0.2), &logits()).len(), 4);
        assert_eq!(left(min_p(1.0), &logits()), [(0, 1000)]);
    }

    #[test]
    fn steps_come_in_the_documented_order() {
        // top-k leaves 2/3 and 1/3; top-p 0.6 then keeps the first alone. Before top-k it would have kept two.
        let settings = SamplerSettings {
            top_k: 2,
            top_p: 0.6,
            ..neutral()
        };
        assert_eq!(left(settings, &logits()), [(0, 1000)]);
        // min-p after temperature: 0.25 / 0.5 is 0.5, squared 0.25.
        let settings = SamplerSettings {
            temperature: 0.5,
            min_p: 0.3,
            ..neutral()
        };
        assert_eq!(left(settings, &logits()), [(0, 1000)]);
    }

    #[test]
    fn the_penalty_divides_positive_and_multiplies_negative_scores_once() {
        let penalty = |penalize_prompt, penalty_window| SamplerSettings {
            repetition_penalty: 2.0,
            penalize_prompt,
            penalty_window,
            ..SamplerSettings::greedy()
        };
        let after = |settings, prompt: &[u32], generated: &[u32]| {
            let mut logits = [4.0, -1.0, 3.0, 1.0];
            Sampler::new(settings)
                .unwrap()
                .choose(&mut logits, prompt, generated)
                .unwrap();
            logits
        };
        assert_eq!(after(penalty(false, 10), &[2], &[0, 1, 0]), [2.0, -2.0, 3.0, 1.0]);
        assert_eq!(after(penalty(true, 10), &[2], &[0, 1, 0]), [2.0, -2.0, 1.5, 1.0]);
        assert_eq!(
            after(penalty(true, 3), &[2], &[0, 1, 0]),
            [2.0, -2.0, 3.0, 1.0],
            "the window ends in the prompt"
        );
        assert_eq!(after(penalty(false, 1), &[], &[0, 3]), [4.0, -1.0, 3.0, 0.5]);
    }

    #[test]
    fn a_seed_repeats_and_a_state_continues() {
        let choose = |sampler: &mut Sampler| sampler.choose(&mut logits(), &[], &[]).unwrap();
        let mut first = Sampler::new(SamplerSettings { seed: 7, ..neutral() }).unwrap();
        let mut second = first.clone();
        let ids: Vec<u32> = (0..20).map(|_| choose(&mut first)).collect();
        assert_eq!(ids, (0..20).map(|_| choose(&mut second)).collect::<Vec<_>>());
        let state = serde_json::to_string(&first.state()).unwrap();
        let mut third = Sampler::new(neutral()).unwrap();
        third.restore(serde_json::from_str(&state).unwrap());
        assert_eq!(choose(&mut first), choose(&mut third));
        let mut other = Sampler::new(SamplerSettings { seed: 8, ..neutral() }).unwrap();
        assert_ne!(ids, (0..20).map(|_| choose(&mut other)).collect::<Vec<_>>());
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let mut sampler = Sampler::new(neutral()).unwrap();
        let mut counts = [0; 4];
        for _ in 0..4000 {
            counts[sampler.choose(&mut logits(), &[], &[]).unwrap() as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([2000_i32, 1000, 500, 500]) {
            assert!((count - expected).abs() < 120, "{counts:?}");
        }
    }

    #[test]
    fn scores_that_are_no_numbers_are_errors() {
        for greedy in [true, false] {
            let mut sampler = Sampler::new(SamplerSettings { greedy, ..neutral() }).unwrap();
            let error = sampler.choose(&mut [1.0, f32::NAN], &[], &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Logits);
            assert!(error.to_string().contains("token 1"), "{error}");
            assert!(sampler.choose(&mut [f32::NEG_INFINITY; 2], &[], &[]).is_err());
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let message = |settings| Sampler::new(settings).unwrap_err().to_string();
        assert!(
            message(SamplerSettings {
                top_p: 0.0,
                ..neutral()
            })
            .starts_with("`top_p` is `0`")
        );
        assert!(
            message(SamplerSettings {
                temperature: f32::NAN,
                ..neutral()
            })
            .starts_with("`temperature`")
        );
        assert!(
            message(SamplerSettings {
                min_p: 1.5,
                ..neutral()
            })
            .starts_with("`min_p`")
        );
        assert!(
            message(SamplerSettings {
                repetition_penalty: 0.0,
                ..neutral()
            })
            .contains("repetition_penalty")
        );
    }
}
