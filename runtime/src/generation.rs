mod clock;
mod event;
mod guarded;
mod looked_up;
mod settings;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::cancel::Interrupt;
use crate::error::{Error, Inner, Result};
use crate::lookup::Lookup;
use crate::loop_guard::{LoopAttempts, LoopGuard, entropy};
use crate::sampler::{History, Sampler, SamplerState};
use crate::session::{Prefilled, Session};
use crate::written::WrittenText;

use clock::Clock;
pub use event::{Event, FinishReason, Output};
pub use settings::{Begun, GenerationSettings};

/// An iterator over what happens while a session's text is written on. All texts of its events, put together in their order,
/// are the generated text; where [`Event::Rewound`] comes, that many bytes are cut off its end first.
///
/// Dropped early, it leaves the session usable, with the tokens that were generated.
pub struct Generation<'s> {
    session: &'s mut Session,
    sampler: Sampler,
    settings: GenerationSettings,
    written: WrittenText,
    guard: Option<LoopGuard>,
    lookup: Option<Lookup>,
    /// Bytes of the text that were told to be settled.
    settled: usize,
    interventions: usize,
    /// Tokens of the generation that were left each time it went back to the end of a sentence, as far as they still are.
    went_back_to: Vec<usize>,
    interrupt: Arc<dyn Interrupt>,
    /// Length of the text when the generation began.
    start: usize,
    /// Tokens that were chosen before an interruption and not yet read again.
    begun: VecDeque<u32>,
    pending: VecDeque<Event>,
    phase: Phase,
    clock: Clock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Prefill,
    Decode,
    Done,
}

