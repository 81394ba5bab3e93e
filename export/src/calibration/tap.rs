use std::sync::{Arc, Mutex};

use lwv_train::{CandleOps, Error as TrainError, Observer, Tensor};

use super::{failed, locked};
use crate::Error;

/// Takes what one matrix reads, and may end the computation there.
struct Tap {
    weight: String,
    ends: bool,
    seen: Option<Tensor>,
}

impl Observer for Tap {
    fn reads(&mut self, weight: &str, x: &Tensor) -> Result<(), TrainError> {
        if weight != self.weight {
            return Ok(());
        }
        self.seen = Some(x.clone());
        if self.ends { Err(TrainError::Ended) } else { Ok(()) }
    }
}

/// What the matrix `weight` of `shape` reads while `run` computes with `ops`. Nothing after it is computed, nor is it loaded.
///
/// # Errors
/// What the computation says, or that it does not get there.
pub(crate) fn tap(
    ops: &mut CandleOps,
    weight: &str,
    shape: [usize; 2],
    run: impl FnOnce(&mut CandleOps) -> Result<Tensor, TrainError>,
) -> Result<Vec<f32>, Error> {
    ops.stand_in(weight, &shape).map_err(failed)?;
    let outcome = observed(ops, weight, true, run);
    ops.forget(|name| name == weight);
    match outcome {
        (Err(TrainError::Ended), Some(x)) => super::to_vec(&x),
        (Err(error), _) => Err(failed(error)),
        (Ok(_), _) => Err(unread(weight)),
    }
}

/// What the matrix `weight` reads while `run` computes with `ops`, and what comes of the whole computation.
///
/// # Errors
/// What the computation says, or that nothing reads it.
pub(crate) fn pass(
    ops: &mut CandleOps,
    weight: &str,
    run: impl FnOnce(&mut CandleOps) -> Result<Tensor, TrainError>,
) -> Result<(Vec<f32>, Tensor), Error> {
    let (outcome, seen) = observed(ops, weight, false, run);
    let after = outcome.map_err(failed)?;
    let seen = seen.ok_or_else(|| unread(weight))?;
    Ok((super::to_vec(&seen)?, after))
}

fn observed(
    ops: &mut CandleOps,
    weight: &str,
    ends: bool,
    run: impl FnOnce(&mut CandleOps) -> Result<Tensor, TrainError>,
) -> (Result<Tensor, TrainError>, Option<Tensor>) {
    let tap = Arc::new(Mutex::new(Tap {
        weight: weight.to_owned(),
        ends,
        seen: None,
    }));
    ops.observe(Some(tap.clone()));
    let outcome = run(ops);
    ops.observe(None);
    let seen = locked(&tap).seen.take();
    (outcome, seen)
}

fn unread(weight: &str) -> Error {
    failed(format!("nothing reads `{weight}`"))
}
