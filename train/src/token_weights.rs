/// What log-probabilities of tokens are multiplied with before they are summed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TokenWeights {
    /// For tokens that the other answer has not.
    pub(crate) edited: f64,
    /// For tokens after as many as the shorter answer has (α of LD-DPO, arXiv 2409.06411), of model and reference alike:
    /// so both agree before the first step, whatever α is.
    pub(crate) tail: f64,
}

/// The weights of one answer's tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AnswerWeights {
    /// Each token's: `[answer]`.
    pub(crate) each: Vec<f64>,
    /// The answer's length, for means over tokens: their sum, without what is taken off the tail.
    pub(crate) total: f64,
}

impl TokenWeights {
    /// Those of two answers, of each of whose tokens it is known whether the other answer has it not.
    pub(crate) fn of(&self, edited: [&[bool]; 2]) -> [AnswerWeights; 2] {
        let shared = edited[0].len().min(edited[1].len());
        edited.map(|edited| {
            let spans = edited
                .iter()
                .map(|&edited| if edited { self.edited } else { 1.0 });
            let tail = |place: usize| if place < shared { 1.0 } else { self.tail };
            AnswerWeights {
                total: spans.clone().sum::<f64>(),
                each: spans
                    .enumerate()
                    .map(|(place, weight)| weight * tail(place))
                    .collect(),
            }
        })
    }
}

impl AnswerWeights {
    /// The weighted sum of log-probabilities.
    pub(crate) fn sum(&self, log_probabilities: &[f64]) -> f64 {
        let products = self.each.iter().zip(log_probabilities);
        products.map(|(weight, logp)| weight * logp).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDITED: [&[bool]; 2] = [&[false, true, false], &[false, true, true, false, false]];

    #[test]
    fn all_ones_are_plain_sums() {
        let plain = TokenWeights {
            edited: 1.0,
            tail: 1.0,
        }
        .of(EDITED);
        assert_eq!((plain[0].total, plain[1].total), (3.0, 5.0));
        assert_eq!(plain[1].sum(&[-1.0, -2.0, -3.0, -4.0, -5.0]), -15.0);
    }

    #[test]
    fn edits_weigh_more_and_the_tail_less() {
        let weights = TokenWeights {
            edited: 3.0,
            tail: 0.5,
        }
        .of(EDITED);
        assert_eq!(weights[0].each, [1.0, 3.0, 1.0]);
        assert_eq!(weights[1].each, [1.0, 3.0, 3.0, 0.5, 0.5]);
        assert_eq!(weights[1].total, 9.0);
    }
}
