use std::sync::Arc;
use std::time::Instant;

use lwv_model::contract;

use crate::bundle::Bundle;
use crate::decoder::Decoder;
use crate::error::Result;
use crate::graph::{Graph, GraphSettings};
use crate::ort_decoder::{Graphs, Limits, OrtDecoder};

/// Tokens that are not counted: memory is touched for the first time.
const WARM_UP: usize = 4;

/// Tokens whose median counts.
const COUNTED: usize = 15;

/// Seconds that the decoder of `bundle` takes for a token when it is loaded with `settings`. It is in memory for as long only.
///
/// # Errors
/// It cannot be loaded or run.
pub(crate) fn seconds_for_a_token(bundle: &Bundle, settings: &GraphSettings) -> Result<f64> {
    let graphs = Graphs {
        decoder: Graph::load(bundle, contract::DECODER, settings)?,
        embed_tokens: Graph::load(bundle, contract::EMBED_TOKENS, settings)?,
        vision_encoder: None,
        device: settings.device,
        threads: settings.threads.threads,
    };
    let count = (WARM_UP + COUNTED).min(bundle.manifest().context_length);
    let limits = Limits {
        kv_budget: u64::MAX,
        prefill_chunk: 1,
        context: count,
        provider_memory: false,
    };
    let mut decoder = OrtDecoder::new(Arc::new(graphs), bundle, None, limits)?;
    decoder.reserve(count)?;
    let axes = bundle.config().position_axes();
    let mut seconds = Vec::with_capacity(count);
    for place in 0..count {
        let begin = Instant::now();
        decoder.step(0, &vec![place as i64; axes])?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    let counted = &mut seconds[WARM_UP.min(count / 2)..];
    counted.sort_by(f64::total_cmp);
    Ok(counted[counted.len() / 2])
}
