use std::task::{Context, Poll};

use lwv_runtime::CancelToken;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::queue::WORKER_ENDED;
use crate::refusal::Refusal;
use crate::worker::{Outcome, Reply};

/// An answer that is being written. Dropped, it is cancelled: the server drops it as soon as its client is gone.
pub(crate) struct Answer {
    cancel: CancelToken,
    replies: UnboundedReceiver<Reply>,
    _place: OwnedSemaphorePermit,
}

impl Answer {
    /// The answer that comes by `replies`, whose request holds a `place` in the queue.
    pub(crate) fn new(
        cancel: CancelToken,
        replies: UnboundedReceiver<Reply>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            cancel,
            replies,
            _place: place,
        }
    }

    /// What happens next; nothing after the end.
    pub(crate) async fn next(&mut self) -> Option<Reply> {
        self.replies.recv().await
    }

    /// The same for who polls.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Reply>> {
        self.replies.poll_recv(context)
    }

    /// Waits for all of it.
    pub(crate) async fn whole(mut self) -> Result<(String, Outcome), Refusal> {
        let mut text = String::new();
        while let Some(reply) = self.next().await {
            match reply {
                Reply::Begun | Reply::Progress(_) => {}
                Reply::Text(piece) => text.push_str(&piece),
                Reply::Finished(outcome) => return Ok((text, outcome)),
                Reply::Failed(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::failure(WORKER_ENDED))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
