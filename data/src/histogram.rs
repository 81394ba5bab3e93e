use serde::Serialize;

/// Most bars of a histogram.
const BARS: usize = 25;

/// Lengths that are counted, with the words that an axis says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Histogram {
    /// What is measured, such as `words of an answer`.
    #[serde(skip)]
    pub(crate) measure: &'static str,
    /// What is counted, such as `answers`.
    #[serde(skip)]
    pub(crate) unit: &'static str,
    pub(crate) mean: f64,
    pub(crate) median: usize,
    pub(crate) longest: usize,
    /// Parts of all that are longer, from 0 to 1.
    pub(crate) over_1000: f64,
    pub(crate) over_2000: f64,
    pub(crate) over_4000: f64,
    /// How long a bar reaches: bar `i` counts lengths from `i * bar_width` to below `(i + 1) * bar_width`.
    pub(crate) bar_width: usize,
    pub(crate) bars: Vec<usize>,
}

impl Histogram {
    /// Counts lengths.
    pub(crate) fn new(measure: &'static str, unit: &'static str, mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let longest = lengths.last().copied().unwrap_or(0);
        let bar_width = bar_width(longest);
        let mut bars = vec![0; longest / bar_width + 1];
        for length in &lengths {
            bars[length / bar_width] += 1;
        }
        let share = |part: usize| part as f64 / lengths.len().max(1) as f64;
        let over = |limit| share(lengths.len() - lengths.partition_point(|length| *length <= limit));
        Self {
            measure,
            unit,
            mean: share(lengths.iter().sum()),
            median: lengths.get(lengths.len() / 2).copied().unwrap_or(0),
            longest,
            over_1000: over(1000),
            over_2000: over(2000),
            over_4000: over(4000),
            bar_width,
            bars,
        }
    }

    /// Most lengths in a bar.
    pub(crate) fn highest(&self) -> usize {
        self.bars.iter().copied().max().unwrap_or(0)
    }
}

/// The smallest of 1, 2, 5, 10, 20, 50 … that needs few bars.
fn bar_width(longest: usize) -> usize {
    let mut power = 1;
    loop {
        for width in [power, 2 * power, 5 * power] {
            if longest / width < BARS {
                return width;
            }
        }
        power *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted() {
        let histogram = Histogram::new("words", "answers", vec![3000, 10, 1000, 1001, 5000]);
        assert_eq!((histogram.median, histogram.longest), (1001, 5000));
        assert_eq!(histogram.mean, 2002.2);
        assert_eq!(
            (histogram.over_1000, histogram.over_2000, histogram.over_4000),
            (0.6, 0.4, 0.2)
        );
        assert_eq!((histogram.bar_width, histogram.bars.len()), (500, 11));
        assert_eq!((histogram.bars[2], histogram.highest()), (2, 2));
    }

    #[test]
    fn few_bars_are_enough() {
        let widths = [0, 24, 25, 99, 2499, 2500].map(bar_width);
        assert_eq!(widths, [1, 1, 2, 5, 100, 200]);
        let nothing = Histogram::new("words", "answers", Vec::new());
        assert_eq!((nothing.bars, nothing.mean), (vec![0], 0.0));
    }
}
