/// Longest match of each class but the last, in tokens.
const BORDERS: [usize; 5] = [2, 3, 4, 7, 15];
const CLASSES: usize = BORDERS.len() + 1;

/// What is assumed of each class before anything was counted, with the weight of so many guesses.
const ASSUMED: [f64; CLASSES] = [0.35, 0.45, 0.55, 0.65, 0.8, 0.9];
const ASSUMED_WEIGHT: f64 = 4.0;

/// Guesses after which earlier ones count for half: a text may begin to quote, or cease to.
const MEMORY: f64 = 48.0;

/// How often the token that came after a match before came again, by the length of the match.
#[derive(Debug)]
pub(super) struct HitRates {
    classes: [Class; CLASSES],
}

#[derive(Debug, Clone, Copy)]
struct Class {
    hits: f64,
    guesses: f64,
}

impl Default for HitRates {
    fn default() -> Self {
        Self {
            classes: ASSUMED.map(|rate| Class {
                hits: rate * ASSUMED_WEIGHT,
                guesses: ASSUMED_WEIGHT,
            }),
        }
    }
}

impl HitRates {
    /// Counts a token after a match of `length` tokens.
    pub(super) fn count(&mut self, length: usize, hit: bool) {
        let class = &mut self.classes[class(length)];
        class.hits += f64::from(u8::from(hit));
        class.guesses += 1.0;
        if class.guesses > MEMORY {
            class.hits /= 2.0;
            class.guesses /= 2.0;
        }
    }

    /// The rate after a match of `length` tokens.
    pub(super) fn of(&self, length: usize) -> f64 {
        let class = self.classes[class(length)];
        class.hits / class.guesses
    }
}

fn class(length: usize) -> usize {
    let longer = |border: &&usize| length > **border;
    BORDERS.iter().take_while(longer).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_guesses() {
        let mut rates = HitRates::default();
        (0..200).for_each(|_| rates.count(5, true));
        assert!(rates.of(7) > 0.97 && rates.of(4) == ASSUMED[2]);
        (0..200).for_each(|_| rates.count(6, false));
        assert!(rates.of(5) < 0.03, "{}", rates.of(5));
        assert_eq!([0, 2, 3, 8, 15, 16, 900].map(class), [0, 0, 1, 4, 4, 5, 5]);
    }
}
