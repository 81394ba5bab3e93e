use lwv_processor::{Message, Processor, RgbImage};
use serde::{Deserialize, Serialize};

use crate::cancel::CancelToken;
use crate::engine::Engine;
use crate::error::{Error, Inner, Result};
use crate::generation::{Event, FinishReason, GenerationSettings};
use crate::plan::{Plan, PlannedSection, clean_main_point, line_start, section_count, share_words};
use crate::sampler::SamplerSettings;
use crate::section::{Length, WrittenSection, write_to_length};
use crate::session::Session;
use crate::words::count_words;

/// Words of the text so far that a section is shown, where the whole is longer.
const SHOWN_WORDS: usize = 600;

/// Most tokens of a main point.
const MAIN_POINT_TOKENS: usize = 48;

/// Tries for a main point that is none or that another section has.
const MAIN_POINT_TRIES: u64 = 3;

/// What is to be written.
#[derive(Debug, Clone, Default)]
pub struct Task {
    /// What the reader asks for.
    pub instruction: String,
    /// Pictures that go with it.
    pub images: Vec<RgbImage>,
    /// What the model is told before all else.
    pub system: Option<String>,
}

/// How it is to be written.
#[derive(Debug, Clone)]
pub struct WriterSettings {
    /// How tokens are chosen.
    pub sampler: SamplerSettings,
    /// Most tokens of a section, whatever its word target.
    pub max_section_tokens: usize,
    /// Texts that end a section.
    pub stop: Vec<String>,
    /// Cancels from another thread.
    pub cancel: CancelToken,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self {
            sampler: SamplerSettings::default(),
            max_section_tokens: usize::MAX,
            stop: Vec::new(),
            cancel: CancelToken::new(),
        }
    }
}

/// What happens while a writer works.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum WriterEvent {
    /// A line of the plan was made.
    PlanLine {
        /// Which, from 0.
        index: usize,
        /// What the section will say.
        main_point: String,
    },
    /// A section begins.
    SectionStarted {
        /// Which, from 0.
        index: usize,
        /// Words that it is to have now. Earlier sections that were too short or too long are made up for.
        words: usize,
    },
    /// Something in the generation of a section; the text of tokens is what stays.
    Generation(Event),
    /// Text that stands between sections: headings and empty lines.
    Text(String),
    /// A section ended.
    SectionFinished {
        /// Which, from 0.
        index: usize,
        /// Words that it has.
        words: usize,
        /// Why it ended.
        reason: FinishReason,
    },
}

/// A long text while it is written: all that is needed to go on, as plain data that can be stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manuscript {
    /// The plan.
    pub plan: Plan,
    /// The sections that were written.
    pub sections: Vec<WrittenSection>,
}

impl Manuscript {
    /// The text: each section under its main point as a Markdown heading, with empty lines between.
    pub fn text(&self) -> String {
        let headings = self.plan.sections.iter().map(|section| heading(&section.main_point));
        let sections = headings.zip(&self.sections).map(|(heading, section)| heading + &section.text);
        sections.collect::<Vec<_>>().join("\n\n")
    }

    /// Words in the sections, headings not counted.
    pub fn words(&self) -> usize {
        self.sections.iter().map(|section| section.words).sum()
    }

    /// Whether all sections are there and none was cancelled.
    pub fn is_complete(&self) -> bool {
        self.sections.len() == self.plan.sections.len() && !self.is_cancelled()
    }

    /// Whether the last section was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.sections.last().is_some_and(|section| section.reason == FinishReason::Cancelled)
    }

    /// Tokens that a word took so far.
    fn tokens_per_word(&self) -> Option<f64> {
        let tokens: usize = self.sections.iter().map(|section| section.token_ids.len()).sum();
        // A short text says nothing about the next.
        (self.words() >= 50).then(|| tokens as f64 / self.words() as f64)
    }

    /// Words for section `index`: its target, and what the sections before it are short of or over, at most by half.
    fn words_of(&self, index: usize) -> usize {
        let planned: usize = self.plan.sections[..index].iter().map(|section| section.words).sum();
        let target = self.plan.sections[index].words as f64;
        let owed = planned as f64 - self.words() as f64;
        (target + owed).clamp(target * 0.5, target * 1.5).round().max(1.0) as usize
    }
}

/// Plans a long text and writes it section by section, since models write a few hundred words well at a time.
///
/// Every step is one prompt on the same session, so images are encoded and the instruction is computed once.
pub struct Writer {
    processor: Processor,
    session: Session,
    task: Task,
    settings: WriterSettings,
}

impl Writer {
    /// A writer of `task` on `engine`.
    ///
    /// # Errors
    /// The session cannot be made.
    pub fn new(engine: &Engine, task: Task, settings: WriterSettings) -> Result<Self> {
        Ok(Self::with_session(engine.processor().clone(), engine.session()?, task, settings))
    }

