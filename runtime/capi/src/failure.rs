use crate::status::lwv_status;

/// Why a call did not do what it says.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: lwv_status,
    pub(crate) text: String,
}

/// The result of what a call does.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(status: lwv_status, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    /// An argument or field that cannot be used.
    pub(crate) fn argument(name: &str, problem: &str) -> Self {
        Self::new(lwv_status::Argument, format!("`{name}` {problem}"))
    }

    /// Text that says that a handle is at work.
    pub(crate) fn busy(text: &str) -> Self {
        Self::new(lwv_status::Busy, text)
    }

    /// An image that cannot be read.
    pub(crate) fn image(error: &lwv_processor::Error) -> Self {
        Self::new(lwv_status::Image, error.to_string())
    }
}

impl From<lwv_runtime::Error> for Failure {
    fn from(error: lwv_runtime::Error) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

impl From<lwv_processor::Error> for Failure {
    fn from(error: lwv_processor::Error) -> Self {
        lwv_runtime::Error::from(error).into()
    }
}
