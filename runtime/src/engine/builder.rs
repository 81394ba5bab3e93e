use std::path::{Path, PathBuf};
use std::sync::Arc;

use lwv_model::contract;
use lwv_processor::Processor;

use crate::adapter::Adapter;
use crate::bundle::Bundle;
use crate::cancel::CancelToken;
use crate::engine::{Engine, LoadProgress, Loaded};
use crate::engine_cache::{DEFAULT_ENGINE_LIMIT, EngineCache};
use crate::engine_shelf::EngineShelf;
use crate::error::{Error, ErrorKind, Inner, Result};
use crate::estimate::{MemoryEstimate, check_memory};
use crate::graph::{Graph, GraphSettings, default_threads};
use crate::library;
use crate::ort_decoder::{Graphs, Limits};
use crate::provider::Device;
use crate::self_test::self_test;
use crate::thread_choice::{
    Circumstances, OtherWork, ThreadChoice, ThreadChoices, choose, processor, seconds_for_a_token,
};

/// Budget of the cache where none was declared: 4 GiB.
pub const DEFAULT_KV_BUDGET: u64 = 4 << 30;

/// Tokens in one run of prefill where nothing else was said.
pub const DEFAULT_PREFILL_CHUNK: usize = 512;

/// Fewest bytes of weights for which threads are measured: with fewer, a token takes less than a thread needs to wake up.
const MEASURABLE_BYTES: u64 = 32 << 20;

/// Tokens of a text, prompt included, that there must be memory for.
const USUAL_TOKENS: usize = 4096;

/// Loads a bundle. Made by [`Engine::builder`].
pub struct EngineBuilder {
    dir: PathBuf,
    adapter: Option<PathBuf>,
    device: Device,
    threads: Option<usize>,
    thread_choices: Option<ThreadChoices>,
    kv_budget: u64,
    prefill_chunk: usize,
    library: Option<PathBuf>,
    check_hashes: bool,
    dequantize_once: bool,
    library_kernels: bool,
    provider_memory: bool,
    engines: EngineCache,
    ignore_memory: bool,
    cancel: CancelToken,
    progress: Box<dyn FnMut(LoadProgress)>,
}

