mod event;
mod goal;
mod passes;
mod settings;

use lwv_processor::{Message, Processor};

use crate::draft::{Draft, Outline, Revision, check_engine};
use crate::engine::Engine;
use crate::error::{Error, Inner, Result};
use crate::generation::{FinishReason, GenerationSettings};
use crate::manuscript::Manuscript;
use crate::plan::{
    Plan, PlannedSection, clean_main_point, line_start, section_count, share_words, shorten_main_point,
};
use crate::request::plan_request;
use crate::section::WrittenSection;
use crate::session::Session;
use crate::words::count_words;

pub use event::WriterEvent;
pub use settings::{Task, WriterSettings};

/// Most tokens of a main point.
const MAIN_POINT_TOKENS: usize = 48;

/// Tries for a main point that is none or that another section has.
const MAIN_POINT_TRIES: u64 = 3;

/// Plans a long text and writes it section by section, since models write a few hundred words well at a time.
///
/// Every step is one prompt on the same session, so images are encoded and the instruction is computed once, and of the
/// text so far only what is new is. With a [`Draft`] all of it is on the disk as it comes.
pub struct Writer {
    processor: Processor,
    session: Session,
    task: Task,
    settings: WriterSettings,
    /// Id of the bundle and adapter, where one is known.
    engine: Option<String>,
    draft: Option<Draft>,
}

impl Writer {
    /// A writer of `task` on `engine`.
    ///
    /// # Errors
    /// The session cannot be made.
    pub fn new(engine: &Engine, task: Task, settings: WriterSettings) -> Result<Self> {
        let processor = engine.processor().clone();
        let mut writer = Self::with_session(processor, engine.session()?, task, settings);
        writer.engine = Some(engine.id());
        Ok(writer)
    }

    /// A writer on any session.
    pub fn with_session(
        processor: Processor,
        mut session: Session,
        task: Task,
        settings: WriterSettings,
    ) -> Self {
        session.set_deterministic(settings.deterministic);
        Self {
            processor,
            session,
            task,
            settings,
            engine: None,
            draft: None,
        }
    }

    /// The session, for who has another text for it: what the next prompt shares with this one stays computed.
    pub fn into_session(self) -> Session {
        self.session
    }

    /// From now on all that is written is in `draft` too.
    ///
    /// # Errors
    /// The draft was begun by another bundle, or with another adapter, or is deterministic and was begun with another chunk of prefill.
    pub fn keep(&mut self, draft: Draft) -> Result<()> {
        self.check_draft(&draft)?;
        self.draft = Some(draft);
        Ok(())
    }

    /// Whether [`keep`](Self::keep) takes `draft`, for who wants it back where not.
    ///
    /// # Errors
    /// As for [`keep`](Self::keep).
    pub fn check_draft(&self, draft: &Draft) -> Result<()> {
        let header = draft.header();
        if let Some(engine) = &self.engine {
            check_engine(draft.path(), &header.bundle, engine)?;
        }
        if self.settings.deterministic && header.settings.prefill_chunk != self.session.chunk() {
            return Err(Error::setting(
                "prefill_chunk",
                self.session.chunk(),
                "a deterministic draft is gone on with by the chunk that it was begun with",
            ));
        }
        Ok(())
    }

    /// Most tokens of a prompt that are computed at once.
    pub fn prefill_chunk(&self) -> usize {
        self.session.chunk()
    }

    /// The draft that all is kept in.
    pub fn draft(&self) -> Option<&Draft> {
        self.draft.as_ref()
    }

    /// The draft, for who ends the writing.
    pub fn into_draft(self) -> Option<Draft> {
        self.draft
    }

    /// Makes a plan of `sections` sections, or as many as are usual, whose targets add up to `words`.
    ///
    /// The beginning of every line is given and the model only fills in what the section says, so that a small model
    /// too makes a plan of the right form.
    ///
    /// # Errors
    /// No words or sections, more sections than words, the prompt is too long, or a computation failed; an error of
    /// kind [`Cancelled`](crate::ErrorKind::Cancelled) when it was.
    pub fn plan(
        &mut self,
        words: usize,
        sections: Option<usize>,
        mut event: impl FnMut(WriterEvent),
    ) -> Result<Plan> {
        let count = sections.unwrap_or_else(|| section_count(words));
        if count == 0 || words < count {
            return Err(Error::setting(
                "sections",
                count,
                "use at least 1, and no more than there are words",
            ));
        }
        let request = plan_request(&self.task.instruction, count, words);
        let mut plan = Plan::default();
        for (index, words) in share_words(words, count).into_iter().enumerate() {
            let main_point = self.main_point(&request, &plan)?;
            event(WriterEvent::PlanLine {
                index,
                main_point: main_point.clone(),
            });
            plan.sections.push(PlannedSection { main_point, words });
        }
        Ok(plan)
    }

