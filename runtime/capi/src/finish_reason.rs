use lwv_runtime::FinishReason;

/// Why a text ended. Later versions may have more.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum lwv_finish_reason {
    /// Another reason, which this version of the interface does not name.
    Other = 0,
    /// The model ended it.
    Eos = 1,
    /// A stop string came.
    StopString = 2,
    /// As many tokens as were asked for.
    MaxTokens = 3,
    /// As many words as were asked for.
    WordBudget = 4,
    /// Somebody cancelled, or a callback wanted no more. What was written so far counts.
    Cancelled = 5,
    /// The model turned in circles.
    LoopDetected = 6,
    /// The context is full.
    ContextFull = 7,
}

impl From<FinishReason> for lwv_finish_reason {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Eos => Self::Eos,
            FinishReason::StopString => Self::StopString,
            FinishReason::MaxTokens => Self::MaxTokens,
            FinishReason::WordBudget => Self::WordBudget,
            FinishReason::Cancelled => Self::Cancelled,
            FinishReason::LoopDetected => Self::LoopDetected,
            FinishReason::ContextFull => Self::ContextFull,
            _ => Self::Other,
        }
    }
}
