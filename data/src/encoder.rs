use lwv_processor::{Grid, Patches, Processor, Transcript};

use crate::{Conversation, Origin, Problem, Result};

/// The label of a token that is not to be learned, as in PyTorch and transformers.
pub const IGNORED: i64 = -100;

/// How conversations become examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncoderSettings {
    /// Most tokens of an example, images included. Longer ones are not cut but left out.
    pub max_length: Option<usize>,
    /// Fewest pixels of a resized image, instead of the checkpoint's.
    pub min_pixels: Option<usize>,
    /// Most pixels of a resized image, instead of the checkpoint's.
    pub max_pixels: Option<usize>,
    /// Learn only the last of the assistant's turns.
    pub mask_history: bool,
}

/// Turns conversations into what a model is trained on.
#[derive(Debug, Clone)]
pub struct Encoder {
    processor: Processor,
    settings: EncoderSettings,
}

/// What became of a conversation, or a pair.
#[derive(Debug, Clone, PartialEq)]
pub enum Encoded<T> {
    /// It can be learned.
    Example(T),
    /// It is longer than allowed; its images were not opened.
    TooLong(TooLong),
}

/// Token ids, labels and images of one conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Token ids, `[tokens]`. Each image has as many image tokens as it has merged patches.
    pub input_ids: Vec<u32>,
    /// `[tokens]`: the token itself where it is to be learned, else [`IGNORED`]. Not shifted: the scores at a place are
    /// compared with the label of the next.
    ///
    /// Learned is what the chat template puts after the generation prompt of an assistant's turn: the answer, the end of
    /// the turn, and the line break after it where there is one (as in LLaMA-Factory).
    pub labels: Vec<i64>,
    /// The images, in the order of their tokens.
    pub images: Vec<Patches>,
    /// Number of labels that are not [`IGNORED`].
    pub supervised: usize,
    /// Where the conversation stands.
    pub origin: Origin,
}

/// A conversation that is longer than allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLong {
    /// Its tokens.
    pub tokens: usize,
    /// Most tokens that are allowed.
    pub max_length: usize,
    /// Where it stands.
    pub origin: Origin,
}

impl Encoder {
    /// An encoder for the checkpoint that `processor` was read from.
    pub fn new(mut processor: Processor, settings: EncoderSettings) -> Self {
        if let Some(images) = processor.image_processor_mut() {
            images.min_pixels = settings.min_pixels.unwrap_or(images.min_pixels);
            images.max_pixels = settings.max_pixels.unwrap_or(images.max_pixels);
        }
        Self { processor, settings }
    }

    /// The processor, with the limits of the settings.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The settings.
    pub fn settings(&self) -> &EncoderSettings {
        &self.settings
    }

    /// Tokens that [`encode`](Self::encode) makes of a conversation, from the headers of its images alone.
    ///
    /// # Errors
    /// As for [`encode`](Self::encode), but for what is wrong with the pixels.
    pub fn token_count(&self, conversation: &Conversation) -> Result<usize> {
        Ok(self.transcript(conversation)?.0.input_ids.len())
    }

    /// Patches of a conversation's images, from their headers alone.
    ///
    /// # Errors
    /// As for [`token_count`](Self::token_count).
    pub fn patch_count(&self, conversation: &Conversation) -> Result<usize> {
        Ok(self.grids(conversation)?.iter().map(Grid::patches).sum())
    }

    /// Tokenizes a conversation and, if it is short enough, decodes, resizes and cuts its images.
    ///
    /// # Errors
    /// An image is missing or does not decode; the chat template refuses the messages or its turns cannot be told apart
    /// ([`Processor::transcript`]); there are images but the model reads none.
    pub fn encode(&self, conversation: &Conversation) -> Result<Encoded<Example>> {
        let (transcript, grids) = self.transcript(conversation)?;
        let tokens = transcript.input_ids.len();
        let origin = conversation.origin.clone();
        if let Some(max_length) = self.settings.max_length.filter(|limit| tokens > *limit) {
            return Ok(Encoded::TooLong(TooLong {
                tokens,
                max_length,
                origin,
            }));
        }
        let images = self.patches(conversation, &grids)?;
        let labels = self.labels(&transcript);
        Ok(Encoded::Example(Example {
            supervised: labels.iter().filter(|label| **label != IGNORED).count(),
            input_ids: transcript.input_ids,
            labels,
            images,
            origin,
        }))
    }

