use std::path::{Path, PathBuf};

use clap::Args;
use lwv_runtime::{CancelToken, Device, Engine, EngineCache, LoadProgress, ThreadChoices};
use serde::Serialize;

/// How a bundle is loaded, and on what it computes.
#[derive(Debug, Clone, Args, Serialize)]
pub struct EngineOptions {
    /// Write with the adapter in this file, as lwv-export adapter makes it; the bundle must have been exported with
    /// --runtime-adapters.
    #[arg(long, value_name = "FILE")]
    pub adapter: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda, cuda:1, tensorrt or tensorrt-rtx. Only auto falls back, and says so.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    #[serde(serialize_with = "as_text")]
    pub device: Device,
    /// Threads to compute with; by default as many as were fastest in a short measurement when the bundle was first loaded here.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Most memory for the cache, in MiB.
    #[arg(long, value_name = "N", default_value_t = lwv_runtime::DEFAULT_KV_BUDGET >> 20)]
    pub kv_budget_mib: u64,
    /// Prompt tokens that are computed at once.
    #[arg(long, value_name = "N", default_value_t = lwv_runtime::DEFAULT_PREFILL_CHUNK)]
    pub prefill_chunk: usize,
    /// Where engines are kept that TensorRT builds; by default in the user's cache.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub engines: Option<PathBuf>,
    /// Most gigabytes that all engines together may take; those not used for longest go first.
    #[arg(long, value_name = "N", default_value_t = lwv_runtime::DEFAULT_ENGINE_LIMIT >> 30)]
    #[serde(skip)]
    pub engines_limit: u64,
    /// Load the bundle even if there is too little memory for it.
    #[arg(long)]
    #[serde(skip)]
    pub ignore_memory: bool,

    /// Leave attention over the cache and products with small integers to ONNX Runtime on processors too, to compare.
    #[arg(long)]
    pub library_kernels: bool,
    /// ONNX Runtime's shared library; by default it is looked for.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Compare every file of the bundle with its hash first.
    #[arg(long)]
    pub check_hashes: bool,
}

impl EngineOptions {
    /// Where engines are kept.
    pub fn engine_cache(&self) -> EngineCache {
        let folder = self.engines.clone().unwrap_or_else(EngineCache::usual_folder);
        EngineCache::new(folder, self.engines_limit << 30)
    }

    /// Loads `bundle`. `progress` is told what loading is at.
    ///
    /// # Errors
    /// As for [`EngineBuilder::build`](lwv_runtime::EngineBuilder::build).
    pub fn load(
        &self,
        bundle: &Path,
        cancel: &CancelToken,
        progress: impl FnMut(LoadProgress) + 'static,
    ) -> lwv_runtime::Result<Engine> {
        let mut builder = Engine::builder(bundle)
            .device(self.device)
            .kv_budget(self.kv_budget_mib << 20)
            .prefill_chunk(self.prefill_chunk)
            .engines(self.engine_cache())
            .cancel(cancel.clone())
            .on_progress(progress);
        builder = match self.threads {
            Some(threads) => builder.threads(threads as usize),
            None => builder.choose_threads(ThreadChoices::new(ThreadChoices::usual_folder())),
        };
        if let Some(adapter) = &self.adapter {
            builder = builder.adapter(adapter);
        }
        if let Some(library) = &self.onnxruntime {
            builder = builder.library(library);
        }
        if self.ignore_memory {
            builder = builder.ignore_memory();
        }
        if self.library_kernels {
            builder = builder.library_kernels();
        }
        if self.check_hashes {
            builder = builder.check_hashes();
        }
        builder.build()
    }
}

fn as_text<S: serde::Serializer>(device: &Device, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(device)
}
