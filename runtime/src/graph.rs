use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lwv_model::{Dimension, ElementType, GraphContract, TensorContract};
use ort::environment::Environment;
use ort::operator::OperatorDomain;
use ort::session::builder::{GraphOptimizationLevel, LoadCanceler};
use ort::session::{RunOptions, Session};
use ort::value::{Outlet, TensorElementType, ValueType};

use crate::arena;
use crate::bundle::{Bundle, compare_contracts};
use crate::cancel::{CancelToken, Interrupt};
use crate::error::{Error, Inner, Result};
use crate::operators;
use crate::provider::{Assignment, Device};
use crate::thread_choice::ThreadChoice;

/// How graphs are loaded.
#[derive(Clone)]
pub(crate) struct GraphSettings {
    pub(crate) environment: Environment,
    pub(crate) device: Device,
    pub(crate) threads: ThreadChoice,
    /// Whether integer weights become floats at load.
    pub(crate) dequantize_once: bool,
    /// Whether attention and products are computed by our own kernels, where those are faster.
    pub(crate) own_kernels: bool,
    /// Folder of the graph's engine.
    pub(crate) engines: Option<PathBuf>,
    /// A provider's library that is loaded by itself.
    pub(crate) plugin: Option<PathBuf>,
    /// A graph that stands for the bundle's own.
    pub(crate) file: Option<PathBuf>,
    /// Cancels loading.
    pub(crate) cancel: CancelToken,
}

#[cfg(test)]
impl GraphSettings {
    /// One thread of `device`, with nothing of ours, by the library that tests find.
    pub(crate) fn plain(device: Device) -> Self {
        Self {
            environment: crate::library::load(None).unwrap().environment,
            device,
            threads: ThreadChoice::spinning(1),
            dequantize_once: false,
            own_kernels: false,
            engines: None,
            plugin: None,
            file: None,
            cancel: CancelToken::new(),
        }
    }
}

/// A graph, loaded and compared with the manifest. ONNX Runtime's sessions are not to be run from two threads at once,
/// so one is locked for a run.
pub(crate) struct Graph {
    name: &'static str,
    session: Mutex<Session>,
}

