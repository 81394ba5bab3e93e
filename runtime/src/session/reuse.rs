//! What of a cache can stay when another prompt takes the place of the text.

use std::hash::{DefaultHasher, Hash, Hasher};

use lwv_processor::{Grid, Patches, Prompt};

use crate::session::Session;

impl Session {
    /// How many tokens, and images among them, `prompt` shares with the text. At least one token of it is new, since
    /// its scores are needed.
    pub(super) fn common_start(&self, prompt: &Prompt, grids: &[Grid]) -> (usize, usize) {
        let equal = self
            .tokens
            .iter()
            .zip(&prompt.input_ids)
            .take_while(|(a, b)| a == b)
            .count();
        let mut kept = equal.min(prompt.input_ids.len().saturating_sub(1));
        let spans = self.image_spans(&prompt.input_ids, grids);
        let mut images = 0;
        for (index, (span, patches)) in spans.iter().zip(&prompt.images).enumerate() {
            let same = self.images.get(index).is_some_and(|image| {
                image.span == *span && span.end <= kept && image.digest == digest(patches)
            });
            if !same {
                kept = kept.min(span.start);
                break;
            }
            images += 1;
        }
        // A generated image token is no image: no span of ours may be cut.
        let cut = self
            .images
            .iter()
            .find(|image| image.span.start < kept && kept < image.span.end);
        (cut.map_or(kept, |image| image.span.start), images)
    }

    /// Of `kept` tokens and the `images` among them, what can stay in the cache.
    pub(super) fn reusable(&self, kept: usize, images: usize) -> (usize, usize) {
        if !self.deterministic {
            return (kept, images);
        }
        let regular = self.irregular.map_or(kept, |irregular| irregular.min(kept));
        let kept = self.last_cut(regular);
        let whole = self.images[..images]
            .iter()
            .filter(|image| image.span.end <= kept);
        (kept, whole.count())
    }

    /// Where the piece of a prompt that begins at `start` ends at the latest.
    pub(super) fn next_cut(&self, start: usize) -> usize {
        let chunk = self.decoder.chunk();
        let borders = self
            .images
            .iter()
            .flat_map(|image| [image.span.start, image.span.end]);
        let of_chunk = (start / chunk + 1) * chunk;
        borders
            .filter(|border| *border > start)
            .fold(of_chunk, usize::min)
    }

    /// The last place up to `at` where a piece of a prompt ends. Images are never cut in two: a part of one would need
    /// its features again.
    pub(super) fn last_cut(&self, at: usize) -> usize {
        let chunk = self.decoder.chunk();
        let borders = self
            .images
            .iter()
            .flat_map(|image| [image.span.start, image.span.end]);
        let cut = borders
            .filter(|border| *border <= at)
            .fold(at / chunk * chunk, usize::max);
        let within = self
            .images
            .iter()
            .find(|image| image.span.start < cut && cut < image.span.end);
        within.map_or(cut, |image| image.span.start)
    }
}

/// Tells images apart within a process.
pub(super) fn digest(patches: &Patches) -> u64 {
    let mut hasher = DefaultHasher::new();
    patches.grid.hash(&mut hasher);
    patches
        .values
        .iter()
        .for_each(|value| value.to_bits().hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use crate::scripted::{Log, ScriptedDecoder, text_prompt, tokens_of};
    use crate::session::Session;
    use crate::session::tests::{image_prompt, settings};

    #[test]
    fn another_prompt_computes_only_what_differs() {
        let decoder = ScriptedDecoder::new(|_| 0);
        let log = decoder.log();
        let mut session = decoder.session();
        let run = |session: &mut Session, prompt| {
            session.replace(prompt).unwrap();
            session
                .generate(settings(2))
                .unwrap()
                .complete()
                .unwrap()
                .stats
                .prefilled_tokens
        };
        assert_eq!(run(&mut session, image_prompt("ab", 1.0, "cd")), 10);
        assert_eq!(
            run(&mut session, image_prompt("ab", 1.0, "ce")),
            1,
            "all but the last token is shared"
        );
        assert_eq!(
            run(&mut session, image_prompt("ab", 1.0, "ce")),
            1,
            "one token is always computed"
        );
        assert_eq!(log.encoded.lock().unwrap().len(), 1);
        assert_eq!(
            run(&mut session, image_prompt("ab", 2.0, "ce")),
            8,
            "the image is another one"
        );
        assert_eq!(log.encoded.lock().unwrap().len(), 2);
        assert_eq!(log.rows.lock().unwrap()[2].embedding, [2.0, 0.0]);
        assert_eq!(log.rows.lock().unwrap()[9].position, [6, 6, 6]);
    }

    /// Sizes of the runs in which the tokens now in the cache were computed.
    fn history(log: &Log) -> Vec<(u32, usize)> {
        log.rows
            .lock()
            .unwrap()
            .iter()
            .map(|row| (row.id, row.run))
            .collect()
    }

    #[test]
    fn a_deterministic_cache_does_not_tell_how_it_came_to_be() {
        let prompts = [
            image_prompt("a long way", 1.0, "cdefghijklmnopqrstuvwx"),
            image_prompt("a long way", 1.0, "cdefghijklmnopqzzzzzzzzzzzz"),
            image_prompt("a long way", 1.0, "cdefg"),
            image_prompt("a long war", 1.0, "cdefg"),
        ];
        let decoder = || ScriptedDecoder::new(|ids| ids.len() as u32 % 90);
        let shared = decoder();
        let log = shared.log();
        let mut session = shared.session();
        session.set_deterministic(true);
        for prompt in prompts.iter().chain(prompts.iter().rev()) {
            let fresh = decoder();
            let fresh_log = fresh.log();
            let mut fresh = fresh.session();
            fresh.set_deterministic(true);
            for session in [&mut session, &mut fresh] {
                session.replace(prompt.clone()).unwrap();
                session.generate(settings(12)).unwrap().complete().unwrap();
            }
            assert_eq!(history(&log), history(&fresh_log));
        }
        assert_eq!(
            log.encoded.lock().unwrap().len(),
            3,
            "images stay while what is before them does"
        );
    }

    #[test]
    fn what_was_generated_becomes_part_of_a_prompt_as_a_prompt() {
        let decoder = ScriptedDecoder::new(|_| tokens_of("z")[0]);
        let log = decoder.log();
        let mut session = decoder.session();
        session.set_deterministic(true);
        session.extend(text_prompt("abcdefghij")).unwrap();
        session.generate(settings(10)).unwrap().complete().unwrap();
        session
            .replace(text_prompt(&("abcdefghij".to_owned() + &"z".repeat(9))))
            .unwrap();
        let output = session.generate(settings(1)).unwrap().complete().unwrap();
        assert_eq!(output.stats.prefilled_tokens, 19 - 8);
        let runs: Vec<usize> = history(&log).iter().map(|(_, run)| *run).collect();
        assert_eq!(runs, [vec![8; 16], vec![3; 3]].concat());
    }
}
