use std::fmt;
use std::str::FromStr;

use ort::session::builder::SessionBuilder;

use crate::error::{Error, Inner, Result};

/// Where the graphs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Device {
    /// The first CUDA card if this build, the library and the machine can use one, else the processor.
    /// [`Engine::provider`](crate::Engine::provider) says which it was.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// The CUDA card of this number.
    Cuda(u32),
    /// TensorRT on the first card. The bundle should be for target `tensorrt`.
    TensorRt,
    /// TensorRT for RTX on the first card. The bundle should be for target `tensorrt`.
    TensorRtRtx,
}

impl Device {
    /// The name of the execution provider, as ONNX Runtime has it.
    pub(crate) fn provider_name(self) -> &'static str {
        match self {
            Self::Auto | Self::Cpu => "CPUExecutionProvider",
            Self::Cuda(_) => "CUDAExecutionProvider",
            Self::TensorRt => "TensorrtExecutionProvider",
            Self::TensorRtRtx => "NvTensorRTRTXExecutionProvider",
        }
    }

    /// Registers the device's provider; a provider that cannot be had is an error, not a fall back.
    pub(crate) fn register(self, builder: SessionBuilder) -> Result<SessionBuilder> {
        match self {
            Self::Auto | Self::Cpu => Ok(builder),
            Self::Cuda(index) => self.register_cuda(builder, index),
            Self::TensorRt | Self::TensorRtRtx => self.register_tensorrt(builder),
        }
    }

    #[cfg(feature = "cuda")]
    fn register_cuda(self, builder: SessionBuilder, index: u32) -> Result<SessionBuilder> {
        let index = i32::try_from(index).map_err(|_| self.failed("there is no such card"))?;
        let cuda = ort::ep::CUDA::default()
            .with_device_id(index)
            .build()
            .error_on_failure();
        builder
            .with_execution_providers([cuda])
            .map_err(|e| self.failed(e.message()))
    }

    #[cfg(not(feature = "cuda"))]
    fn register_cuda(self, _: SessionBuilder, _: u32) -> Result<SessionBuilder> {
        Err(self.not_built("cuda"))
    }

    #[cfg(feature = "tensorrt")]
    fn register_tensorrt(self, builder: SessionBuilder) -> Result<SessionBuilder> {
        let provider = match self {
            Self::TensorRtRtx => ort::ep::NVRTX::default().build(),
            _ => ort::ep::TensorRT::default().build(),
        };
        builder
            .with_execution_providers([provider.error_on_failure()])
            .map_err(|e| self.failed(e.message()))
    }

    #[cfg(not(feature = "tensorrt"))]
    fn register_tensorrt(self, _: SessionBuilder) -> Result<SessionBuilder> {
        Err(self.not_built("tensorrt"))
    }

    #[cfg(feature = "cuda")]
    fn failed(self, reason: impl Into<String>) -> Error {
        Inner::Provider {
            device: self.to_string(),
            reason: reason.into(),
        }
        .into()
    }

    #[cfg(not(all(feature = "cuda", feature = "tensorrt")))]
    fn not_built(self, feature: &str) -> Error {
        let reason = format!("this build has no {feature} support; build with `--features {feature}`");
        Inner::Provider {
            device: self.to_string(),
            reason,
        }
        .into()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::TensorRt => f.write_str("tensorrt"),
            Self::TensorRtRtx => f.write_str("tensorrt-rtx"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// Reads `auto`, `cpu`, `cuda`, `cuda:1`, `tensorrt` or `tensorrt-rtx`.
    ///
    /// ```
    /// use lwv_runtime::Device;
    /// assert_eq!("cuda:1".parse::<Device>().unwrap(), Device::Cuda(1));
    /// assert!("gpu".parse::<Device>().is_err());
    /// ```
    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':').unwrap_or((text, "0")) {
            ("auto", "0") => Ok(Self::Auto),
            ("cpu", "0") => Ok(Self::Cpu),
            ("cuda", index) if index.parse::<u32>().is_ok() => {
                Ok(Self::Cuda(index.parse().unwrap_or_default()))
            }
            ("tensorrt", "0") => Ok(Self::TensorRt),
            ("tensorrt-rtx", "0") => Ok(Self::TensorRtRtx),
            _ => Err(Error::setting(
                "device",
                text,
                "use `auto`, `cpu`, `cuda`, `cuda:1`, `tensorrt` or `tensorrt-rtx`",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for name in ["auto", "cpu", "cuda", "cuda:3", "tensorrt", "tensorrt-rtx"] {
            assert_eq!(name.parse::<Device>().unwrap().to_string(), name);
        }
        assert!(
            "cuda:x"
                .parse::<Device>()
                .unwrap_err()
                .to_string()
                .contains("`cuda:x`")
        );
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_the_feature_says_so() {
        let error = Device::Cuda(0).not_built("cuda");
        assert_eq!(error.kind(), crate::ErrorKind::Provider);
        assert!(error.to_string().contains("--features cuda"), "{error}");
    }
}
