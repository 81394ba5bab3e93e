/// Counts words as the paper's evaluation does: every character of U+4E00 to U+9FFF, and every run of the letters a to
/// z that no other letter, digit or underscore touches (`\b[a-zA-Z]+\b` of Python).
///
/// This is the measure that published lengths are told in. What a writer is asked for is counted by `lwv-runtime`,
/// whose rule knows more scripts and counts numbers.
///
/// ```
/// assert_eq!(lwv_data::count_words("It's GPT-4o, 你好 world 42!"), 6);
/// ```
pub fn count_words(text: &str) -> usize {
    let ideographs = text
        .chars()
        .filter(|c| ('\u{4E00}'..='\u{9FFF}').contains(c))
        .count();
    let runs = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    let is_word = |run: &&str| !run.is_empty() && run.bytes().all(|b| b.is_ascii_alphabetic());
    ideographs + runs.filter(is_word).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_paper() {
        for (text, words) in [
            ("", 0),
            ("One two  three.\nfour", 4),
            ("GPT-4o", 1),
            ("It's", 2),
            // Letters glued to ideographs are no words of their own.
            ("中文abc字", 3),
            ("中文 abc 字", 4),
            ("naïve snake_case 3.14 x", 1),
            ("ひらがな", 0),
        ] {
            assert_eq!(count_words(text), words, "{text:?}");
        }
    }
}
