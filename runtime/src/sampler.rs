mod candidates;
mod dry;
mod history;
mod logit_bias;
mod ngram_ban;
mod penalties;
mod random;
mod repeats;
mod settings;

use serde::{Deserialize, Serialize};

use crate::error::{Inner, Result};
use crate::sampler::candidates::Candidates;
use crate::sampler::dry::Dry;
pub use crate::sampler::history::{History, TokenMark};
pub use crate::sampler::logit_bias::LogitBias;
use crate::sampler::ngram_ban::NgramBan;
use crate::sampler::penalties::Penalties;
use crate::sampler::random::RandomNumbers;
use crate::sampler::repeats::Repeats;
pub use crate::sampler::settings::SamplerSettings;

/// Where a sampler stands: all that is needed to go on, beside its settings and the tokens so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerState {
    /// The seed it was made with.
    pub seed: u64,
    /// 32-bit words drawn so far.
    pub words_drawn: u64,
    /// How much the settings are strengthened against a loop; 0 where they are not.
    #[serde(default)]
    pub strength: u8,
    /// Tokens for which they still are.
    #[serde(default)]
    pub strengthened_tokens: usize,
}

/// Chooses tokens.
///
/// The order of the steps is fixed:
///
/// 1. logit bias,
/// 2. repetition, then frequency and presence penalty,
/// 3. DRY,
/// 4. ban of n-grams,
/// 5. temperature,
/// 6. top-k, top-p, min-p, typical,
/// 7. XTC,
/// 8. draw.
///
/// It is the order of transformers for all that is there, and llama.cpp's for DRY and XTC. Each step means what the one of
/// that name means there. A greedy choice takes steps 1 to 4 and then the best token.
///
/// Steps 1, 5, 6 and 8 pass over the vocabulary once each; 2 sorts a window, 3 and 4 share one pass over the text.
///
/// ```
/// use lwv_runtime::{Sampler, SamplerSettings};
/// let mut sampler = Sampler::new(SamplerSettings::greedy()).unwrap();
/// assert_eq!(sampler.choose(&mut [0.5, 2.0, 2.0], &[], &[]).unwrap(), 1);
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: SamplerSettings,
    random: RandomNumbers,
    strengthened: Option<Strengthened>,
    steps: Steps,
}

/// The steps with the memory that they keep between calls, so that a token costs no allocation.
#[derive(Debug, Clone, Default)]
struct Steps {
    penalties: Penalties,
    repeats: Repeats,
    dry: Dry,
    ngram_ban: NgramBan,
    candidates: Candidates,
}

/// Other settings for some tokens.
#[derive(Debug, Clone)]
struct Strengthened {
    settings: SamplerSettings,
    strength: u8,
    tokens: usize,
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn new(settings: SamplerSettings) -> Result<Self> {
        settings.check()?;
        Ok(Self {
            random: RandomNumbers::at(settings.seed, 0),
            settings,
            strengthened: None,
            steps: Steps::default(),
        })
    }

    /// Where the sampler stands; [`restore`](Self::restore) goes on from there.
    pub fn state(&self) -> SamplerState {
        let strengthened = self.strengthened.as_ref();
        SamplerState {
            seed: self.random.seed(),
            words_drawn: self.random.words_drawn(),
            strength: strengthened.map_or(0, |strengthened| strengthened.strength),
            strengthened_tokens: strengthened.map_or(0, |strengthened| strengthened.tokens),
        }
    }

    /// Goes on where another sampler stood.
    pub fn restore(&mut self, state: SamplerState) {
        self.settings.seed = state.seed;
        self.random = RandomNumbers::at(state.seed, state.words_drawn);
        self.strengthen(state.strength, state.strengthened_tokens);
    }

    /// The settings.
    pub fn settings(&self) -> &SamplerSettings {
        &self.settings
    }

    /// Chooses the next `tokens` tokens by settings that leave loops, the more the higher `strength` is.
    pub(crate) fn strengthen(&mut self, strength: u8, tokens: usize) {
        self.strengthened = (strength > 0 && tokens > 0).then(|| Strengthened {
            settings: self.settings.against_loops(strength),
            strength,
            tokens,
        });
    }

    /// Whether it chooses by settings that leave loops.
    pub(crate) fn is_strengthened(&self) -> bool {
        self.strengthened.is_some()
    }