impl<'s> Generation<'s> {
    pub(crate) fn new(session: &'s mut Session, settings: GenerationSettings) -> Result<Self> {
        let mut sampler = Sampler::new(settings.sampler.clone())?;
        let vocabulary = session.decoder().vocabulary();
        settings.sampler.logit_bias.check_vocabulary(vocabulary)?;
        session.decoder().clear_interrupt()?;
        let interrupt = session.decoder().interrupt_handle();
        settings.cancel.watch(&interrupt);
        let start = session.tokens().len();
        let before = start.saturating_sub(settings.written_tokens);
        let mut written = WrittenText::new(
            &session.context().tokenizer,
            &session.tokens()[before..],
            &settings.stop,
            &settings.sampler.dry_sequence_breakers,
        );
        let mut begun = VecDeque::new();
        if let Some(before) = &settings.begun {
            sampler.restore(before.sampler);
            if before.went_back_to.contains(&0) {
                written.end_sentence();
            }
            begun.extend(&before.token_ids);
            if !session.is_deterministic() {
                before.token_ids.iter().for_each(|id| session.push(*id));
            }
        }
        let to_prefill = session.tokens().len() - session.cached_tokens();
        let mut guard = settings.loop_guard.then(|| LoopGuard::new(&written));
        if let (Some(guard), Some(before)) = (&mut guard, &settings.begun)
            && before.token_ids.is_empty()
        {
            guard.resume(before.loop_attempts);
        }
        let lookup = looked_up::lookup(session, &settings);
        Ok(Self {
            guard,
            lookup,
            written,
            settled: 0,
            interventions: 0,
            went_back_to: settings
                .begun
                .as_ref()
                .map_or(Vec::new(), |begun| begun.went_back_to.clone()),
            start,
            begun,
            pending: VecDeque::new(),
            phase: Phase::Prefill,
            clock: Clock::new(to_prefill),
            session,
            sampler,
            settings,
            interrupt,
        })
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// As the iterator's.
    pub fn complete(mut self) -> Result<Output> {
        let mut text = String::new();
        for event in self.by_ref() {
            match event? {
                Event::Token { text: piece, .. } => text.push_str(&piece),
                Event::Rewound { bytes, .. } => text.truncate(text.len() - bytes),
                Event::Finished {
                    reason,
                    text: rest,
                    stats,
                } => {
                    text.push_str(&rest);
                    return Ok(Output {
                        text,
                        token_ids: self.generated().to_vec(),
                        reason,
                        stats,
                    });
                }
                _ => {}
            }
        }
        Err(Inner::Cancelled.into())
    }

    /// The tokens that were generated so far.
    pub fn generated(&self) -> &[u32] {
        &self.session.tokens()[self.start..self.start + self.read()]
    }

    /// What the loop guard has tried, to go on with it after a restart.
    pub fn loop_attempts(&self) -> LoopAttempts {
        self.guard.as_ref().map(LoopGuard::attempts).unwrap_or_default()
    }

    /// How many tokens were left each time the text went back to the end of a sentence, to go on with it after a restart.
    pub fn went_back_to(&self) -> &[usize] {
        &self.went_back_to
    }

    /// Tokens of the generation whose text was passed on.
    fn read(&self) -> usize {
        self.written.tokens() - self.written.before()
    }

    /// Words written so far.
    pub fn words(&self) -> usize {
        self.written.words()
    }

    /// Where the sampler stands, to go on with it after a restart.
    pub fn sampler_state(&self) -> SamplerState {
        self.sampler.state()
    }

    /// Goes on with a sampler's sequence of random numbers instead of starting it.
    pub fn restore_sampler(&mut self, state: SamplerState) {
        self.sampler.restore(state);
    }

    fn advance(&mut self) -> Result<()> {
        if self.settings.cancel.is_cancelled() {
            self.finish(FinishReason::Cancelled);
            return Ok(());
        }
        let result = match self.phase {
            Phase::Prefill => self.prefill(),
            Phase::Decode => self.decode(),
            Phase::Done => Ok(()),
        };
        match result {
            // The run was interrupted, which is no failure.
            Err(_) if self.settings.cancel.is_cancelled() => {
                self.finish(FinishReason::Cancelled);
                Ok(())
            }
            other => other,
        }
    }

    fn prefill(&mut self) -> Result<()> {
        let begin = Instant::now();
        match self.session.prefill()? {
            Prefilled::Image { index, tokens } => {
                self.clock.images += begin.elapsed();
                self.pending.push_back(Event::ImageEncoded { index, tokens });
            }
            Prefilled::Tokens(count) => {
                self.clock.prefill += begin.elapsed();
                self.clock.prefilled += count;
                let (done, total) = (self.clock.prefilled, self.clock.to_prefill);
                self.pending.push_back(Event::Prefill { done, total });
            }
            Prefilled::Nothing => {
                self.phase = Phase::Decode;
                if self.settings.max_new_tokens == 0 {
                    self.finish(FinishReason::MaxTokens);
                } else if !self.end_in_loop() && !self.read_again()? {
                    self.choose()?;
                }
            }
        }
        Ok(())
    }

    fn decode(&mut self) -> Result<()> {
        if self.read_again()? {
            return Ok(());
        }
        if self.generated().len() >= self.settings.max_new_tokens {
            self.finish(FinishReason::MaxTokens);
            return Ok(());
        }
        if self.session.tokens().len() >= self.session.context_length() {
            self.finish(FinishReason::ContextFull);
            return Ok(());
        }
        let begin = Instant::now();
        // Tokens from before an interruption may have been computed with the prompt.
        if self.session.cached_tokens() < self.session.tokens().len() {
            self.step()?;
        }
        self.choose()?;
        self.clock.steps += 1;
        self.clock.decode += begin.elapsed();
        Ok(())
    }

    /// Chooses the next token by the scores that are there, or takes the one that was chosen before an interruption.
    fn choose(&mut self) -> Result<()> {
        // As the model gives them, before anything is done to them.
        let entropy = self
            .guard
            .is_some()
            .then(|| entropy(self.session.logits_and_tokens().0));
        let id = match self.begun.front() {
            Some(id) => *id,
            None => self.choose_new()?,
        };
        self.clock.first_token.get_or_insert(self.clock.begin.elapsed());
        self.session.push(id);
        self.read_token(id, entropy)
    }

    fn choose_new(&mut self) -> Result<u32> {
        if self.is_end_held_back() {
            self.suppress_eos();
        }
        let (logits, tokens) = self.session.logits_and_tokens();
        let (prompt, generated) = tokens.split_at(self.start - self.written.before());
        let history = History {
            prompt,
            generated,
            marks: self.written.marks(),
            exempt: self.written.is_exempt(),
        };
        self.sampler.choose_after(logits, &history)
    }

    /// Whether the next token cannot end the text.
    fn is_end_held_back(&self) -> bool {
        self.settings.ignore_eos
            || self.read() < self.settings.min_new_tokens
            || self.written.words() < self.settings.min_words
    }

    /// Reads the next token that was chosen before an interruption and computed with the prompt, if there is one.
    fn read_again(&mut self) -> Result<bool> {
        let next = self.session.tokens().get(self.start + self.read()).copied();
        if let Some(id) = next {
            // By which scores it was chosen is not known any more; no choice was free of doubt, as far as it matters.
            self.read_token(id, self.guard.as_ref().map(|_| f32::INFINITY))?;
        }
        Ok(next.is_some())
    }

    /// Passes on what the next token of the generation says, which was chosen by scores of this entropy.
    fn read_token(&mut self, id: u32, entropy: Option<f32>) -> Result<()> {
        let again = self.begun.pop_front().is_some();
        let ends = !self.is_end_held_back() && self.session.context().eos_token_ids.contains(&id);
        let added = if ends {
            self.written.push_end(id)
        } else {
            self.written.push(id)
        };
        self.pending.push_back(Event::Token { id, text: added.text });
        if again && self.went_back_to.contains(&self.read()) {
            self.written.end_sentence();
        }
        if added.stopped {
            self.finish(FinishReason::StopString);
        } else if ends {
            self.finish(FinishReason::Eos);
        } else if let Some(entropy) = entropy {
            self.guard(entropy, again)?;
        }
        Ok(())
    }

    fn suppress_eos(&mut self) {
        let eos = self.session.context().eos_token_ids.clone();
        let (logits, _) = self.session.logits_and_tokens();
        for id in eos {
            if let Some(score) = logits.get_mut(id as usize) {
                *score = f32::NEG_INFINITY;
            }
        }
    }

    fn finish(&mut self, reason: FinishReason) {
        self.phase = Phase::Done;
        let text = match reason {
            FinishReason::StopString => String::new(),
            // The start of a character that never came to its end is no text where the writing was cut off.
            _ => self.written.finish(reason == FinishReason::Eos),
        };
        let stats = self.stats();
        self.pending.push_back(Event::Finished { reason, text, stats });
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Event, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.pending.is_empty() {
            if self.phase == Phase::Done {
                return None;
            }
            if let Err(error) = self.advance() {
                self.phase = Phase::Done;
                return Some(Err(error));
            }
        }
        self.pending.pop_front().map(Ok)
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.settings.cancel.forget(&self.interrupt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::SamplerSettings;
    use crate::scripted::{END, ScriptedDecoder, text_prompt, tokens_of};

    fn greedy() -> GenerationSettings {
        GenerationSettings {
            sampler: SamplerSettings::greedy(),
            ..GenerationSettings::default()
        }
    }

    /// All events of a text that a script writes after the prompt `>>`.
    fn events(text: &str, settings: GenerationSettings) -> Vec<Event> {
        let mut session = ScriptedDecoder::writing(2, text).session();
        session.extend(text_prompt(">>")).unwrap();
        let generation = session.generate(settings).unwrap();
        generation.map(|event| event.unwrap()).collect()
    }

    /// The text, and the reasons that were given.
    fn outcome(events: &[Event]) -> (String, Vec<FinishReason>) {
        let mut text = String::new();
        let mut reasons = Vec::new();
        for event in events {
            match event {
                Event::Token { text: piece, .. } => text.push_str(piece),
                Event::Finished {
                    reason, text: rest, ..
                } => {
                    text.push_str(rest);
                    reasons.push(*reason);
                }
                _ => {}
            }
        }
        (text, reasons)
    }

    #[test]
    fn text_comes_in_whole_characters_and_ends_once() {
        let text = "naïve 河 👩‍🚀!";
        let events = events(text, greedy());
        assert_eq!(outcome(&events), (text.to_owned(), vec![FinishReason::Eos]));
        assert!(matches!(events[0], Event::Prefill { done: 2, total: 2 }));
        assert!(matches!(events.last(), Some(Event::Finished { .. })));
        let ids: Vec<u32> = events
            .iter()
            .filter_map(|e| {
                if let Event::Token { id, .. } = e {
                    Some(*id)
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(ids, [tokens_of(text), vec![END]].concat());
    }

    #[test]
    fn a_character_that_is_cut_off_is_no_text() {
        let settings = GenerationSettings {
            max_new_tokens: 2,
            ..greedy()
        };
        assert_eq!(
            outcome(&events("a河", settings)),
            ("a".to_owned(), vec![FinishReason::MaxTokens])
        );
    }

    #[test]
    fn stop_strings_end_the_text_before_them() {
        let stop = |stop: &[&str]| GenerationSettings {
            stop: stop.iter().map(|s| (*s).to_owned()).collect(),
            ..greedy()
        };
        assert_eq!(
            outcome(&events("one. two. three", stop(&["three", ". t"]))),
            ("one".to_owned(), vec![FinishReason::StopString])
        );
        assert_eq!(
            outcome(&events("ends with th", stop(&["three"]))),
            ("ends with th".to_owned(), vec![FinishReason::Eos])
        );
    }

    #[test]
    fn limits_are_kept() {
        let settings = GenerationSettings {
            max_new_tokens: 3,
            ..greedy()
        };
        assert_eq!(
            outcome(&events("abcdef", settings)),
            ("abc".to_owned(), vec![FinishReason::MaxTokens])
        );
        let settings = GenerationSettings {
            max_new_tokens: 0,
            ..greedy()
        };
        assert_eq!(
            outcome(&events("abcdef", settings)),
            (String::new(), vec![FinishReason::MaxTokens])
        );
        let mut session = ScriptedDecoder::writing(2, "abcdef").with_context(5).session();
        session.extend(text_prompt(">>")).unwrap();
        let output = session.generate(greedy()).unwrap().complete().unwrap();
        assert_eq!(
            (output.text.as_str(), output.reason),
            ("abc", FinishReason::ContextFull)
        );
    }

    #[test]
    fn the_end_can_be_put_off() {
        // The second best token is a hyphen.
        let settings = GenerationSettings {
            min_new_tokens: 4,
            ..greedy()
        };
        assert_eq!(outcome(&events("ab", settings)).0, "ab--");
        let settings = GenerationSettings {
            ignore_eos: true,
            max_new_tokens: 6,
            ..greedy()
        };
        assert_eq!(
            outcome(&events("ab", settings)),
            ("ab----".to_owned(), vec![FinishReason::MaxTokens])
        );
        let settings = GenerationSettings {
            min_words: 2,
            max_new_tokens: 6,
            ..greedy()
        };
        assert_eq!(outcome(&events("a b", settings)).0, "a b");
    }

    #[test]
    fn cancelling_keeps_the_text_and_the_session() {
        let mut session = ScriptedDecoder::writing(2, "abcdef").session();
        session.extend(text_prompt(">>")).unwrap();
        let settings = greedy();
        let cancel = settings.cancel.clone();
        let mut generation = session.generate(settings).unwrap();
        let before: Vec<Event> = generation.by_ref().take(3).map(|event| event.unwrap()).collect();
        cancel.cancel();
        let after: Vec<Event> = generation.map(|event| event.unwrap()).collect();
        assert_eq!(
            outcome(&[before, after].concat()),
            ("ab".to_owned(), vec![FinishReason::Cancelled])
        );
        let rest = session.generate(greedy()).unwrap().complete().unwrap();
        assert_eq!((rest.text.as_str(), rest.reason), ("cdef", FinishReason::Eos));
    }

    #[test]
    fn a_prefill_that_was_cancelled_goes_on_where_it_stopped() {
        let prompt = "a prompt of more than one chunk";
        let mut session = ScriptedDecoder::writing(prompt.len(), "x").session();
        session.extend(text_prompt(prompt)).unwrap();
        let settings = greedy();
        let cancel = settings.cancel.clone();
        let mut generation = session.generate(settings).unwrap();
        assert!(matches!(
            generation.next(),
            Some(Ok(Event::Prefill { done: 8, .. }))
        ));
        cancel.cancel();
        assert!(matches!(
            generation.next(),
            Some(Ok(Event::Finished {
                reason: FinishReason::Cancelled,
                ..
            }))
        ));
        assert!(generation.next().is_none());
        drop(generation);
        let output = session.generate(greedy()).unwrap().complete().unwrap();
        assert_eq!(
            (output.text.as_str(), output.stats.prefilled_tokens),
            ("x", prompt.len() - 8)
        );
    }

    #[test]
    fn statistics_count() {
        let mut session = ScriptedDecoder::writing(2, "abc").session();
        session.extend(text_prompt(">>")).unwrap();
        let stats = session.generate(greedy()).unwrap().complete().unwrap().stats;
        assert_eq!(
            (
                stats.prompt_tokens,
                stats.prefilled_tokens,
                stats.generated_tokens
            ),
            (2, 2, 4)
        );
        assert!(stats.decode_tokens_per_second > 0.0 && stats.time_to_first_token > 0.0);
        assert_eq!(stats.provider, "Scripted");
    }
}
