use clap::{Args, ValueEnum};
use lwv_model::Target;

/// Where the bundle will run.
#[derive(Args)]
pub(crate) struct TargetOption {
    /// What the graphs are lowered for
    #[arg(long, value_enum, default_value = "ort")]
    target: Choice,
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
}
