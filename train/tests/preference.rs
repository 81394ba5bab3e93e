//! What a step on pairs of answers computes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/training.rs"]
mod training;

use std::f64::consts::LN_2;

use pairs::{assert_close, pairs, reference_file};
use serde_json::{Value, json};
use training::{Training, contents};

/// Settings of one step on the first pair.
const ONE: &str = "--max-steps 1 --no-shuffle --save-strategy no";

/// Settings of steps that move, on two pairs each. With a small epsilon, a first step would be the gradient's sign, and make
/// much of rounding.
const FOUR: &str = "--max-steps 4 --save-strategy no --gradient-accumulation-steps 2 --learning-rate 1e-2 \
                    --lr-scheduler-type constant --adam-epsilon 1e-2";

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap()
}

/// The first step of a training with these pairs and settings.
fn first_step(case: &str, pairs: &[Value], settings: &str) -> Value {
    let training = Training::preferred(case, &format!("{ONE} {settings}")).with_pairs(pairs);
    training.finish("");
    training.told(1)
}

fn swapped(pairs: &[Value]) -> Vec<Value> {
    let swap = |pair: &Value| {
        let mut swapped = pair.clone();
        swapped["chosen"] = pair["rejected"].clone();
        swapped["rejected"] = pair["chosen"].clone();
        swapped
    };
    pairs.iter().map(swap).collect()
}

/// Fails unless `b` tells of the worse answers what `a` tells of the better ones, and the other way round.
fn assert_swapped(a: &Value, b: &Value) {
    for (a, b) in [(a, b), (b, a)] {
        assert_eq!(a["logp_chosen"], b["logp_rejected"]);
        assert_eq!(a["reward_chosen"], b["reward_rejected"]);
    }
    assert!(number(a, "reward_margin") != 0.0);
    assert_eq!(number(a, "reward_margin"), -number(b, "reward_margin"));
}

#[test]
fn it_begins_at_the_logarithm_of_two() {
    for (case, settings) in [
        ("nested_f32", ""),
        ("nested_f32", "--finetuning-type lora"),
        ("nested_f32", "--freeze-vision-tower false --vision-cache-mib 0"),
        ("flat_bf16", "--edit-weight 3 --ld-alpha 0.5"),
        ("llama", "--dtype bf16"),
        ("qwen2", "--finetuning-type lora --use-rslora"),
    ] {
        for (batch, tolerance) in [
            (1, 1e-12),
            (4, if settings.contains("bf16") { 1e-2 } else { 1e-6 }),
        ] {
            let training = Training::preferred(case, &format!("{ONE} --val-size 3 {settings}"));
            training.finish(&format!("--per-device-train-batch-size {batch}"));
            let (before, step) = (training.metrics()[0].clone(), training.told(1));
            // Held-out pairs are measured one at a time.
            assert!((number(&before, "eval_loss") - LN_2).abs() < 1e-12, "{before}");
            assert_eq!(number(&before, "eval_reward_margin"), 0.0);
            assert!((number(&step, "loss") - LN_2).abs() < tolerance, "{case}: {step}");
            for key in ["reward_margin", "reward_chosen", "reward_rejected"] {
                assert!(number(&step, key).abs() <= tolerance, "{case}: {step}");
            }
            if batch == 1 {
                let exact = ["reward_margin", "reward_accuracy"].map(|key| number(&step, key));
                assert_eq!(exact, [0.0; 2]);
            }
            assert!(number(&step, "grad_norm") > 0.0);
        }
    }
}

#[test]
fn it_learns_what_is_better() {
    for settings in ["", "--finetuning-type lora"] {
        let training = Training::preferred(
            "nested_f32",
            &format!("--learning-rate 1e-2 --max-steps 6 --gradient-accumulation-steps 8 {settings}"),
        );
        training.finish("");
        let [first, last] = [1, 6].map(|step| training.told(step));
        assert!(number(&last, "loss") < number(&first, "loss") - 0.05, "{last}");
        assert!(number(&last, "reward_margin") > 0.1, "{last}");
        assert!(number(&last, "reward_accuracy") > 0.8, "{last}");
    }
}

