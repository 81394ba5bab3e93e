use std::path::PathBuf;

use clap::Args;
#[cfg(feature = "verify")]
use lwv_model::Precision;

/// Whether and how a bundle is compared with its checkpoint.
#[derive(Args)]
pub(crate) struct CheckOptions {
    /// Compare the bundle with the checkpoint and write `parity.json` into it; always done for integers
    #[arg(long)]
    pub(crate) verify: bool,
    /// Leave the comparison out
    #[arg(long, conflicts_with = "verify")]
    no_verify: bool,
    /// Keep a bundle that differs from the checkpoint by more than its precision explains
    #[arg(long)]
    pub(crate) force: bool,
    /// Text to compare on, nothing of which was calibrated on; ours where none is given
    #[arg(long, value_name = "FILE")]
    pub(crate) held_out: Option<PathBuf>,
    /// For the comparison: the ONNX Runtime library, if not found by itself
    #[arg(long, value_name = "FILE")]
    pub(crate) onnxruntime: Option<PathBuf>,
}

impl CheckOptions {
    /// Looks for ONNX Runtime before anything long is begun, where it will be needed.
    ///
    /// # Errors
    /// It is not found.
    #[cfg(feature = "verify")]
    pub(crate) fn find_library(&self, precision: Precision) -> anyhow::Result<()> {
        if self.wants(precision) {
            lwv_runtime::find_library(self.onnxruntime.as_deref())?;
        }
        Ok(())
    }

    #[cfg(not(feature = "verify"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "as the build that compares"
    )]
    pub(crate) fn find_library(&self, _: lwv_model::Precision) -> anyhow::Result<()> {
        Ok(())
    }

    /// Whether a bundle of `precision` is compared: where it is asked for, and unasked where integers may lose much.
    #[cfg(feature = "verify")]
    pub(crate) fn wants(&self, precision: Precision) -> bool {
        self.verify || !self.no_verify && super::is_integer(precision)
    }
}
