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

/// Times that a section which turned out short is written on.
const CONTINUATIONS: usize = 3;

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
            let length = Length::new(goal.left(&open), before.tokens_per_word());
            self.prepare(&before, &open, event)?;
            let most = self
                .settings
                .max_section_tokens
                .saturating_sub(goal.tokens(&open));
            let pass = self.write_pass(&open, length, length.max_tokens().min(most), event)?;
            open.text = join(&open.text, &pass.text);
            open.token_ids.extend(pass.token_ids);
            open.pass = None;
            let tokens_left = goal.tokens(&open) < self.settings.max_section_tokens;
            let may_go_on = !matches!(pass.reason, FinishReason::Cancelled | FinishReason::LoopDetected);
            let again = open.passes < CONTINUATIONS && tokens_left && may_go_on;
            if !goal.is_missed(&open) || !again {
                return self.finish(open, goal, pass.reason, event);
            }
            open.passes += 1;
            if let Some(draft) = &mut self.draft {
                draft.pass_ended(&open.text, &open.token_ids)?;
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

    /// Writes on at the end of an open section.
    fn write_pass(
        &mut self,
        open: &OpenSection,
        length: Length,
        max_new_tokens: usize,
        event: &mut dyn FnMut(WriterEvent),
    ) -> Result<WrittenSection> {
        let revised = open.revision.as_ref().map(|revision| revision.sampler.clone());
        let mut sampler = revised.unwrap_or_else(|| self.settings.sampler.clone());
        sampler.seed = sampler.seed.wrapping_add(open.passes as u64);
        let mut stop = self.settings.stop.clone();
        stop.push("\n## ".to_owned());
        let settings = GenerationSettings {
            sampler,
            max_new_tokens,
            min_words: length.min_words(),
            stop,
            begun: open.pass.as_ref().map(|pass| pass.begun.clone()),
            cancel: self.settings.cancel.clone(),
            ..GenerationSettings::default()
        };
        let generation = self.session.generate(settings)?;
        // A new paragraph, if there is any text for it.
        let mut between = Some("\n\n").filter(|_| !open.text.is_empty());
        let on_event = |generated: Event| {
            if let Event::Token { text, .. } | Event::Finished { text, .. } = &generated
                && !text.is_empty()
                && let Some(between) = between.take()
            {
                event(WriterEvent::Text(between.to_owned()));
            }
            event(WriterEvent::Generation(generated));
        };
        let (draft, cancel) = (&mut self.draft, &self.settings.cancel);
        write_to_length(generation, length, on_event, |standing| match draft {
            Some(draft) => draft.written(standing, cancel.is_cancelled()),
            None => Ok(()),
        })
    }

    /// Puts the prompt of a section in place: the request, and as an answer that has begun the text so far and the
    /// section's heading, so that the model goes on where it stopped and only what is new is computed.
    ///
    /// Where the context cannot hold it all, the text so far is shown from near its end.
    fn prepare(
        &mut self,
        before: &Manuscript,
        open: &OpenSection,
        event: &mut dyn FnMut(WriterEvent),
    ) -> Result<()> {
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
        if !shown.is_empty() {
            prompt
                .input_ids
                .extend(self.processor.tokenizer().encode(shown, false)?);
        }
        self.session.replace(prompt)
    }
}