    /// Chooses a token by `logits`, one score for each id, which are overwritten. `prompt` and `generated` are the tokens
    /// before it. DRY finds no sequence breakers and the ban of n-grams exempts nothing this way, since ids do not tell
    /// them; [`choose_after`](Self::choose_after) is told.
    ///
    /// # Errors
    /// As for [`choose_after`](Self::choose_after).
    pub fn choose(&mut self, logits: &mut [f32], prompt: &[u32], generated: &[u32]) -> Result<u32> {
        let history = History {
            prompt,
            generated,
            ..History::default()
        };
        self.choose_after(logits, &history)
    }

    /// Chooses a token by `logits`, one score for each id, which are overwritten.
    ///
    /// # Errors
    /// A score is not a number, or none is above minus infinity.
    pub fn choose_after(&mut self, logits: &mut [f32], history: &History<'_>) -> Result<u32> {
        let strengthened = self.strengthened.as_ref();
        let settings = strengthened.map_or(&self.settings, |strengthened| &strengthened.settings);
        let chosen = self.steps.choose(settings, &mut self.random, logits, history);
        self.strengthened = self.strengthened.take().and_then(Strengthened::after_a_token);
        chosen
    }
}

impl Strengthened {
    fn after_a_token(self) -> Option<Self> {
        let tokens = self.tokens - 1;
        (tokens > 0).then_some(Self { tokens, ..self })
    }
}

impl Steps {
    fn choose(
        &mut self,
        settings: &SamplerSettings,
        random: &mut RandomNumbers,
        logits: &mut [f32],
        history: &History<'_>,
    ) -> Result<u32> {
        settings.logit_bias.add_to(logits);
        self.discourage(settings, logits, history);
        let best = match argmax(logits) {
            Err(error) if error.is_out_of_tokens() => {
                self.ngram_ban.lift(logits);
                argmax(logits)?
            }
            best => best?,
        };
        if settings.is_greedy() {
            return Ok(best as u32);
        }
        self.narrow(settings, random, logits, logits[best]);
        Ok(self.candidates.at(random.unit()))
    }

    /// Lowers the scores of what was there already.
    fn discourage(&mut self, settings: &SamplerSettings, logits: &mut [f32], history: &History<'_>) {
        let text = history.counted(settings.penalize_prompt);
        self.penalties.apply(settings, &text.tokens, logits);
        let (dry, ngram) = (settings.dry_multiplier > 0.0, settings.no_repeat_ngram_size);
        if dry || ngram > 0 {
            self.repeats.find(&text.tokens);
        }
        if dry {
            self.dry.apply(settings, &text, &self.repeats, logits);
        }
        if ngram > 0 {
            self.ngram_ban.apply(ngram, history, &text, &self.repeats, logits);
        }
    }

