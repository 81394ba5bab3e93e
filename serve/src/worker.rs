use std::sync::mpsc::Receiver;

use lwv_processor::Prompt;
use lwv_runtime::{Event, FinishReason, Session, WordCounter, Writer, WriterEvent, WriterSettings};
use lwv_write::SettledText;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::chat_request::ChatRequest;
use crate::conversation::Conversation;
use crate::extension::LongText;
use crate::model::Model;
use crate::picture;
use crate::refusal::Refusal;
use crate::usage::Usage;

/// A request whose turn it is.
pub(crate) struct Job {
    pub(crate) request: ChatRequest,
    pub(crate) replies: UnboundedSender<Reply>,
    /// Held until nothing is computed for it any more.
    pub(crate) turn: OwnedSemaphorePermit,
}

/// What becomes of a job. Nothing is sent after `Finished` or `Failed`.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The prompt is in place; only computing can fail now.
    Begun,
    /// Something that takes time, in a line for people.
    Progress(String),
    /// The text that follows.
    Text(String),
    Finished(Outcome),
    Failed(Refusal),
}

/// How a text ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) reason: FinishReason,
    pub(crate) words: usize,
    /// With it, the same request on the same device gives the same text.
    pub(crate) seed: u64,
    pub(crate) usage: Usage,
}

/// The one thread that writes. It keeps its session between jobs: what the next prompt begins with like the last text, as
/// the turns of a conversation do, is not computed again.
pub(crate) struct Worker {
    model: Model,
    session: Option<Session>,
}

impl Worker {
    /// A worker that has written nothing.
    pub(crate) fn new(model: Model) -> Self {
        Self { model, session: None }
    }

    /// Writes until nobody can send a job any more.
    pub(crate) fn run(mut self, jobs: Receiver<Job>) {
        for job in jobs {
            let Job {
                request,
                replies,
                turn,
            } = job;
            let last = self.write(&request, &replies).unwrap_or_else(Reply::Failed);
            drop(turn);
            // Who asked may be gone.
            let _ = replies.send(last);
        }
    }

    fn write(&mut self, request: &ChatRequest, replies: &UnboundedSender<Reply>) -> Result<Reply, Refusal> {
        let mut desk = Desk::new(replies, request.settings.loop_guard);
        let reason = match request.long_text {
            Some(length) => self.write_long_text(request, length, &mut desk)?,
            None => self.answer(request, &mut desk)?,
        };
        Ok(Reply::Finished(
            desk.outcome(reason, request.settings.sampler.seed),
        ))
    }

    fn answer(&mut self, request: &ChatRequest, desk: &mut Desk<'_>) -> Result<FinishReason, Refusal> {
        let Conversation { messages, pictures } = &request.conversation;
        let pictures = picture::decode(pictures)?;
        let prompt = self.model.processor().prompt(messages, &pictures)?;
        let mut session = self.take_session()?;
        let reason = generate(&mut session, prompt, request, desk);
        self.keep(session, &reason);
        reason
    }

    fn write_long_text(
        &mut self,
        request: &ChatRequest,
        length: LongText,
        desk: &mut Desk<'_>,
    ) -> Result<FinishReason, Refusal> {
        let task = request.conversation.task()?;
        let settings = WriterSettings {
            sampler: request.settings.sampler.clone(),
            max_section_tokens: request.settings.max_new_tokens,
            stop: request.settings.stop.clone(),
            loop_guard: request.settings.loop_guard,
            lookup_tokens: request.settings.lookup_tokens,
            cancel: request.settings.cancel.clone(),
            ..WriterSettings::default()
        };
        let processor = self.model.processor().clone();
        let mut writer = Writer::with_session(processor, self.take_session()?, task, settings);
        let reason = write_words(&mut writer, length, desk);
        self.keep(writer.into_session(), &reason);
        reason
    }

    fn take_session(&mut self) -> lwv_runtime::Result<Session> {
        match self.session.take() {
            Some(session) => Ok(session),
            None => self.model.session(),
        }
    }

