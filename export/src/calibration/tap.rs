use std::sync::{Arc, Mutex};

use lwv_train::{CandleOps, Error as TrainError, Observer, Tensor};

use super::{failed, locked};
use crate::Error;

/// Takes what one matrix reads, and ends the computation there.
struct Tap {
    weight: String,
    seen: Option<Tensor>,
}

impl Observer for Tap {
    fn reads(&mut self, weight: &str, x: &Tensor) -> Result<(), TrainError> {
        if weight != self.weight {
            return Ok(());
        }
        self.seen = Some(x.clone());
        Err(TrainError::Ended)
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
    let tap = Arc::new(Mutex::new(Tap {
        weight: weight.to_owned(),
        seen: None,
    }));
    ops.observe(Some(tap.clone()));
    let outcome = run(ops);
    ops.observe(None);
    match (outcome, locked(&tap).seen.take()) {
        (Err(TrainError::Ended), Some(x)) => {
            let width = x.dims().last().copied().unwrap_or(1);
            Ok((super::to_vec(&x)?, width))
        }
        (Err(error), _) => Err(failed(error)),
        (Ok(_), _) => Err(failed(format!("nothing reads `{weight}`"))),
    }
}