    /// Leaves the tokens to draw from.
    fn narrow(&mut self, settings: &SamplerSettings, random: &mut RandomNumbers, logits: &[f32], best: f32) {
        let candidates = &mut self.candidates;
        candidates.collect(logits, best, settings.temperature);
        candidates.keep_top_k(settings.top_k);
        candidates.weigh();
        candidates.keep_top_p(settings.top_p);
        candidates.keep_min_p(settings.min_p);
        candidates.keep_typical(settings.typical_p);
        if settings.xtc_probability > 0.0 && random.unit() < f64::from(settings.xtc_probability) {
            candidates.exclude_top_choices(settings.xtc_threshold);
        }
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
    if not_a_number {
        let id = logits.iter().position(|score| score.is_nan()).unwrap_or(0);
        return Err(Inner::NotANumber { id }.into());
    }
    if best.1 == f32::NEG_INFINITY {
        return Err(Inner::OutOfTokens.into());
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
        let total: f32 = sampler.steps.candidates.left.iter().map(|c| c.probability).sum();
        let mut left: Vec<_> = sampler
            .steps
            .candidates
            .left
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
    fn xtc_leaves_out_top_choices_as_often_as_told() {
        let drawn = |xtc_probability| {
            let settings = SamplerSettings {
                xtc_probability,
                xtc_threshold: 0.2,
                ..neutral()
            };
            let mut sampler = Sampler::new(settings).unwrap();
            let draws = (0..2000).map(|_| sampler.choose(&mut logits(), &[], &[]).unwrap());
            draws.filter(|id| *id == 0).count()
        };
        assert_eq!(drawn(1.0), 0, "0.25 stays, 0.5 goes");
        // Half of the time it has its probability of 0.5.
        assert!((430..570).contains(&drawn(0.5)), "{}", drawn(0.5));
    }

    #[test]
    fn a_window_must_hold_the_unit_of_a_loop() {
        // The unit has 50 tokens that occur once each; token 50 is nearly as good everywhere.
        let looped = |penalty_window| {
            let settings = SamplerSettings {
                repetition_penalty: 1.2,
                frequency_penalty: 0.1,
                penalty_window,
                ..SamplerSettings::greedy()
            };
            let mut sampler = Sampler::new(settings).unwrap();
            let mut written: Vec<u32> = Vec::new();
            for step in 0..200 {
                let mut logits = [0.0; 51];
                logits[step % 50] = 10.0;
                logits[50] = 9.0;
                written.push(sampler.choose(&mut logits, &[], &written).unwrap());
            }
            !written.contains(&50)
        };
        assert!(
            looped(20),
            "when a token comes again, the window no longer holds it"
        );
        assert!(!looped(SamplerSettings::default().penalty_window));
    }

    #[test]
    fn a_looping_model_never_repeats_an_ngram() {
        // Greedy, the model would write 0 1 2 3 for ever.
        let size = 4;
        let settings = SamplerSettings {
            no_repeat_ngram_size: size,
            ..SamplerSettings::greedy()
        };
        let mut sampler = Sampler::new(settings).unwrap();
        let mut written: Vec<u32> = Vec::new();
        for step in 0..400 {
            let mut logits: Vec<f32> = (0..200).map(|id| -(id as f32)).collect();
            logits[step % 4] = 50.0;
            written.push(sampler.choose(&mut logits, &[], &written).unwrap());
        }
        let ngrams: std::collections::HashSet<&[u32]> = written.windows(size).collect();
        assert_eq!(ngrams.len(), written.len() - size + 1);
    }

    #[test]
    fn a_state_goes_on_with_the_same_tokens_anywhere() {
        let all = SamplerSettings {
            temperature: 1.3,
            top_k: 30,
            min_p: 0.01,
            typical_p: 0.95,
            xtc_probability: 0.3,
            xtc_threshold: 0.05,
            repetition_penalty: 1.1,
            presence_penalty: 0.1,
            frequency_penalty: 0.1,
            dry_multiplier: 0.8,
            no_repeat_ngram_size: 5,
            logit_bias: LogitBias::from_iter([(3, 0.5)]),
            seed: 11,
            ..SamplerSettings::default()
        };
        let mut made_up = RandomNumbers::at(5, 0);
        let mut scores = || -> Vec<f32> { (0..40).map(|_| 6.0 * made_up.unit() as f32).collect() };
        for stop in 0..40 {
            let steps: Vec<Vec<f32>> = (0..60).map(|_| scores()).collect();
            let mut sampler = Sampler::new(all.clone()).unwrap();
            let mut written = Vec::new();
            let mut state = sampler.state();
            for (step, logits) in steps.iter().enumerate() {
                if step == stop {
                    state = sampler.state();
                }
                if step == 5 {
                    sampler.strengthen(2, 20);
                }
                written.push(sampler.choose(&mut logits.clone(), &[], &written).unwrap());
            }
            let mut other = Sampler::new(SamplerSettings {
                seed: 0,
                ..all.clone()
            })
            .unwrap();
            other.restore(serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap());
            let mut again = written[..stop].to_vec();
            for (step, logits) in steps.iter().enumerate().skip(stop) {
                if step == 5 {
                    other.strengthen(2, 20);
                }
                again.push(other.choose(&mut logits.clone(), &[], &again).unwrap());
            }
            assert_eq!(written, again, "stopped after {stop} tokens");
        }
    }

    #[test]
    fn settings_that_are_off_change_nothing() {
        let mut made_up = RandomNumbers::at(2, 0);
        let generated: Vec<u32> = (0..50).map(|_| (made_up.unit() * 8.0) as u32).collect();
        let mut sampler = Sampler::new(SamplerSettings::greedy()).unwrap();
        for _ in 0..50 {
            let scores: Vec<f32> = (0..8).map(|_| made_up.unit() as f32).collect();
            let mut after = scores.clone();
            let id = sampler.choose(&mut after, &[1, 2], &generated).unwrap();
            assert_eq!((after, id as usize), (scores.clone(), argmax(&scores).unwrap()));
        }
    }

    #[test]
    fn a_vocabulary_that_is_banned_is_an_error() {
        let settings = SamplerSettings {
            logit_bias: LogitBias::from_iter((0..2).map(|id| (id, f32::NEG_INFINITY))),
            ..neutral()
        };
        let error = Sampler::new(settings).unwrap().choose(&mut [1.0, 2.0], &[], &[]);
        assert!(error.unwrap_err().to_string().contains("logit_bias"));
    }
}
