//! Fine-tuning SmolLM2-135M, real weights, against transformers and PEFT.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/fixture.rs"]
mod fixture;

use fixture::{Fixture, Run};
use lwv_train::Selection;

#[test]
#[ignore = "needs SmolLM2's weights; scripts/check fetches them and runs this"]
fn full_fine_tuning() {
    let fixture = Fixture::smollm2("smollm2");
    let selection = Selection {
        frozen: vec![],
        lora: None,
    };
    fixture.check_gradients(&fixture.model(&selection, true), "batch");
    let model = fixture.model(&selection, true);
    Run::new(&fixture, &model, "").check_steps();
    fixture.check_final(&model);
}

#[test]
#[ignore = "needs SmolLM2's weights; scripts/check fetches them and runs this"]
fn an_adapter() {
    let fixture = Fixture::smollm2("smollm2_lora");
    let dir = tempfile::tempdir().unwrap();
    let selection = fixture.hashed_lora(&dir.path().join("start"));
    fixture.check_gradients(&fixture.model(&selection, true), "batch");
    let model = fixture.model(&selection, true);
    Run::new(&fixture, &model, "").check_steps();
    fixture.check_final(&model);
}
