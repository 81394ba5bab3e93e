use std::borrow::Cow;

/// What a token is in the text, told to the sampler by whoever follows the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenMark {
    /// It touches a code block, a table or a quotation, where repetitions are wanted.
    pub exempt: bool,
    /// A text of [`dry_sequence_breakers`](crate::SamplerSettings::dry_sequence_breakers) ends with it.
    pub breaks: bool,
}

/// What comes before the token that is to be chosen.
#[derive(Debug, Clone, Copy, Default)]
pub struct History<'h> {
    /// Tokens that were given.
    pub prompt: &'h [u32],
    /// Tokens that were chosen.
    pub generated: &'h [u32],
    /// Marks of the chosen tokens; those that are missing are unmarked.
    pub marks: &'h [TokenMark],
    /// The text is inside a code block, a table or a quotation now.
    pub exempt: bool,
}

/// The part of a history that counts against a token.
pub(super) struct Counted<'h> {
    pub(super) tokens: Cow<'h, [u32]>,
    /// Where the marked tokens begin.
    offset: usize,
    marks: &'h [TokenMark],
}

impl<'h> History<'h> {
    pub(super) fn counted(&self, with_prompt: bool) -> Counted<'h> {
        let prompt = if with_prompt { self.prompt } else { &[] };
        Counted {
            tokens: match prompt {
                [] => Cow::Borrowed(self.generated),
                prompt => Cow::Owned([prompt, self.generated].concat()),
            },
            offset: prompt.len(),
            marks: self.marks,
        }
    }
}

impl Counted<'_> {
    /// The mark of a token by its place.
    pub(super) fn mark(&self, place: usize) -> TokenMark {
        let mark = place.checked_sub(self.offset).and_then(|at| self.marks.get(at));
        mark.copied().unwrap_or_default()
    }
}
