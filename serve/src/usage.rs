use lwv_runtime::Stats;
use serde_json::{Value, json};

/// Tokens that an answer took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    prompt: usize,
    /// Of the prompt's, those that were in the cache.
    cached: usize,
    completion: usize,
}

impl Usage {
    /// Adds what a generation cost. A long text takes several, each with a prompt of its own.
    pub(crate) fn add(&mut self, stats: &Stats) {
        self.prompt += stats.prompt_tokens;
        self.cached += stats.prompt_tokens.saturating_sub(stats.prefilled_tokens);
        self.completion += stats.generated_tokens;
    }

    /// As `CompletionUsage` in OpenAI's OpenAPI description.
    pub(crate) fn body(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }
}