#[test]
fn swapped_answers_turn_everything_round() {
    let settings = "--reference-free --gradient-accumulation-steps 8";
    for case in ["nested_f32", "llama"] {
        let pairs = pairs(case);
        let there = first_step(case, &pairs, settings);
        let back = first_step(case, &swapped(&pairs), settings);
        assert_swapped(&there, &back);
        let accuracies = ["reward_accuracy"; 2].map(|key| (number(&there, key), number(&back, key)));
        assert!((accuracies[0].0 + accuracies[0].1 - 1.0).abs() < 1e-12);
    }
}

/// The cache of one model, under the name of another's: what it says is what both are compared with.
#[test]
fn margins_are_differences_from_the_reference() {
    let pairs = &pairs("llama")[..1];
    let all = [pairs.to_vec(), swapped(pairs)].concat();
    let both = Training::preferred("llama", "").with_pairs(&all);
    let cache = both.file("cache");
    both.finish(&format!("--max-steps 2 --reference-cache {}", cache.display()));
    let moved = Training::preferred("llama", "--learning-rate 1e-2 --max-steps 3");
    moved.finish("");
    let own = Training::preferred("llama", ONE).with_model(moved.output());
    own.finish("");
    let name = reference_file(&own.out("reference"));
    let forged = cache.join(name.file_name().unwrap());
    std::fs::rename(reference_file(&cache), &forged).unwrap();
    let bytes = std::fs::read(&forged).unwrap();

    let step = |pairs: &[Value], model: Option<&Training>| {
        let training = Training::preferred("llama", ONE).with_pairs(pairs);
        let training = match model {
            Some(model) => training.with_model(model.output()),
            None => training,
        };
        training.finish(&format!("--pref-beta 0.25 --reference-cache {}", cache.display()));
        training.told(1)
    };
    let (there, back) = (step(pairs, Some(&moved)), step(&swapped(pairs), Some(&moved)));
    // Nothing was asked: the cache knew.
    assert!(std::fs::read(&forged).unwrap() == bytes);
    assert_swapped(&there, &back);
    let reference = step(pairs, None);
    let gain = |key: &str| 0.25 * (number(&there, key) - number(&reference, key));
    let margin = gain("logp_chosen") - gain("logp_rejected");
    assert!((number(&there, "reward_margin") - margin).abs() < 1e-9);
    let loss = (-margin).exp().ln_1p();
    assert!((number(&there, "loss") - loss).abs() < 1e-9 && (loss - LN_2).abs() > 1e-3);
}

/// Steps of the same training with other settings; fails unless they say the same up to `tolerance`.
fn assert_same_steps(case: &str, settings: [&str; 2], tolerance: f64) {
    let [a, b] = settings.map(|settings| {
        let training = Training::preferred(case, settings);
        training.finish("");
        training.metrics()
    });
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert_eq!((&a["step"], &a["tokens"]), (&b["step"], &b["tokens"]));
        for key in ["loss", "grad_norm", "reward_margin", "logp_chosen"] {
            assert_close(a, b, key, tolerance);
        }
    }
    assert!(number(&a[a.len() - 1], "reward_margin") != 0.0);
}

#[test]
fn pairs_at_once_or_one_after_the_other() {
    let one_by_one = FOUR;
    let at_once = format!("{FOUR} --per-device-train-batch-size 2").replace(
        "--gradient-accumulation-steps 2",
        "--gradient-accumulation-steps 1",
    );
    for case in ["nested_f32", "llama"] {
        assert_same_steps(case, [one_by_one, &at_once], 1e-5);
        let lora = |settings: &str| format!("{settings} --finetuning-type lora");
        assert_same_steps(case, [&lora(one_by_one), &lora(&at_once)], 1e-5);
    }
}

#[test]
fn activations_kept_or_computed_again() {
    for settings in [FOUR.to_owned(), format!("{FOUR} --freeze-vision-tower false")] {
        let [kept, again] = ["--no-recompute", ""].map(|more| {
            let training = Training::preferred("nested_f32", &settings);
            training.finish(more);
            let mut files = contents(training.output());
            files.retain(|name, _| name.ends_with(".safetensors"));
            (files, training.metrics())
        });
        assert_eq!(kept.1, again.1);
        assert!(!kept.0.is_empty() && kept.0 == again.0);
    }
}

