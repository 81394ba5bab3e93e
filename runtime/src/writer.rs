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

/// Words of the text so far that a section is shown, where the context cannot hold the whole.
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
    /// Watch for a model that turns in circles; see [`GenerationSettings::loop_guard`].
    pub loop_guard: bool,
    /// Cancels from another thread.
    pub cancel: CancelToken,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self {
            sampler: SamplerSettings::default(),
            max_section_tokens: usize::MAX,
            stop: Vec::new(),
            loop_guard: true,
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
    /// Something in the generation of a section; the text of tokens is what stays, unless an [`Event::Rewound`] takes it
    /// back. Bytes are of the section's text.
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
        let headings = self
            .plan
            .sections
            .iter()
            .map(|section| heading(&section.main_point));
        let sections = headings
            .zip(&self.sections)
            .map(|(heading, section)| heading + &section.text);
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
        self.sections
            .last()
            .is_some_and(|section| section.reason == FinishReason::Cancelled)
    }

    /// Tokens that a word took so far.
    fn tokens_per_word(&self) -> Option<f64> {
        let tokens: usize = self.sections.iter().map(|section| section.token_ids.len()).sum();
        // A short text says nothing about the next.
        (self.words() >= 50).then(|| tokens as f64 / self.words() as f64)
    }

    /// Words for section `index`: its target, and what the sections before it are short of or over, at most by half.
    fn words_of(&self, index: usize) -> usize {
        let planned: usize = self.plan.sections[..index]
            .iter()
            .map(|section| section.words)
            .sum();
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
        Ok(Self::with_session(
            engine.processor().clone(),
            engine.session()?,
            task,
            settings,
        ))
    }

    /// A writer on any session.
    pub fn with_session(
        processor: Processor,
        session: Session,
        task: Task,
        settings: WriterSettings,
    ) -> Self {
        Self {
            processor,
            session,
            task,
            settings,
        }
    }

    /// The session, for who has another text for it: what the next prompt shares with this one stays computed.
    pub fn into_session(self) -> Session {
        self.session
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
        let mut manuscript = Manuscript {
            plan,
            sections: Vec::new(),
        };
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
            return Err(Error::setting(
                "sections",
                index,
                "all sections of the plan are written",
            ));
        };
        let words = manuscript.words_of(index);
        let length = Length::new(words, manuscript.tokens_per_word());
        event(WriterEvent::SectionStarted { index, words });
        let between = if index == 0 { "" } else { "\n\n" };
        event(WriterEvent::Text(
            between.to_owned() + &heading(&section.main_point),
        ));
        let before = self.prepare_section(manuscript, index, length)?;
        let mut stop = self.settings.stop.clone();
        stop.push("\n## ".to_owned());
        let written = self.write_text(length, before, stop, event)?;
        event(WriterEvent::SectionFinished {
            index,
            words: written.words,
            reason: written.reason,
        });
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
        self.write_text(Length::new(words, None), 0, self.settings.stop.clone(), event)
    }

    /// `written_tokens` of the prompt's last tokens are text of earlier sections.
    fn write_text(
        &mut self,
        length: Length,
        written_tokens: usize,
        stop: Vec<String>,
        event: &mut dyn FnMut(WriterEvent),
    ) -> Result<WrittenSection> {
        let settings = GenerationSettings {
            sampler: self.settings.sampler.clone(),
            max_new_tokens: length.max_tokens().min(self.settings.max_section_tokens),
            min_words: length.min_words(),
            stop,
            written_tokens,
            loop_guard: self.settings.loop_guard,
            cancel: self.settings.cancel.clone(),
            ..GenerationSettings::default()
        };
        let generation = self.session.generate(settings)?;
        write_to_length(generation, length, |e| event(WriterEvent::Generation(e)))
    }

    /// Puts the prompt of a section in place: the request, and as an answer that has begun the text so far and the
    /// section's heading, so that the model goes on where it stopped and only what is new is computed.
    ///
    /// Where the context cannot hold it all, the text so far is shown from near its end. Returns how many tokens the answer
    /// has that has begun.
    fn prepare_section(&mut self, manuscript: &Manuscript, index: usize, length: Length) -> Result<usize> {
        let request = section_request(&self.task.instruction, &manuscript.plan);
        let heading = heading(&manuscript.plan.sections[index].main_point);
        let text = manuscript.text();
        let room = self.session.context_length().saturating_sub(length.max_tokens());
        let mut shown = usize::MAX;
        loop {
            let answer = match last_words(&text, shown) {
                "" => heading.clone(),
                written => format!("{written}\n\n{heading}"),
            };
            let (prompt, begun) = self.prompt(&request, &answer)?;
            if prompt.input_ids.len() <= room || shown < 40 {
                self.session.replace(prompt)?;
                return Ok(begun);
            }
            shown = (shown / 2).min(SHOWN_WORDS);
        }
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
        let (prompt, _) = self.prompt(request, answer)?;
        self.session.replace(prompt)
    }

    /// The prompt of a request, whose answer begins with `answer`, and how many tokens that is.
    fn prompt(&self, request: &str, answer: &str) -> Result<(lwv_processor::Prompt, usize)> {
        let system = self.task.system.iter().map(|text| Message::text("system", text));
        let user = Message::with_images("user", self.task.images.len(), request);
        let messages: Vec<Message> = system.chain([user]).collect();
        let mut prompt = self.processor.prompt(&messages, &self.task.images)?;
        let begun = match answer {
            "" => Vec::new(),
            answer => self.processor.tokenizer().encode(answer, false)?,
        };
        prompt.input_ids.extend(&begun);
        Ok((prompt, begun.len()))
    }
}

