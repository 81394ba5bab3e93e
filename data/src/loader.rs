use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{Error, Result};

/// Encodes samples in other threads, ahead of the one who learns them, and hands them out in order.
///
/// At most `prefetch` samples are in work or ready, besides the one that was handed out, so the memory is at most
/// `prefetch` times the largest sample (such as [`Example::bytes`](crate::Example::bytes)), and one decoded picture a thread. A sample
/// that cannot be used is an error in its place; the next call goes on with the one after it.
#[derive(Debug)]
pub struct Loader<T> {
    order: std::vec::IntoIter<usize>,
    /// Samples in work or ready, the next one first.
    pending: VecDeque<(usize, Receiver<Result<T>>)>,
    prefetch: usize,
    jobs: Option<Sender<Job<T>>>,
    workers: Vec<JoinHandle<()>>,
    is_stopped: Arc<AtomicBool>,
}

/// A sample to encode, and where it is waited for.
struct Job<T> {
    index: usize,
    reply: Sender<Result<T>>,
}

impl<T: Send + 'static> Loader<T> {
    /// Starts `workers` threads that call `encode` for the samples of `order`, `prefetch` of them ahead; both are at
    /// least 1. What `encode` does is most often [`Dataset::get`](crate::Dataset::get) and
    /// [`Encoder::encode`](crate::Encoder::encode).
    pub fn start(
        encode: impl Fn(usize) -> Result<T> + Send + Sync + 'static,
        order: Vec<usize>,
        workers: usize,
        prefetch: usize,
    ) -> Self {
        let encode = Arc::new(encode);
        let prefetch = prefetch.max(1);
        let (jobs, waiting) = bounded::<Job<T>>(prefetch);
        let is_stopped = Arc::new(AtomicBool::new(false));
        let workers = (0..workers.max(1))
            .map(|_| {
                let (encode, waiting, is_stopped) =
                    (Arc::clone(&encode), waiting.clone(), Arc::clone(&is_stopped));
                std::thread::spawn(move || work(&*encode, &waiting, &is_stopped))
            })
            .collect();
        let mut loader = Self {
            order: order.into_iter(),
            pending: VecDeque::with_capacity(prefetch),
            prefetch,
            jobs: Some(jobs),
            workers,
            is_stopped,
        };
        loader.fill();
        loader
    }

    /// Asks for samples until enough are on their way. Never waits: as many jobs fit the channel as are pending.
    fn fill(&mut self) {
        let Some(jobs) = &self.jobs else { return };
        while self.pending.len() < self.prefetch
            && let Some(index) = self.order.next()
        {
            let (reply, result) = bounded(1);
            // Without workers the job is dropped here and its result reads as an error.
            let _ = jobs.send(Job { index, reply });
            self.pending.push_back((index, result));
        }
    }
}

fn work<T>(encode: &dyn Fn(usize) -> Result<T>, jobs: &Receiver<Job<T>>, is_stopped: &AtomicBool) {
    for job in jobs {
        if is_stopped.load(Ordering::Relaxed) {
            return;
        }
        // Nobody waits for it where the loader was dropped meanwhile.
        let _ = job.reply.send(encode(job.index));
    }
}

impl<T: Send + 'static> Iterator for Loader<T> {
    type Item = Result<(usize, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (index, result) = self.pending.pop_front()?;
        let encoded = result.recv().unwrap_or(Err(Error::Worker { index }));
        self.fill();
        Some(encoded.map(|encoded| (index, encoded)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.pending.len() + self.order.len();
        (left, Some(left))
    }
}

impl<T> Drop for Loader<T> {
    /// Ends the threads; each finishes the sample that it has in work.
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // What a thread has to say about its end, it has said.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;
    use crate::{Encoded, Example, Origin, Place, Problem, TooLong};

    fn origin(index: usize) -> Origin {
        Origin {
            file: "x".into(),
            place: Place::Row(index as u64),
        }
    }

    fn sample(index: usize) -> Encoded<Example> {
        Encoded::TooLong(TooLong {
            tokens: index,
            max_length: 0,
            origin: origin(index),
        })
    }

    #[test]
    fn samples_come_in_order_and_errors_in_their_place() {
        let encode = |index: usize| {
            // The first ones take longest.
            std::thread::sleep(Duration::from_millis(20 - index as u64));
            if index == 5 {
                return Err(Problem::NoAnswer.at(&origin(index)));
            }
            Ok(sample(index))
        };
        let order = vec![3, 0, 5, 9, 1, 2];
        let loader = Loader::start(encode, order.clone(), 3, 4);
        assert_eq!(loader.size_hint(), (6, Some(6)));
        let got: Vec<Option<usize>> = loader
            .map(|result| {
                result.ok().map(|(index, encoded)| {
                    assert_eq!(encoded, sample(index));
                    index
                })
            })
            .collect();
        let expected: Vec<Option<usize>> = order.iter().map(|i| (*i != 5).then_some(*i)).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn not_more_than_asked_for_is_ahead() {
        let started = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&started);
        let encode = move |index| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(sample(index))
        };
        let mut loader = Loader::start(encode, (0..100).collect(), 2, 5);
        for handed_out in 0..3 {
            std::thread::sleep(Duration::from_millis(30));
            assert!(started.load(Ordering::SeqCst) <= handed_out + 5);
            loader.next().unwrap().unwrap();
        }
        drop(loader);
        assert!(started.load(Ordering::SeqCst) <= 8);
    }

    #[test]
    fn a_thread_that_ends_early_is_an_error() {
        let encode = |index: usize| match index {
            1 => std::panic::resume_unwind(Box::new("x")),
            _ => Ok(sample(index)),
        };
        let mut loader = Loader::start(encode, vec![0, 1, 2, 3], 1, 1);
        assert!(loader.next().unwrap().is_ok());
        for index in 1..4 {
            let error = loader.next().unwrap().unwrap_err();
            assert!(
                matches!(error, Error::Worker { index: i } if i == index),
                "{error}"
            );
        }
        assert!(loader.next().is_none());
    }
}
