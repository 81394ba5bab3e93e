/// How long the ends of a text's beginnings are that are the same as the end of the whole text: what DRY and the ban of
/// n-grams look for.
///
/// The Z algorithm over the text from its end (Gusfield 1997, "Algorithms on Strings, Trees, and Sequences", 1.4): at most
/// two comparisons a token, whatever repeats, so that a text of 8,192 tokens takes some ten microseconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Repeats {
    /// By the number of tokens after a place: how many tokens before it are the same as the last ones.
    lengths: Vec<usize>,
}

impl Repeats {
    pub(super) fn find(&mut self, tokens: &[u32]) {
        let count = tokens.len();
        let from_end = |place: usize| tokens[count - 1 - place];
        self.lengths.clear();
        self.lengths.resize(count, 0);
        // `left..right` is the match that reaches furthest.
        let (mut left, mut right) = (0, 0);
        for place in 1..count {
            let mut length = if place < right {
                self.lengths[place - left].min(right - place)
            } else {
                0
            };
            while place + length < count && from_end(length) == from_end(place + length) {
                length += 1;
            }
            if place + length > right {
                (left, right) = (place, place + length);
            }
            self.lengths[place] = length;
        }
    }

    /// How many tokens before `place` are the same as the text's last ones.
    pub(super) fn before(&self, place: usize) -> usize {
        match self.lengths.len() - place {
            // Nothing comes before the first token.
            _ if place == 0 => 0,
            back => self.lengths[back],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::random::RandomNumbers;

    fn found(tokens: &[u32]) -> Vec<usize> {
        let mut repeats = Repeats::default();
        repeats.find(tokens);
        (0..tokens.len()).map(|place| repeats.before(place)).collect()
    }

    #[test]
    fn the_end_is_found_earlier_in_the_text() {
        // Before the first 3 stands 1 2, as at the end; before the 9 only the 2.
        assert_eq!(found(&[1, 2, 3, 2, 9, 1, 2]), [0, 0, 2, 0, 1, 0, 0]);
        assert_eq!(found(&[7, 7, 7, 7]), [0, 1, 2, 3]);
        assert_eq!(found(&[]), [0; 0]);
    }

    #[test]
    fn lengths_are_those_of_comparing_every_place() {
        let mut numbers = RandomNumbers::at(1, 0);
        let mut below = |limit: u32| (numbers.unit() * f64::from(limit)) as u32;
        for _ in 0..200 {
            let count = below(60);
            let alphabet = 1 + below(3);
            let tokens: Vec<u32> = (0..count).map(|_| below(alphabet)).collect();
            let compared = |place: usize| {
                let pairs = tokens[..place].iter().rev().zip(tokens.iter().rev());
                pairs.take_while(|(a, b)| a == b).count()
            };
            let expected: Vec<usize> = (0..tokens.len()).map(compared).collect();
            assert_eq!(found(&tokens), expected, "{tokens:?}");
        }
    }
}
