use std::sync::Arc;
use std::sync::mpsc::Sender;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::answer::Answer;
use crate::chat_request::ChatRequest;
use crate::refusal::Refusal;
use crate::stop::Stop;
use crate::worker::{Job, Reply};

/// Requests on their way to the thread that writes: one is written, some wait in the order in which they came, and those
/// beyond are refused. Who leaves while waiting frees the place at once.
pub(crate) struct Queue {
    jobs: Sender<Job>,
    places: Arc<Semaphore>,
    /// One permit: who holds it is written.
    turn: Arc<Semaphore>,
    length: usize,
    stop: Stop,
}

impl Queue {
    /// A queue to the thread that takes `jobs`, in which `waiting` requests may wait.
    pub(crate) fn new(jobs: Sender<Job>, waiting: usize, stop: Stop) -> Self {
        let length = waiting.saturating_add(1).min(Semaphore::MAX_PERMITS);
        Self {
            jobs,
            places: Arc::new(Semaphore::new(length)),
            turn: Arc::new(Semaphore::new(1)),
            length,
            stop,
        }
    }

    /// Waits for the request's turn, and until its answer begins. Dropped before or after, it is cancelled.
    pub(crate) async fn submit(&self, request: ChatRequest) -> Result<Answer, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Refusal::busy(self.length))?;
        let turn = self.turn().await?;
        let (replies, received) = mpsc::unbounded_channel();
        let mut answer = Answer::new(request.settings.cancel.clone(), received, place);
        let job = Job {
            request,
            replies,
            turn,
        };
        self.jobs.send(job).map_err(|_| Refusal::failure(WORKER_ENDED))?;
        match answer.next().await {
            Some(Reply::Begun) => Ok(answer),
            Some(Reply::Failed(refusal)) => Err(refusal),
            _ => Err(Refusal::failure(WORKER_ENDED)),
        }
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        tokio::select! {
            biased;
            () = self.stop.finishing() => Err(Refusal::stopping()),
            turn = Arc::clone(&self.turn).acquire_owned() => turn.map_err(|_| Refusal::stopping()),
        }
    }

    /// Whether a text is being written.
    pub(crate) fn is_writing(&self) -> bool {
        self.turn.available_permits() == 0
    }

    /// Requests that are written or wait.
    pub(crate) fn requests(&self) -> usize {
        self.length - self.places.available_permits()
    }
}

/// What is told when the thread that writes is gone.
pub(crate) const WORKER_ENDED: &str = "the thread that writes has ended; start the server again";
