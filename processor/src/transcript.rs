use std::ops::Range;

use crate::vision::Place;
use crate::{ChatTemplate, Error, Grid, Message, Processor, Result};

/// A whole conversation as token ids, with the places where the assistant speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// Token ids. Among them, each image has as many image tokens as it has merged patches.
    pub input_ids: Vec<u32>,
    /// For every assistant's turn in order, the tokens that the chat template puts after the generation prompt: what
    /// is said, the end of the turn, and the line break after it where there is one.
    pub answers: Vec<Range<usize>>,
}

impl Processor {
    /// A conversation as it was held, for training: nothing is asked for at the end. `grids` are those of its images
    /// ([`ImageProcessor::grid`](crate::ImageProcessor::grid)), so no pixels are needed.
    ///
    /// The text between two borders of answers is tokenized on its own, as it is when the model is asked; the result
    /// must be the same as of the whole text at once.
    ///
    /// # Errors
    /// As for [`prompt`](Self::prompt); a template that renders a turn otherwise when more turns follow; a token that
    /// reaches over the border of an answer; images of a model that takes tiles.
    pub fn transcript(&self, messages: &[Message], grids: &[Grid]) -> Result<Transcript> {
        if self.tile_processor().is_some() && !grids.is_empty() {
            return Err(Error::TilesInTranscript);
        }
        let places: Vec<Place> = grids.iter().map(|grid| Place::of(*grid)).collect();
        let template = self.require_template()?;
        let text = template.render(messages, false)?;
        let answers = answers(template, messages, &text)?;
        let add_special_tokens = self.adds_special_tokens(template, &text);
        let transcript = self.in_pieces(&text, &answers, &places, add_special_tokens)?;
        if transcript.input_ids == self.token_ids(&text, &places, add_special_tokens)? {
            Ok(transcript)
        } else {
            Err(Error::TurnBorder)
        }
    }

    /// The end of what is said in the last answer, which stands at `answer` in `input_ids`: the token from which on the
    /// turn only ends.
    ///
    /// # Errors
    /// As for [`transcript`](Self::transcript); a token that reaches over the end of what is said.
    pub fn end_of_speech(
        &self,
        messages: &[Message],
        input_ids: &[u32],
        answer: &Range<usize>,
    ) -> Result<usize> {
        let template = self.require_template()?;
        let text = template.render(messages, false)?;
        let piece = answers(template, messages, &text)?
            .pop()
            .map_or("", |answer| &text[answer]);
        let content = messages.last().map(Message::said).unwrap_or_default();
        let content = content.trim_end();
        let end = piece.find(content).ok_or(Error::TurnBorder)? + content.len();
        let said = self.token_ids(&piece[..end], &[], false)?;
        if input_ids[answer.clone()].starts_with(&said) {
            Ok(answer.start + said.len())
        } else {
            Err(Error::TurnBorder)
        }
    }

    fn in_pieces(
        &self,
        text: &str,
        answers: &[Range<usize>],
        mut places: &[Place],
        mut add_special_tokens: bool,
    ) -> Result<Transcript> {
        self.check_image_count(text, places.len())?;
        let mut transcript = Transcript {
            input_ids: Vec::new(),
            answers: Vec::with_capacity(answers.len()),
        };
        let mut append = |piece: &str, input_ids: &mut Vec<u32>| -> Result<()> {
            let (of_piece, rest) = places.split_at(self.image_places(piece).min(places.len()));
            places = rest;
            input_ids.extend(self.token_ids(piece, of_piece, std::mem::take(&mut add_special_tokens))?);
            Ok(())
        };
        let mut end = 0;
        for answer in answers {
            append(&text[end..answer.start], &mut transcript.input_ids)?;
            let first = transcript.input_ids.len();
            append(&text[answer.clone()], &mut transcript.input_ids)?;
            transcript.answers.push(first..transcript.input_ids.len());
            end = answer.end;
        }
        append(&text[end..], &mut transcript.input_ids)?;
        Ok(transcript)
    }
}