    /// Writes all sections of a plan.
    ///
    /// # Errors
    /// As for [`write_section`](Self::write_section).
    pub fn write(&mut self, plan: Plan, mut event: impl FnMut(WriterEvent)) -> Result<Manuscript> {
        if let Some(draft) = &mut self.draft {
            draft.planned(&plan)?;
        }
        self.complete(Manuscript::new(plan), &mut event)
    }

    /// Goes on with the draft, from wherever it is to the end of the text: makes its plan, finishes the section that was
    /// begun, and writes those that are not there. What is there comes as [`WriterEvent::Text`] first.
    ///
    /// # Errors
    /// There is no draft, or as for [`plan`](Self::plan) and [`write_section`](Self::write_section).
    pub fn write_draft(&mut self, mut event: impl FnMut(WriterEvent)) -> Result<Manuscript> {
        let draft = self.draft.as_ref().ok_or_else(no_draft)?;
        let mut manuscript = draft.state().manuscript.clone();
        let revision = draft
            .state()
            .open
            .as_ref()
            .and_then(|open| Some((open.index, open.revision.clone()?)));
        if manuscript.plan.sections.is_empty() {
            let plan = match draft.header().outline.clone() {
                Outline::Given(plan) => plan,
                Outline::ToMake { words, sections } => self.plan(words, sections, &mut event)?,
            };
            return self.write(plan, event);
        }
        if let Some((index, revision)) = revision {
            return self.revise(index, revision, event);
        }
        event(WriterEvent::Text(manuscript.text()));
        self.complete(std::mem::take(&mut manuscript), &mut event)
    }

    /// Writes section `index` of the draft (from 0) anew or extends it. The section as it was stays in the draft as a
    /// [`Variant`](crate::Variant).
    ///
    /// # Errors
    /// There is no draft, the section is not there, another one is open, or as for
    /// [`write_section`](Self::write_section).
    pub fn revise(
        &mut self,
        index: usize,
        revision: Revision,
        mut event: impl FnMut(WriterEvent),
    ) -> Result<Manuscript> {
        let state = self.draft.as_ref().ok_or_else(no_draft)?.state();
        let mut manuscript = state.manuscript.clone();
        if index >= manuscript.sections.len() {
            let reason = "there is no such section that was written";
            return Err(Error::setting("section", index.saturating_add(1), reason));
        }
        let other = state
            .open
            .as_ref()
            .filter(|open| open.index != index || open.revision.as_ref() != Some(&revision));
        if let Some(open) = other {
            let reason = "this section is not finished; go on with the draft (`--resume` alone) first";
            return Err(Error::setting("section", open.index + 1, reason));
        }
        let section = self.section(&manuscript, index, Some(revision), &mut event)?;
        if section.reason != FinishReason::Cancelled {
            manuscript.sections[index] = section;
        }
        Ok(manuscript)
    }

    fn complete(
        &mut self,
        mut manuscript: Manuscript,
        event: &mut dyn FnMut(WriterEvent),
    ) -> Result<Manuscript> {
        while manuscript.sections.len() < manuscript.plan.sections.len() && !manuscript.is_cancelled() {
            let section = self.write_section(&manuscript, event)?;
            manuscript.sections.push(section);
        }
        Ok(manuscript)
    }

    /// Writes the next section of a manuscript. A cancelled one is returned as far as it came.
    ///
    /// A section that ends with less than 85 % of its words, or runs into a loop before, is written on in a new paragraph, until
    /// that does not bring it on six times in a row or it ran into three loops with little between them; if it is short even then, [`WriterEvent::Shortfall`] says so. It ends with a sentence between 85 % and 115 % where there is one, and in any case
    /// at 135 %.
    ///
    /// # Errors
    /// All sections are there, the prompt is too long for the context even without the text so far, or a computation
    /// failed.
    pub fn write_section(
        &mut self,
        manuscript: &Manuscript,
        event: &mut dyn FnMut(WriterEvent),
    ) -> Result<WrittenSection> {
        let index = manuscript.sections.len();
        if index >= manuscript.plan.sections.len() {
            let reason = "all sections of the plan are written";
            return Err(Error::setting("sections", index, reason));
        }
        self.section(manuscript, index, None, event)
    }

