use super::goal::Goal;
use super::{Writer, WriterEvent};
use crate::draft::{OpenSection, Revision, join};
use crate::error::Result;
use crate::generation::{Event, FinishReason, GenerationSettings};
use crate::manuscript::Manuscript;
use crate::request::section_request;
use crate::section::{Length, WrittenSection, write_to_length};
use crate::shown_text::shown_text;
use crate::words::count_words;

/// Passes in a row by which a section that turned out short does not come on, until it is left as it is.
const FRUITLESS: usize = 6;

/// Loops that a section runs into, with little between them, until it is left as it is: what such a model writes on is worth nothing.
const LOOPS: usize = 3;

/// How a section is written: in one pass, or in more where it turns out short.
impl Writer {
    /// Writes a section to its end, from where the draft has it.
    pub(super) fn section(
        &mut self,
        manuscript: &Manuscript,
        index: usize,
        revision: Option<Revision>,
        event: &mut dyn FnMut(WriterEvent),
    ) -> Result<WrittenSection> {
        let mut open = self.open(manuscript, index, revision)?;
        let goal = Goal::of(manuscript, &open);
        let before = manuscript.before(index);
        event(WriterEvent::SectionStarted {
            index,
            words: goal.words,
        });
        let between = if index == 0 { "" } else { "\n\n" };
        let heading = manuscript.plan.sections[index].heading();
        event(WriterEvent::Text(between.to_owned() + &heading + &open.text));
        loop {
            let tokens_per_word = before.tokens_per_word(&open.text, &open.token_ids);
            let length = Length::new(goal.left(&open), tokens_per_word);
            let written_tokens = self.prepare(&before, &open, event)?;
            let most = self
                .settings
                .max_section_tokens
                .saturating_sub(goal.tokens(&open));
            let pass = self.write_pass(
                &open,
                &heading,
                length,
                [written_tokens, length.max_tokens().min(most)],
                event,
            )?;
            let token_ids = [&open.token_ids[..], &pass.token_ids].concat();
            let looped = pass.reason == FinishReason::LoopDetected;
            open.pass_ended(join(&open.text, &pass.text), token_ids, looped);
            let is_missed = goal.is_missed(&open);
            let tokens_left = goal.tokens(&open) < self.settings.max_section_tokens;
            let has_hope = open.fruitless < FRUITLESS && open.loops < LOOPS;
            let may_go_on = tokens_left && has_hope && pass.reason != FinishReason::Cancelled;
            if !(is_missed && may_go_on) {
                let reason = match pass.reason {
                    // It was left, and the section has its words.
                    FinishReason::LoopDetected if !is_missed => FinishReason::WordBudget,
                    reason => reason,
                };
                return self.finish(open, goal, reason, event);
            }
            if let Some(draft) = &mut self.draft {
                draft.pass_ended(&open.text, &open.token_ids, looped)?;
            }
        }
    }

    /// The section as the draft has it, or at its beginning.
    fn open(
        &mut self,
        manuscript: &Manuscript,
        index: usize,
        revision: Option<Revision>,
    ) -> Result<OpenSection> {
        let Some(draft) = &mut self.draft else {
            return Ok(OpenSection::new(manuscript, index, revision));
        };
        if let Some(open) = &draft.state().open {
            return Ok(open.clone());
        }
        draft.opened(index, revision.clone())?;
        Ok(OpenSection::new(manuscript, index, revision))
    }

    fn finish(
        &mut self,
        open: OpenSection,
        goal: Goal,
        reason: FinishReason,
        event: &mut dyn FnMut(WriterEvent),
    ) -> Result<WrittenSection> {
        let index = open.index;
        let section = WrittenSection {
            words: count_words(&open.text),
            text: open.text.clone(),
            token_ids: open.token_ids.clone(),
            reason,
        };
        if reason != FinishReason::Cancelled {
            if let Some(draft) = &mut self.draft {
                draft.finished(&section)?;
            }
            if goal.is_missed(&open) {
                event(WriterEvent::Shortfall {
                    index,
                    words: goal.reached(&open),
                    wanted: goal.words,
                });
            }
        }
        event(WriterEvent::SectionFinished {
            index,
            words: section.words,
            reason,
        });
        Ok(section)
    }