    fn transcript(&self, conversation: &Conversation) -> Result<(Transcript, Vec<Grid>)> {
        let grids = self.grids(conversation)?;
        let transcript = self.processor.transcript(&conversation.messages, &grids);
        let transcript = transcript.map_err(|error| Problem::from(error).at(&conversation.origin))?;
        Ok((transcript, grids))
    }

    /// The images' grids, as their headers let expect.
    pub(crate) fn grids(&self, conversation: &Conversation) -> Result<Vec<Grid>> {
        let origin = &conversation.origin;
        let Some(processor) = self.processor.image_processor() else {
            return match conversation.images.len() {
                0 => Ok(Vec::new()),
                _ if self.processor.reads_images() => {
                    Err(Problem::from(lwv_processor::Error::TilesInTranscript).at(origin))
                }
                images => Err(Problem::from(lwv_processor::Error::TextOnly { images }).at(origin)),
            };
        };
        let sizes = conversation.image_sizes()?.into_iter().enumerate();
        sizes
            .map(|(image, (width, height))| {
                let grid = processor.grid(width, height);
                grid.map_err(|source| Problem::Image { image, source }.at(origin))
            })
            .collect()
    }

    /// The images' pixels. Only one decoded picture is in memory at a time.
    pub(crate) fn patches(&self, conversation: &Conversation, grids: &[Grid]) -> Result<Vec<Patches>> {
        let Some(processor) = self.processor.image_processor() else {
            return Ok(Vec::new());
        };
        let images = conversation.images.iter().zip(grids).enumerate();
        images
            .map(|(image, (source, grid))| {
                let patches = source.open().and_then(|picture| processor.process(&picture));
                match patches {
                    Ok(patches) if patches.grid == *grid => Ok(patches),
                    Ok(_) => Err(Problem::HeaderSize { image }),
                    Err(source) => Err(Problem::Image { image, source }),
                }
            })
            .collect::<Result<_, _>>()
            .map_err(|problem| problem.at(&conversation.origin))
    }

    fn labels(&self, transcript: &Transcript) -> Vec<i64> {
        let mut labels = vec![IGNORED; transcript.input_ids.len()];
        let answers = &transcript.answers;
        let history = if self.settings.mask_history {
            answers.len().saturating_sub(1)
        } else {
            0
        };
        for answer in &answers[history..] {
            let ids = transcript.input_ids[answer.clone()].iter();
            for (label, id) in labels[answer.clone()].iter_mut().zip(ids) {
                *label = i64::from(*id);
            }
        }
        labels
    }
}

