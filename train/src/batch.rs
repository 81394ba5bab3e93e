use std::ops::Range;

use lwv_data::{Example, IGNORED, PairExample};
use lwv_model::ModelConfig;
use lwv_processor::{Grid, Patches, PositionBuilder};

use crate::Result;

/// One conversation as a model reads it.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// Token ids, image tokens repeated as often as the image has merged patches.
    pub input_ids: &'a [u32],
    /// For each token itself or [`IGNORED`]; the token before learns to predict it.
    pub labels: &'a [i64],
    /// The images, in the order of their tokens.
    pub images: &'a [Patches],
}

impl<'a> From<&'a Example> for Sequence<'a> {
    fn from(example: &'a Example) -> Self {
        Self {
            input_ids: &example.input_ids,
            labels: &example.labels,
            images: &example.images,
        }
    }
}

/// Sequences one after another, without padding, and what is to be predicted.
///
/// An image that several sequences show, or one shows again, is there once.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// `[tokens]`.
    pub input_ids: Vec<u32>,
    /// Tokens of each sequence.
    pub lengths: Vec<usize>,
    /// `[axes, tokens]`, row-major.
    pub positions: Vec<i64>,
    /// Pixels of all images that differ.
    pub images: Vec<Patches>,
    /// Which of `images` is shown, in the order of the image tokens.
    pub shown: Vec<usize>,
    /// Tokens from which something is predicted, ascending.
    pub rows: Vec<u32>,
    /// What is predicted from each of `rows`: the next token.
    pub targets: Vec<u32>,
    /// The part of `rows` that belongs to each sequence.
    pub answers: Vec<Range<usize>>,
}

impl Batch {
    /// Joins sequences into a batch for a model with `config`.
    ///
    /// # Errors
    /// Image tokens that do not fit the images.
    pub fn new<'a>(config: &ModelConfig, sequences: impl IntoIterator<Item = Sequence<'a>>) -> Result<Self> {
        let mut batch = Self::default();
        let mut positions = vec![Vec::new(); config.position_axes()];
        for sequence in sequences {
            let grids: Vec<Grid> = sequence.images.iter().map(|image| image.grid).collect();
            let own = PositionBuilder::of(config).extend(sequence.input_ids, &grids)?;
            for (axis, own) in positions
                .iter_mut()
                .zip(own.chunks(sequence.input_ids.len().max(1)))
            {
                axis.extend_from_slice(own);
            }
            batch.push(sequence);
        }
        batch.positions = positions.concat();
        Ok(batch)
    }

    /// Joins pairs into a batch: each pair's better answer, then its worse one.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn of_pairs<'a>(
        config: &ModelConfig,
        pairs: impl IntoIterator<Item = &'a PairExample>,
    ) -> Result<Self> {
        let sequences = pairs.into_iter().flat_map(|pair| {
            pair.answers.iter().map(|answer| Sequence {
                input_ids: &answer.input_ids,
                labels: &answer.labels,
                images: &pair.images,
            })
        });
        Self::new(config, sequences)
    }

    /// Number of tokens that are predicted.
    pub fn supervised(&self) -> usize {
        self.targets.len()
    }

    fn push(&mut self, sequence: Sequence<'_>) {
        let (start, first) = (self.input_ids.len(), self.rows.len());
        // The first token follows nothing, so its label cannot be learned.
        for (i, label) in sequence.labels.iter().enumerate().skip(1) {
            if *label != IGNORED {
                self.rows.push((start + i - 1) as u32);
                self.targets.push(*label as u32);
            }
        }
        self.input_ids.extend_from_slice(sequence.input_ids);
        self.lengths.push(sequence.input_ids.len());
        self.answers.push(first..self.rows.len());
        for image in sequence.images {
            let known = self.images.iter().position(|known| known == image);
            self.shown.push(known.unwrap_or(self.images.len()));
            if known.is_none() {
                self.images.push(image.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sequences_keep_their_own_positions_and_targets() {
        let config = ModelConfig::from_value(&json!({"model_type": "llama", "hidden_size": 8,
            "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10,
            "max_position_embeddings": 64}))
        .unwrap();
        let sequence = |input_ids, labels| Sequence {
            input_ids,
            labels,
            images: &[],
        };
        let batch = Batch::new(
            &config,
            [
                sequence(&[1, 2, 3], &[1, IGNORED, 3]),
                sequence(&[4, 5], &[IGNORED, 5]),
            ],
        )
        .unwrap();
        assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
        assert_eq!((batch.rows, batch.targets), (vec![1, 3], vec![3, 5]));
        assert_eq!(batch.lengths, [3, 2]);
        assert_eq!(batch.answers, [0..1, 1..2]);
    }

    #[test]
    fn an_image_of_both_answers_is_there_once() {
        let config = ModelConfig::from_dir(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny/nested_f32"),
        )
        .unwrap();
        let token = config.image_token_id.unwrap();
        let image = |value: f32| Patches {
            grid: Grid { t: 1, h: 2, w: 2 },
            values: vec![value; 4 * 3 * 2 * 14 * 14],
        };
        let (first, second) = ([image(0.0), image(1.0)], [image(1.0)]);
        let sequence = |input_ids, images| Sequence {
            input_ids,
            labels: &[IGNORED; 3],
            images,
        };
        let (two, one) = ([token, token, 5], [token, 5, 6]);
        let batch = Batch::new(&config, [sequence(&two, &first), sequence(&one, &second)]).unwrap();
        assert_eq!((batch.images.len(), batch.shown), (2, vec![0, 1, 1]));
    }
}