/// The bytes of `text` that each answer takes.
fn answers(template: &ChatTemplate, messages: &[Message], text: &str) -> Result<Vec<Range<usize>>> {
    let turns = messages.iter().enumerate();
    turns
        .filter(|(_, message)| message.role == "assistant")
        .map(|(turn, _)| {
            let before = template.render(&messages[..turn], true)?;
            let after = template.render(&messages[..=turn], false)?;
            if after.starts_with(&before) && text.starts_with(&after) {
                Ok(before.len()..after.len())
            } else {
                Err(Error::UnstableTurn { turn })
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::prompt::tests::{CHATML, folder, vision_processor};
    use crate::{Content, RgbImage};

    fn processor(template: &str) -> Processor {
        Processor::from_dir(folder(&[("chat_template.jinja", template)]).path()).unwrap()
    }

    fn said(processor: &Processor, ids: &[u32]) -> String {
        processor.tokenizer().decode(ids, false).unwrap()
    }

    fn two_turns() -> Vec<Message> {
        vec![
            Message::text("user", "he"),
            Message::text("assistant", "t"),
            Message::text("user", "é"),
            Message::text("assistant", "he t"),
        ]
    }

    #[test]
    fn answers_end_with_their_turn() {
        let processor = processor(CHATML);
        let transcript = processor.transcript(&two_turns(), &[]).unwrap();
        let text = processor
            .chat_template()
            .unwrap()
            .render(&two_turns(), false)
            .unwrap();
        assert_eq!(said(&processor, &transcript.input_ids), text);
        let answers: Vec<String> = transcript
            .answers
            .iter()
            .map(|answer| said(&processor, &transcript.input_ids[answer.clone()]))
            .collect();
        assert_eq!(answers, ["t<|im_end|>\n", "he t<|im_end|>\n"]);
    }

    #[test]
    fn it_begins_with_the_prompt() {
        let processor = vision_processor();
        let mut messages = vec![
            Message {
                role: "user".into(),
                content: vec![Content::Image, Content::Text("he".into()), Content::Image],
            },
            Message::text("assistant", "t"),
            Message::with_images("user", 1, "t"),
        ];
        let images = [RgbImage::new(8, 4), RgbImage::new(4, 12), RgbImage::new(8, 8)];
        let prompt = processor.prompt(&messages, &images).unwrap();
        messages.push(Message::text("assistant", "he"));
        let grids: Vec<Grid> = prompt.images.iter().map(|image| image.grid).collect();
        let transcript = processor.transcript(&messages, &grids).unwrap();
        assert!(transcript.input_ids.starts_with(&prompt.input_ids));
        assert_eq!(
            transcript.answers[1],
            prompt.input_ids.len()..transcript.input_ids.len()
        );
        let error = processor.transcript(&messages, &grids[..2]).unwrap_err();
        assert!(
            matches!(
                error,
                Error::ImageCount {
                    images: 2,
                    placeholders: 3,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_token_over_the_border_is_an_error() {
        // `h` ends the prompt and `e` begins the answer, but `he` is one token.
        let template = "{% for m in messages %}{% if m.role == 'assistant' %}h{% endif %}{{ m.content }}{% endfor %}\
                        {% if add_generation_prompt %}h{% endif %}";
        let processor = processor(template);
        let messages = |answer| [Message::text("user", "a"), Message::text("assistant", answer)];
        assert!(processor.transcript(&messages("a"), &[]).is_ok());
        let error = processor.transcript(&messages("e"), &[]).unwrap_err();
        assert!(matches!(error, Error::TurnBorder), "{error}");
    }

    #[test]
    fn a_template_must_append() {
        let source = "{% for m in messages %}{% if loop.last %}!{% endif %}{{ m.content }};{% endfor %}";
        let error = processor(source).transcript(&two_turns(), &[]).unwrap_err();
        assert!(matches!(error, Error::UnstableTurn { turn: 1 }), "{error}");
        let template = ChatTemplate::parse(source.into(), PathBuf::from("t.jinja"), Vec::new()).unwrap();
        assert!(
            answers(&template, &[Message::text("user", "a")], "!a;")
                .unwrap()
                .is_empty()
        );
    }
}