    /// Writes on at the end of an open section, under its heading if it has one. The last `written_tokens` tokens of the prompt are text.
    fn write_pass(
        &mut self,
        open: &OpenSection,
        heading: &str,
        length: Length,
        [written_tokens, max_new_tokens]: [usize; 2],
        event: &mut dyn FnMut(WriterEvent),
    ) -> Result<WrittenSection> {
        let revised = open.revision.as_ref().map(|revision| revision.sampler.clone());
        let mut sampler = revised.unwrap_or_else(|| self.settings.sampler.clone());
        sampler.seed = sampler.seed.wrapping_add(open.passes as u64);
        let mut stop = self.settings.stop.clone();
        // A text in one piece has headings of its own.
        stop.extend(heading.starts_with("## ").then(|| "\n## ".to_owned()));
        let settings = GenerationSettings {
            sampler,
            max_new_tokens,
            min_words: length.min_words(),
            stop,
            begun: open.pass.as_ref().map(|pass| pass.begun.clone()),
            written_tokens,
            loop_guard: self.settings.loop_guard,
            lookup_tokens: self.settings.lookup_tokens,
            cancel: self.settings.cancel.clone(),
            ..GenerationSettings::default()
        };
        let generation = self.session.generate(settings)?;
        let mut paragraph = Paragraph::after(&open.text);
        let on_event = |generated: Event| event(WriterEvent::Generation(paragraph.event(generated)));
        let (draft, cancel) = (&mut self.draft, &self.settings.cancel);
        write_to_length(generation, length, on_event, |standing| match draft {
            Some(draft) => draft.written(standing, cancel.is_cancelled()),
            None => Ok(()),
        })
    }

    /// Puts the prompt of a section in place: the request, and as an answer that has begun the text so far and the
    /// section's heading, so that the model goes on where it stopped and only what is new is computed.
    ///
    /// Where the context cannot hold it all, the text so far is shown from near its end. Returns how many tokens the answer
    /// has that has begun.
    fn prepare(
        &mut self,
        before: &Manuscript,
        open: &OpenSection,
        event: &mut dyn FnMut(WriterEvent),
    ) -> Result<usize> {
        let mut prompt = self.prompt(&section_request(&self.task.instruction, &before.plan), "")?;
        let heading = before.plan.sections[open.index].heading();
        let parts = [before.text(), heading.clone() + &open.text].map(|part| part.trim_end().to_owned());
        let written: String = parts
            .iter()
            .filter(|part| !part.is_empty())
            .map(|part| part.to_owned() + "\n\n")
            .collect();
        let longest = before
            .plan
            .sections
            .iter()
            .map(|section| section.words)
            .max()
            .unwrap_or(0);
        let free = self
            .session
            .context_length()
            .saturating_sub(prompt.input_ids.len());
        // The same for all sections, since where the shown text begins follows from it.
        let room = free
            .saturating_sub(Length::new(longest, None).max_tokens())
            .max(free / 3);
        let shown = shown_text(&written, room, self.processor.tokenizer())?;
        let left_out = count_words(&written[..written.len() - shown.len()]);
        if left_out > 0 {
            event(WriterEvent::TextLeftOut {
                index: open.index,
                words: left_out,
            });
        }
        let begun = match shown {
            "" => Vec::new(),
            shown => self.processor.tokenizer().encode(shown, false)?,
        };
        prompt.input_ids.extend(&begun);
        self.session.replace(prompt)?;
        Ok(begun.len())
    }
}

/// The text of a pass as it is told: a paragraph of its own, whose beginning comes with the first of its text and goes with the
/// last of it.
struct Paragraph {
    /// What stands before it.
    between: &'static str,
    /// Bytes that were told.
    told: usize,
}

impl Paragraph {
    fn after(text: &str) -> Self {
        Self {
            between: if text.is_empty() { "" } else { "\n\n" },
            told: 0,
        }
    }

