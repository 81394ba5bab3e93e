use std::fmt;

/// The largest difference that was seen, and where.
#[derive(Debug, Default)]
pub struct Difference {
    largest: f32,
    place: String,
    compared: usize,
}

impl Difference {
    /// Compares two lists of equal length; one that is not a number differs infinitely.
    pub fn add(&mut self, place: impl Fn() -> String, expected: &[f32], got: &[f32]) {
        assert_eq!(expected.len(), got.len(), "number of values of {}", place());
        assert!(!expected.is_empty(), "nothing to compare in {}", place());
        let largest = expected
            .iter()
            .zip(got)
            .map(|(a, b)| (a - b).abs())
            .map(|d| if d.is_nan() { f32::INFINITY } else { d })
            .fold(0.0, f32::max);
        self.compared += expected.len();
        if largest > self.largest || self.place.is_empty() {
            self.largest = largest;
            self.place = place();
        }
    }

    /// Fails where something was further apart, or where nothing was compared. The outcome is printed, for who asks
    /// for the output of tests.
    #[expect(clippy::print_stderr, reason = "shown with `--nocapture` and on failure")]
    pub fn assert_within(&self, what: &str, tolerance: f32) {
        eprintln!("{what}: {self} (allowed {tolerance:.1e})");
        assert!(self.compared > 0, "{what}: nothing was compared");
        assert!(
            self.largest <= tolerance,
            "{what}: {self}, allowed is {tolerance:e}"
        );
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            largest,
            place,
            compared,
        } = self;
        write!(
            f,
            "largest difference {largest:.2e} at {place}, of {compared} values"
        )
    }
}

/// Cosine of the angle between two vectors.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The place of the highest score, the first among equals.
pub fn highest(logits: &[f32]) -> u32 {
    assert!(
        logits.iter().all(|logit| !logit.is_nan()),
        "a logit is not a number"
    );
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|logit| *logit == best).unwrap() as u32
}
