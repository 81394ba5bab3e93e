//! Images and prompts into the cache, piece by piece.

use std::ops::Range;

use crate::error::{Inner, Result};
use crate::session::Session;

/// What a step of prefill did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefilled {
    /// An image was encoded: its place from 0, and its number of tokens.
    Image { index: usize, tokens: usize },
    /// Tokens were appended to the cache.
    Tokens(usize),
    /// Everything is in the cache.
    Nothing,
}

impl Session {
    /// Encodes the next image, or appends the next chunk to the cache. One call is what cancelling waits for at most,
    /// unless the decoder can be interrupted within.
    pub(crate) fn prefill(&mut self) -> Result<Prefilled> {
        let start = self.decoder.length();
        let longest = match self.deterministic {
            true => self.next_cut(start),
            false => start + self.decoder.chunk(),
        };
        let end = self.tokens.len().min(longest);
        if start >= end {
            return Ok(Prefilled::Nothing);
        }
        // A chunk has image tokens of one image at most, so that only one image's features are held.
        let next = self
            .images
            .iter()
            .position(|image| image.span.end > start && image.span.start < end);
        let Some(index) = next else {
            return self.prefill_chunk(start..end, None);
        };
        let span = self.images[index].span.clone();
        if self.features.as_ref().is_none_or(|(of, _)| *of != index) {
            if span.start > start {
                return self.prefill_chunk(start..span.start, None);
            }
            return self.encode(index);
        }
        let following = self
            .images
            .get(index + 1)
            .map_or(end, |image| image.span.start.min(end));
        self.prefill_chunk(start..following, Some(index))
    }

    fn encode(&mut self, index: usize) -> Result<Prefilled> {
        let image = &self.images[index];
        let Some(patches) = &image.patches else {
            let reason = "an image there is no longer held";
            return Err(Inner::Rewind {
                asked: image.span.start,
                have: self.tokens.len(),
                reason,
            }
            .into());
        };
        let features = self.decoder.encode_image(patches)?;
        let tokens = image.span.len();
        let expected = tokens * self.decoder.hidden_size();
        if features.len() != expected {
            let message = format!(
                "{} feature values for an image that needs {expected}",
                features.len()
            );
            return Err(Inner::Inference {
                graph: "vision_encoder".to_owned(),
                message,
            }
            .into());
        }
        self.features = Some((index, features));
        Ok(Prefilled::Image { index, tokens })
    }

    fn prefill_chunk(&mut self, chunk: Range<usize>, image: Option<usize>) -> Result<Prefilled> {
        let hidden = self.decoder.hidden_size();
        let rows = self.decoder.embed(&self.tokens[chunk.clone()])?;
        if let (Some(index), Some((_, features))) = (image, &self.features) {
            let span = &self.images[index].span;
            let shared = span.start.max(chunk.start)..span.end.min(chunk.end);
            let from = (shared.start - span.start) * hidden..(shared.end - span.start) * hidden;
            let to = (shared.start - chunk.start) * hidden..(shared.end - chunk.start) * hidden;
            rows[to].copy_from_slice(&features[from]);
        }
        let axes = self.context.positions.axes();
        let positions: Vec<i64> = (0..axes)
            .flat_map(|axis| {
                self.positions[chunk.clone()]
                    .iter()
                    .map(move |position| position[axis])
            })
            .collect();
        self.decoder.prefill(chunk.len(), &positions)?;
        self.drop_finished_images();
        Ok(Prefilled::Tokens(chunk.len()))
    }

    fn drop_finished_images(&mut self) {
        let done = self.decoder.length();
        for image in self.images.iter_mut().filter(|image| image.span.end <= done) {
            image.patches = None;
        }
        let finished = |(index, _): &(usize, _)| self.images[*index].span.end <= done;
        if self.features.as_ref().is_some_and(finished) {
            self.features = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use lwv_processor::Prompt;

    use crate::scripted::{IMAGE, ScriptedDecoder, image, tokens_of};
    use crate::session::tests::{image_prompt, settings};

    #[test]
    fn features_take_the_place_of_image_tokens_whatever_the_chunks() {
        // The image begins in the first chunk of eight and ends in the second.
        let decoder = ScriptedDecoder::new(|_| 0);
        let log = decoder.log();
        let mut session = decoder.session();
        session.extend(image_prompt("abcde", 0.5, "f")).unwrap();
        session.generate(settings(1)).unwrap().complete().unwrap();
        let rows = log.rows.lock().unwrap();
        let features: Vec<[f32; 2]> = rows[5..11].iter().map(|row| row.embedding).collect();
        assert_eq!(features, [0, 1, 2, 3, 4, 5].map(|row| [0.5, row as f32]));
        assert_eq!(rows[11].embedding[0], tokens_of("f")[0] as f32);
        assert_eq!(
            rows[11].position,
            [8, 8, 8],
            "5 text tokens, then max(2, 3) of the image"
        );
        assert_eq!(rows[10].position, [5, 6, 7]);
        assert_eq!(log.encoded.lock().unwrap().len(), 1);
    }

    #[test]
    fn several_images_are_encoded_one_after_another() {
        let decoder = ScriptedDecoder::new(|_| 0);
        let log = decoder.log();
        let mut session = decoder.session();
        let input_ids = [vec![IMAGE; 2], vec![IMAGE], tokens_of("x")].concat();
        let images = vec![image(1.0, 2, 4), image(2.0, 2, 2)];
        session.extend(Prompt { input_ids, images }).unwrap();
        session.generate(settings(1)).unwrap().complete().unwrap();
        let marks: Vec<f32> = log.rows.lock().unwrap()[..3]
            .iter()
            .map(|row| row.embedding[0])
            .collect();
        assert_eq!(marks, [1.0, 1.0, 2.0]);
    }

    #[test]
    fn a_second_turn_goes_on_with_its_own_image() {
        let decoder = ScriptedDecoder::new(|_| tokens_of("z")[0]);
        let log = decoder.log();
        let mut session = decoder.session();
        session.extend(image_prompt("a", 1.0, "b")).unwrap();
        session.generate(settings(2)).unwrap().complete().unwrap();
        session.extend(image_prompt("c", 2.0, "d")).unwrap();
        session.generate(settings(1)).unwrap().complete().unwrap();
        let rows = log.rows.lock().unwrap();
        // a, image, b, z, z, c, image, d: the last z of the first turn was computed with the second.
        assert_eq!(rows.len(), 1 + 6 + 1 + 2 + 1 + 6 + 1);
        assert_eq!(rows[7].position, [4, 4, 4]);
        assert_eq!(
            (rows[8].position[0], rows[9].position[0], rows[10].position[0]),
            (5, 6, 7)
        );
        assert_eq!(
            (rows[11].position.clone(), rows[16].position.clone()),
            (vec![8, 8, 8], vec![8, 9, 10])
        );
        assert_eq!(rows[17].position, [11, 11, 11]);
        assert_eq!(rows[11].embedding, [2.0, 0.0]);
    }
}
