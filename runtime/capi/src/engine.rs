use std::ffi::{CString, c_char, c_int, c_void};

use lwv_runtime::{
    DEFAULT_ENGINE_LIMIT, DEFAULT_KV_BUDGET, Device, Engine, EngineBuilder, EngineCache, LoadProgress,
};

use crate::argument::{check_flags, clear, close, open, optional_text, path, required};
use crate::border::{c_string, call};
use crate::cancel_token::{lwv_cancel_token, token_of};
use crate::failure::Result;
use crate::status::lwv_status;
use crate::structure::{Structure, init, read, write};

/// Compare every file of the bundle with its hash first.
pub const LWV_CHECK_HASHES: u64 = 1;

/// Load the bundle even if it and a text of 4,096 tokens need more memory than there is.
pub const LWV_IGNORE_MEMORY: u64 = 2;

/// Make floats of integer weights when a graph is loaded, where the graph has operators for that: faster for bundles for
/// TensorRT on processors, and takes four times the memory or more.
pub const LWV_DEQUANTIZE_ONCE: u64 = 4;

/// A loaded bundle. Sessions of one engine share its weights and keep it loaded until the last of them is closed; its graphs
/// compute for one of them at a time.
pub struct lwv_engine {
    pub(crate) engine: Engine,
    device: CString,
    provider: CString,
    id: CString,
}

impl lwv_engine {
    fn new(engine: Engine) -> Self {
        Self {
            device: c_string(&engine.device().to_string()),
            provider: c_string(engine.provider()),
            id: c_string(&engine.id()),
            engine,
        }
    }
}

/// What loading is at.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum lwv_load_stage {
    /// Something that this version of the interface does not name.
    Other = 0,
    /// Files are compared with their hashes; `done` and `total` are bytes.
    Hashing = 1,
    /// A graph is being loaded; `done` and `total` are graphs.
    Loading = 2,
    /// An engine is being built for a graph, which takes minutes and is done once.
    Building = 3,
}

/// What loading is at. All pointers are for the time of the call.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_progress {
    /// Bytes of this structure.
    pub size: usize,
    /// What it is at.
    pub stage: lwv_load_stage,
    /// How much of it is done.
    pub done: u64,
    /// How much there is; 0 where it is not known.
    pub total: u64,
    /// The graph's name, or NULL.
    pub graph: *const c_char,
}

/// Is told what loading is at, on the thread that opens the engine. Anything but 0 cancels.
pub type lwv_progress_callback =
    Option<unsafe extern "C" fn(progress: *const lwv_progress, user_data: *mut c_void) -> c_int>;

/// How a bundle is loaded. Set it by `lwv_engine_options_init` first.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_engine_options {
    /// Bytes of this structure.
    pub size: usize,
    /// The bundle's folder. Must be set.
    pub bundle: *const c_char,
    /// `auto`, `cpu`, `cuda`, `cuda:1`, `tensorrt` or `tensorrt-rtx`; NULL is `auto`. One that is named runs or fails.
    pub device: *const c_char,
    /// ONNX Runtime's shared library or its folder. NULL: looked for in `LWV_ONNXRUNTIME` and `ORT_DYLIB_PATH`, beside the
    /// program, and in the system's folders. The first that a process loads is the only one.
    pub onnxruntime: *const c_char,
    /// Where engines are kept that TensorRT builds; NULL is the usual folder.
    pub engines: *const c_char,
    /// Most bytes of cache for a session; 0 is as usual.
    pub kv_budget: u64,
    /// Most tokens in one run of prefill; 0 is as usual.
    pub prefill_chunk: usize,
    /// Threads to compute with; 0 is as many as there are cores.
    pub threads: usize,
    /// Any of `LWV_CHECK_HASHES`, `LWV_IGNORE_MEMORY` and `LWV_DEQUANTIZE_ONCE`.
    pub flags: u64,
    /// Cancels loading; may be NULL.
    pub cancel: *const lwv_cancel_token,
    /// Is told what loading is at; may be NULL.
    pub progress: lwv_progress_callback,
    /// What the callback is given.
    pub user_data: *mut c_void,
    /// File of the adapter to write with, as `lwv-export adapter` makes it; NULL for none. `lwv_engine_with_adapter` changes
    /// it without loading again.
    pub adapter: *const c_char,
}

// SAFETY: `repr(C)`, `size` first, numbers and pointers; a callback of no bits is `None`.
unsafe impl Structure for lwv_engine_options {
    fn usual() -> Self {
        Self {
            size: size_of::<Self>(),
            bundle: std::ptr::null(),
            device: std::ptr::null(),
            onnxruntime: std::ptr::null(),
            engines: std::ptr::null(),
            kv_budget: DEFAULT_KV_BUDGET,
            prefill_chunk: 0,
            threads: 0,
            flags: 0,
            cancel: std::ptr::null(),
            progress: None,
            user_data: std::ptr::null_mut(),
            adapter: std::ptr::null(),
        }
    }
}

/// What an engine is. Set `size` before it is asked for. The texts belong to the engine.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_engine_info {
    /// Bytes of this structure.
    pub size: usize,
    /// Where the graphs run; never `auto`.
    pub device: *const c_char,
    /// The execution provider, as ONNX Runtime names it.
    pub provider: *const c_char,
    /// Longest text in tokens.
    pub context_length: usize,
    /// Threads that compute.
    pub threads: usize,
    /// 1 if the model reads pictures, else 0.
    pub reads_images: u64,
    /// By what texts are told apart that several engines write: bundle and adapter. `engine` of a `lwv_draft_info` is one.
    pub id: *const c_char,
}

