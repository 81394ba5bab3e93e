use crate::error::Result;
use crate::generation::{Event, FinishReason, Generation, Phase};
use crate::loop_guard::{LoopGuard, STRENGTHENED_TOKENS};

/// What a generation does that is watched for loops.
impl Generation<'_> {
    /// Looks whether the text turns in circles with the last token, which was chosen by scores of this entropy; `again` is
    /// whether that was before an interruption. What stayed then, stays.
    pub(super) fn guard(&mut self, entropy: f32, again: bool) -> Result<()> {
        let Some(guard) = &mut self.guard else {
            return Ok(());
        };
        let began = guard.observe(&self.written, entropy);
        if let Some(began) = began.filter(|_| !again) {
            return self.leave_loop(began);
        }
        if let Some(before) = self
            .settings
            .begun
            .as_ref()
            .filter(|_| again && self.begun.is_empty())
        {
            guard.resume(before.loop_attempts);
        }
        let settled = self.written.sentence_end_before(guard.settled(&self.written));
        let bytes = self.bytes_after(settled.tokens);
        if bytes > self.settled {
            self.settled = bytes;
            self.pending.push_back(Event::Settled { bytes });
        }
        self.end_in_loop();
        Ok(())
    }

    /// Ends a text whose guard has made all tries; returns whether it has.
    pub(super) fn end_in_loop(&mut self) -> bool {
        let is_exhausted = self.guard.as_ref().is_some_and(LoopGuard::is_exhausted);
        if is_exhausted {
            self.finish(FinishReason::LoopDetected);
        }
        is_exhausted
    }

    /// Whether the next event takes back what the last one told: they are one step, and nothing between them can be gone on with.
    pub(crate) fn goes_back(&self) -> bool {
        matches!(self.pending.front(), Some(Event::Rewound { .. }))
    }

    /// Goes back to the last sentence that ended before a loop began, and tries again or ends.
    fn leave_loop(&mut self, began: usize) -> Result<()> {
        let found = self.written.tokens();
        let kept = self.go_back(self.written.sentence_end_before(began).tokens)?;
        let bytes = self.written.rewind(kept);
        self.note_sentence_end();
        if let Some(lookup) = &mut self.lookup {
            lookup.rewind(self.session.tokens().len());
        }
        let tokens = found - kept;
        self.interventions += 1;
        self.pending.push_back(Event::Rewound { tokens, bytes });
        let attempt = self.guard.as_mut().and_then(|guard| {
            guard.look_again(&self.written);
            guard.attempt(found, kept)
        });
        match attempt {
            Some(strength) => self.sampler.strengthen(strength, STRENGTHENED_TOKENS.max(tokens)),
            None => self.finish(FinishReason::LoopDetected),
        }
        Ok(())
    }

    /// Remembers that a sentence ends where the text went back to, which shows only in what was taken back.
    fn note_sentence_end(&mut self) {
        let left = self.read();
        self.went_back_to.retain(|earlier| *earlier < left);
        if self.written.sentence_end().tokens == self.written.tokens() {
            self.went_back_to.push(left);
        }
    }

    /// Takes the session back to the first `tokens` tokens of the written text; returns how many it kept.
    fn go_back(&mut self, tokens: usize) -> Result<usize> {
        let before = self.written.before();
        let kept = tokens.max(before);
        let prompt = self.start - before;
        // A prompt that ends with an image cannot be gone back to: its last token would have to be computed again.
        let kept = match self.session.rewind(prompt + kept) {
            Err(_) if kept == before => self.session.rewind(prompt + kept + 1).map(|()| kept + 1),
            rewound => rewound.map(|()| kept),
        }?;
        if kept == before {
            self.clock.to_prefill += self.session.tokens().len() - self.session.cached_tokens();
            self.phase = Phase::Prefill;
        }
        Ok(kept)
    }

    /// Bytes of the generation's text that were handed out with the first `tokens` tokens of the written text.
    fn bytes_after(&self, tokens: usize) -> usize {
        let before = self.written.before();
        self.written.handed_out_after(tokens.max(before)) - self.written.handed_out_after(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::GenerationSettings;
    use crate::sampler::SamplerSettings;
    use crate::scripted::{END, ScriptedDecoder, text_of, text_prompt, token_of, tokens_of};

    fn guarded(max_new_tokens: usize) -> GenerationSettings {
        GenerationSettings {
            sampler: SamplerSettings::greedy(),
            max_new_tokens,
            loop_guard: true,
            ..GenerationSettings::default()
        }
    }

    /// What came of a generation after the prompt `>>`.
    struct Outcome {
        /// The text that its events make, with what was taken back cut off.
        text: String,
        reason: FinishReason,
        /// Tokens that were told and not taken back.
        tokens: Vec<u32>,
        /// How long the text was when it first went back, in tokens, and after that.
        first: Option<(usize, usize)>,
        rewinds: usize,
    }

    fn outcome(decoder: ScriptedDecoder, settings: GenerationSettings) -> Outcome {
        let mut session = decoder.session();
        session.extend(text_prompt(">>")).unwrap();
        let mut generation = session.generate(settings).unwrap();
        let mut outcome = Outcome {
            text: String::new(),
            reason: FinishReason::Cancelled,
            tokens: Vec::new(),
            first: None,
            rewinds: 0,
        };
        let mut certain = String::new();
        let mut ends = 0;
        for event in generation.by_ref() {
            match event.unwrap() {
                Event::Token { id, text } => {
                    outcome.tokens.push(id);
                    outcome.text.push_str(&text);
                }
                Event::Rewound { tokens, bytes } => {
                    let had = outcome.tokens.len();
                    outcome.tokens.truncate(had - tokens);
                    outcome.text.truncate(outcome.text.len() - bytes);
                    outcome.first.get_or_insert((had, had - tokens));
                    outcome.rewinds += 1;
                }
                Event::Settled { bytes } => {
                    assert!(bytes > certain.len(), "it only grows");
                    certain = outcome.text[..bytes].to_owned();
                }
                Event::Finished { reason, text, stats } => {
                    outcome.text.push_str(&text);
                    outcome.reason = reason;
                    assert_eq!(stats.loop_interventions, outcome.rewinds);
                    ends += 1;
                }
                _ => {}
            }
            assert!(outcome.text.starts_with(&certain), "settled text stays");
        }
        assert_eq!((ends, generation.generated()), (1, &outcome.tokens[..]));
        drop(generation);
        assert_eq!(session.tokens()[2..], outcome.tokens);
        outcome
    }

    /// Writes `start` and then `unit` again and again, whatever else comes between; from the first hyphen on, which is its
    /// second choice, `rest`.
    fn looping(start: &str, unit: &str, rest: &str) -> ScriptedDecoder {
        let (start, unit, rest) = (start.to_owned(), unit.to_owned(), rest.to_owned());
        ScriptedDecoder::new(move |ids| {
            let written = &ids[2..];
            let byte = match written.iter().position(|id| *id == token_of(b'-')) {
                Some(left) if !rest.is_empty() => rest.as_bytes().get(written.len() - left - 1).copied(),
                _ => start.bytes().chain(unit.bytes().cycle()).nth(written.len()),
            };
            byte.map_or(END, token_of)
        })
    }

    /// A text of `length` letters that repeats nothing.
    fn unit(length: usize) -> String {
        let numbers: String = (100..).take(length).map(|number| format!("{number} ")).collect();
        numbers[..length].to_owned()
    }

    #[test]
    fn loops_are_stopped_within_four_periods_and_taken_back() {
        let start = "It begins well.";
        for period in [1, 10, 50, 200] {
            let unit = unit(period);
            let outcome = outcome(looping(start, &format!(" {unit}")[..period], ""), guarded(2000));
            let (found, kept) = outcome.first.unwrap();
            // One letter may come some times: that is a row of dots.
            assert!(
                found <= start.len() + (4 * period).max(24),
                "period {period}: {found}"
            );
            assert_eq!(kept, start.len(), "period {period}");
            assert!(
                outcome.text.starts_with(start),
                "period {period}: {:?}",
                outcome.text
            );
        }
    }

    #[test]
    fn a_model_that_gets_out_goes_on() {
        let outcome = outcome(
            looping("Bees hum.", " And they fly far.", " And wasps do not. The end."),
            guarded(500),
        );
        assert_eq!(outcome.reason, FinishReason::Eos);
        assert!(
            outcome.text.starts_with("Bees hum. And they fly far."),
            "{}",
            outcome.text
        );
        assert!(
            outcome.text.ends_with("And wasps do not. The end."),
            "{}",
            outcome.text
        );
        assert_eq!(
            (outcome.rewinds, outcome.text.matches("they fly far").count()),
            (1, 1)
        );
    }

    #[test]
    fn a_hopeless_model_ends_with_the_good_text() {
        let outcome = outcome(looping("Good text. ", "a", ""), guarded(2000));
        assert_eq!(
            (outcome.text.as_str(), outcome.reason),
            ("Good text.", FinishReason::LoopDetected)
        );
        assert_eq!(outcome.rewinds, 4, "three tries and the end");
    }

    #[test]
    fn without_the_guard_a_loop_is_the_models_own() {
        let settings = GenerationSettings {
            loop_guard: false,
            ..guarded(300)
        };
        let outcome = outcome(looping("", "ab ", ""), settings);
        assert_eq!(outcome.text, "ab ".repeat(100));
        assert_eq!((outcome.reason, outcome.rewinds), (FinishReason::MaxTokens, 0));
    }

    #[test]
    fn text_that_stop_strings_hold_back_is_taken_back_once() {
        for stop in ["aab", "aaaaaaaaaaaaaaaaaaaab", ". aaa", ".\n"] {
            let settings = GenerationSettings {
                stop: vec![stop.to_owned()],
                ..guarded(1500)
            };
            let outcome = outcome(looping("One: naïve. ", "a", ""), settings);
            let expected = match stop {
                ". aaa" => ("One: naïve", FinishReason::StopString),
                _ => ("One: naïve.", FinishReason::LoopDetected),
            };
            assert_eq!((outcome.text.as_str(), outcome.reason), expected, "{stop:?}");
        }
    }

    /// Texts of random sentences, of which some are repeated for a while.
    #[test]
    fn events_make_the_text_that_the_tokens_decode_to() {
        let mut rewinds = 0;
        for seed in 0..24_usize {
            let next = move |ids: &[u32]| {
                let at = ids.len() / 97;
                let sentences = [
                    "Bees fly. ",
                    "河水流。",
                    "“Hm” – so it is.\n",
                    "| a | b |\n",
                    "Ünd 👩‍🚀 goes up. ",
                ];
                let random = |n: usize| (n * 7919 + seed * 104_729) / 13 % 11;
                // A third of the time it says the same.
                let which = if random(at) < 4 {
                    random(at)
                } else {
                    random(ids.len() / 12 + at)
                } % sentences.len();
                let text = sentences[which];
                token_of(text.as_bytes()[ids.len() % text.len()])
            };
            let decoder = ScriptedDecoder::new(next);
            let outcome = outcome(decoder, guarded(900));
            rewinds += outcome.rewinds;
            let whole = String::from_utf8_lossy(&outcome.text.clone().into_bytes()).into_owned();
            assert_eq!(
                whole.trim_end_matches('\u{FFFD}'),
                text_of(&outcome.tokens).trim_end_matches('\u{FFFD}')
            );
        }
        assert!(rewinds > 10, "{rewinds}");
    }

    #[test]
    fn ngrams_are_never_written_twice_but_in_code() {
        let settings = || GenerationSettings {
            sampler: SamplerSettings {
                no_repeat_ngram_size: 6,
                // What it would take next opens a quotation.
                logit_bias: [(token_of(b'"'), f32::NEG_INFINITY)].into_iter().collect(),
                ..SamplerSettings::greedy()
            },
            loop_guard: false,
            ..guarded(400)
        };
        let prose = outcome(looping("", "buzz, ", ""), settings());
        let ngrams: std::collections::HashSet<&[u32]> = prose.tokens.windows(6).collect();
        assert!(prose.tokens.len() > 12);
        assert!(ngrams.len() + 6 > prose.tokens.len(), "{}", prose.text);
        let code = outcome(looping("```\n", "buzz,\n", ""), settings());
        assert!(code.text.contains(&"buzz,\n".repeat(50)), "{}", code.text);
    }

    #[test]
    fn a_sentence_of_an_earlier_section_counts() {
        let sentence = "Bees fly far away. ";
        let before = sentence.repeat(2);
        let run = |written_tokens| {
            let text = format!("{before}{sentence}The end is near. ");
            let mut session = ScriptedDecoder::new(move |ids| {
                text.as_bytes().get(ids.len()).copied().map_or(END, token_of)
            })
            .session();
            session.extend(text_prompt(&before)).unwrap();
            let settings = GenerationSettings {
                written_tokens,
                ..guarded(100)
            };
            session.generate(settings).unwrap().complete().unwrap()
        };
        assert_eq!(run(0).stats.loop_interventions, 0);
        assert!(run(tokens_of(&before).len()).stats.loop_interventions > 0);
    }
}
