use std::time::{Duration, Instant};

use lwv_runtime::CancelToken;

/// What users are promised.
const PROMISED: Duration = Duration::from_millis(250);

/// Tries, of which the quickest counts: other programs may be using the machine.
const TRIES: usize = 3;

/// Cancels `work` after a time and returns what it gave. It must end within the promised time, and `was_at_it` says of what
/// it gave whether it was cut short by then.
pub fn cancelled<T>(after: Duration, work: impl Fn(&CancelToken) -> T, was_at_it: impl Fn(&T) -> bool) -> T {
    let mut waited = Vec::new();
    for _ in 0..TRIES {
        let cancel = CancelToken::new();
        let of_the_alarm = cancel.clone();
        let alarm = std::thread::spawn(move || {
            std::thread::sleep(after);
            of_the_alarm.cancel();
            Instant::now()
        });
        let given = work(&cancel);
        let ended = Instant::now();
        let alarmed = alarm.join().unwrap();
        let cut_short = was_at_it(&given);
        waited.push((ended.saturating_duration_since(alarmed), cut_short));
        if cut_short && waited.last().is_some_and(|(waited, _)| *waited <= PROMISED) {
            return given;
        }
    }
    panic!("went on for {waited:?} (and was cut short)");
}