    fn event(&mut self, mut event: Event) -> Event {
        match &mut event {
            Event::Token { text, .. } | Event::Finished { text, .. } if !text.is_empty() => {
                if self.told == 0 {
                    text.insert_str(0, self.between);
                }
                self.told += text.len();
            }
            Event::Rewound { bytes, .. } => {
                if *bytes > 0 && *bytes + self.between.len() == self.told {
                    *bytes = self.told;
                }
                self.told -= *bytes;
            }
            Event::Settled { bytes } => *bytes += self.between.len(),
            _ => {}
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{greedy, writer};
    use super::*;
    use crate::scripted::{END, ScriptedDecoder, author, token_of};
    use crate::{Plan, PlannedSection, WriterSettings};

    /// What a model might write, by position: sentences of up to 25 words, and after one in so many an end or another
    /// heading.
    fn unruly(seed: u64, end_every: u64) -> ScriptedDecoder {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut stream = Vec::new();
        ScriptedDecoder::new(move |ids| {
            while stream.len() <= ids.len() {
                for word in 0..=2 + random(22) {
                    stream.extend(if word == 0 { "A" } else { " b" }.bytes().map(token_of));
                    stream.extend((0..random(8)).map(|_| token_of(b'o')));
                }
                stream.push(token_of(b'.'));
                match random(end_every) {
                    0 => stream.push(END),
                    1 => stream.extend("\n\n## More\n\n".bytes().map(token_of)),
                    2 => stream.extend("\n\n".bytes().map(token_of)),
                    _ => {}
                }
                stream.push(token_of(b' '));
            }
            stream[ids.len()]
        })
    }

    #[test]
    fn a_text_in_one_piece_has_headings_of_its_own() {
        let text = "One two three.\n\n## Bees\n\nFour five six seven.\n\n";
        let decoder = ScriptedDecoder::new(move |ids| {
            let byte = text.as_bytes()[ids.len() % text.len()];
            token_of(byte)
        });
        let written = writer(decoder, greedy()).write_at_once(40, &mut |_| ()).unwrap();
        assert_eq!(written.reason, FinishReason::WordBudget);
        assert!(written.text.contains("\n\n## Bees\n\nFour"), "{}", written.text);
    }

    fn plan(sections: usize, words: usize) -> Plan {
        let section = |index| PlannedSection {
            main_point: format!("Part {index}"),
            words,
        };
        Plan {
            sections: (1..=sections).map(section).collect(),
        }
    }

    /// What was wanted and written of each section, and whether it was said to be short.
    fn lengths(decoder: ScriptedDecoder, plan: Plan) -> (Vec<(usize, usize, bool)>, Manuscript) {
        let mut lengths = Vec::new();
        let mut shown = String::new();
        let manuscript = writer(decoder.with_context(1 << 20), greedy())
            .write(plan, |event| match event {
                WriterEvent::SectionStarted { words, .. } => lengths.push((words, 0, false)),
                WriterEvent::Shortfall { words, wanted, .. } => {
                    let last = lengths.last_mut().unwrap();
                    assert_eq!(wanted, last.0);
                    *last = (wanted, words, true);
                }
                WriterEvent::SectionFinished { words, .. } => lengths.last_mut().unwrap().1 = words,
                WriterEvent::Text(text) => shown.push_str(&text),
                WriterEvent::Generation(Event::Token { text, .. } | Event::Finished { text, .. }) => {
                    shown.push_str(&text);
                }
                _ => {}
            })
            .unwrap();
        assert_eq!(shown, manuscript.text());
        (lengths, manuscript)
    }

    #[test]
    fn sections_have_their_length_or_it_is_said_that_they_are_short() {
        let mut short = 0;
        for seed in 1..=40 {
            for (sections, words) in [(1, 100 + 10 * seed as usize), (3, 150)] {
                let plan = if sections == 1 {
                    Plan::in_one_piece(words)
                } else {
                    plan(sections, words)
                };
                let (lengths, manuscript) = lengths(unruly(seed, 24), plan);
                assert!(manuscript.is_complete());
                for (wanted, words, is_short) in lengths {
                    let share = words as f64 / wanted as f64;
                    assert!(share <= 1.15, "seed {seed}: {words} of {wanted}");
                    assert_eq!(is_short, share < 0.85, "seed {seed}: {words} of {wanted}");
                    short += usize::from(is_short);
                }
            }
        }
        assert!(short <= 16, "{short} of 160 sections are short");
    }

    #[test]
    fn a_section_that_is_always_broken_off_is_written_on_so_often_and_called_short() {
        // A heading after every sentence of three words.
        let text = "One two three.\n\n## More\n";
        let decoder = ScriptedDecoder::new(move |ids| token_of(text.as_bytes()[ids.len() % text.len()]));
        let mut passes = 0;
        let mut short = None;
        let manuscript = writer(decoder, greedy())
            .write(plan(1, 60), |event| match event {
                WriterEvent::Generation(Event::Finished { .. }) => passes += 1,
                WriterEvent::Shortfall { words, wanted, .. } => short = Some((words, wanted)),
                _ => {}
            })
            .unwrap();
        assert_eq!(passes, FRUITLESS);
        let section = &manuscript.sections[0];
        assert_eq!(short, Some((section.words, 60)));
        assert!(section.words >= 9 && section.text.contains("\n\n"), "{section:?}");
        assert!(
            !section.text.contains("More"),
            "headings are the writer's: {section:?}"
        );
    }

    /// A model that begins to turn in circles after so many sentences of six words, and gets out where a paragraph begins.
    fn circling(sentences: usize) -> ScriptedDecoder {
        let line_ends = [token_of(b'\n'); 2];
        let decoder = ScriptedDecoder::new(move |ids| {
            let begin = ids
                .windows(2)
                .rposition(|pair| pair == line_ends)
                .map_or(2, |at| at + 2);
            let mut state = begin as u64 | 1;
            let mut letter = |_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                char::from(b'a' + (state >> 33) as u8 % 26)
            };
            let mut word = || (0..5).map(&mut letter).collect::<String>();
            let text: String = (0..sentences)
                .map(|_| (0..6).map(|_| word()).collect::<Vec<_>>().join(" ") + ". ")
                .collect();
            let place = ids.len() - begin;
            token_of(
                text.as_bytes()
                    .get(place)
                    .copied()
                    .unwrap_or(b"so it is, "[place % 10]),
            )
        });
        decoder.with_context(1 << 16)
    }

    #[test]
    fn a_text_that_ran_into_a_loop_goes_on_in_a_new_paragraph() {
        let mut shown = String::new();
        let mut taken_back = 0;
        let settings = WriterSettings {
            loop_guard: true,
            ..greedy()
        };
        let written = writer(circling(55), settings)
            .write_at_once(1600, &mut |event| match event {
                WriterEvent::Text(text) => shown.push_str(&text),
                WriterEvent::Generation(Event::Token { text, .. } | Event::Finished { text, .. }) => {
                    shown.push_str(&text)
                }
                WriterEvent::Generation(Event::Rewound { bytes, .. }) => {
                    shown.truncate(shown.len() - bytes);
                    taken_back += 1;
                }
                _ => {}
            })
            .unwrap();
        assert_eq!(
            (written.reason, &shown),
            (FinishReason::WordBudget, &written.text)
        );
        assert!((1440..=1760).contains(&written.words), "{} words", written.words);
        assert!(
            taken_back > 12 && !written.text.contains("so it is, so"),
            "{taken_back}: {}",
            written.text
        );
    }

    #[test]
    fn the_cap_holds_where_no_sentence_ends() {
        let decoder = || ScriptedDecoder::new(|ids| token_of(b"word "[ids.len() % 5]));
        let (lengths, _) = lengths(decoder(), Plan::in_one_piece(200));
        assert!(lengths[0].1 <= 270 && !lengths[0].2, "{lengths:?}");
        let settings = WriterSettings {
            max_section_tokens: 100,
            ..greedy()
        };
        let section = writer(decoder(), settings)
            .write_at_once(200, &mut |_| ())
            .unwrap();
        assert_eq!(
            (section.token_ids.len(), section.reason),
            (100, FinishReason::MaxTokens)
        );
    }

    /// Prompt tokens that were computed for each section, and tokens that were written.
    fn prefilled(context: usize, deterministic: bool) -> (Vec<usize>, usize) {
        let mut prefilled = Vec::new();
        let settings = WriterSettings {
            deterministic,
            ..greedy()
        };
        let manuscript = writer(author(&["Bees"]).with_context(context), settings)
            .write(plan(24, 60), |event| match event {
                WriterEvent::SectionStarted { .. } => prefilled.push(0),
                WriterEvent::Generation(Event::Finished { stats, .. }) => {
                    *prefilled.last_mut().unwrap() += stats.prefilled_tokens;
                }
                _ => {}
            })
            .unwrap();
        assert!(manuscript.is_complete() && manuscript.words() > 1300);
        (prefilled, manuscript.text().len())
    }

    #[test]
    fn of_a_text_that_fits_the_context_only_headings_are_computed_as_prompts() {
        let (sections, _) = prefilled(1 << 16, false);
        assert!(sections[0] > 100, "request");
        assert!(sections[2..].iter().all(|tokens| *tokens < 40), "{sections:?}");
    }

    /// The work grows with the text, not with its square: what is shown moves by halves of the context.
    #[test]
    fn a_text_that_is_longer_than_the_context_is_computed_once_more() {
        let (sections, written) = prefilled(2000, false);
        let after_first: usize = sections[1..].iter().sum();
        assert!(written > 3 * 2000, "{written} tokens");
        assert!(
            after_first < written + 40 * sections.len(),
            "{after_first} of {written}: {sections:?}"
        );
        let (early, late): (usize, usize) = (sections[6..15].iter().sum(), sections[15..].iter().sum());
        assert!(late < early * 3 / 2, "{early}, then {late}");
    }

    #[test]
    fn a_deterministic_text_is_computed_once_more_and_no_oftener() {
        let (sections, written) = prefilled(1 << 16, true);
        let after_first: usize = sections[1..].iter().sum();
        // Each section begins with up to a chunk of 8 that is computed again.
        assert!(
            after_first < written + (8 + 40) * sections.len(),
            "{after_first} of {written}: {sections:?}"
        );
    }

    #[test]
    fn what_is_left_out_of_the_text_is_said() {
        let mut left_out = Vec::new();
        writer(author(&["Bees"]).with_context(2000), greedy())
            .write(plan(24, 60), |event| {
                if let WriterEvent::TextLeftOut { words, .. } = event {
                    left_out.push(words);
                }
            })
            .unwrap();
        assert!(left_out.len() > 10 && left_out.is_sorted(), "{left_out:?}");
        left_out.dedup();
        assert!(left_out.len() < 10, "it moves now and then: {left_out:?}");
    }
}
