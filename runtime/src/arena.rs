//! Where graphs on processors have their activations: one arena for all of them that takes what is asked for. One of ONNX Runtime's
//! own for each graph doubles whenever it is full, and a long prompt makes it twice as large as its activations.
#![expect(unsafe_code, reason = "the binding has no word for arenas")]

use std::ptr;

use ort::environment::Environment;
use ort::sys::{OrtAllocatorType, OrtMemType};
use ort::{AsPointer, Error, Result};

/// What is set to 1 for sessions that are to use the arena.
pub(crate) const CONFIG_KEY: &str = "session.use_env_allocators";

/// `kSameAsRequested`, as ONNX Runtime numbers how an arena grows.
const AS_REQUESTED: i32 = 1;

/// ONNX Runtime's own choice, of sizes.
const USUAL: i32 = -1;

/// Makes the arena of an environment, for sessions with [`CONFIG_KEY`].
///
/// # Errors
/// ONNX Runtime has no memory, or has one already.
pub(crate) fn share(environment: &Environment) -> Result<()> {
    let api = ort::api();
    let (mut place, mut arena) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: ONNX Runtime writes pointers to what it makes, copies both when it registers the arena, and the environment lives.
    unsafe {
        let status = (api.CreateCpuMemoryInfo)(
            OrtAllocatorType::OrtArenaAllocator,
            OrtMemType::OrtMemTypeDefault,
            &raw mut place,
        );
        Error::result_from_status(status)?;
        let status = (api.CreateArenaCfg)(0, AS_REQUESTED, USUAL, USUAL, &raw mut arena);
        let made = Error::result_from_status(status);
        let registered = made.and_then(|()| {
            let environment = environment.ptr().cast_mut();
            Error::result_from_status((api.CreateAndRegisterAllocator)(environment, place, arena))
        });
        if !arena.is_null() {
            (api.ReleaseArenaCfg)(arena);
        }
        (api.ReleaseMemoryInfo)(place);
        registered
    }
}
