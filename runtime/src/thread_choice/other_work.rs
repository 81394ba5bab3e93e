use std::fs;
use std::time::Instant;

/// Cores' worth of work that does not spoil a measurement.
const NEGLIGIBLE: f64 = 0.15;

/// Clock ticks of a second, in which Linux counts processor time for programs.
const TICKS: f64 = 100.0;

/// Watches what else the machine computes while something is measured.
pub(crate) struct OtherWork {
    begun: Instant,
    before: Option<Ticks>,
}

/// Processor time so far.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ticks {
    /// Of all processes and of the machine's host.
    all: u64,
    /// Of this process.
    own: u64,
    cores: usize,
}

impl OtherWork {
    pub(crate) fn watch() -> Self {
        Self {
            begun: Instant::now(),
            before: Ticks::now(),
        }
    }

    /// Whether others took cores that `threads` threads of this process would have kept busy. Where the system does not tell, no.
    pub(crate) fn disturbed(&self, threads: usize) -> bool {
        let (Some(before), Some(after)) = (self.before, Ticks::now()) else {
            return false;
        };
        disturbed(before, after, self.begun.elapsed().as_secs_f64(), threads)
    }
}

fn disturbed(before: Ticks, after: Ticks, seconds: f64, threads: usize) -> bool {
    let all = after.all.saturating_sub(before.all) as f64;
    let own = after.own.saturating_sub(before.own) as f64;
    let others = (all - own).max(0.0) / TICKS / seconds.max(1.0 / TICKS);
    let spare = after.cores.saturating_sub(threads) as f64;
    others > spare + NEGLIGIBLE
}

impl Ticks {
    /// `None` where there is no `/proc` of Linux.
    fn now() -> Option<Self> {
        let all = fs::read_to_string("/proc/stat").ok()?;
        let own = fs::read_to_string("/proc/self/stat").ok()?;
        Self::of(&all, &own)
    }

    /// From the texts of `/proc/stat` and `/proc/self/stat` (proc(5)).
    fn of(all: &str, own: &str) -> Option<Self> {
        let mut lines = all.lines();
        let times = lines.next()?.strip_prefix("cpu ")?;
        let times: Vec<u64> = times
            .split_whitespace()
            .map_while(|time| time.parse().ok())
            .collect();
        // User, nice, system; not idle, not waiting; interrupts of two kinds; what a host took.
        let [user, nice, system, _, _, interrupts, soft, stolen, ..] = times[..] else {
            return None;
        };
        // The program's name, in parentheses, may hold anything.
        let (_, fields) = own.rsplit_once(')')?;
        let mut fields = fields.split_whitespace().skip(11);
        let mut own = || fields.next()?.parse::<u64>().ok();
        Some(Self {
            all: user + nice + system + interrupts + soft + stolen,
            own: own()? + own()?,
            cores: lines.take_while(|line| line.starts_with("cpu")).count(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let all = "cpu  100 2 30 900 7 1 4 6 0 0\ncpu0 50 1 15 450 3 0 2 3 0 0\ncpu1 50 1 15 450 4 1 2 3 0 0\nintr 5\n";
        let own = "42 (a ) name) S 1 42 42 0 -1 4194560 1 2 3 4 60 7 0 0 20 0 3 0 5";
        let ticks = Ticks::of(all, own).unwrap();
        assert_eq!(
            ticks,
            Ticks {
                all: 143,
                own: 67,
                cores: 2
            }
        );
        assert_eq!(Ticks::of("cpu 1 2", own), None);
        assert_eq!(Ticks::of(all, "42 (name"), None);
    }

    #[test]
    fn others_disturb_where_no_cores_are_left_for_them() {
        let ticks = |all, own| Ticks { all, own, cores: 4 };
        let before = ticks(1000, 100);
        // Two seconds: own threads take two cores, others one or two and a half.
        assert!(!disturbed(before, ticks(1600, 500), 2.0, 2));
        assert!(disturbed(before, ticks(1600, 500), 2.0, 4));
        assert!(disturbed(before, ticks(1900, 500), 2.0, 2));
        assert!(!disturbed(before, ticks(1420, 500), 2.0, 4));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_tells() {
        let ticks = Ticks::now().unwrap();
        assert!(ticks.cores > 0 && ticks.all > 0);
    }
}
