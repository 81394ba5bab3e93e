/// Scores this far below the best one have a probability under 1e-17 and are not looked at.
const NEGLIGIBLE: f32 = 40.0;

/// The tokens that are left to draw from, and the steps that leave fewer.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    /// Kept between calls so that a token costs no allocation.
    pub(super) left: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    score: f32,
    pub(super) probability: f32,
}

impl Candidates {
    /// Takes scores over temperature, but for those that can never be drawn.
    pub(super) fn collect(&mut self, logits: &[f32], best: f32, temperature: f32) {
        let scale = temperature.recip();
        let floor = best - NEGLIGIBLE * temperature;
        self.left.clear();
        self.left.extend(
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

    pub(super) fn keep_top_k(&mut self, k: usize) {
        if k == 0 || k >= self.left.len() {
            return;
        }
        let (_, kth, _) = self
            .left
            .select_nth_unstable_by(k - 1, |a, b| b.score.total_cmp(&a.score));
        let threshold = kth.score;
        self.left.retain(|candidate| candidate.score >= threshold);
    }

    /// Turns scores into probabilities.
    pub(super) fn weigh(&mut self) {
        // The best score was subtracted already, so no exponential overflows.
        for candidate in &mut self.left {
            candidate.probability = candidate.score.exp();
        }
        self.normalize();
    }

    fn normalize(&mut self) {
        let total: f64 = self.left.iter().map(|c| f64::from(c.probability)).sum();
        let scale = total.recip() as f32;
        self.left
            .iter_mut()
            .for_each(|candidate| candidate.probability *= scale);
    }

    /// Nucleus sampling: Holtzman et al. 2020; transformers' `TopPLogitsWarper`.
    pub(super) fn keep_top_p(&mut self, top_p: f32) {
        if top_p >= 1.0 {
            return;
        }
        // All tokens below this share together have less than `1 - top_p`, so none of them is kept; they need not be
        // sorted.
        let share = (1.0 - top_p) / self.left.len() as f32;
        self.left.retain(|candidate| candidate.probability >= share);
        self.sort();
        let mut before = 0.0;
        let kept = self.left.iter().take_while(|candidate| {
            let kept = before < top_p;
            before += candidate.probability;
            kept
        });
        let kept = kept.count().max(1);
        self.left.truncate(kept);
    }

    /// transformers' `MinPLogitsWarper`.
    pub(super) fn keep_min_p(&mut self, min_p: f32) {
        let best = self
            .left
            .iter()
            .map(|candidate| candidate.probability)
            .fold(0.0, f32::max);
        let least = min_p * best;
        self.left.retain(|candidate| candidate.probability >= least);
    }

    /// Locally typical sampling: Meister et al. 2022; transformers' `TypicalLogitsWarper`. Candidates are taken by
    /// `|−ln p − entropy|`, least first, until they have the probability `mass`; those as far off as the last one stay too.
    pub(super) fn keep_typical(&mut self, mass: f32) {
        if mass >= 1.0 {
            return;
        }
        self.normalize();
        let information = |candidate: &Candidate| -candidate.probability.ln();
        // A probability that is too small for a number has no part in the entropy.
        let entropy: f32 = self
            .left
            .iter()
            .filter(|candidate| candidate.probability > 0.0)
            .map(|candidate| candidate.probability * information(candidate))
            .sum();
        let distance = |candidate: &Candidate| (information(candidate) - entropy).abs();
        self.left
            .sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.id.cmp(&b.id)));
        let mut total = 0.0;
        let crossing = self.left.iter().position(|candidate| {
            total += candidate.probability;
            total >= mass
        });
        if let Some(last) = crossing {
            let furthest = distance(&self.left[last]);
            self.left.retain(|candidate| distance(candidate) <= furthest);
        }
    }

    /// "Exclude Top Choices" (p-e-w, oobabooga/text-generation-webui #6335; llama.cpp's `llama_sampler_xtc`): of the tokens
    /// that have at least the probability `threshold`, only the least probable stays.
    pub(super) fn exclude_top_choices(&mut self, threshold: f32) {
        self.normalize();
        self.sort();
        let above = self
            .left
            .iter()
            .take_while(|candidate| candidate.probability >= threshold)
            .count();
        self.left.drain(..above.saturating_sub(1));
    }

    /// The token at `unit`, in [0, 1), of the probabilities laid end to end.
    pub(super) fn at(&self, unit: f64) -> u32 {
        let total: f64 = self.left.iter().map(|c| f64::from(c.probability)).sum();
        let mut rest = unit * total;
        for candidate in &self.left {
            rest -= f64::from(candidate.probability);
            if rest < 0.0 {
                return candidate.id;
            }
        }
        // Rounding can leave a hair's breadth; there is always the best token.
        self.left.last().map_or(0, |candidate| candidate.id)
    }

    fn sort(&mut self) {
        self.left
            .sort_unstable_by(|a, b| b.probability.total_cmp(&a.probability).then(a.id.cmp(&b.id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates of these probabilities.
    fn of(probabilities: &[f32]) -> Candidates {
        let logits: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut candidates = Candidates::default();
        candidates.collect(&logits, best, 1.0);
        candidates.weigh();
        candidates
    }

    /// Ids that are left, in their order.
    fn ids(candidates: &Candidates) -> Vec<u32> {
        let mut ids: Vec<u32> = candidates.left.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn typical_tokens_are_those_near_the_entropy() {
        // Entropy 1.2130 nats; informations 0.6931, 1.3863, 1.8971, 2.3026: distances 0.5199, 0.1733, 0.6841, 1.0896.
        let typical = |mass| {
            let mut candidates = of(&[0.5, 0.25, 0.15, 0.1]);
            candidates.keep_typical(mass);
            ids(&candidates)
        };
        assert_eq!(typical(0.2), [1], "not the most probable one");
        assert_eq!(typical(0.6), [0, 1]);
        assert_eq!(typical(0.8), [0, 1, 2]);
        assert_eq!(typical(1.0), [0, 1, 2, 3]);
    }

    #[test]
    fn equally_typical_tokens_stay_together() {
        let mut candidates = of(&[0.5, 0.125, 0.125, 0.125, 0.125]);
        // Entropy 1.3863: the first is off by ln 2 = 0.6931, and so are all others.
        candidates.keep_typical(0.1);
        assert!(!ids(&candidates).is_empty());
        let mut even = of(&[0.25; 4]);
        even.keep_typical(0.1);
        assert_eq!(ids(&even), [0, 1, 2, 3]);
    }

    #[test]
    fn the_least_of_the_top_choices_stays() {
        let excluded = |threshold| {
            let mut candidates = of(&[0.15, 0.5, 0.1, 0.25]);
            candidates.exclude_top_choices(threshold);
            ids(&candidates)
        };
        assert_eq!(excluded(0.2), [0, 2, 3], "0.5 goes, 0.25 stays");
        assert_eq!(excluded(0.12), [0, 2], "0.15 stays");
        assert_eq!(excluded(0.3), [0, 1, 2, 3], "one alone is no choice");
        assert_eq!(excluded(0.6), [0, 1, 2, 3]);
    }

    #[test]
    fn a_place_on_the_line_of_probabilities_is_a_token() {
        let candidates = of(&[0.5, 0.25, 0.25]);
        assert_eq!(
            [0.0, 0.49, 0.51, 0.76, 0.999_999].map(|unit| candidates.at(unit)),
            [0, 0, 1, 2, 2]
        );
    }
}