// SAFETY: `repr(C)`, `size` first, numbers and pointers.
unsafe impl Structure for lwv_engine_info {
    fn usual() -> Self {
        Self {
            size: size_of::<Self>(),
            device: std::ptr::null(),
            provider: std::ptr::null(),
            context_length: 0,
            threads: 0,
            reads_images: 0,
            id: std::ptr::null(),
        }
    }
}

/// Sets a structure of `size` bytes, which is its `sizeof`, to what is usual.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_engine_options_init(
    options: *mut lwv_engine_options,
    size: usize,
) -> lwv_status {
    call(|| init(options, size, "options"))
}

/// Loads a bundle. To put another bundle in an engine's place within the memory of the larger of the two, close the engine
/// and all its sessions first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_engine_open(
    options: *const lwv_engine_options,
    engine: *mut *mut lwv_engine,
) -> lwv_status {
    call(|| {
        clear(engine, "engine")?;
        let loaded = builder(&read(options, "options")?)?.build()?;
        open(lwv_engine::new(loaded), engine);
        Ok(())
    })
}

/// Makes another handle of an engine, whose sessions write with the adapter in the file `adapter`, as `lwv-export adapter` makes
/// it; NULL is without one. The graphs are in memory once, and are freed when all handles and sessions are closed; sessions that
/// are there already keep what they write with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_engine_with_adapter(
    engine: *const lwv_engine,
    adapter: *const c_char,
    adapted: *mut *mut lwv_engine,
) -> lwv_status {
    call(|| {
        clear(adapted, "adapted")?;
        let engine = &required(engine, "engine")?.engine;
        let other = match optional_text(adapter, "adapter")? {
            Some(adapter) => engine.with_adapter(adapter)?,
            None => engine.without_adapter(),
        };
        open(lwv_engine::new(other), adapted);
        Ok(())
    })
}

unsafe fn builder(options: &lwv_engine_options) -> Result<EngineBuilder> {
    let flags = options.flags;
    check_flags(
        flags,
        LWV_CHECK_HASHES | LWV_IGNORE_MEMORY | LWV_DEQUANTIZE_ONCE,
        "options",
    )?;
    let device = optional_text(options.device, "device")?.map_or(Ok(Device::Auto), str::parse)?;
    let cancel = token_of(options.cancel)?;
    let mut builder = Engine::builder(path(options.bundle, "bundle")?)
        .device(device)
        .cancel(cancel.clone());
    if let Some(adapter) = optional_text(options.adapter, "adapter")? {
        builder = builder.adapter(adapter);
    }
    if let Some(library) = optional_text(options.onnxruntime, "onnxruntime")? {
        builder = builder.library(library);
    }
    if let Some(folder) = optional_text(options.engines, "engines")? {
        builder = builder.engines(EngineCache::new(folder, DEFAULT_ENGINE_LIMIT));
    }
    if options.kv_budget != 0 {
        builder = builder.kv_budget(options.kv_budget);
    }
    if options.prefill_chunk != 0 {
        builder = builder.prefill_chunk(options.prefill_chunk);
    }
    if options.threads != 0 {
        builder = builder.threads(options.threads);
    }
    if flags & LWV_CHECK_HASHES != 0 {
        builder = builder.check_hashes();
    }
    if flags & LWV_IGNORE_MEMORY != 0 {
        builder = builder.ignore_memory();
    }
    if flags & LWV_DEQUANTIZE_ONCE != 0 {
        builder = builder.dequantize_once();
    }
    let (callback, user_data) = (options.progress, options.user_data);
    Ok(match callback {
        Some(callback) => builder.on_progress(move |step| {
            if unsafe { tell(&step, callback, user_data) } != 0 {
                cancel.cancel();
            }
        }),
        None => builder,
    })
}

unsafe fn tell(
    step: &LoadProgress,
    callback: unsafe extern "C" fn(*const lwv_progress, *mut c_void) -> c_int,
    user_data: *mut c_void,
) -> c_int {
    let (stage, done, total, graph) = match step {
        LoadProgress::Hashing { done, total } => (lwv_load_stage::Hashing, *done, *total, None),
        LoadProgress::Loading { graph, index, count } => {
            (lwv_load_stage::Loading, *index as u64, *count as u64, Some(graph))
        }
        LoadProgress::Building { graph, .. } => (lwv_load_stage::Building, 0, 0, Some(graph)),
        _ => (lwv_load_stage::Other, 0, 0, None),
    };
    let graph = graph.map(|graph| c_string(graph));
    let progress = lwv_progress {
        size: size_of::<lwv_progress>(),
        stage,
        done,
        total,
        graph: graph.as_ref().map_or(std::ptr::null(), |graph| graph.as_ptr()),
    };
    callback(&raw const progress, user_data)
}

/// Tells what an engine is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_engine_describe(
    engine: *const lwv_engine,
    info: *mut lwv_engine_info,
) -> lwv_status {
    call(|| {
        let lwv_engine {
            engine,
            device,
            provider,
            id,
        } = required(engine, "engine")?;
        let told = lwv_engine_info {
            size: size_of::<lwv_engine_info>(),
            device: device.as_ptr(),
            provider: provider.as_ptr(),
            context_length: engine.context_length(),
            threads: engine.threads(),
            reads_images: u64::from(engine.bundle().config().vision.is_some()),
            id: id.as_ptr(),
        };
        write(told, info, "info")
    })
}

/// Frees an engine; its memory goes with the last of its sessions and other handles. NULL is allowed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_engine_close(engine: *mut lwv_engine) {
    call(|| close(engine, "engine"));
}
