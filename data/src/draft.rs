use lwv_processor::{Content, Message};

use crate::{Conversation, ImageSource, Origin, Problem};

/// What stands in a text where a picture goes, as in LLaMA-Factory.
pub(crate) const PLACEHOLDER: &str = "<image>";

type Result<T> = std::result::Result<T, Problem>;

/// A conversation as a file writes it, before its pictures are put in their places.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draft {
    pub(crate) turns: Vec<Turn>,
    /// Pictures that the places stand for, in order.
    pub(crate) images: Vec<ImageSource>,
}

#[derive(Debug, Clone)]
pub(crate) struct Turn {
    pub(crate) role: &'static str,
    pub(crate) parts: Vec<Part>,
}

#[derive(Debug, Clone)]
pub(crate) enum Part {
    /// Text in which every [`PLACEHOLDER`] is a place.
    Marked(String),
    /// Text as it is.
    Plain(String),
    /// A place for the next of the pictures.
    Place,
    /// A picture that stands here.
    Image(ImageSource),
}

impl Draft {
    /// Adds a turn of one text with placeholders.
    pub(crate) fn say(&mut self, role: &'static str, text: impl Into<String>) {
        let parts = vec![Part::Marked(text.into())];
        self.turns.push(Turn { role, parts });
    }

    /// Puts a system prompt that stands apart before a conversation that does not begin with one.
    pub(crate) fn instruct(&mut self, system: &str) {
        if !system.is_empty() && self.turns.first().is_none_or(|turn| turn.role != "system") {
            let parts = vec![Part::Plain(system.to_owned())];
            self.turns.insert(
                0,
                Turn {
                    role: "system",
                    parts,
                },
            );
        }
    }

    /// Puts the pictures in their places. Where there is no place at all, they come before the first user's words.
    pub(crate) fn finish(self, origin: Origin) -> Result<Conversation> {
        let conversation = self.place(origin)?;
        check_answers(&conversation.messages)?;
        Ok(conversation)
    }

    /// As [`finish`](Self::finish), for a conversation whose answers may be empty.
    pub(crate) fn place(mut self, origin: Origin) -> Result<Conversation> {
        self.make_places()?;
        let mut listed = std::mem::take(&mut self.images).into_iter();
        let mut images = Vec::new();
        let messages: Vec<Message> = self
            .turns
            .into_iter()
            .map(|turn| turn.place(&mut listed, &mut images))
            .collect();
        Ok(Conversation {
            messages,
            images,
            origin,
        })
    }

    fn make_places(&mut self) -> Result<()> {
        let (images, placeholders) = (self.images.len(), self.parts().map(Part::places).sum());
        if images == placeholders {
            return Ok(());
        }
        let has_pictures = placeholders > 0 || self.parts().any(|part| matches!(part, Part::Image(_)));
        match self.turns.iter_mut().find(|turn| turn.role == "user") {
            Some(first) if !has_pictures => {
                let places = std::iter::repeat_with(|| Part::Place).take(images);
                first.parts.splice(..0, places);
                Ok(())
            }
            _ => Err(Problem::ImageCount { images, placeholders }),
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.turns.iter().flat_map(|turn| &turn.parts)
    }
}

impl Part {
    fn places(&self) -> usize {
        match self {
            Self::Marked(text) => text.matches(PLACEHOLDER).count(),
            Self::Place => 1,
            Self::Plain(_) | Self::Image(_) => 0,
        }
    }
}

impl Turn {
    fn place(self, listed: &mut impl Iterator<Item = ImageSource>, images: &mut Vec<ImageSource>) -> Message {
        let mut content = Vec::new();
        for part in self.parts {
            match part {
                Part::Plain(text) => push_text(&mut content, &text),
                Part::Marked(text) => {
                    for (index, text) in text.split(PLACEHOLDER).enumerate() {
                        if index > 0 {
                            content.push(Content::Image);
                            images.extend(listed.next());
                        }
                        push_text(&mut content, text);
                    }
                }
                Part::Place => {
                    content.push(Content::Image);
                    images.extend(listed.next());
                }
                Part::Image(source) => {
                    content.push(Content::Image);
                    images.push(source);
                }
            }
        }
        Message {
            role: self.role.to_owned(),
            content,
        }
    }
}

fn push_text(content: &mut Vec<Content>, text: &str) {
    if !text.is_empty() {
        content.push(Content::Text(text.to_owned()));
    }
}

fn check_answers(messages: &[Message]) -> Result<()> {
    let mut answers = messages
        .iter()
        .enumerate()
        .filter(|(_, message)| message.role == "assistant")
        .peekable();
    if answers.peek().is_none() {
        return Err(Problem::NoAnswer);
    }
    match answers.find(|(_, message)| message.said().trim().is_empty()) {
        Some((message, _)) => Err(Problem::EmptyAnswer { message }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Place;

    fn draft(turns: &[(&'static str, &str)], images: usize) -> Draft {
        let mut draft = Draft::default();
        for (role, text) in turns {
            draft.say(role, *text);
        }
        draft.images = (0..images)
            .map(|i| ImageSource::File(i.to_string().into()))
            .collect();
        draft
    }

    fn finish(draft: Draft) -> Result<Conversation> {
        let (file, place) = ("x.jsonl".into(), Place::Line(1));
        draft.finish(Origin { file, place })
    }

    #[test]
    fn placeholders_become_pictures() {
        let turns = [("user", "<image>a<image><image>"), ("assistant", "b")];
        let conversation = finish(draft(&turns, 3)).unwrap();
        let text = Content::Text("a".into());
        let content = [Content::Image, text, Content::Image, Content::Image];
        assert_eq!(conversation.messages[0].content, content);
        assert_eq!(conversation.images.len(), 3);
    }

    #[test]
    fn pictures_without_a_place_come_first() {
        let mut without = draft(
            &[
                ("user", "a"),
                ("assistant", "b"),
                ("user", "c"),
                ("assistant", "d"),
            ],
            2,
        );
        without.instruct("s");
        let conversation = finish(without).unwrap();
        assert_eq!(conversation.messages[1], Message::with_images("user", 2, "a"));
        assert_eq!(conversation.messages[0], Message::text("system", "s"));
    }

    #[test]
    fn counts_must_match() {
        let count = |text, images| {
            let error = finish(draft(&[("user", text), ("assistant", "b")], images)).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            count("<image>", 2),
            "`2` images, but `1` places for one (`<image>`); make them equal"
        );
        assert!(count("<image>", 0).starts_with("`0` images, but `1` places"));
        // A picture that stands in a part is not one of those that are listed.
        let mut both = draft(&[("user", "a"), ("assistant", "b")], 1);
        let embedded = Part::Image(ImageSource::Bytes(Vec::new()));
        both.turns[0].parts.push(embedded);
        assert!(matches!(
            finish(both),
            Err(Problem::ImageCount {
                images: 1,
                placeholders: 0
            })
        ));
    }

    #[test]
    fn there_must_be_answers() {
        assert!(matches!(
            finish(draft(&[("user", "a")], 0)),
            Err(Problem::NoAnswer)
        ));
        let blank = [
            ("user", "a"),
            ("assistant", "b"),
            ("user", "c"),
            ("assistant", " \n"),
        ];
        assert!(matches!(
            finish(draft(&blank, 0)),
            Err(Problem::EmptyAnswer { message: 3 })
        ));
    }

    #[test]
    fn a_system_prompt_stands_once() {
        let mut own = draft(&[("system", "own"), ("user", "a"), ("assistant", "b")], 0);
        own.instruct("other");
        assert_eq!(finish(own).unwrap().messages[0], Message::text("system", "own"));
    }
}