    /// Writes the whole text in one piece of about `words` words, without a plan.
    ///
    /// # Errors
    /// The prompt is too long, or a computation failed.
    pub fn write_at_once(
        &mut self,
        words: usize,
        event: &mut dyn FnMut(WriterEvent),
    ) -> Result<WrittenSection> {
        self.write_section(&Manuscript::new(Plan::in_one_piece(words)), event)
    }

    fn main_point(&mut self, request: &str, plan: &Plan) -> Result<String> {
        let index = plan.sections.len();
        let before = if index == 0 {
            String::new()
        } else {
            plan.to_lines() + "\n\n"
        };
        let line = before + &line_start(index);
        let taken = |point: &str| {
            plan.sections
                .iter()
                .any(|section| section.main_point.eq_ignore_ascii_case(point))
        };
        for attempt in 0..MAIN_POINT_TRIES {
            self.ask(request, &line)?;
            let output = self
                .session
                .generate(self.main_point_settings(index, attempt))?
                .complete()?;
            if output.reason == FinishReason::Cancelled {
                return Err(Inner::Cancelled.into());
            }
            let point = shorten_main_point(&clean_main_point(&output.text));
            if count_words(&point) > 0 && !taken(&point) {
                return Ok(point);
            }
        }
        // Three times nothing, or something that is there: the section still has its place and its length.
        Ok(format!("Part {}", index + 1))
    }

    /// Every further try looks elsewhere.
    fn main_point_settings(&self, index: usize, attempt: u64) -> GenerationSettings {
        let mut sampler = self.settings.sampler.clone();
        sampler.seed = sampler.seed.wrapping_add(1000 * index as u64 + attempt);
        if attempt > 0 {
            sampler.repetition_penalty = sampler.repetition_penalty.max(1.3);
            sampler.penalize_prompt = true;
            sampler.greedy = sampler.greedy && attempt + 1 < MAIN_POINT_TRIES;
        }
        GenerationSettings {
            sampler,
            max_new_tokens: MAIN_POINT_TOKENS,
            min_words: 1,
            stop: vec!["\n".to_owned(), " - Word".to_owned()],
            lookup_tokens: self.settings.lookup_tokens,
            cancel: self.settings.cancel.clone(),
            ..GenerationSettings::default()
        }
    }

    fn ask(&mut self, request: &str, answer: &str) -> Result<()> {
        let prompt = self.prompt(request, answer)?;
        self.session.replace(prompt)
    }

    /// The prompt of a request, whose answer begins with `answer`.
    fn prompt(&self, request: &str, answer: &str) -> Result<lwv_processor::Prompt> {
        let system = self.task.system.iter().map(|text| Message::text("system", text));
        let user = Message::with_images("user", self.task.images.len(), request);
        let messages: Vec<Message> = system.chain([user]).collect();
        let mut prompt = self.processor.prompt(&messages, &self.task.images)?;
        if !answer.is_empty() {
            prompt
                .input_ids
                .extend(self.processor.tokenizer().encode(answer, false)?);
        }
        Ok(prompt)
    }
}

