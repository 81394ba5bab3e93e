use std::ops::Range;

use lwv_processor::{Grid, Patches, Transcript};
use similar::{Algorithm, DiffTag, capture_diff_slices};

use crate::{Encoded, Encoder, IGNORED, Pair, Problem, Result, TooLong};

/// Token ids, labels and images of a [`Pair`].
#[derive(Debug, Clone, PartialEq)]
pub struct PairExample {
    /// With the better answer, with the worse one.
    pub answers: [Answered; 2],
    /// The images of both, in the order of their tokens.
    pub images: Vec<Patches>,
    /// How much the pair counts among others.
    pub weight: f64,
    /// Where the pair stands.
    pub origin: crate::Origin,
}

/// A prompt and one answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// Token ids, `[tokens]`, with the image tokens of the pair's images.
    pub input_ids: Vec<u32>,
    /// `[tokens]`: the token itself where it belongs to the answer, else [`IGNORED`]; see
    /// [`Example::labels`](crate::Example::labels). An open pair has no token after the answer's text.
    pub labels: Vec<i64>,
    /// For each token of the answer, whether the other answer has it not: `[answer]`.
    pub edited: Vec<bool>,
}

impl Encoder {
    /// Tokens that [`encode_pair`](Self::encode_pair) makes of the two answers with their prompt, from the headers of the
    /// images alone.
    ///
    /// # Errors
    /// As for [`encode`](Self::encode), but for what is wrong with the pixels.
    pub fn pair_token_counts(&self, pair: &Pair) -> Result<[usize; 2]> {
        let grids = self.grids(&pair.chosen)?;
        Ok(self
            .sides(pair, &grids)?
            .map(|(transcript, _)| transcript.input_ids.len()))
    }

    /// Tokenizes both answers and, if they are short enough, decodes, resizes and cuts the images, once. Only the last
    /// answers are to be learned, whatever the prompt holds.
    ///
    /// # Errors
    /// As for [`encode`](Self::encode); of an open pair, an answer whose end cannot be told from that of its turn.
    pub fn encode_pair(&self, pair: &Pair) -> Result<Encoded<PairExample>> {
        let grids = self.grids(&pair.chosen)?;
        let sides = self.sides(pair, &grids)?;
        let tokens = sides.each_ref().map(|(transcript, _)| transcript.input_ids.len());
        let origin = pair.chosen.origin.clone();
        if let Some(max_length) = self
            .settings()
            .max_length
            .filter(|limit| tokens.iter().any(|n| n > limit))
        {
            return Ok(Encoded::TooLong(TooLong {
                tokens: tokens[0].max(tokens[1]),
                max_length,
                origin,
            }));
        }
        let ids = sides
            .each_ref()
            .map(|(transcript, answer)| &transcript.input_ids[answer.clone()]);
        let mut edited = edits(ids).into_iter();
        let answers = sides.each_ref().map(|(transcript, answer)| Answered {
            input_ids: transcript.input_ids.clone(),
            labels: labels(transcript, answer),
            edited: edited.next().unwrap_or_default(),
        });
        Ok(Encoded::Example(PairExample {
            answers,
            images: self.patches(&pair.chosen, &grids)?,
            weight: pair.weight,
            origin,
        }))
    }

    /// Both conversations, and the tokens of their answers.
    fn sides(&self, pair: &Pair, grids: &[Grid]) -> Result<[(Transcript, Range<usize>); 2]> {
        let side = |messages: &[lwv_processor::Message]| -> std::result::Result<_, Problem> {
            let mut transcript = self.processor().transcript(messages, grids)?;
            let mut answer = transcript.answers.pop().ok_or(Problem::NoAnswer)?;
            if pair.is_open {
                answer.end = self
                    .processor()
                    .end_of_speech(messages, &transcript.input_ids, &answer)?;
                transcript.input_ids.truncate(answer.end);
            }
            Ok((transcript, answer))
        };
        let side = |messages| side(messages).map_err(|problem| problem.at(&pair.chosen.origin));
        Ok([side(&pair.chosen.messages)?, side(&pair.rejected.messages)?])
    }
}

fn labels(transcript: &Transcript, answer: &Range<usize>) -> Vec<i64> {
    let ids = transcript.input_ids.iter().enumerate();
    ids.map(|(place, id)| {
        if answer.contains(&place) {
            i64::from(*id)
        } else {
            IGNORED
        }
    })
    .collect()
}

