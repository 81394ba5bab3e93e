use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;

use crate::error::{Error, Result};
use crate::graph::GraphSettings;
use crate::provider::{Assignment, Device};

/// A graph of the kinds of operators that decoders are made of, from `scripts/reference/probe.py`.
const PROBE: &[u8] = include_bytes!("../assets/probe.onnx");

/// Shape of what it reads and makes.
const SHAPE: [usize; 2] = [16, 64];

/// Largest difference that sums in another order explain; what it makes are shares of 1 among 64.
const TOLERANCE: f32 = 2e-3;

/// Computes a small graph on the device of `settings` and on the processor: libraries exist without kernels for a card, and some
/// fail only when they run, or compute nonsense.
///
/// # Errors
/// The device cannot compute it, or makes something else of it.
pub(crate) fn self_test(settings: &GraphSettings) -> Result<()> {
    let device = settings.device;
    let failed = |reason: String| Error::provider(&device.to_string(), reason);
    let expected = run(settings, Device::Cpu)?;
    let found = run(settings, device).map_err(|e| failed(format!("it cannot compute: {e}")))?;
    compare(&expected, &found).map_err(failed)
}

fn run(settings: &GraphSettings, device: Device) -> Result<Vec<f32>> {
    let builder = Session::builder(&settings.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(1)?;
    let assignment = Assignment {
        profiles: None,
        engines: settings.engines.as_deref(),
        plugin: settings.plugin.as_deref(),
        environment: &settings.environment,
    };
    let mut session = device.register(builder, &assignment)?.commit_from_memory(PROBE)?;
    let x: Vec<f32> = (0..SHAPE.iter().product())
        .map(|place: usize| (place as f32).cos())
        .collect();
    let outputs = session.run(ort::inputs!["x" => TensorRef::from_array_view((SHAPE, &*x))?])?;
    let (_, y) = outputs["y"].try_extract_tensor::<f32>()?;
    Ok(y.to_vec())
}

/// What is wrong with `found`, in words.
fn compare(expected: &[f32], found: &[f32]) -> std::result::Result<(), String> {
    let differences = expected.iter().zip(found).map(|(a, b)| (a - b).abs());
    // What is no number is as wrong as can be.
    let largest = differences.fold(0.0, |most: f32, difference| {
        if difference > most || difference.is_nan() {
            difference
        } else {
            most
        }
    });
    if largest <= TOLERANCE {
        return Ok(());
    }
    Err(format!(
        "it computes wrong: a number of a small graph is off by {largest}; is ONNX Runtime built for this card?"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_pass_and_nonsense_does_not() {
        assert!(compare(&[0.5, 0.25], &[0.5005, 0.25]).is_ok());
        assert!(compare(&[0.5, 0.25], &[0.5, 0.0]).unwrap_err().contains("0.25"));
        assert!(compare(&[0.5, 0.25], &[f32::NAN, 0.25]).is_err());
    }

    #[test]
    #[ignore = "needs ONNX Runtime; scripts/check fetches it and runs this"]
    fn the_processor_agrees_with_itself() {
        let settings = GraphSettings::plain(Device::Cpu);
        self_test(&settings).unwrap();
        let shares: f32 = run(&settings, Device::Cpu).unwrap()[..64].iter().sum();
        assert!((shares - 1.0).abs() < 1e-4, "{shares}");
        let error = self_test(&GraphSettings {
            device: Device::Cuda(0),
            ..settings
        })
        .unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Provider);
    }
}