#[test]
fn features_of_pictures_kept_or_computed_again() {
    let with = |more: &str| format!("{FOUR} {more}");
    let caches = ["--vision-cache-mib 0", "--vision-cache-mib 256"].map(with);
    // Alone or together, features are not rounded alike.
    assert_same_steps("nested_f32", caches.each_ref().map(String::as_str), 1e-5);
    let learned = "--freeze-vision-tower false --freeze-multi-modal-projector false";
    let caches = caches.map(|settings| format!("{settings} {learned}"));
    // What learns is never kept.
    assert_same_steps("nested_f32", caches.each_ref().map(String::as_str), 0.0);
    let pairs = pairs("nested_f32");
    let [frozen, learns] = ["", learned].map(|settings| first_step("nested_f32", &pairs, settings));
    assert_close(&frozen, &learns, "logp_chosen", 1e-5);
    assert!(number(&learns, "grad_norm") > 1.001 * number(&frozen, "grad_norm"));
}

#[test]
fn tokens_can_weigh_more_or_less() {
    let pair = json!({"instruction": "Write.", "chosen": "There are 42 houses.",
        "rejected": "There are 17 houses, and a garden, and the river is in it."});
    let step = |settings: &str| first_step("llama", std::slice::from_ref(&pair), settings);
    let plain = step("");
    assert_eq!(step("--edit-weight 1 --ld-alpha 1"), plain);
    let edits = step("--edit-weight 3");
    let tail = step("--ld-alpha 0");
    for (other, key) in [
        (&edits, "logp_chosen"),
        (&edits, "logp_rejected"),
        (&tail, "logp_rejected"),
    ] {
        assert!((number(other, key) - number(&plain, key)).abs() > 0.1, "{key}");
        assert!((number(other, "loss") - LN_2).abs() < 1e-12);
        assert!((number(other, "grad_norm") / number(&plain, "grad_norm") - 1.0).abs() > 1e-2);
    }
    // The better answer is the shorter one, and has no tail.
    assert_eq!(tail["logp_chosen"], plain["logp_chosen"]);
}

#[test]
fn the_end_of_an_open_pair_is_not_learned() {
    for case in ["nested_f32", "llama"] {
        let closed = pairs(case)[4].clone();
        let mut open = closed.clone();
        open["open"] = true.into();
        let [closed, open] = [closed, open].map(|pair| first_step(case, &[pair], "--reference-free"));
        assert!(number(&open, "tokens") < number(&closed, "tokens"));
        for key in ["logp_chosen", "logp_rejected"] {
            // Each token of the end has taken something off.
            assert!(number(&open, key) > number(&closed, key) + 0.1, "{key}");
        }
    }
}

#[test]
fn a_pair_of_weight_two_is_two_pairs() {
    let [a, b] = [0, 1].map(|place| pairs("llama")[place].clone());
    let heavy = |pair: &Value, weight: f64| {
        let mut heavy = pair.clone();
        heavy["weight"] = json!(weight);
        heavy
    };
    let steps = |pairs: &[Value]| {
        let settings = format!(
            "--max-steps 3 --save-strategy no --reference-free --learning-rate 1e-3 \
             --gradient-accumulation-steps {}",
            pairs.len()
        );
        let training = Training::preferred("llama", &settings).with_pairs(pairs);
        training.finish("");
        [1, 2, 3].map(|step| training.told(step))
    };
    let twice = steps(&[a.clone(), a.clone(), b.clone()]);
    for weights in [[2.0, 1.0], [1.0, 0.5]] {
        let weighted = steps(&[heavy(&a, weights[0]), heavy(&b, weights[1])]);
        for (weighted, twice) in weighted.iter().zip(&twice) {
            assert_close(weighted, twice, "loss", 1e-6);
            assert_close(weighted, twice, "grad_norm", 1e-6);
        }
    }
    let plain = steps(&[a, b]);
    assert!((number(&plain[0], "loss") - number(&twice[0], "loss")).abs() > 1e-4);
}
