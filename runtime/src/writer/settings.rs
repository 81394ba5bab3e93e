use lwv_processor::RgbImage;

use crate::cancel::CancelToken;
use crate::generation::GenerationSettings;
use crate::sampler::SamplerSettings;

/// What is to be written.
#[derive(Debug, Clone, Default)]
pub struct Task {
    /// What the reader asks for.
    pub instruction: String,
    /// Pictures that go with it.
    pub images: Vec<RgbImage>,
    /// What the model is told before all else.
    pub system: Option<String>,
}

/// How it is to be written.
#[derive(Debug, Clone)]
pub struct WriterSettings {
    /// How tokens are chosen.
    pub sampler: SamplerSettings,
    /// Most tokens of a section, whatever its word target.
    pub max_section_tokens: usize,
    /// Texts that end a section.
    pub stop: Vec<String>,
    /// Watch for a model that turns in circles; see [`GenerationSettings::loop_guard`].
    pub loop_guard: bool,
    /// Most tokens that are guessed at once; see [`GenerationSettings::lookup_tokens`].
    pub lookup_tokens: usize,
    /// Whether the text is to be the same to the token after an interruption, and whatever was computed before; see
    /// [`Session::set_deterministic`](crate::Session::set_deterministic). It costs one more prefill of all that is written.
    pub deterministic: bool,
    /// Cancels from another thread.
    pub cancel: CancelToken,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self {
            sampler: SamplerSettings::default(),
            max_section_tokens: usize::MAX,
            stop: Vec::new(),
            loop_guard: true,
            lookup_tokens: GenerationSettings::default().lookup_tokens,
            deterministic: false,
            cancel: CancelToken::new(),
        }
    }
}
