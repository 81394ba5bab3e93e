use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FinetuningType {
    /// All weights that are not frozen.
    #[default]
    Full,
    /// Low-rank updates of linear layers.
    Lora,
}

/// When checkpoints are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SaveStrategy {
    /// Every `save-steps` steps, and at the end.
    #[default]
    Steps,
    /// After every epoch.
    Epoch,
    /// At the end only.
    No,
}

/// Type of the weights in a checkpoint that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SaveType {
    /// As each weight is stored in the checkpoint that training started from.
    #[default]
    Auto,
    /// 32-bit float.
    F32,
    /// 16-bit brain float.
    Bf16,
    /// 16-bit float.
    F16,
}

/// Type in which activations are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ComputeType {
    /// bf16 on CUDA, f32 on the CPU.
    #[default]
    Auto,
    /// 32-bit float.
    F32,
    /// 16-bit brain float.
    Bf16,
}

/// Where training runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceType {
    /// CUDA where there is a device, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

/// Where the optimizer's state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerOffload {
    /// On disk where memory is too small.
    #[default]
    Auto,
    /// In memory.
    None,
    /// On disk.
    Disk,
}

/// What a training learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Conversations: supervised fine-tuning.
    Sft,
    /// Pairs of answers: IterDPO.
    IterDpo,
}

/// A trainer that a recipe can be written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum EmitEngine {
    /// LLaMA-Factory.
    LlamaFactory,
}
