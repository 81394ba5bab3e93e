mod builder;
mod load_progress;

use std::path::Path;
use std::sync::Arc;

use lwv_processor::{PositionBuilder, Processor};

use crate::adapter::Adapter;
use crate::bundle::Bundle;
use crate::cancel::CancelToken;
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::estimate::MemoryEstimate;
use crate::ort_decoder::{Graphs, Limits, OrtDecoder};
use crate::provider::Device;
use crate::session::{Session, SessionContext};

pub use builder::{DEFAULT_KV_BUDGET, DEFAULT_PREFILL_CHUNK, EngineBuilder};
pub use load_progress::LoadProgress;

/// A loaded bundle. A clone is another handle of the same; both can be used from any thread. Its graphs compute for one
/// session at a time: sessions on several threads take turns, token by token.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Loaded>,
    adapter: Option<Arc<Adapter>>,
}

struct Loaded {
    bundle: Bundle,
    processor: Processor,
    graphs: Arc<Graphs>,
    limits: Limits,
}

impl Engine {
    /// Begins to load the bundle in the folder `dir`.
    ///
    /// ```no_run
    /// use lwv_runtime::{Device, Engine, GenerationSettings};
    /// let engine = Engine::builder("bundle").device(Device::Cpu).build()?;
    /// let mut session = engine.session()?;
    /// session.extend(engine.processor().raw_prompt("Once upon a time", &[])?)?;
    /// let output = session.generate(GenerationSettings::default())?.complete()?;
    /// println!("{}", output.text);
    /// # Ok::<(), lwv_runtime::Error>(())
    /// ```
    pub fn builder(dir: impl AsRef<Path>) -> EngineBuilder {
        EngineBuilder::new(dir.as_ref())
    }

    /// Loads another bundle in this one's place. This one's memory is freed first, so that both need no more together than the
    /// larger of them; drafts and manuscripts are plain data and stay. The handle is gone in any case: where the other bundle
    /// cannot be loaded, load this one again.
    ///
    /// ```no_run
    /// use lwv_runtime::Engine;
    /// let engine = Engine::builder("small").build()?;
    /// let engine = engine.swap(Engine::builder("large"))?;
    /// # Ok::<(), lwv_runtime::Error>(())
    /// ```
    ///
    /// # Errors
    /// A session, a writer or another handle of this engine still holds its memory; or as for [`EngineBuilder::build`].
    pub fn swap(self, other: EngineBuilder) -> Result<Self> {
        let in_use = || {
            let reason = "drop its sessions, writers and other handles first: they hold its memory";
            Error::setting("swap", "an engine that is in use", reason)
        };
        let loaded = Arc::try_unwrap(self.inner).map_err(|_| in_use())?;
        // Sessions hold the graphs alone.
        drop(Arc::try_unwrap(loaded.graphs).map_err(|_| in_use())?);
        other.build()
    }

    /// Another handle of this engine, whose sessions write with the adapter in `file`, as `lwv-export adapter` makes it. The graphs are
    /// in memory once; sessions that are there already keep what they write with.
    ///
    /// ```no_run
    /// use lwv_runtime::Engine;
    /// let plain = Engine::builder("bundle").build()?;
    /// let formal = plain.with_adapter("bundle/adapters/formal.onnx_adapter")?;
    /// let (mut as_it_is, mut formally) = (plain.session()?, formal.session()?);
    /// # Ok::<(), lwv_runtime::Error>(())
    /// ```
    ///
    /// # Errors
    /// The bundle takes no adapters; the file is missing, damaged, or for another bundle.
    pub fn with_adapter(&self, file: impl AsRef<Path>) -> Result<Self> {
        let adapter = Adapter::open(file.as_ref(), self.bundle())?;
        Ok(Self {
            inner: Arc::clone(&self.inner),
            adapter: Some(Arc::new(adapter)),
        })
    }

    /// Another handle of this engine, whose sessions write without an adapter.
    pub fn without_adapter(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            adapter: None,
        }
    }

    /// A new, empty text.
    ///
    /// # Errors
    /// ONNX Runtime cannot bind the graphs' inputs.
    pub fn session(&self) -> Result<Session> {
        let Loaded {
            bundle, processor, ..
        } = &*self.inner;
        let decoder = self.decoder()?;
        let config = bundle.config();
        let merge = config.vision.as_ref().map_or(1, lwv_model::Vision::merge_size);
        let positions = PositionBuilder::of(config);
        let context = SessionContext {
            tokenizer: processor.tokenizer().clone(),
            positions,
            eos_token_ids: config.eos_token_ids.clone(),
            image_token_id: config.image_token_id,
            spatial_merge_size: merge,
            provider: self.provider().to_owned(),
        };
        Ok(Session::new(decoder, context))
    }

    /// Runs one token that nobody sees. Threads, buffers and kernels are set up in the first run, which would count as
    /// prefill otherwise; and a device that cannot compute says so while loading.
    fn warm_up(&self, cancel: &CancelToken) -> Result<()> {
        let mut decoder = self.decoder()?;
        decoder.reserve(1)?;
        cancel.watching(&decoder.interrupt_handle(), || {
            decoder.step(0, &vec![0; self.inner.bundle.config().position_axes()])
        })
    }

    /// The bare model of a new, empty text, for who wants scores rather than a text.
    ///
    /// # Errors
    /// ONNX Runtime cannot bind the graphs' inputs.
    pub fn decoder(&self) -> Result<Box<dyn Decoder>> {
        let Loaded {
            bundle,
            graphs,
            limits,
            ..
        } = &*self.inner;
        let adapter = self.adapter.as_deref();
        Ok(Box::new(OrtDecoder::new(
            Arc::clone(graphs),
            bundle,
            adapter,
            *limits,
        )?))
    }

    /// Makes prompts for the bundle's model.
    pub fn processor(&self) -> &Processor {
        &self.inner.processor
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.inner.bundle
    }

    /// By what texts are told apart: the [id](Bundle::id) of the bundle, and where there is an adapter `+` and the hash of its file.
    pub fn id(&self) -> String {
        let bundle = self.bundle().id();
        match &self.adapter {
            Some(adapter) => format!("{bundle}+{}", adapter.sha256()),
            None => bundle,
        }
    }

    /// Where the graphs run; never [`Device::Auto`].
    pub fn device(&self) -> Device {
        self.inner.graphs.device
    }

    /// The execution provider, as ONNX Runtime names it.
    pub fn provider(&self) -> &'static str {
        self.device().provider_name()
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.inner.graphs.threads
    }

    /// Longest text in tokens.
    pub fn context_length(&self) -> usize {
        self.inner.limits.context
    }

    /// What a text of `tokens` tokens, prompt included, will take.
    pub fn estimate(&self, tokens: usize) -> MemoryEstimate {
        let Loaded { bundle, limits, .. } = &*self.inner;
        let adapter = self.adapter.as_ref().map_or(0, |adapter| adapter.bytes());
        MemoryEstimate::of(bundle, tokens, limits.prefill_chunk).with_adapter(adapter)
    }
}
