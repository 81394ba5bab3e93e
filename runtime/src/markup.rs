/// Longest quotation, in characters. A mark that nothing closes must not make the rest of a text one.
const LONGEST_QUOTATION: usize = 300;

/// Follows a text in Markdown as it arrives and tells whether it is inside what may repeat: a fenced code block, a row of a
/// table, or a quotation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Markup {
    line: Line,
    /// Character and length of the fence that opened the code block.
    fence: Option<(char, usize)>,
    quotation: Option<Quotation>,
    previous: Option<char>,
}

/// What the current line has turned out to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Blank,
    /// So many of the character that fences are made of.
    Fence(char, usize),
    TableRow,
    BlockQuotation,
    Other,
}

#[derive(Debug, Clone, Copy)]
struct Quotation {
    closed_by: char,
    characters: usize,
}

impl Markup {
    pub(crate) fn push(&mut self, text: &str) {
        for character in text.chars() {
            self.take(character);
            self.previous = Some(character);
        }
    }

    /// Inside a code block or a row of a table.
    pub(crate) fn in_code_or_table(&self) -> bool {
        self.fence.is_some() || matches!(self.line, Line::TableRow | Line::Fence(_, 3..))
    }

    /// Inside quotation marks or a quoted paragraph.
    pub(crate) fn in_quotation(&self) -> bool {
        self.quotation.is_some() || self.line == Line::BlockQuotation
    }

    fn take(&mut self, character: char) {
        if character == '\n' {
            self.end_line();
            return;
        }
        self.line = match (self.line, character) {
            (Line::Blank, c) if c.is_whitespace() => Line::Blank,
            (Line::Blank, '`' | '~') => Line::Fence(character, 1),
            (Line::Fence(of, count), c) if c == of => Line::Fence(of, count + 1),
            // Behind a fence stands the language; inline code has fewer marks.
            (Line::Fence(_, ..3), _) => Line::Other,
            (Line::Blank, '|') if self.fence.is_none() => Line::TableRow,
            (Line::Blank, '>') if self.fence.is_none() => Line::BlockQuotation,
            (Line::Blank, _) => Line::Other,
            (line, _) => line,
        };
        if self.line == Line::Other && self.fence.is_none() {
            self.quote(character);
        }
    }

    fn end_line(&mut self) {
        if let Line::Fence(character, count @ 3..) = self.line {
            self.fence = match self.fence {
                None => Some((character, count)),
                Some((open, length)) if open == character && count >= length => None,
                open => open,
            };
        }
        self.line = Line::Blank;
        self.quotation = None;
    }

    fn quote(&mut self, character: char) {
        self.quotation = match self.quotation {
            Some(quotation) if quotation.closed_by == character => None,
            Some(Quotation { characters, .. }) if characters >= LONGEST_QUOTATION => None,
            Some(Quotation {
                closed_by,
                characters,
            }) => Some(Quotation {
                closed_by,
                characters: characters + 1,
            }),
            None => self.closing_mark(character).map(|closed_by| Quotation {
                closed_by,
                characters: 0,
            }),
        };
    }

    /// What closes a quotation that `opening` opens.
    fn closing_mark(&self, opening: char) -> Option<char> {
        Some(match opening {
            // Behind a digit it stands for inches.
            '"' if !self.previous.is_some_and(|c| c.is_ascii_digit()) => '"',
            '“' => '”',
            '„' => '“',
            '«' => '»',
            '「' => '」',
            '『' => '』',
            '《' => '》',
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The characters of a text that are followed by a state.
    fn inside(text: &str, state: fn(&Markup) -> bool) -> String {
        let mut markup = Markup::default();
        text.chars()
            .filter(|character| {
                markup.push(&character.to_string());
                state(&markup)
            })
            .collect()
    }

    #[test]
    fn code_is_between_fences_of_one_kind() {
        let text = "a `b`\n```rust\nx | y\n~~~\n``` \nz\n~~~~\n```\n~~~~\nend";
        assert_eq!(
            inside(text, Markup::in_code_or_table),
            "`rust\nx | y\n~~~\n``` ~~\n```\n~~~~"
        );
    }

    #[test]
    fn rows_of_tables_begin_with_a_bar() {
        assert_eq!(
            inside("a | b\n| c | d |\n  | e\nf", Markup::in_code_or_table),
            "| c | d || e"
        );
    }

    #[test]
    fn quotations_close_with_their_mark_or_line() {
        let quoted = |text| inside(text, Markup::in_quotation);
        assert_eq!(
            quoted("He said \"no way\" to “it, \"too\"”."),
            "\"no way“it, \"too\""
        );
        assert_eq!(quoted("a \"b\nc"), "\"b");
        assert_eq!(quoted("a 5\" nail"), "");
        assert_eq!(quoted("> all of it\nnot"), "> all of it");
        assert_eq!(quoted("「甲」乙"), "「甲");
        let endless = format!("\"{}", "a".repeat(1000));
        assert_eq!(quoted(&endless).len(), 301);
    }

    #[test]
    fn pieces_are_the_same_as_the_whole() {
        let text = "| a |\n```\nb\n```\n\"c";
        let mut whole = Markup::default();
        whole.push(text);
        for split in 0..text.len() {
            let mut pieces = Markup::default();
            pieces.push(&text[..split]);
            pieces.push(&text[split..]);
            assert_eq!(format!("{pieces:?}"), format!("{whole:?}"), "split at {split}");
        }
    }
}
