//! Rounding and layout against ONNX Runtime's own quantizer and kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::path::Path;

use lwv_quantize::{Bits, BlockScheme, round_to_nearest};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    bits: Bits,
    block_size: usize,
    columns: usize,
    weights: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
    input: Vec<f32>,
    output: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/block_matrix.json");
    let fixture: Fixture = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(fixture.cases.len(), 8);
    fixture.cases
}

#[test]
fn codes_and_scales_are_those_of_its_quantizer() {
    for case in cases() {
        let scheme = BlockScheme::new(case.bits, case.block_size).unwrap();
        let matrix = round_to_nearest(&case.weights, case.columns, scheme).unwrap();
        let name = format!("{:?} bits in blocks of {}", case.bits, case.block_size);
        assert_eq!(matrix.scales, case.scales, "scales of {name}");
        // What fills the last block belongs to nobody: theirs is left as the caller gave it.
        let row_bytes = matrix.codes.len() / matrix.rows;
        let own = case.columns * case.bits.count() / 8;
        for (ours, theirs) in matrix.codes.chunks(row_bytes).zip(case.codes.chunks(row_bytes)) {
            assert_eq!(ours[..own], theirs[..own], "codes of {name}");
        }
    }
}

#[test]
fn its_kernel_multiplies_by_what_dequantization_gives() {
    for case in cases() {
        let scheme = BlockScheme::new(case.bits, case.block_size).unwrap();
        let weights = round_to_nearest(&case.weights, case.columns, scheme)
            .unwrap()
            .dequantize();
        for (row, expected) in weights.chunks(case.columns).zip(&case.output) {
            let got: f32 = row.iter().zip(&case.input).map(|(w, x)| w * x).sum();
            assert!((got - expected).abs() < 1e-4, "{got} instead of {expected}");
        }
    }
}