impl EngineBuilder {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            adapter: None,
            device: Device::Auto,
            threads: None,
            thread_choices: None,
            kv_budget: DEFAULT_KV_BUDGET,
            prefill_chunk: DEFAULT_PREFILL_CHUNK,
            library: None,
            check_hashes: false,
            dequantize_once: false,
            library_kernels: false,
            provider_memory: false,
            ignore_memory: false,
            engines: EngineCache::new(EngineCache::usual_folder(), DEFAULT_ENGINE_LIMIT),
            cancel: CancelToken::new(),
            progress: Box::new(|_| ()),
        }
    }

    /// File of the adapter to write with, as `lwv-export adapter` makes it; the bundle writes as it is if not set. See
    /// [`Engine::with_adapter`] too.
    pub fn adapter(mut self, file: impl Into<PathBuf>) -> Self {
        self.adapter = Some(file.into());
        self
    }

    /// Where the graphs run; [`Device::Auto`] if not set.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Threads to compute with; the number of cores if not set.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Finds out with how many threads a processor writes fastest when it loads the bundle for the first time, by some tokens with
    /// each number, and remembers that. The decoder is loaded a few times more for it. Nothing is measured where
    /// [`threads`](Self::threads) says how many, where there is one core, or where the weights are so small that it does not matter.
    pub fn choose_threads(mut self, choices: ThreadChoices) -> Self {
        self.thread_choices = Some(choices);
        self
    }

    /// Most bytes of cache for a session; [`DEFAULT_KV_BUDGET`] if not set. A session takes what its text needs, and
    /// refuses to begin a text that would need more.
    pub fn kv_budget(mut self, bytes: u64) -> Self {
        self.kv_budget = bytes;
        self
    }

    /// Most tokens in one run of prefill; [`DEFAULT_PREFILL_CHUNK`] if not set. More is a little faster and takes more
    /// memory.
    pub fn prefill_chunk(mut self, tokens: usize) -> Self {
        self.prefill_chunk = tokens;
        self
    }

    /// ONNX Runtime's shared library, or the folder that holds it; looked for if not set, see
    /// [`find_library`](crate::find_library).
    pub fn library(mut self, path: impl Into<PathBuf>) -> Self {
        self.library = Some(path.into());
        self
    }

    /// Compares every file with its hash in the manifest first.
    pub fn check_hashes(mut self) -> Self {
        self.check_hashes = true;
        self
    }

    /// Makes floats of integer weights when a graph is loaded instead of in every run, where the graph has operators for that:
    /// on CPUs, bundles for TensorRT are ten times as fast with it and take four times the memory or more.
    pub fn dequantize_once(mut self) -> Self {
        self.dequantize_once = true;
        self
    }

    /// Leaves attention over the cache and products with small integers to ONNX Runtime on processors too, to compare.
    pub fn library_kernels(mut self) -> Self {
        self.library_kernels = true;
        self
    }

    /// Lets ONNX Runtime allocate the cache on processors too, as it does on cards: what a card does with it can be tried
    /// without one.
    #[doc(hidden)]
    pub fn provider_memory(mut self) -> Self {
        self.provider_memory = true;
        self
    }

    /// Where engines are kept that TensorRT builds; in [`EngineCache::usual_folder`] if not set.
    pub fn engines(mut self, cache: EngineCache) -> Self {
        self.engines = cache;
        self
    }

    /// Loads the bundle even if it and a text of 4,096 tokens need more memory than there is.
    pub fn ignore_memory(mut self) -> Self {
        self.ignore_memory = true;
        self
    }

    /// Cancels loading: hashing, reading graphs, and the first run. Building an engine of TensorRT's comes to its end first.
    pub fn cancel(mut self, cancel: CancelToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Is told what loading is at.
    pub fn on_progress(mut self, progress: impl FnMut(LoadProgress) + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// Loads it.
    ///
    /// # Errors
    /// The bundle or the library is missing or not usable, the device cannot be had, a setting is out of its range, or
    /// loading was cancelled.
    pub fn build(mut self) -> Result<Engine> {
        let threads = self.threads.unwrap_or_else(default_threads);
        let bundle = Bundle::open(&self.dir)?;
        self.check_settings(threads)?;
        let adapter = self.adapter.as_deref().map(|file| Adapter::open(file, &bundle));
        let adapter = adapter.transpose()?.map(Arc::new);
        if self.check_hashes {
            let progress = |done, total| (self.progress)(LoadProgress::Hashing { done, total });
            bundle.verify_hashes_under(&self.cancel, progress)?;
        }
        let processor = Processor::from_dir(bundle.dir())?;
        let library = library::load(self.library.as_deref())?;
        let settings = GraphSettings {
            environment: library.environment,
            device: self.device,
            threads: ThreadChoice::spinning(threads),
            dequantize_once: self.dequantize_once,
            own_kernels: library.takes_operators && !self.library_kernels,
            engines: None,
            plugin: None,
            file: None,
            cancel: self.cancel.clone(),
        };
        let adapter_bytes = adapter.as_ref().map_or(0, |adapter| adapter.bytes());
        let graphs = Arc::new(self.load_graphs(&bundle, adapter_bytes, settings, &library.path)?);
        let limits = Limits {
            kv_budget: self.kv_budget,
            prefill_chunk: self.chunk(&bundle),
            context: bundle.manifest().context_length,
            provider_memory: self.provider_memory,
        };
        let inner = Arc::new(Loaded {
            bundle,
            processor,
            graphs,
            limits,
        });
        let engine = Engine { inner, adapter };
        engine.warm_up(&self.cancel)?;
        Ok(engine)
    }

    /// Whether a device has the memory and, if it is a card, computes right.
    fn check(
        &self,
        bundle: &Bundle,
        adapter_bytes: u64,
        settings: &GraphSettings,
        shelf: Option<&EngineShelf>,
    ) -> Result<()> {
        if !self.ignore_memory {
            let estimate = MemoryEstimate::of(bundle, USUAL_TOKENS, self.chunk(bundle));
            check_memory(bundle, settings.device, &estimate.with_adapter(adapter_bytes))?;
        }
        match shelf {
            Some(shelf) => shelf.self_test(settings),
            None if matches!(settings.device, Device::Cuda(_)) => self_test(settings),
            None => Ok(()),
        }
    }

    /// Most tokens in one run of prefill.
    fn chunk(&self, bundle: &Bundle) -> usize {
        self.prefill_chunk.min(bundle.longest_chunk())
    }

    fn check_settings(&self, threads: usize) -> Result<()> {
        if threads == 0 {
            return Err(Error::setting("threads", threads, "use at least 1"));
        }
        if self.prefill_chunk == 0 {
            return Err(Error::setting("prefill_chunk", 0, "use at least 1; 512 is usual"));
        }
        Ok(())
    }

    fn load_graphs(
        &mut self,
        bundle: &Bundle,
        adapter_bytes: u64,
        mut settings: GraphSettings,
        library: &Path,
    ) -> Result<Graphs> {
        let shelf = match self.device {
            device if device.runs_engines() => {
                Some(EngineShelf::of(device, bundle, library, self.engines.clone())?)
            }
            _ => None,
        };
        let (asked, count) = (settings.device, bundle.graphs().len());
        let candidates = match asked {
            Device::Auto => vec![Device::Cuda(0), Device::Cpu],
            named => vec![named],
        };
        let mut index = 0;
        let mut load = |this: &mut Self, graph, settings: &GraphSettings| {
            (this.progress)(LoadProgress::Loading {
                graph: str::to_owned(graph),
                index,
                count,
            });
            this.cancel.check()?;
            index += 1;
            match &shelf {
                Some(shelf) => shelf.load(bundle, graph, settings, &mut |reason| {
                    let graph = graph.to_owned();
                    (this.progress)(LoadProgress::Building { graph, reason });
                }),
                None => Graph::load(bundle, graph, settings),
            }
        };
        let mut decoder = Err(Inner::Cancelled.into());
        for device in candidates {
            settings.device = device;
            decoder = match self.check(bundle, adapter_bytes, &settings, shelf.as_ref()) {
                Ok(()) => {
                    settings.threads = self.chosen_threads(bundle, &settings)?;
                    load(self, contract::DECODER, &settings)
                }
                Err(unusable) => Err(unusable),
            };
            let unusable = [ErrorKind::Provider, ErrorKind::Memory];
            let go_on = matches!(&decoder, Err(e) if unusable.contains(&e.kind()));
            if !go_on {
                break;
            }
        }
        Ok(Graphs {
            decoder: decoder?,
            embed_tokens: load(self, contract::EMBED_TOKENS, &settings)?,
            vision_encoder: match bundle.config().vision {
                Some(_) => Some(load(self, contract::VISION_ENCODER, &settings)?),
                None => None,
            },
            device: settings.device,
            threads: settings.threads.threads,
        })
    }

    /// The threads to load `bundle` with: those of `settings`, or those that were found to be faster.
    fn chosen_threads(&mut self, bundle: &Bundle, settings: &GraphSettings) -> Result<ThreadChoice> {
        let usual = settings.threads;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let weights = MemoryEstimate::of(bundle, 1, 1).weights;
        let choices = self.thread_choices.clone().filter(|_| {
            let free = self.threads.is_none() && settings.device == Device::Cpu;
            free && cores > 1 && weights >= MEASURABLE_BYTES
        });
        let Some(choices) = choices else {
            return Ok(usual);
        };
        let circumstances = Circumstances {
            bundle: bundle.id(),
            onnxruntime: ort::info().to_owned(),
            processor: processor(),
            cores,
            own_kernels: settings.own_kernels,
        };
        if let Some(choice) = choices.recall(&circumstances) {
            return Ok(choice);
        }
        let others = OtherWork::watch();
        let choice = choose(cores, usual.threads, |choice, which| {
            self.measure(bundle, settings, choice, which)
        })?;
        if !choices.believe(&others, cores) {
            return Ok(usual);
        }
        choices.remember(circumstances, choice);
        Ok(choice)
    }

    /// Seconds for a token with the threads of `choice`; the measurement is number `index` of `count`.
    fn measure(
        &mut self,
        bundle: &Bundle,
        settings: &GraphSettings,
        choice: ThreadChoice,
        [index, count]: [usize; 2],
    ) -> Result<f64> {
        (self.progress)(LoadProgress::Measuring {
            threads: choice.threads,
            index,
            count,
        });
        self.cancel.check()?;
        let settings = GraphSettings {
            threads: choice,
            ..settings.clone()
        };
        seconds_for_a_token(bundle, &settings)
    }
}
