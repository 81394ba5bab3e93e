use lwv_runtime::ErrorKind;

/// What a call came to. Negative ones are failures, and `lwv_last_error` has the words. Later versions may have more.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum lwv_status {
    /// It did what it says.
    Ok = 0,
    /// There is nothing more to come: the last event was told before.
    End = 1,
    /// An argument or a field is NULL, not UTF-8, misaligned or out of its range.
    Argument = -1,
    /// The handle is at work in another thread, or below on this one, or a generation is open on the session.
    Busy = -2,
    /// ONNX Runtime's shared library is missing, too old, or none.
    Library = -3,
    /// The bundle lacks a file, or a file is not what the manifest says.
    Bundle = -4,
    /// The chosen device cannot be used.
    Provider = -5,
    /// The memory or the cache's budget does not suffice.
    Memory = -6,
    /// The prompt cannot be made, or is longer than the context.
    Prompt = -7,
    /// A setting has a value that cannot be used.
    Setting = -8,
    /// ONNX Runtime failed while computing.
    Inference = -9,
    /// The model's output cannot be used.
    Logits = -10,
    /// A token was asked for that is not there.
    Rewind = -11,
    /// Cancelled before there was anything to keep: while loading or planning.
    Cancelled = -12,
    /// An image cannot be read.
    Image = -13,
    /// A fault of the library. Close the handles that took part in the call; others stay usable.
    Panic = -14,
    /// Another failure.
    Other = -15,
    /// The adapter cannot be read, or is not for the bundle.
    Adapter = -16,
    /// A draft cannot be read, written or gone on with, or is open elsewhere.
    Draft = -17,
}

impl From<ErrorKind> for lwv_status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Library => Self::Library,
            ErrorKind::Bundle => Self::Bundle,
            ErrorKind::Adapter => Self::Adapter,
            ErrorKind::Provider => Self::Provider,
            ErrorKind::Memory => Self::Memory,
            ErrorKind::Prompt => Self::Prompt,
            ErrorKind::Setting => Self::Setting,
            ErrorKind::Inference => Self::Inference,
            ErrorKind::Logits => Self::Logits,
            ErrorKind::Rewind => Self::Rewind,
            ErrorKind::Draft => Self::Draft,
            ErrorKind::Cancelled => Self::Cancelled,
            _ => Self::Other,
        }
    }
}
