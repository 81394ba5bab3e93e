use std::collections::VecDeque;

use crate::loop_guard::stretch::Stretch;

/// Tokens over which the mean is taken.
const WINDOW: usize = 256;

/// The mean entropy below which a model only copies, in nats. SmolLM2-135M in int4 counts upwards at 0.10 to 0.13; its loops,
/// which other watches find long before, come down to 0.2 within 512 tokens.
const LEAST: f64 = 0.02;

/// Scores this far below the best one add nothing that can be seen to a low entropy.
const NEGLIGIBLE: f32 = 20.0;

/// Finds a model that has had no choice for long: mean entropy near zero, in a text of which at least half was there before.
/// So a quotation is none, or a list of numbers, however sure a model is of them. Code blocks and tables are passed over.
#[derive(Debug, Clone, Default)]
pub(super) struct Certainty {
    /// Entropies, and whether the text was there before.
    window: VecDeque<(f32, bool)>,
    certain: Stretch,
}

impl Certainty {
    /// Takes the entropy of the scores that the token at `place` was chosen by, and whether it and the tokens before it were
    /// there before. Returns since when there was no choice.
    pub(super) fn push(&mut self, place: usize, entropy: f32, repeated: bool) -> Option<usize> {
        self.certain.push(place, repeated && f64::from(entropy) < LEAST);
        self.window.push_back((entropy, repeated));
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        let sum: f64 = self.window.iter().map(|(entropy, _)| f64::from(*entropy)).sum();
        let repeated = self.window.iter().filter(|(_, repeated)| *repeated).count();
        let collapsed = self.window.len() == WINDOW && sum < LEAST * WINDOW as f64 && repeated * 2 >= WINDOW;
        self.since().filter(|_| collapsed)
    }

    /// Since when there is no choice.
    pub(super) fn since(&self) -> Option<usize> {
        self.certain.since()
    }
}

/// Entropy of the distribution that scores stand for, in nats.
pub(crate) fn entropy(logits: &[f32]) -> f32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut total, mut weighted) = (0.0, 0.0);
    for score in logits {
        let below = score - best;
        if below > -NEGLIGIBLE {
            let weight = below.exp();
            total += weight;
            weighted += weight * below;
        }
    }
    total.ln() - weighted / total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropies_are_those_of_the_distribution() {
        assert!((entropy(&[1.0; 8]) - 8_f32.ln()).abs() < 1e-6);
        let logits = [0.5_f32.ln(), 0.25_f32.ln(), 0.25_f32.ln(), -100.0];
        assert!((entropy(&logits) - 1.5 * 2_f32.ln()).abs() < 1e-6);
        assert!(entropy(&[100.0, 0.0]) < 1e-6);
    }

    #[test]
    fn no_choice_for_long_is_found() {
        let found = |entropy: fn(usize) -> f32, repeated: fn(usize) -> bool| {
            let mut certainty = Certainty::default();
            (0..1000).find_map(|place| {
                let since = certainty.push(place, entropy(place), repeated(place))?;
                Some((place, since))
            })
        };
        let collapsed = |place| if place < 100 { 1.0 } else { 0.001 };
        assert_eq!(found(collapsed, |place| place >= 100), Some((351, 100)));
        assert_eq!(found(collapsed, |place| place % 3 == 0), None, "it is new");
        // One choice in fifty is enough.
        assert_eq!(
            found(|place| if place % 50 == 0 { 1.5 } else { 0.001 }, |_| true),
            None
        );
    }
}
