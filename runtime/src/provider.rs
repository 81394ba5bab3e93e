mod cuda;
mod tensorrt;
pub(crate) mod tensorrt_rtx;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use lwv_model::Profile;
use ort::environment::Environment;
use ort::session::builder::SessionBuilder;

use crate::error::{Error, Result};
pub use tensorrt_rtx::PLUGIN_VARIABLE;

/// What a provider is told about the graph that it will run.
pub(crate) struct Assignment<'a> {
    /// Sizes of inputs that engines are built for, where there are any.
    pub(crate) profiles: Option<&'a BTreeMap<String, Profile>>,
    /// Folder of the graph's engine.
    pub(crate) engines: Option<&'a Path>,
    /// A provider's library that is loaded by itself.
    pub(crate) plugin: Option<&'a Path>,
    pub(crate) environment: &'a Environment,
}

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

    /// Whether it runs engines, which are built for bundles of target `tensorrt`.
    pub(crate) fn runs_engines(self) -> bool {
        matches!(self, Self::TensorRt | Self::TensorRtRtx)
    }

    /// Registers the device's provider; a provider that cannot be had is an error, not a fall back.
    pub(crate) fn register(
        self,
        builder: SessionBuilder,
        assignment: &Assignment<'_>,
    ) -> Result<SessionBuilder> {
        match self {
            Self::Auto | Self::Cpu => Ok(builder),
            Self::Cuda(index) => cuda::register(self, builder, index),
            Self::TensorRt => tensorrt::register(self, builder, assignment),
            Self::TensorRtRtx => tensorrt_rtx::register(self, builder, assignment),
        }
    }

    fn failed(self, reason: impl Into<String>) -> Error {
        Error::provider(&self.to_string(), reason)
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
}