    /// A writer on any session.
    pub fn with_session(processor: Processor, session: Session, task: Task, settings: WriterSettings) -> Self {
        Self { processor, session, task, settings }
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
            return Err(Error::setting("sections", count, "use at least 1, and no more than there are words"));
        }
        let request = plan_request(&self.task.instruction, count, words);
        let mut plan = Plan::default();
        for (index, words) in share_words(words, count).into_iter().enumerate() {
            let main_point = self.main_point(&request, &plan)?;
            event(WriterEvent::PlanLine { index, main_point: main_point.clone() });
            plan.sections.push(PlannedSection { main_point, words });
        }
        Ok(plan)
    }

    /// Writes all sections of a plan.
    ///
    /// # Errors
    /// As for [`write_section`](Self::write_section).
    pub fn write(&mut self, plan: Plan, mut event: impl FnMut(WriterEvent)) -> Result<Manuscript> {
        let mut manuscript = Manuscript { plan, sections: Vec::new() };
        while manuscript.sections.len() < manuscript.plan.sections.len() && !manuscript.is_cancelled() {
            let section = self.write_section(&manuscript, &mut event)?;
            manuscript.sections.push(section);
        }
        Ok(manuscript)
    }

    /// Writes the next section of a manuscript. A cancelled one is returned as far as it came.
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
        let Some(section) = manuscript.plan.sections.get(index) else {
            return Err(Error::setting("sections", index, "all sections of the plan are written"));
        };
        let words = manuscript.words_of(index);
        let length = Length::new(words, manuscript.tokens_per_word());
        event(WriterEvent::SectionStarted { index, words });
        let between = if index == 0 { "" } else { "\n\n" };
        event(WriterEvent::Text(between.to_owned() + &heading(&section.main_point)));
        self.prepare_section(manuscript, index, words, length)?;
        let mut stop = self.settings.stop.clone();
        stop.push(format!("\n{}", line_start(index + 1)));
        let written = self.write_text(length, stop, event)?;
        event(WriterEvent::SectionFinished { index, words: written.words, reason: written.reason });
        Ok(written)
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
        let request = format!("{}\n\nWrite about {words} words.", self.task.instruction);
        self.ask(&request, "")?;
        self.write_text(Length::new(words, None), self.settings.stop.clone(), event)
    }

    fn write_text(
        &mut self,
        length: Length,
        stop: Vec<String>,
        event: &mut dyn FnMut(WriterEvent),
    ) -> Result<WrittenSection> {
        let settings = GenerationSettings {
            sampler: self.settings.sampler.clone(),
            max_new_tokens: length.max_tokens().min(self.settings.max_section_tokens),
            min_words: length.min_words(),
            stop,
            cancel: self.settings.cancel.clone(),
            ..GenerationSettings::default()
        };
        let generation = self.session.generate(settings)?;
        write_to_length(generation, length, |e| event(WriterEvent::Generation(e)))
    }

    /// Puts the prompt of a section in place, with as much of the text so far as there is room for.
    fn prepare_section(
        &mut self,
        manuscript: &Manuscript,
        index: usize,
        words: usize,
        length: Length,
    ) -> Result<()> {
        let text = manuscript.text();
        let room = self.session.context_length().saturating_sub(length.max_tokens());
        let mut shown = SHOWN_WORDS;
        loop {
            let written = last_words(&text, shown);
            let request = section_request(&self.task.instruction, &manuscript.plan, index, words, written);
            let prompt = self.prompt(&request, "")?;
            if prompt.input_ids.len() <= room || shown < 40 {
                return self.session.replace(prompt);
            }
            shown /= 2;
        }
    }

    fn main_point(&mut self, request: &str, plan: &Plan) -> Result<String> {
        let index = plan.sections.len();
        let before = if index == 0 { String::new() } else { plan.to_lines() + "\n\n" };
        let line = before + &line_start(index);
        let taken = |point: &str| {
            plan.sections.iter().any(|section| section.main_point.eq_ignore_ascii_case(point))
        };
        for attempt in 0..MAIN_POINT_TRIES {
            self.ask(request, &line)?;
            let output = self.session.generate(self.main_point_settings(index, attempt))?.complete()?;
            if output.reason == FinishReason::Cancelled {
                return Err(Inner::Cancelled.into());
            }
            let point = clean_main_point(&output.text);
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
            prompt.input_ids.extend(self.processor.tokenizer().encode(answer, false)?);
        }
        Ok(prompt)
    }
}

fn heading(main_point: &str) -> String {
    format!("## {main_point}\n\n")
}

fn plan_request(instruction: &str, sections: usize, words: usize) -> String {
    format!(
        "{instruction}\n\nDo not write the text yet. First make its plan: {sections} paragraphs, {words} words in all. \
         Give every paragraph one line of this form:\n\
         {} [a short phrase that says what it is about] - Word Count: [number] words\n\
         The paragraphs follow from one another, and no two are about the same.",
        line_start(0)
    )
}

fn section_request(instruction: &str, plan: &Plan, index: usize, words: usize, written: &str) -> String {
    let so_far = if written.is_empty() { "Nothing is written yet." } else { written };
    let (number, count) = (index + 1, plan.sections.len());
    format!(
        "The task:\n{instruction}\n\nThe plan of the text:\n{}\n\nThe text so far:\n{so_far}\n\n\
         Now write paragraph {number} of {count} and nothing else. Its main point: {}. Write about {words} words. Go on \
         where the text so far ends, repeat nothing of it, and write no heading.",
        plan.to_lines(),
        plan.sections[index].main_point
    )
}

/// The last `words` words of a text, from the start of a line or sentence where there is one near.
fn last_words(text: &str, words: usize) -> &str {
    let mut start = text.len();
    let mut count = 0;
    for (at, character) in text.char_indices().rev() {
        let piece = &text[at..start];
        if character.is_whitespace() || u32::from(character) > 0x2E80 {
            count += count_words(piece);
            start = at;
            if count >= words {
                break;
            }
        }
        if at == 0 {
            return text;
        }
    }
    let tail = &text[start..];
    let begin = tail.find("\n\n").or_else(|| tail.find(". ").map(|at| at + 1));
    begin.filter(|begin| *begin < tail.len() / 4).map_or(tail, |begin| &tail[begin..]).trim_start()
}
