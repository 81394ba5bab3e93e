use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;

/// Samples between two reports of the progress; their results are in memory at once.
const CHUNK: usize = 256;

/// Works on `len` samples on all cores and takes the results in order. Shows progress on a terminal.
pub(crate) fn sweep<T: Send>(len: usize, work: impl Fn(usize) -> T + Sync, mut take: impl FnMut(T)) {
    // Draws nothing where standard error is no terminal.
    let bar = ProgressBar::new(len as u64).with_style(style());
    for start in (0..len).step_by(CHUNK) {
        let chunk = start..len.min(start + CHUNK);
        let results: Vec<T> = chunk
            .into_par_iter()
            .map(|index| {
                let result = work(index);
                bar.inc(1);
                result
            })
            .collect();
        bar.suspend(|| results.into_iter().for_each(&mut take));
    }
    bar.finish_and_clear();
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:30} {pos}/{len} samples, {per_sec}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        for len in [0, 1, CHUNK, 3 * CHUNK + 1] {
            let mut taken = Vec::new();
            sweep(len, |index| index, |index| taken.push(index));
            assert_eq!(taken, Vec::from_iter(0..len));
        }
    }
}