fn no_draft() -> Error {
    Error::setting("draft", "none", "give the writer a draft (`Writer::keep`) first")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Event;
    use crate::sampler::SamplerSettings;
    use crate::scripted::{ScriptedDecoder, author, processor};

    pub(super) fn writer(decoder: ScriptedDecoder, settings: WriterSettings) -> Writer {
        let task = Task {
            instruction: "Write about bees.".to_owned(),
            ..Task::default()
        };
        Writer::with_session(processor(), decoder.session(), task, settings)
    }

    /// The author repeats itself, and is let.
    pub(super) fn greedy() -> WriterSettings {
        WriterSettings {
            sampler: SamplerSettings::greedy(),
            loop_guard: false,
            ..WriterSettings::default()
        }
    }

    #[test]
    fn a_plan_has_the_words_that_were_asked_for() {
        let mut lines = Vec::new();
        let mut writer = writer(
            author(&["Why bees matter", "What harms them", "What helps"]),
            greedy(),
        );
        let plan = writer.plan(100, Some(3), |event| lines.push(event)).unwrap();
        let points: Vec<&str> = plan
            .sections
            .iter()
            .map(|section| section.main_point.as_str())
            .collect();
        assert_eq!(points, ["Why bees matter", "What harms them", "What helps"]);
        assert_eq!((plan.words(), lines.len()), (100, 3));
    }

    #[test]
    fn a_main_point_that_is_there_already_gets_a_plain_name() {
        let mut writer = writer(author(&["Bees"]), greedy());
        let plan = writer.plan(20, Some(2), |_| ()).unwrap();
        assert_eq!(plan.sections[0].main_point, "Bees");
        assert_eq!(plan.sections[1].main_point, "Part 2");
        assert!(
            writer.plan(1, Some(2), |_| ()).is_err(),
            "more sections than words"
        );
    }

    #[test]
    fn sections_end_with_a_sentence_near_their_target() {
        let mut writer = writer(author(&["Bees", "Wasps"]), greedy());
        let plan = writer.plan(60, Some(2), |_| ()).unwrap();
        let mut shown = String::new();
        let manuscript = writer
            .write(plan, |event| match event {
                WriterEvent::Text(text) => shown.push_str(&text),
                WriterEvent::Generation(Event::Token { text, .. } | Event::Finished { text, .. }) => {
                    shown.push_str(&text);
                }
                _ => {}
            })
            .unwrap();
        assert_eq!(shown, manuscript.text(), "what was shown is what stays");
        assert!(manuscript.is_complete());
        for section in &manuscript.sections {
            assert_eq!(section.reason, FinishReason::WordBudget);
            assert!(
                section.text.ends_with("five.") && (29..=34).contains(&section.words),
                "{section:?}"
            );
        }
        assert!(
            shown.starts_with("## Bees\n\nOne two") && shown.contains("five.\n\n## Wasps\n\nOne"),
            "{shown}"
        );
    }

    #[test]
    fn what_goes_back_is_told_and_the_rest_is_the_text() {
        let settings = WriterSettings {
            loop_guard: true,
            ..greedy()
        };
        let mut writer = writer(author(&["Bees", "Wasps"]), settings);
        let plan = writer.plan(100, Some(2), |_| ()).unwrap();
        let (mut shown, mut section, mut rewinds) = (String::new(), 0, 0);
        let manuscript = writer
            .write(plan, |event| match event {
                WriterEvent::Text(text) => {
                    shown.push_str(&text);
                    section = shown.len();
                }
                WriterEvent::Generation(Event::Token { text, .. } | Event::Finished { text, .. }) => {
                    shown.push_str(&text);
                }
                WriterEvent::Generation(Event::Rewound { bytes, .. }) => {
                    shown.truncate(shown.len() - bytes);
                    assert!(shown.len() >= section);
                    rewinds += 1;
                }
                WriterEvent::Generation(Event::Settled { bytes }) => {
                    assert!(shown[section..].is_char_boundary(bytes));
                }
                _ => {}
            })
            .unwrap();
        assert_eq!(shown, manuscript.text());
        assert!(rewinds > 0);
        let told = "One two three four five.";
        assert!(shown.matches(told).count() < 3, "{shown}");
    }

    #[test]
    fn a_cancelled_section_is_kept_and_ends_the_writing() {
        let settings = greedy();
        let cancel = settings.cancel.clone();
        let mut writer = writer(author(&["Bees", "Wasps"]), settings);
        let plan = writer.plan(60, Some(2), |_| ()).unwrap();
        let mut tokens = 0;
        let manuscript = writer
            .write(plan, |event| {
                tokens += usize::from(matches!(event, WriterEvent::Generation(Event::Token { .. })));
                if tokens == 12 {
                    cancel.cancel();
                }
            })
            .unwrap();
        assert_eq!(manuscript.sections.len(), 1);
        assert!(manuscript.is_cancelled() && !manuscript.is_complete());
        assert_eq!(manuscript.sections[0].text, "One two thre");
    }

    #[test]
    fn a_manuscript_is_plain_data() {
        let mut writer = writer(author(&["Bees"]), greedy());
        let plan = writer.plan(30, Some(1), |_| ()).unwrap();
        let manuscript = writer.write(plan, |_| ()).unwrap();
        let stored = serde_json::to_string(&manuscript).unwrap();
        assert_eq!(serde_json::from_str::<Manuscript>(&stored).unwrap(), manuscript);
    }
}