impl Graph {
    /// Loads `name` of `bundle`. ONNX Runtime maps the external weights into memory.
    pub(crate) fn load(bundle: &Bundle, name: &'static str, settings: &GraphSettings) -> Result<Self> {
        let file = bundle.manifest().graphs.get(name).map(|entry| &entry.file);
        let profiles = file.and_then(|file| bundle.manifest().profiles.get(file));
        let assignment = Assignment {
            profiles,
            engines: settings.engines.as_deref(),
            plugin: settings.plugin.as_deref(),
            environment: &settings.environment,
        };
        let path = settings.file.clone().unwrap_or_else(|| bundle.graph_path(name));
        let operators = match settings.own_kernels {
            true => operators::domain(bundle, name, settings.device, settings.threads.threads)?,
            false => None,
        };
        let session = open(&path, settings, &assignment, operators).map_err(|e| {
            if e.kind() == crate::ErrorKind::Inference {
                named(name, &e)
            } else {
                e
            }
        })?;
        if let Some(entry) = bundle.manifest().graphs.get(name) {
            compare_contracts(name, &entry.contract, &borders(&session))?;
        }
        Ok(Self {
            name,
            session: Mutex::new(session),
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Session> {
        // A panic during a run leaves nothing behind in the session that a later run would read.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(
    path: &Path,
    settings: &GraphSettings,
    assignment: &Assignment<'_>,
    operators: Option<OperatorDomain>,
) -> Result<Session> {
    let builder = Session::builder(&settings.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_parallel_execution(false)?
        // A plan of memory would be made and kept for every length of a text, and used once.
        .with_memory_pattern(false)?
        .with_intra_threads(settings.threads.threads)?
        .with_inter_threads(1)?;
    let builder = match settings.device {
        Device::Cpu => builder.with_config_entry(arena::CONFIG_KEY, "1")?,
        _ => builder,
    };
    let builder = match settings.threads.spinning {
        true => builder,
        false => builder.with_config_entry("session.intra_op.allow_spinning", "0")?,
    };
    let builder = match settings.dequantize_once {
        // Else `DequantizeLinear` is kept for kernels of integers, which CPUs have for few graphs.
        true => builder.with_config_entry("session.disable_quant_qdq", "1")?,
        false => builder,
    };
    let builder = match operators {
        Some(operators) => builder.with_operators(operators)?,
        None => builder,
    };
    let mut builder = settings.device.register(builder, assignment)?;
    let control: Arc<dyn Interrupt> = Arc::new(LoadControl(builder.canceler()));
    settings
        .cancel
        .watching(&control, || Ok(builder.commit_from_file(path)?))
}

/// What stops the loading of a graph.
struct LoadControl(LoadCanceler);

impl Interrupt for LoadControl {
    fn interrupt(&self) {
        // It fails only for a builder that does not exist any more.
        let _ = self.0.cancel();
    }
}

fn named(name: &str, error: &Error) -> Error {
    Inner::Inference {
        graph: name.to_owned(),
        message: error.to_string(),
    }
    .into()
}

/// The inputs and outputs that a loaded graph has. Tensors of types that no contract knows are left out, so that they
/// count as missing.
fn borders(session: &Session) -> GraphContract {
    let of_outlet = |outlet: &Outlet| tensor(outlet.name(), outlet.dtype());
    let tensors = |outlets: &[Outlet]| outlets.iter().filter_map(of_outlet).collect();
    let optional = session.overridable_initializers();
    GraphContract {
        inputs: tensors(session.inputs()),
        optional_inputs: optional
            .iter()
            .filter_map(|input| tensor(input.name(), input.dtype()))
            .collect(),
        outputs: tensors(session.outputs()),
    }
}

fn tensor(name: &str, of_type: &ValueType) -> Option<TensorContract> {
    let ValueType::Tensor { ty, shape, .. } = of_type else {
        return None;
    };
    let element_type = match ty {
        TensorElementType::Float32 => ElementType::Float32,
        TensorElementType::Float16 => ElementType::Float16,
        TensorElementType::Int64 => ElementType::Int64,
        TensorElementType::Int32 => ElementType::Int32,
        TensorElementType::Int8 => ElementType::Int8,
        _ => return None,
    };
    let dim = |size: &i64| usize::try_from(*size).map_or(Dimension::Symbol("?".to_owned()), Dimension::Size);
    Some(TensorContract {
        name: name.to_owned(),
        element_type,
        dims: shape.iter().map(dim).collect(),
    })
}

/// What stops the runs of one decoder.
pub(crate) struct RunControl {
    /// For runs that come again and again.
    pub(crate) options: RunOptions,
    /// For runs of pictures and many tokens, which take much memory and give it back.
    pub(crate) large: RunOptions,
}

impl RunControl {
    /// Of runs on `device`.
    pub(crate) fn new(device: Device) -> Result<Arc<Self>> {
        let mut large = RunOptions::new()?;
        if device == Device::Cpu {
            large.set("memory.enable_memory_arena_shrinkage", "cpu:0")?;
        }
        Ok(Arc::new(Self {
            options: RunOptions::new()?,
            large,
        }))
    }

    /// Lets runs go on after an interruption.
    pub(crate) fn clear(&self) -> Result<()> {
        self.large.unterminate()?;
        Ok(self.options.unterminate()?)
    }
}

impl Interrupt for RunControl {
    fn interrupt(&self) {
        // It fails only for options that do not exist.
        let _ = self.options.terminate();
        let _ = self.large.terminate();
    }
}

/// Number of threads to compute with: the cores that this process may use, siblings that share a core counted once,
/// since two threads on one core slow each other down.
pub(crate) fn default_threads() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(available, |cores| cores.clamp(1, available))
}

#[cfg(target_os = "linux")]
fn physical_cores() -> Option<usize> {
    let mut cores = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir("/sys/devices/system/cpu").ok()? {
        let siblings = entry.ok()?.path().join("topology/thread_siblings_list");
        if let Ok(list) = std::fs::read_to_string(siblings) {
            cores.insert(list);
        }
    }
    Some(cores.len()).filter(|count| *count > 0)
}

#[cfg(not(target_os = "linux"))]
fn physical_cores() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_thread_for_no_more_than_every_core() {
        let available = std::thread::available_parallelism().unwrap().get();
        assert!((1..=available).contains(&default_threads()));
    }
}
