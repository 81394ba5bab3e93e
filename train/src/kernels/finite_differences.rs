use candle_core::{DType, Device, Result, Tensor};
use lwv_model::Segments;

use super::attention::{self, Attended, Pattern};
use super::cross_entropy::{self, Supervised};
use super::gradient::Gradient;
use super::rotation::{Turn, rotate};
use super::{activation, embedding, linear, rms_norm, segments};

/// Numbers between −1 and 1 that look random and are always the same.
fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn random(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(numbers(shape.iter().product(), seed), shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn relative_difference(got: &Tensor, want: &[f64]) -> f64 {
    let got = values(got);
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied()).max(1e-12)
}

/// Compares `gradients` of the sum of `weights · forward(inputs)` with central differences.
fn check(
    inputs: &[Tensor],
    forward: impl Fn(&[Tensor]) -> Result<Tensor>,
    backward: impl Fn(&Tensor, &[Tensor]) -> Result<Vec<Tensor>>,
) {
    let weights = random(forward(inputs).unwrap().dims(), 99);
    let loss = |inputs: &[Tensor]| -> f64 {
        let product = (forward(inputs).unwrap() * &weights).unwrap();
        product.sum_all().unwrap().to_scalar().unwrap()
    };
    let gradients = backward(&weights, inputs).unwrap();
    for (place, gradient) in gradients.iter().enumerate() {
        let numeric: Vec<f64> = (0..inputs[place].elem_count())
            .map(|i| {
                let moved = |step: f64| {
                    let mut moved = values(&inputs[place]);
                    moved[i] += step;
                    let mut inputs = inputs.to_vec();
                    inputs[place] = Tensor::from_vec(moved, inputs[place].shape(), &Device::Cpu).unwrap();
                    loss(&inputs)
                };
                (moved(1e-5) - moved(-1e-5)) / 2e-5
            })
            .collect();
        let difference = relative_difference(gradient, &numeric);
        assert!(difference < 1e-8, "input {place}: {difference}");
        assert!(
            numeric.iter().any(|value| value.abs() > 1e-3),
            "input {place} does nothing"
        );
    }
}

fn collected(add: impl FnOnce(&Gradient) -> Result<()>) -> Result<Tensor> {
    let sum = Gradient::default();
    add(&sum)?;
    Ok(sum.get().unwrap())
}

#[test]
fn linear_layers() {
    let inputs = [random(&[2, 3, 4], 1), random(&[5, 4], 2), random(&[5], 3)];
    check(
        &inputs,
        |x| linear::forward(&x[0], &x[1], Some(&x[2])),
        |grad, x| {
            Ok(vec![
                linear::input_gradient(grad, &x[1])?,
                collected(|sum| linear::add_weight_gradient(grad, &x[0], &[5, 4], sum))?,
                collected(|sum| linear::add_bias_gradient(grad, sum))?,
            ])
        },
    );
}

#[test]
fn rms_norms() {
    check(
        &[random(&[70, 7], 1), random(&[7], 2)],
        |x| rms_norm::forward(&x[0], &x[1], 1e-3),
        |grad, x| {
            let sum = Gradient::default();
            let input = rms_norm::backward(grad, &x[0], &x[1], 1e-3, Some(&sum))?;
            Ok(vec![input, sum.get().unwrap()])
        },
    );
}

#[test]
fn elementwise_functions() {
    let x = [random(&[3, 5], 1), random(&[3, 5], 2)];
    check(
        &x,
        |x| activation::add(&x[0], &x[1]),
        |g, _| Ok(vec![g.clone(), g.clone()]),
    );
    check(
        &x,
        |x| activation::mul(&x[0], &x[1]),
        |g, x| Ok(vec![activation::mul(g, &x[1])?, activation::mul(g, &x[0])?]),
    );
    check(
        &x[..1],
        |x| activation::silu(&x[0]),
        |g, x| Ok(vec![activation::silu_backward(g, &x[0])?]),
    );
    check(
        &x[..1],
        |x| activation::gelu(&x[0]),
        |g, x| Ok(vec![activation::gelu_backward(g, &x[0])?]),
    );
}

#[test]
fn rotations() {
    let angles = random(&[3, 2], 5);
    let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
    check(
        &[random(&[1, 3, 8], 1)],
        |x| rotate(&x[0], 2, &cos, &sin, Turn::Forward),
        |grad, _| Ok(vec![rotate(grad, 2, &cos, &sin, Turn::Back)?]),
    );
}

#[test]
fn embeddings() {
    let ids = Tensor::new(&[[2u32, 0, 2]], &Device::Cpu).unwrap();
    check(
        &[random(&[4, 3], 1)],
        |x| embedding::forward(&ids, &x[0]),
        |grad, _| {
            Ok(vec![collected(|sum| {
                embedding::add_table_gradient(grad, &ids, None, &[4, 3], sum)
            })?])
        },
    );
}

#[test]
fn the_padding_token_is_not_learned_where_it_is_read() {
    let ids = Tensor::new(&[2u32, 0, 2], &Device::Cpu).unwrap();
    for dtype in [DType::F64, DType::BF16] {
        let grad = Tensor::ones((3, 2), dtype, &Device::Cpu).unwrap();
        let sum = collected(|sum| embedding::add_table_gradient(&grad, &ids, Some(2), &[3, 2], sum)).unwrap();
        assert_eq!(values(&sum), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    }
}

fn pattern(causal: bool) -> Pattern {
    Pattern {
        heads: 4,
        key_value_heads: 2,
        causal,
        // The last row belongs to no run.
        runs: vec![(0, 3), (3, 1), (4, 6)],
    }
}

fn attention_inputs() -> [Tensor; 3] {
    [random(&[11, 12], 1), random(&[11, 6], 2), random(&[11, 6], 3)]
}

#[test]
fn attention_in_tiles() {
    for causal in [true, false] {
        let pattern = pattern(causal);
        check(
            &attention_inputs(),
            |x| Ok(attention::forward(&x[0], &x[1], &x[2], &pattern)?.out),
            |grad, x| {
                let attended = attention::forward(&x[0], &x[1], &x[2], &pattern)?;
                Ok(attention::backward(grad, [&x[0], &x[1], &x[2]], &attended, &pattern)?.to_vec())
            },
        );
    }
}

#[test]
fn attention_in_blocks() {
    for causal in [true, false] {
        let pattern = pattern(causal);
        check(
            &attention_inputs(),
            |x| Ok(attention::blocks::forward(&x[0], &x[1], &x[2], &pattern)?.out),
            |grad, x| {
                let inputs = [x[0].clone(), x[1].clone(), x[2].clone()];
                let attended = attention::blocks::forward(&x[0], &x[1], &x[2], &pattern)?;
                Ok(attention::blocks::backward(grad, &inputs, &attended, &pattern)?.to_vec())
            },
        );
    }
}

/// Over many tiles and blocks, where finite differences would take too long, the two ways are compared.
#[test]
fn tiles_and_blocks_agree_on_long_runs() {
    for causal in [true, false] {
        let pattern = Pattern {
            heads: 3,
            key_value_heads: 1,
            causal,
            runs: vec![(0, 700), (710, 130)],
        };
        let inputs =
            [random(&[840, 24], 1), random(&[840, 8], 2), random(&[840, 8], 3)].map(|x| (x * 3.0).unwrap());
        let [q, k, v] = inputs.each_ref();
        let grad = random(&[840, 24], 4);
        let tiles = attention::forward(q, k, v, &pattern).unwrap();
        let blocks = attention::blocks::forward(q, k, v, &pattern).unwrap();
        let same = |a: &Tensor, b: &Tensor| assert!(relative_difference(a, &values(b)) < 1e-12);
        same(&tiles.out, &blocks.out);
        same(&tiles.log_sums, &blocks.log_sums);
        let from_tiles = attention::backward(&grad, [q, k, v], &tiles, &pattern).unwrap();
        let known = Attended { ..blocks };
        let from_blocks = attention::blocks::backward(&grad, &inputs, &known, &pattern).unwrap();
        from_tiles.iter().zip(&from_blocks).for_each(|(a, b)| same(a, b));
    }
}

#[test]
fn segments_attend_within_themselves() {
    let cpu = &Device::Cpu;
    let segments = Segments {
        gather: Tensor::new(&[[3i64, 0, 1], [2, 4, 2]], cpu).unwrap(),
        lengths: Tensor::new(&[3i32, 2], cpu).unwrap(),
        scatter: Tensor::new(&[1i64, 2, 3, 0, 4], cpu).unwrap(),
    };
    let pattern = segments::pattern(2, &segments).unwrap();
    let laid_out = |x: &[Tensor]| [0, 1, 2].map(|i| segments::lay_out(&x[i], &segments).unwrap());
    check(
        &[random(&[5, 4], 1), random(&[5, 4], 2), random(&[5, 4], 3)],
        |x| {
            let [q, k, v] = laid_out(x);
            segments::take_back(&attention::forward(&q, &k, &v, &pattern)?.out, &segments)
        },
        |grad, x| {
            let [q, k, v] = laid_out(x);
            let attended = attention::forward(&q, &k, &v, &pattern)?;
            let grad = segments::lay_out(grad, &segments)?;
            let grads = attention::backward(&grad, [&q, &k, &v], &attended, &pattern)?;
            grads
                .iter()
                .map(|grad| segments::take_back(grad, &segments))
                .collect()
        },
    );
}

#[test]
fn cross_entropies_in_chunks() {
    fn rows<'a>(x: &'a Tensor, targets: &'a [u32]) -> Supervised<'a> {
        Supervised { x, targets }
    }
    let targets: Vec<u32> = (0..150).map(|i| i * 7 % 11).collect();
    let weights: Vec<f64> = (0..150).map(|i| f64::from(i % 5) - 1.5).collect();
    let sum = |losses: Vec<f64>| {
        losses
            .iter()
            .zip(&weights)
            .map(|(loss, weight)| loss * weight)
            .sum::<f64>()
    };
    // One number, as a tensor that `check` can weigh.
    let weight = values(&random(&[1], 99))[0];
    check(
        &[random(&[150, 4], 1), random(&[11, 4], 2)],
        |x| {
            Tensor::new(
                &[sum(cross_entropy::losses(&rows(&x[0], &targets), &x[1])?)],
                &Device::Cpu,
            )
        },
        |_, x| {
            let head = Gradient::default();
            let rows = rows(&x[0], &targets);
            let (_, input) = cross_entropy::loss_and_gradient(&rows, &weights, &x[1], Some(&head))?;
            Ok(vec![(input * weight)?, (head.get().unwrap() * weight)?])
        },
    );
}

/// The composed formulas, which 16-bit types take on the host too, against the kernels in f64.
#[test]
fn composed_operations_agree_with_the_kernels() {
    let brief = |x: &Tensor| x.to_dtype(DType::BF16).unwrap();
    // Rounded first, so that both see the same numbers.
    let exact = |x: &Tensor| brief(x).to_dtype(DType::F64).unwrap();
    let pair = |shape: &[usize], seed| {
        let x = random(shape, seed);
        (brief(&x), exact(&x))
    };
    let close = |got: &Tensor, want: &Tensor| {
        let difference = relative_difference(got, &values(want));
        assert!(difference < 8e-3, "{difference}");
    };
    let (x, wide_x) = pair(&[6, 8], 1);
    let (w, wide_w) = pair(&[5, 8], 2);
    let (norm, wide_norm) = pair(&[8], 3);
    let (grad, wide_grad) = pair(&[6, 8], 4);
    let sums = [(); 4].map(|()| Gradient::default());
    close(
        &linear::forward(&x, &w, None).unwrap(),
        &linear::forward(&wide_x, &wide_w, None).unwrap(),
    );
    let (out_grad, wide_out_grad) = pair(&[6, 5], 5);
    close(
        &linear::input_gradient(&out_grad, &w).unwrap(),
        &linear::input_gradient(&wide_out_grad, &wide_w).unwrap(),
    );
    linear::add_weight_gradient(&out_grad, &x, &[5, 8], &sums[0]).unwrap();
    linear::add_weight_gradient(&wide_out_grad, &wide_x, &[5, 8], &sums[1]).unwrap();
    close(&sums[0].get().unwrap(), &sums[1].get().unwrap());
    close(
        &rms_norm::forward(&x, &norm, 1e-6).unwrap(),
        &rms_norm::forward(&wide_x, &wide_norm, 1e-6).unwrap(),
    );
    close(
        &rms_norm::backward(&grad, &x, &norm, 1e-6, Some(&sums[2])).unwrap(),
        &rms_norm::backward(&wide_grad, &wide_x, &wide_norm, 1e-6, Some(&sums[3])).unwrap(),
    );
    close(&sums[2].get().unwrap(), &sums[3].get().unwrap());
    close(
        &activation::silu_backward(&grad, &x).unwrap(),
        &activation::silu_backward(&wide_grad, &wide_x).unwrap(),
    );
    let angles = random(&[6, 2], 6);
    let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
    let turned = rotate(&wide_x, 2, &cos, &sin, Turn::Back).unwrap();
    let [cos, sin] = [cos, sin].map(|t| t.to_dtype(DType::F32).unwrap());
    close(&rotate(&x, 2, &cos, &sin, Turn::Back).unwrap(), &turned);
    let targets = [1, 4, 0, 2, 3, 3];
    let of = |x| Supervised { x, targets: &targets };
    let weights = [0.25, 0.5, 0.125, 0.25, 0.75, 0.25];
    let (loss, input) = cross_entropy::loss_and_gradient(&of(&x), &weights, &w, None).unwrap();
    let (wide_loss, wide_input) =
        cross_entropy::loss_and_gradient(&of(&wide_x), &weights, &wide_w, None).unwrap();
    assert!((loss - wide_loss).abs() < 2e-2 * wide_loss);
    close(&input, &wide_input);
}
