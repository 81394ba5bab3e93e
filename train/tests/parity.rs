//! Fine-tuning against transformers and PEFT: losses, every gradient, and thirty steps (tests/fixtures/sft).
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/fixture.rs"]
mod fixture;

use fixture::{Fixture, Run, bound, relative_distance};
use lwv_train::{Part, Selection, trained};

const CASES: [&str; 3] = ["flat_f32", "nested_f32", "flat_bf16"];

fn everything() -> Selection {
    Selection {
        frozen: vec![],
        lora: None,
    }
}

#[test]
fn positions_are_those_of_transformers() {
    for case in CASES {
        let fixture = Fixture::tiny(case);
        for (i, sample) in fixture.samples.iter().enumerate() {
            let batch = fixture.batch(&[i]);
            let want: Vec<i64> = sample.position_ids.concat();
            assert_eq!(batch.positions, want, "{case}, sample {i}");
        }
    }
}

#[test]
fn loss_and_every_gradient() {
    for case in CASES {
        let fixture = Fixture::tiny(case);
        fixture.check_gradients(&fixture.model(&everything(), true), "batch");
    }
}

#[test]
fn thirty_steps() {
    for case in CASES {
        let fixture = Fixture::tiny(case);
        let model = fixture.model(&everything(), true);
        Run::new(&fixture, &model, "").check_steps();
        fixture.check_final(&model);
    }
}

#[test]
fn frozen_parts_stay_and_hold_no_gradient() {
    let fixture = Fixture::tiny("flat_f32");
    let selection = Selection {
        frozen: vec![Part::VisionTower, Part::Projector],
        lora: None,
    };
    let model = fixture.model(&selection, true);
    let before = fixture::values(&model.parameters()["visual.blocks.0.attn.qkv.weight"].value());
    Run::new(&fixture, &model, "frozen").check_steps();
    for (name, parameter) in model.parameters() {
        let frozen = name.starts_with("visual.");
        assert_eq!(parameter.gradient().is_none(), frozen, "{name}");
    }
    assert_eq!(
        before,
        fixture::values(&model.parameters()["visual.blocks.0.attn.qkv.weight"].value())
    );
    assert!(trained(model.parameters()).all(|parameter| !parameter.name().starts_with("visual.")));
}

#[test]
fn adapters_against_peft() {
    for name in ["all_linear", "rslora"] {
        let fixture = Fixture::adapter(name);
        let model = fixture.model(&fixture.lora(), true);
        fixture.check_gradients(&model, "batch");
        let model = fixture.model(&fixture.lora(), true);
        Run::new(&fixture, &model, "").check_steps();
        fixture.check_final(&model);
    }
}

/// What is computed again is the same to the bit.
#[test]
fn recomputation_changes_nothing() {
    let fixture = Fixture::tiny("nested_f32");
    let gradients = [true, false].map(|recompute| {
        let model = fixture.model(&everything(), recompute);
        let loss = model.learn(&fixture.batch(&[0, 1, 2, 3]), 0.01).unwrap();
        let gradients: Vec<Vec<f32>> = trained(model.parameters())
            .map(|parameter| fixture::values(&parameter.gradient().unwrap().get().unwrap()))
            .collect();
        (loss, gradients)
    });
    assert!(gradients[0] == gradients[1]);
}

/// One batch of four and four batches of one add up to the same.
#[test]
fn accumulated_batches_are_one_batch() {
    let fixture = Fixture::tiny("nested_f32");
    let [together, apart] =
        [vec![vec![0, 1, 2, 3]], vec![vec![0], vec![1], vec![2], vec![3]]].map(|batches| {
            let model = fixture.model(&everything(), true);
            let losses: f64 = batches
                .iter()
                .map(|batch| model.learn(&fixture.batch(batch), 0.01).unwrap())
                .sum();
            (losses, model)
        });
    assert!((together.0 - apart.0).abs() < bound(1e-5, 5e-2));
    for (a, b) in trained(together.1.parameters()).zip(trained(apart.1.parameters())) {
        let [a_values, b_values] = [a, b].map(|p| fixture::values(&p.gradient().unwrap().get().unwrap()));
        let distance = relative_distance(&a_values, &b_values);
        assert!(distance < bound(2e-5, 5e-2), "{}: {distance}", a.name());
    }
}

/// Tokens behind the last supervised one change neither loss nor gradients.
#[test]
fn padding_changes_nothing() {
    let fixture = Fixture::tiny("nested_f32");
    let [plain, padded] = [0, 7].map(|padding| {
        let model = fixture.model(&everything(), true);
        let loss = model
            .learn(&fixture.padded_batch(&[0, 1], padding), 0.01)
            .unwrap();
        (loss, model)
    });
    assert!((plain.0 - padded.0).abs() < bound(1e-6, 5e-2));
    for (a, b) in trained(plain.1.parameters()).zip(trained(padded.1.parameters())) {
        let [a_values, b_values] = [a, b].map(|p| fixture::values(&p.gradient().unwrap().get().unwrap()));
        assert!(
            relative_distance(&a_values, &b_values) < bound(1e-5, 5e-2),
            "{}",
            a.name()
        );
    }
}
