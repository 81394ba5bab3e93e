use std::sync::Arc;

use tokio::sync::watch;

/// Stops a server. Clones are the same.
#[derive(Debug, Clone)]
pub struct Stop {
    phase: Arc<watch::Sender<Phase>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Finishing,
    Ending,
}

impl Stop {
    /// A server that nobody has stopped.
    pub fn new() -> Self {
        Self {
            phase: Arc::new(watch::Sender::new(Phase::Serving)),
        }
    }

    /// No further text is begun; the one that is being written comes to its end.
    pub fn finish(&self) {
        self.advance(Phase::Finishing);
    }

    /// The text that is being written is cut off too.
    pub fn end(&self) {
        self.advance(Phase::Ending);
    }

    /// Waits until no further text may begin.
    pub(crate) async fn finishing(&self) {
        self.reached(Phase::Finishing).await;
    }

    /// Waits until everything must end.
    pub(crate) async fn ending(&self) {
        self.reached(Phase::Ending).await;
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let is_further = to > *phase;
            *phase = to.max(*phase);
            is_further
        });
    }

    async fn reached(&self, phase: Phase) {
        // The sender is held here, so there always is one.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}
