use std::any::Any;
use std::panic;

use candle_core::{DType, Device, Tensor};

use crate::Error;

/// The compute capability that candle's kernels were built for, where the build said so.
const CAPABILITY: Option<&str> = option_env!("CUDA_COMPUTE_CAP");

/// Opens `cpu`, `cuda` or `cuda:N`, and computes something on a card: what is missing shows here, not in the middle of
/// the work.
///
/// # Errors
/// An unknown name, a program built without CUDA, a driver, a library or a card that is not there, or a card that this
/// program's kernels are not for.
pub fn open_device(name: &str) -> Result<Device, Error> {
    let error = |message: String| Error::Device {
        device: name.to_owned(),
        message,
    };
    let ordinal = match name.split_once(':') {
        None if name == "cpu" => return Ok(Device::Cpu),
        None if name == "cuda" => Some(0),
        Some(("cuda", ordinal)) => ordinal.parse().ok(),
        _ => None,
    };
    let ordinal =
        ordinal.ok_or_else(|| error("no such device; there are `cpu`, `cuda` and `cuda:N`".to_owned()))?;
    if !candle_core::utils::cuda_is_available() {
        let message = "this program was built without CUDA; `scripts/gpu/build` builds one with it";
        return Err(error(message.to_owned()));
    }
    let device = open_card(ordinal).map_err(error)?;
    compute(&device).map_err(|cause| {
        let capability = CAPABILITY.unwrap_or("unknown");
        error(format!(
            "kernels for compute capability {capability} do not run here: {cause}"
        ))
    })?;
    Ok(device)
}

/// Opens a card. A library that is missing is a panic in cudarc, and becomes a message.
fn open_card(ordinal: usize) -> Result<Device, String> {
    // What other threads would print meanwhile is lost: little, and once in a program.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let opened = panic::catch_unwind(|| Device::new_cuda(ordinal));
    panic::set_hook(hook);
    match opened {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(cause)) => Err(cause.to_string()),
        Err(payload) => Err(missing_library(payload.as_ref())),
    }
}

/// What a panic of cudarc, `Unable to dynamically load the "cuda" shared library - searched …`, says is missing.
fn missing_library(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map_or("", String::as_str);
    match text.split('"').nth(1) {
        Some("cuda") => {
            "there is no NVIDIA driver: `libcuda.so.1` is not found; install the driver, 580 or later"
                .to_owned()
        }
        Some(library) => format!(
            "`lib{library}.so` is not found; add its folder to `LD_LIBRARY_PATH` (`scripts/gpu/libraries` prints one)"
        ),
        None => format!("cudarc gave up: {text}"),
    }
}

/// One kernel of candle's in f32 and one in bf16, with their results.
fn compute(device: &Device) -> Result<(), candle_core::Error> {
    for dtype in [DType::F32, DType::BF16] {
        let two = Tensor::ones(1, dtype, device)?.affine(1.0, 1.0)?;
        let value = two.to_dtype(DType::F32)?.to_vec1::<f32>()?[0];
        if value != 2.0 {
            candle_core::bail!("1 + 1 is {value} in {dtype:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_always_there() {
        assert!(open_device("cpu").unwrap().is_cpu());
        compute(&Device::Cpu).unwrap();
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["gpu", "cuda:", "cuda:x", "cpu:0", ""] {
            let message = open_device(name).unwrap_err().to_string();
            assert!(
                message.contains(&format!("`{name}`: no such device")),
                "{message}"
            );
        }
    }

    #[test]
    fn what_is_missing_has_a_name() {
        let text = |library| {
            Box::new(format!(
                "Unable to dynamically load the \"{library}\" shared library - searched for library names: [\"x\"]."
            )) as Box<dyn Any + Send>
        };
        assert!(missing_library(text("cuda").as_ref()).contains("no NVIDIA driver"));
        assert!(missing_library(text("cublas").as_ref()).starts_with("`libcublas.so` is not found"));
    }

    /// Without a card this must be an error, whether the program has CUDA or not; with LWV_TEST_DEVICE=cuda it must work.
    #[test]
    fn a_card_opens_or_says_why_not() {
        match open_device("cuda") {
            Ok(device) => assert!(device.is_cuda()),
            Err(error) => {
                assert_ne!(std::env::var("LWV_TEST_DEVICE").as_deref(), Ok("cuda"), "{error}");
                assert!(error.to_string().starts_with("device `cuda`: "), "{error}");
            }
        }
    }
}