impl Example {
    /// Memory that it takes, in bytes. Most of it is pixels: 4·channels·temporal_patch_size·patch_size² a patch, which is
    /// about 19 KB an image token of Qwen2.5-VL.
    pub fn bytes(&self) -> usize {
        let values: usize = self.images.iter().map(|image| image.values.len()).sum();
        size_of_val(&*self.input_ids) + size_of_val(&*self.labels) + values * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{checkpoint, png};
    use crate::{Error, ImageSource, Place};
    use lwv_processor::{Content, Message};

    fn encoder(settings: EncoderSettings) -> Encoder {
        Encoder::new(Processor::from_dir(checkpoint().path()).unwrap(), settings)
    }

    /// Two turns, and two pictures that become 2 and 3 tokens.
    fn conversation() -> Conversation {
        Conversation {
            messages: vec![
                Message::with_images("user", 1, "see"),
                Message::text("assistant", "one"),
                Message {
                    role: "user".into(),
                    content: vec![Content::Text("and".into()), Content::Image],
                },
                Message::text("assistant", "two"),
            ],
            images: vec![ImageSource::Bytes(png(8, 4)), ImageSource::Bytes(png(4, 12))],
            origin: Origin {
                file: "x.jsonl".into(),
                place: Place::Line(7),
            },
        }
    }

    fn example(settings: EncoderSettings) -> Example {
        match encoder(settings).encode(&conversation()).unwrap() {
            Encoded::Example(example) => example,
            Encoded::TooLong(too_long) => panic!("{too_long:?}"),
        }
    }

    fn learned(example: &Example) -> String {
        let ids: Vec<u32> = example
            .labels
            .iter()
            .filter(|label| **label != IGNORED)
            .map(|label| u32::try_from(*label).unwrap())
            .collect();
        assert_eq!(ids.len(), example.supervised);
        let processor = Processor::from_dir(checkpoint().path()).unwrap();
        processor.tokenizer().decode(&ids, false).unwrap()
    }

    #[test]
    fn answers_and_the_ends_of_their_turns_are_learned() {
        let example = example(EncoderSettings::default());
        assert_eq!(learned(&example), "one<|im_end|>\ntwo<|im_end|>\n");
        assert_eq!(example.labels.len(), example.input_ids.len());
        for (label, id) in example.labels.iter().zip(&example.input_ids) {
            assert!(*label == IGNORED || *label == i64::from(*id));
        }
        let grids: Vec<[i64; 3]> = example.images.iter().map(|image| image.grid.thw()).collect();
        assert_eq!(grids, [[1, 2, 4], [1, 6, 2]]);
        assert!(example.bytes() > (8 + 12) * 3 * 2 * 4 * 4);
    }

    #[test]
    fn history_can_be_left_out() {
        let example = example(EncoderSettings {
            mask_history: true,
            ..Default::default()
        });
        assert_eq!(learned(&example), "two<|im_end|>\n");
    }

    #[test]
    fn too_long_is_not_cut() {
        let tokens = example(EncoderSettings::default()).input_ids.len();
        let limit = |max_length| EncoderSettings {
            max_length: Some(max_length),
            ..Default::default()
        };
        assert_eq!(
            encoder(limit(tokens)).token_count(&conversation()).unwrap(),
            tokens
        );
        assert_eq!(example(limit(tokens)).input_ids.len(), tokens);
        let expected = TooLong {
            tokens,
            max_length: tokens - 1,
            origin: conversation().origin,
        };
        let encoded = encoder(limit(tokens - 1)).encode(&conversation()).unwrap();
        assert_eq!(encoded, Encoded::TooLong(expected));
    }

    #[test]
    fn image_limits_change_the_tokens() {
        let smaller = EncoderSettings {
            max_pixels: Some(16),
            ..Default::default()
        };
        let grids: Vec<[i64; 3]> = example(smaller).images.iter().map(|i| i.grid.thw()).collect();
        assert_eq!(grids, [[1, 2, 2], [1, 2, 2]]);
    }

    #[test]
    fn bad_pictures_name_the_sample() {
        let error = |bytes: Vec<u8>| {
            let mut conversation = conversation();
            conversation.images[1] = ImageSource::Bytes(bytes);
            encoder(EncoderSettings::default())
                .encode(&conversation)
                .unwrap_err()
        };
        assert_eq!(
            error(b"text".to_vec()).to_string(),
            "`x.jsonl:7`: image `1` (from `0`): `the embedded image` is not an image; give a JPEG, PNG or WebP file"
        );
        let whole = png(30, 30);
        let cut = error(whole[..whole.len() - 20].to_vec());
        assert!(
            cut.to_string()
                .contains("image `1` (from `0`): `the embedded image` is truncated"),
            "{cut}"
        );
        assert!(cut.is_of_sample() && !matches!(cut, Error::Worker { .. }));
    }
}