fn heading(main_point: &str) -> String {
    format!("## {main_point}\n\n")
}

/// The form of the lines is not shown: each line is begun for the model, and a small model copies what it is shown.
fn plan_request(instruction: &str, sections: usize, words: usize) -> String {
    format!(
        "{instruction}\n\nMake a plan for this text first. It has {words} words in {sections} paragraphs. Say in one \
         short phrase for each paragraph what its main point is. No two paragraphs have the same main point."
    )
}

fn section_request(instruction: &str, plan: &Plan) -> String {
    let points: Vec<&str> = plan
        .sections
        .iter()
        .map(|section| section.main_point.as_str())
        .collect();
    format!(
        "{instruction}\n\nWrite about {} words in {} sections, each under its own heading: {}.",
        plan.words(),
        points.len(),
        points.join("; ")
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
    begin
        .filter(|begin| *begin < tail.len() / 4)
        .map_or(tail, |begin| &tail[begin..])
        .trim_start()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{END, ScriptedDecoder, processor, text_of, token_of};

    /// Answers requests for a main point with `points`, and for text with the same short sentences without end.
    fn author(points: &'static [&'static str]) -> ScriptedDecoder {
        ScriptedDecoder::new(move |ids| {
            let text = text_of(ids);
            let answer = text.rsplit("assistant\n").next().unwrap_or("").to_owned();
            let next = match answer.rfind("Main Point:") {
                Some(at) => {
                    let number = answer.matches("Main Point:").count() - 1;
                    let line = format!(" {}\nmore", points[number % points.len()]);
                    line.as_bytes()
                        .get(answer.len() - at - "Main Point:".len())
                        .copied()
                }
                None => {
                    let section = answer.rsplit("\n\n").next().unwrap_or("");
                    "One two three four five. ".bytes().cycle().nth(section.len())
                }
            };
            next.map_or(END, token_of)
        })
    }

    fn writer(decoder: ScriptedDecoder, settings: WriterSettings) -> Writer {
        let task = Task {
            instruction: "Write about bees.".to_owned(),
            ..Task::default()
        };
        Writer::with_session(processor(), decoder.session(), task, settings)
    }

    /// The author repeats itself, and is let.
    fn greedy() -> WriterSettings {
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
    fn later_sections_make_up_for_earlier_ones() {
        let section = |words| PlannedSection {
            main_point: String::new(),
            words,
        };
        let written = |words| WrittenSection {
            text: String::new(),
            token_ids: vec![0; 2 * words],
            words,
            reason: FinishReason::Eos,
        };
        let plan = Plan {
            sections: vec![section(100), section(100), section(100)],
        };
        let after = |words| Manuscript {
            plan: plan.clone(),
            sections: vec![written(words)],
        };
        assert_eq!(
            [80, 100, 130, 10].map(|words| after(words).words_of(1)),
            [120, 100, 70, 150]
        );
        assert_eq!(
            (after(80).tokens_per_word(), after(10).tokens_per_word()),
            (Some(2.0), None)
        );
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
    fn a_long_text_is_shown_from_near_its_end() {
        let text = format!("{}\n\nThe last part. It ends.", "word ".repeat(1000).trim_end());
        let tail = last_words(&text, 10);
        assert!(tail.ends_with("It ends.") && count_words(tail) <= 11, "{tail}");
        assert_eq!(last_words("short text", 600), "short text");
        assert_eq!(last_words(&"字".repeat(50), 10).chars().count(), 10);
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
