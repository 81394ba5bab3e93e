/// Looks for stop strings in a text that arrives in pieces, and holds back what may be the start of one.
#[derive(Debug, Clone)]
pub(crate) struct StopStrings {
    strings: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Empty strings are left out: they would stop before the first token.
    pub(crate) fn new(strings: &[String]) -> Self {
        let strings = strings
            .iter()
            .filter(|string| !string.is_empty())
            .cloned()
            .collect();
        Self {
            strings,
            held: String::new(),
        }
    }

    /// Takes a piece. Returns the text that is certain now, and whether a stop string was found; the text ends before it
    /// then, and the rest is dropped.
    pub(crate) fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let found = self
            .strings
            .iter()
            .filter_map(|string| self.held.find(string.as_str()))
            .min();
        if let Some(start) = found {
            let text = self.held[..start].to_owned();
            self.held.clear();
            return (text, true);
        }
        let keep = self
            .strings
            .iter()
            .map(|string| overlap(&self.held, string))
            .max()
            .unwrap_or(0);
        let text = self.held[..self.held.len() - keep].to_owned();
        self.held.drain(..text.len());
        (text, false)
    }

    /// What was held back when the text ended without a stop string.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that begins `string`.
fn overlap(text: &str, string: &str) -> usize {
    let longest = text.len().min(string.len());
    (1..=longest)
        .rev()
        .find(|length| {
            string.is_char_boundary(*length) && text.as_bytes().ends_with(&string.as_bytes()[..*length])
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut stop = StopStrings::new(&stops.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let mut texts = Vec::new();
        for piece in pieces {
            let (text, found) = stop.push(piece);
            texts.push(text);
            if found {
                return (texts, true);
            }
        }
        texts.push(stop.finish());
        (texts, false)
    }

    #[test]
    fn a_stop_string_never_leaks_in_part() {
        assert_eq!(
            run(&["<end>"], &["a<", "e", "nd", "> b"]),
            (vec!["a".into(), "".into(), "".into(), "".into()], true)
        );
        let (texts, found) = run(&["<end>"], &["a<", "en", "x"]);
        assert_eq!(
            (texts.concat(), found, texts[0].as_str()),
            ("a<enx".into(), false, "a")
        );
    }

    #[test]
    fn held_text_comes_out_at_the_end() {
        assert_eq!(run(&["<end>"], &["a<e"]), (vec!["a".into(), "<e".into()], false));
    }

    #[test]
    fn the_first_of_several_wins_and_characters_stay_whole() {
        assert_eq!(run(&["。完", "\n"], &["甲。", "乙\n。完"]).0.concat(), "甲。乙");
        assert_eq!(
            run(&["é!"], &["caf\u{e9}", "!"]),
            (vec!["caf".into(), "".into()], true)
        );
        assert_eq!(run(&[""], &["a"]).0.concat(), "a");
    }
}
