use clap::{Args, ValueEnum};
use lwv_model::{Target, TensorRtVersion};

/// Where the bundle will run.
#[derive(Args)]
pub(crate) struct TargetOption {
    /// What the graphs are lowered for
    #[arg(long, value_enum, default_value = "ort")]
    target: Choice,
    /// With --target tensorrt: the oldest version that must take the graphs. From 10.14 on attention is one operator, from 10.15
    /// on norms and rotation are too [default: 10.3]
    #[arg(long, value_name = "MAJOR.MINOR")]
    tensorrt_version: Option<TensorRtVersion>,
    /// With --target ort: let the decoder read adapters when it runs, which `lwv-export adapter` makes of a LoRA; costs some time
    /// without one too
    #[arg(long)]
    runtime_adapters: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    /// ONNX Runtime on CPU or CUDA
    Ort,
    /// Portable ONNX for the TensorRT providers
    #[value(name = "tensorrt")]
    TensorRt,
}

impl TargetOption {
    /// The target.
    pub(crate) fn resolve(&self) -> Target {
        match self.target {
            Choice::Ort => Target::Ort,
            Choice::TensorRt => Target::TensorRt,
        }
    }

    /// Whether the decoder reads adapters when it runs.
    pub(crate) fn runtime_adapters(&self) -> bool {
        self.runtime_adapters
    }

    /// The version for target `tensorrt`; for the other what was said, which the exporter refuses.
    pub(crate) fn tensorrt_version(&self) -> Option<TensorRtVersion> {
        match self.target {
            Choice::Ort => self.tensorrt_version,
            Choice::TensorRt => Some(self.tensorrt_version.unwrap_or_default()),
        }
    }
}
