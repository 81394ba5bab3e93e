/// Tokens in a row that must be harmless for the longest stretch to end.
const MOST: usize = 32;

/// The last part of a text of which more than half of the tokens are suspicious.
#[derive(Debug, Clone, Default)]
pub(super) struct Stretch {
    since: Option<usize>,
    /// Suspicious tokens less harmless ones, up to a limit.
    weight: usize,
}

impl Stretch {
    pub(super) fn push(&mut self, place: usize, suspicious: bool) {
        if suspicious {
            self.since.get_or_insert(place);
            self.weight = (self.weight + 1).min(MOST);
        } else {
            self.weight = self.weight.saturating_sub(1);
            if self.weight == 0 {
                self.since = None;
            }
        }
    }

    /// Where it begins, if there is one.
    pub(super) fn since(&self) -> Option<usize> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_begins_with_what_is_suspicious_and_outlasts_some_that_is_not() {
        let mut stretch = Stretch::default();
        let mut seen = Vec::new();
        for (place, suspicious) in [false, true, false, true, true, false, false]
            .into_iter()
            .enumerate()
        {
            stretch.push(place, suspicious);
            seen.push(stretch.since());
        }
        assert_eq!(seen, [None, Some(1), None, Some(3), Some(3), Some(3), None]);
    }
}
