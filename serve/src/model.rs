use lwv_processor::Processor;
use lwv_runtime::{Engine, Session};

use crate::error::{Error, Result};

/// What is served: the name that clients ask for, and what makes prompts and sessions.
pub struct Model {
    id: String,
    processor: Processor,
    context_length: usize,
    session: Box<dyn FnMut() -> lwv_runtime::Result<Session> + Send>,
}

impl Model {
    /// An engine's model.
    ///
    /// # Errors
    /// The bundle has no chat template, or a session cannot be made.
    pub fn of_engine(id: impl Into<String>, engine: &Engine) -> Result<Self> {
        let of_sessions = engine.clone();
        Self::new(id, engine.processor().clone(), move || of_sessions.session())
    }

    /// A model whose sessions `session` makes: one at first, and another one after a failure. Prompts are `processor`'s.
    ///
    /// # Errors
    /// As for [`of_engine`](Self::of_engine).
    pub fn new(
        id: impl Into<String>,
        processor: Processor,
        mut session: impl FnMut() -> lwv_runtime::Result<Session> + Send + 'static,
    ) -> Result<Self> {
        if processor.chat_template().is_none() {
            return Err(Error::NoChatTemplate);
        }
        Ok(Self {
            id: id.into(),
            processor,
            context_length: session()?.context_length(),
            session: Box::new(session),
        })
    }

    /// The name that clients ask for.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Longest text in tokens, prompt included.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    pub(crate) fn processor(&self) -> &Processor {
        &self.processor
    }

    pub(crate) fn session(&mut self) -> lwv_runtime::Result<Session> {
        (self.session)()
    }
}
