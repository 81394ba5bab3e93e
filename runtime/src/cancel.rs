use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::{Inner, Result};

/// Stops loading, image encoding, prefill and writing from another thread. Clones are the same token.
///
/// ```
/// let token = lwv_runtime::CancelToken::new();
/// let of_the_other_thread = token.clone();
/// std::thread::spawn(move || of_the_other_thread.cancel()).join().unwrap();
/// assert!(token.is_cancelled());
/// ```
#[derive(Clone, Default)]
pub struct CancelToken {
    inner: Arc<State>,
}

#[derive(Default)]
struct State {
    cancelled: AtomicBool,
    runs: Mutex<Vec<Weak<dyn Interrupt>>>,
}

/// A computation that can be stopped from another thread.
pub trait Interrupt: Send + Sync {
    /// Makes the computation that runs now, if any, end soon. Returns at once.
    fn interrupt(&self);
}

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels, for good. What runs under this token ends within a fraction of a second.
    pub fn cancel(&self) {
        self.inner.cancelled.store(true, Ordering::SeqCst);
        for run in self.runs().iter().filter_map(Weak::upgrade) {
            run.interrupt();
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::SeqCst)
    }

    /// Fails once the token is cancelled.
    pub(crate) fn check(&self) -> Result<()> {
        match self.is_cancelled() {
            true => Err(Inner::Cancelled.into()),
            false => Ok(()),
        }
    }

    /// Does `work`, which `run` interrupts when the token is cancelled. Whatever it fails with then, it was cancelled.
    pub(crate) fn watching<T>(
        &self,
        run: &Arc<dyn Interrupt>,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.watch(run);
        let result = work();
        self.forget(run);
        result.or_else(|error| self.check().and(Err(error)))
    }

    /// Interrupts `run` when the token is cancelled, or now if it is already.
    pub(crate) fn watch(&self, run: &Arc<dyn Interrupt>) {
        let mut runs = self.runs();
        runs.retain(|known| known.strong_count() > 0 && !Weak::ptr_eq(known, &Arc::downgrade(run)));
        runs.push(Arc::downgrade(run));
        drop(runs);
        // The flag is set before the list is read, so one of the two sides sees the other.
        if self.is_cancelled() {
            run.interrupt();
        }
    }

    /// The opposite of [`watch`](Self::watch).
    pub(crate) fn forget(&self, run: &Arc<dyn Interrupt>) {
        self.runs()
            .retain(|known| !Weak::ptr_eq(known, &Arc::downgrade(run)));
    }

    fn runs(&self) -> std::sync::MutexGuard<'_, Vec<Weak<dyn Interrupt>>> {
        self.inner.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CancelToken").field(&self.is_cancelled()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Interrupt for Count {
        fn interrupt(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn watched_runs_are_interrupted_once_and_forgotten_ones_are_not() {
        let (token, kept, dropped) = (
            CancelToken::new(),
            Arc::new(Count::default()),
            Arc::new(Count::default()),
        );
        let as_run = |count: &Arc<Count>| -> Arc<dyn Interrupt> { Arc::clone(count) as Arc<dyn Interrupt> };
        let (kept_run, dropped_run) = (as_run(&kept), as_run(&dropped));
        token.watch(&kept_run);
        token.watch(&kept_run);
        token.watch(&dropped_run);
        token.forget(&dropped_run);
        token.cancel();
        assert_eq!(
            (kept.0.load(Ordering::SeqCst), dropped.0.load(Ordering::SeqCst)),
            (1, 0)
        );
    }

    #[test]
    fn what_fails_after_cancelling_was_cancelled() {
        let token = CancelToken::new();
        let run: Arc<dyn Interrupt> = Arc::new(Count::default());
        let failing = || {
            token
                .watching(&run, || Err::<(), _>(Inner::EmptyPrompt.into()))
                .unwrap_err()
                .kind()
        };
        assert_eq!(failing(), crate::ErrorKind::Prompt);
        token.cancel();
        assert_eq!(failing(), crate::ErrorKind::Cancelled);
        assert_eq!(
            token.watching(&run, || Ok(3)).unwrap(),
            3,
            "what succeeded all the same is kept"
        );
        assert!(token.runs().is_empty());
    }

    #[test]
    fn a_run_that_comes_late_is_interrupted_at_once() {
        let (token, count) = (CancelToken::new(), Arc::new(Count::default()));
        token.cancel();
        let run: Arc<dyn Interrupt> = Arc::clone(&count) as Arc<dyn Interrupt>;
        token.watch(&run);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }
}
