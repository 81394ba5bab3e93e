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

/// What the matrix `weight` reads while `run` computes with `ops`, and how wide its rows are. Nothing after it is computed.
///
/// # Errors
/// What the computation says, or that it does not get there.
pub(crate) fn tap(
    ops: &mut CandleOps,
    weight: &str,
    run: impl FnOnce(&mut CandleOps) -> Result<Tensor, TrainError>,
) -> Result<(Vec<f32>, usize), Error> {
    match observed(ops, weight, true, run) {
        (Err(TrainError::Ended), Some(x)) => {
            let width = x.dims().last().copied().unwrap_or(1);
            Ok((super::to_vec(&x)?, width))
        }
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
