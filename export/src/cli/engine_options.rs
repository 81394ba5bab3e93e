use std::path::PathBuf;

use clap::Args;
use lwv_export::{EngineRequest, Error};
use lwv_model::Target;

/// Engines that are built with the bundle.
#[derive(Args)]
pub(crate) struct EngineOptions {
    /// With --target tensorrt: build engines of TensorRT for RTX for these cards, such as `rtx:sm89,sm120`; no card is needed
    #[arg(long, value_name = "rtx:CARDS")]
    engine: Option<String>,
    /// Python that has TensorRT for RTX
    #[arg(long, value_name = "FILE", default_value = "python3", requires = "engine")]
    python: PathBuf,
}

impl EngineOptions {
    /// What they ask for.
    ///
    /// # Errors
    /// Cards that are none, or a target that has no engines.
    pub(crate) fn resolve(&self, target: Target) -> Result<Option<EngineRequest>, Error> {
        let Some(engine) = &self.engine else {
            return Ok(None);
        };
        if target != Target::TensorRt {
            return Err(Error::Setting(
                "--engine",
                "it goes with --target tensorrt".to_owned(),
            ));
        }
        EngineRequest::parse(engine, &self.python).map(Some)
    }
}
