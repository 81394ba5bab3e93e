/// The text of a generation on its way to where nothing can be taken back: a terminal, a pipe, a client. Where text may be taken back,
/// only what stays is given out: usually a sentence when the next one begins.
pub struct SettledText {
    /// Whether text may be taken back.
    waits: bool,
    held: String,
    /// Bytes of the generation's text that were given out.
    given: usize,
}

impl SettledText {
    /// Nothing yet.
    pub fn new(waits: bool) -> Self {
        Self {
            waits,
            held: String::new(),
            given: 0,
        }
    }

    /// The text goes on with this. Returns what can be given out.
    pub fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        match self.waits {
            true => String::new(),
            false => self.give(self.held.len()),
        }
    }

    /// The last `bytes` bytes are no part of the text any more.
    pub fn take_back(&mut self, bytes: usize) {
        self.held.truncate(self.held.len().saturating_sub(bytes));
    }

    /// The first `bytes` bytes of the generation's text stay. Returns what can be given out.
    pub fn settle(&mut self, bytes: usize) -> String {
        self.give(bytes.saturating_sub(self.given))
    }

    /// All text stays, and the next generation's goes on after it. Returns what can be given out.
    pub fn settle_all(&mut self) -> String {
        self.given = 0;
        std::mem::take(&mut self.held)
    }

    fn give(&mut self, bytes: usize) -> String {
        self.given += bytes;
        self.held.drain(..bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_taken_back_is_held() {
        let mut text = SettledText::new(true);
        assert_eq!(text.push("One. Two, two, "), "");
        assert_eq!(text.settle(5), "One. ");
        text.take_back(5);
        assert_eq!(text.push("three."), "");
        assert_eq!(text.settle(9), "Two,");
        assert_eq!(text.settle_all(), " three.");
        // Of the next generation.
        text.push("Four. Five.");
        assert_eq!(text.settle(6), "Four. ");
    }

    #[test]
    fn what_stays_is_given_out_at_once() {
        let mut text = SettledText::new(false);
        assert_eq!(
            (text.push("a"), text.push("b"), text.settle_all()),
            ("a".to_owned(), "b".to_owned(), String::new())
        );
    }
}