/// Which tokens of either answer are not in the longest common subsequence of both.
fn edits(answers: [&[u32]; 2]) -> [Vec<bool>; 2] {
    let mut edited = answers.map(|answer| vec![true; answer.len()]);
    for step in capture_diff_slices(Algorithm::Myers, answers[0], answers[1]) {
        if step.tag() == DiffTag::Equal {
            edited[0][step.old_range()].fill(false);
            edited[1][step.new_range()].fill(false);
        }
    }
    edited
}

impl PairExample {
    /// Memory that it takes, in bytes; see [`Example::bytes`](crate::Example::bytes).
    pub fn bytes(&self) -> usize {
        let values: usize = self.images.iter().map(|image| image.values.len()).sum();
        let tokens: usize = self.answers.iter().map(|answer| answer.input_ids.len()).sum();
        tokens * (size_of::<u32>() + size_of::<i64>()) + values * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use lwv_processor::{Message, Processor};

    use super::*;
    use crate::samples::{checkpoint, png};
    use crate::{Conversation, EncoderSettings, ImageSource, Origin, Place};

    fn encoder(max_length: Option<usize>) -> Encoder {
        let settings = EncoderSettings {
            max_length,
            ..Default::default()
        };
        Encoder::new(Processor::from_dir(checkpoint().path()).unwrap(), settings)
    }

    fn pair(answers: [&str; 2], is_open: bool) -> Pair {
        let conversation = |answer: &str| Conversation {
            messages: vec![
                Message::with_images("user", 1, "see"),
                Message::text("assistant", "one"),
                Message::text("user", "and"),
                Message::text("assistant", answer),
            ],
            images: vec![ImageSource::Bytes(png(8, 4))],
            origin: Origin {
                file: "x.jsonl".into(),
                place: Place::Line(7),
            },
        };
        let [chosen, rejected] = answers.map(conversation);
        Pair {
            chosen,
            rejected,
            weight: 0.5,
            is_open,
        }
    }

    fn example(pair: &Pair) -> PairExample {
        match encoder(None).encode_pair(pair).unwrap() {
            Encoded::Example(example) => example,
            Encoded::TooLong(too_long) => panic!("{too_long:?}"),
        }
    }

    fn learned(answered: &Answered) -> String {
        let ids: Vec<u32> = answered
            .labels
            .iter()
            .filter(|label| **label != IGNORED)
            .map(|label| u32::try_from(*label).unwrap())
            .collect();
        assert_eq!(ids.len(), answered.edited.len());
        assert_eq!(answered.labels.len(), answered.input_ids.len());
        encoder(None).processor().tokenizer().decode(&ids, false).unwrap()
    }

    #[test]
    fn the_last_answers_are_learned_and_images_are_there_once() {
        let example = example(&pair(["two", ""], false));
        let learned = example.answers.each_ref().map(learned);
        assert_eq!(learned, ["two<|im_end|>\n", "<|im_end|>\n"]);
        assert_eq!((example.images.len(), example.weight), (1, 0.5));
        assert!(example.bytes() > 8 * 3 * 2 * 4 * 4);
    }

    #[test]
    fn an_open_pair_does_not_end() {
        let open = pair(["two.", "three"], true);
        let example = example(&open);
        let learned = example.answers.each_ref().map(learned);
        assert_eq!(learned, ["two.", "three"]);
        let counts = encoder(None).pair_token_counts(&open).unwrap();
        assert_eq!(
            counts,
            example.answers.each_ref().map(|answer| answer.input_ids.len())
        );
    }

    #[test]
    fn edited_tokens_are_those_the_other_has_not() {
        let example = example(&pair(["a 12 b", "a 7 b c"], false));
        let marks = example.answers.each_ref().map(|answer| {
            let marks = answer.edited.iter().map(|edited| if *edited { 'x' } else { '.' });
            marks.collect::<String>()
        });
        // The end of the turn is common to both.
        assert_eq!(marks, ["..xx....", "..x..xx.."]);
    }

    #[test]
    fn the_longer_answer_counts() {
        let pair = pair(["two", "three and more"], false);
        let [chosen, rejected] = encoder(None).pair_token_counts(&pair).unwrap();
        assert!(chosen < rejected);
        assert!(matches!(
            encoder(Some(rejected)).encode_pair(&pair),
            Ok(Encoded::Example(_))
        ));
        let too_long = encoder(Some(rejected - 1)).encode_pair(&pair).unwrap();
        assert!(matches!(too_long, Encoded::TooLong(TooLong { tokens, .. }) if tokens == rejected));
    }
}
