use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame};
use serde_json::Value;

use crate::answer::Answer;
use crate::completion::Completion;
use crate::queue::WORKER_ENDED;
use crate::refusal::Refusal;
use crate::worker::Reply;

/// An answer as server-sent events (WHATWG HTML, "Server-sent events"): a chunk for each piece of text, then the reason for
/// the end, if it was asked for what it cost, and `[DONE]`.
pub(crate) struct EventStream {
    answer: Answer,
    completion: Completion,
    include_usage: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begin,
    Text,
    Done,
}

impl EventStream {
    /// The stream of `answer`.
    pub(crate) fn new(answer: Answer, completion: Completion, include_usage: bool) -> Self {
        Self {
            answer,
            completion,
            include_usage,
            phase: Phase::Begin,
        }
    }

    fn events(&mut self, reply: Reply) -> String {
        match reply {
            Reply::Begun => String::new(),
            // A comment, which clients pass over: who reads pictures for minutes shows that the connection lives.
            Reply::Progress(message) => format!(": {}\n\n", message.replace(LINE_BREAKS, " ")),
            Reply::Text(text) => event(&self.with_usage(self.completion.text_chunk(&text))),
            Reply::Finished(outcome) => {
                self.phase = Phase::Done;
                let mut events = event(&self.with_usage(self.completion.last_chunk(&outcome)));
                if self.include_usage {
                    events += &event(&self.completion.usage_chunk(&outcome));
                }
                events + DONE
            }
            Reply::Failed(refusal) => self.failure(&refusal),
        }
    }

    /// The status is sent already, so that a failure is an event of its own, which OpenAI's clients raise.
    fn failure(&mut self, refusal: &Refusal) -> String {
        self.phase = Phase::Done;
        event(&refusal.body()) + DONE
    }

    /// Chunks before the last say that they do not say it yet.
    fn with_usage(&self, mut chunk: Value) -> Value {
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let events = match self.phase {
            Phase::Begin => {
                self.phase = Phase::Text;
                event(&self.with_usage(self.completion.first_chunk()))
            }
            Phase::Text => match ready!(self.answer.poll_next(context)) {
                Some(reply) => self.events(reply),
                None => self.failure(&Refusal::failure(WORKER_ENDED)),
            },
            Phase::Done => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(events)))))
    }
}

/// What ends a line of server-sent events.
const LINE_BREAKS: [char; 2] = ['\r', '\n'];

/// The last event.
const DONE: &str = "data: [DONE]\n\n";

/// An event. JSON in one line has no line breaks, so it is one line of data.
fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}