    /// Keeps the session, unless a computation failed: then nobody knows what is in its cache.
    fn keep(&mut self, session: Session, result: &Result<FinishReason, Refusal>) {
        let failed = matches!(result, Err(refusal) if refusal.status().is_server_error());
        self.session = (!failed).then_some(session);
    }
}

fn generate(
    session: &mut Session,
    prompt: Prompt,
    request: &ChatRequest,
    desk: &mut Desk<'_>,
) -> Result<FinishReason, Refusal> {
    let too_long = prompt.input_ids.len() > session.context_length();
    session.replace(prompt).map_err(|error| {
        let refusal = Refusal::from(error);
        match too_long {
            true => refusal.with_code("context_length_exceeded"),
            false => refusal,
        }
    })?;
    let generation = session.generate(request.settings.clone())?;
    desk.begin();
    let mut reason = FinishReason::Cancelled;
    for event in generation {
        let event = event?;
        if let Event::Finished { reason: because, .. } = &event {
            reason = *because;
        }
        desk.generation(&event);
    }
    Ok(reason)
}

fn write_words(writer: &mut Writer, length: LongText, desk: &mut Desk<'_>) -> Result<FinishReason, Refusal> {
    if !length.plan {
        let text = writer.write_at_once(length.words, &mut |event| desk.writer(&event))?;
        return Ok(text.reason);
    }
    let plan = writer.plan(length.words, length.sections, |event| desk.writer(&event))?;
    let manuscript = writer.write(plan, |event| desk.writer(&event))?;
    let last = manuscript.sections.last();
    Ok(last.map_or(FinishReason::Cancelled, |section| section.reason))
}

/// Where a text goes, and what was seen on the way.
struct Desk<'r> {
    replies: &'r UnboundedSender<Reply>,
    begun: bool,
    text: SettledText,
    words: WordCounter,
    usage: Usage,
}

impl<'r> Desk<'r> {
    fn new(replies: &'r UnboundedSender<Reply>, loop_guard: bool) -> Self {
        Self {
            replies,
            begun: false,
            text: SettledText::new(loop_guard),
            words: WordCounter::new(),
            usage: Usage::default(),
        }
    }

    /// Tells, once, that the answer begins.
    fn begin(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            self.send(Reply::Begun);
        }
    }

    fn writer(&mut self, event: &WriterEvent) {
        self.begin();
        match event {
            WriterEvent::PlanLine { index, main_point } => {
                self.send(Reply::Progress(format!("planned {}. {main_point}", index + 1)));
            }
            WriterEvent::Text(text) => self.whole_text(text),
            WriterEvent::Generation(event) => self.generation(event),
            _ => {}
        }
    }

    fn generation(&mut self, event: &Event) {
        match event {
            Event::ImageEncoded { index, .. } => {
                self.send(Reply::Progress(format!("picture {} encoded", index + 1)));
            }
            Event::Prefill { done, total } => {
                self.send(Reply::Progress(format!("{done} of {total} prompt tokens read")));
            }
            Event::Token { text, .. } => {
                let certain = self.text.push(text);
                self.put(&certain);
            }
            Event::Rewound { bytes, .. } => self.text.take_back(*bytes),
            Event::Settled { bytes } => {
                let certain = self.text.settle(*bytes);
                self.put(&certain);
            }
            Event::Finished { text, stats, .. } => {
                self.whole_text(text);
                self.usage.add(stats);
            }
            _ => {}
        }
    }

    /// Text after which all that came so far stays.
    fn whole_text(&mut self, text: &str) {
        let certain = self.text.push(text) + &self.text.settle_all();
        self.put(&certain);
    }

    fn put(&mut self, text: &str) {
        if !text.is_empty() {
            self.words.push(text);
            self.send(Reply::Text(text.to_owned()));
        }
    }

    /// Who asked may be gone; then the request is cancelled as well, and the writing ends by that.
    fn send(&self, reply: Reply) {
        let _ = self.replies.send(reply);
    }

    fn outcome(self, reason: FinishReason, seed: u64) -> Outcome {
        Outcome {
            reason,
            words: self.words.count(),
            seed,
            usage: self.usage,
        }
    }
}
