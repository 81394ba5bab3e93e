/// Longest block that is looked for, in tokens.
const LONGEST: usize = 512;

/// Fewest tokens of a loop, so that a row of dots is none.
const LEAST_TOKENS: usize = 24;

/// Times that a block comes in a row.
const TIMES: usize = 3;

/// The same two in code blocks and tables, where much is repeated for good reason.
const LEAST_TOKENS_IN_CODE: usize = 128;
const TIMES_IN_CODE: usize = 8;

/// Finds the same block of tokens several times in a row. A token costs one comparison for each possible length of a block.
#[derive(Debug, Clone, Default)]
pub(super) struct Periods {
    tokens: Vec<u32>,
    /// By the length of the block, less one: how many of the last tokens are those that stand one block earlier.
    runs: Vec<usize>,
}

impl Periods {
    /// Takes the next token. Returns where the block began that came for the second time.
    pub(super) fn push(&mut self, id: u32, in_code_or_table: bool) -> Option<usize> {
        let place = self.tokens.len();
        self.tokens.push(id);
        if self.runs.len() < LONGEST.min(place) {
            self.runs.push(0);
        }
        let earlier = self.tokens[..place].iter().rev();
        for (run, earlier) in self.runs.iter_mut().zip(earlier) {
            *run = if *earlier == id { *run + 1 } else { 0 };
        }
        let (least, times) = if in_code_or_table {
            (LEAST_TOKENS_IN_CODE, TIMES_IN_CODE)
        } else {
            (LEAST_TOKENS, TIMES)
        };
        let looped = |(run, period): &(&usize, usize)| **run + period >= least.max(times * period);
        let (run, _) = self.runs.iter().zip(1..).find(looped)?;
        Some(self.tokens.len() - run)
    }

    /// Whether the last block, not much shorter than a loop at least, came twice in a row.
    pub(super) fn came_twice(&self) -> bool {
        let mut runs = self.runs.iter().zip(1..);
        runs.any(|(run, period)| *run >= period.max(LEAST_TOKENS / 2))
    }

    /// Since when the tokens are those of one block earlier.
    pub(super) fn since(&self) -> Option<usize> {
        let longest = self.runs.iter().max().filter(|run| **run > 0);
        longest.map(|run| self.tokens.len() - run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens after `start` different ones and then a loop of `period` different ones, when the loop is found, and where it
    /// is said to begin.
    fn found(start: u32, period: u32, in_code: bool) -> (usize, usize) {
        let mut periods = Periods::default();
        let loops = (0..).map(|step| start + step % period);
        for (place, id) in (0..start).chain(loops).enumerate() {
            if let Some(began) = periods.push(id, in_code) {
                return (place + 1 - start as usize, began - start as usize);
            }
        }
        unreachable!("a loop has no end");
    }

    #[test]
    fn a_block_that_came_twice_is_told() {
        let told = |period: u32, tokens: u32| {
            let mut periods = Periods::default();
            for step in 0..tokens {
                periods.push(step % period, false);
            }
            periods.came_twice()
        };
        assert!(!told(50, 99) && told(50, 100));
        assert!(!told(1, 12) && told(1, 13), "a few dots are none");
    }

    #[test]
    fn loops_of_any_period_are_found_within_four() {
        for period in [10, 50, 200, 256, 500] {
            let (after, began) = found(30, period, false);
            assert_eq!((after, began), (3 * period as usize, period as usize));
        }
        // Shorter ones must come often enough not to be a row of dots.
        for period in [1, 2, 7] {
            assert_eq!(found(30, period, false), (24, period as usize));
        }
        assert_eq!(found(0, 20, true), (160, 20));
    }

    #[test]
    fn what_was_there_long_ago_is_no_loop() {
        let mut periods = Periods::default();
        let mut push = |id| periods.push(id, false);
        for id in (0..40).chain(100..140).chain(0..40).chain(200..240) {
            assert_eq!(push(id), None);
        }
        assert_eq!(periods.since(), None);
        periods.push(239, false);
        assert_eq!(periods.since(), Some(160));
    }
}
