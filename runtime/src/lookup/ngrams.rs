use std::collections::HashMap;

/// Tokens of the shortest and of the longest end of a text that is looked for.
const SHORTEST: usize = 2;
const LONGEST: usize = 4;

/// Stands where a shorter n-gram has no token.
const NO_TOKEN: u32 = u32::MAX;

/// For every n-gram of a text the place of the token that came after it last. A token costs a few entries of a table.
#[derive(Debug, Default)]
pub(super) struct Ngrams {
    places: HashMap<[u32; LONGEST], usize>,
}

impl Ngrams {
    /// Takes the n-grams before the token at `place` of `tokens`. An n-gram that nothing has come after yet is not found, so the
    /// end of a text does not find itself.
    pub(super) fn add(&mut self, tokens: &[u32], place: usize) {
        for ngram in ends(&tokens[..place]) {
            self.places.insert(key(ngram), place);
        }
    }

    /// The place of the token that came after the longest end of `tokens` that was there before. Texts may have gone back since
    /// their n-grams were taken: what is not there any more is not found.
    pub(super) fn find(&self, tokens: &[u32]) -> Option<usize> {
        ends(tokens).find_map(|ngram| {
            let place = *self.places.get(&key(ngram))?;
            let is_there = place < tokens.len() && tokens[..place].ends_with(ngram);
            is_there.then_some(place)
        })
    }
}

/// The ends of `tokens` that are looked for, the longest first.
fn ends(tokens: &[u32]) -> impl Iterator<Item = &[u32]> {
    let lengths = (SHORTEST..=LONGEST.min(tokens.len())).rev();
    lengths.map(|length| &tokens[tokens.len() - length..])
}

fn key(ngram: &[u32]) -> [u32; LONGEST] {
    let mut key = [NO_TOKEN; LONGEST];
    key[..ngram.len()].copy_from_slice(ngram);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tokens: &[u32]) -> Option<usize> {
        let mut ngrams = Ngrams::default();
        (0..tokens.len()).for_each(|place| ngrams.add(tokens, place));
        ngrams.find(tokens)
    }

    #[test]
    fn ends_are_found_where_they_came_last() {
        assert_eq!(found(&[1, 2, 3, 1, 2, 4, 1, 2]), Some(5));
        assert_eq!(
            found(&[8, 1, 2, 3, 1, 2, 4, 8, 1, 2]),
            Some(3),
            "the longer end counts"
        );
        assert_eq!(found(&[1, 2, 3, 4, 2]), None, "one token is too few");
        assert_eq!(found(&[5, 5, 5]), Some(2));
        assert_eq!(found(&[5]), None);
        assert_eq!(found(&[]), None);
    }
}
