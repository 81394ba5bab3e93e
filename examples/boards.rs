//! Which model fits which Jetson board, and how fast it can write at most: the table of `scripts/jetson/README.md`.
//!
//!     cargo run -p lwv-examples --example boards
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use lwv_export::{Quantization, planned_bytes};
use lwv_model::{ElementType, ModelConfig, Precision, Target};
use lwv_runtime::MemoryEstimate;
use serde_json::json;

/// Name, gigabytes that a program can have, and gigabytes that the memory gives in a second.
///
/// Memory is shared with the system and its desktop, so less is left than is built in: of 8 GB 4.5, of others all but 4.
const BOARDS: [(&str, f64, f64); 4] = [
    ("Orin Nano 8 GB", 4.5, 102.0),
    ("Orin NX 16 GB", 12.0, 102.4),
    ("AGX Orin 64 GB", 60.0, 204.8),
    ("AGX Thor 128 GB", 124.0, 273.0),
];

/// Tokens of a text of about 3,000 words with four to eight pictures before it.
const TOKENS: usize = 8192;

/// Tokens in one run of prefill.
const CHUNK: usize = 512;

const PRECISIONS: [(&str, Precision); 3] = [
    ("fp16", Precision::Fp16),
    ("int8", Precision::Int8),
    ("int4", Precision::Int4),
];

fn main() -> anyhow::Result<()> {
    let names: Vec<&str> = BOARDS.iter().map(|(name, ..)| *name).collect();
    println!("| model | precision | memory | {} |", names.join(" | "));
    println!("|---|---|---|{}", "---|".repeat(BOARDS.len()));
    for (name, config) in [
        ("3B", published(2048, 11_008, 36, [16, 2], true)?),
        ("7B", published(3584, 18_944, 28, [28, 4], false)?),
    ] {
        for (word, precision) in PRECISIONS {
            let planned = planned_bytes(&config, Target::TensorRt, precision, &Quantization::default());
            let weights = [planned.weights, planned.read_for_a_token];
            // Engines keep the cache in 16 bits.
            let estimate = MemoryEstimate::planned(&config, weights, ElementType::Float16, TOKENS, CHUNK);
            let cells = BOARDS.map(|(_, memory, bandwidth)| {
                if estimate.total() as f64 > memory * 1e9 {
                    return "–".to_owned();
                }
                format!("{:.0} tokens/s", estimate.tokens_per_second(bandwidth * 1e9))
            });
            let gigabytes = estimate.total() as f64 / 1e9;
            println!("| {name} | {word} | {gigabytes:.1} GB | {} |", cells.join(" | "));
        }
    }
    Ok(())
}

/// Geometry of the published Qwen2.5-VL, whose 7B LongWriter-V was trained from.
fn published(
    hidden: usize,
    inner: usize,
    layers: usize,
    [heads, shared]: [usize; 2],
    tied: bool,
) -> anyhow::Result<ModelConfig> {
    let config = json!({
        "model_type": "qwen2_5_vl", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": shared, "vocab_size": if tied { 151_936 } else { 152_064 },
        "max_position_embeddings": 128_000, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": tied,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "eos_token_id": 151_645,
        "image_token_id": 151_655, "video_token_id": 151_656, "vision_start_token_id": 151_652,
        "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_chans": 3,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31], "out_hidden_size": hidden}
    });
    Ok(ModelConfig::from_value(&config)?)
}
