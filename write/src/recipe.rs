use std::path::PathBuf;

use lwv_runtime::{Device, DraftHeader, SamplerSettings};
use lwv_write::EngineOptions;
use serde::Serialize;

/// The settings of a run, with all defaults filled in; stored beside the output.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Recipe {
    pub(crate) bundle: PathBuf,
    pub(crate) images: Vec<PathBuf>,
    pub(crate) prompt: PromptSource,
    pub(crate) system: Option<String>,
    pub(crate) words: Option<usize>,
    pub(crate) plan: bool,
    #[serde(skip)]
    pub(crate) plan_only: Option<PathBuf>,
    pub(crate) plan_file: Option<PathBuf>,
    pub(crate) sections: Option<usize>,
    pub(crate) max_new_tokens: Option<usize>,
    pub(crate) stop: Vec<String>,
    pub(crate) ignore_eos: bool,
    pub(crate) sampler: SamplerSettings,
    pub(crate) loop_guard: bool,
    pub(crate) lookup_tokens: usize,
    pub(crate) deterministic: bool,
    #[serde(skip)]
    pub(crate) draft: Option<PathBuf>,
    #[serde(skip)]
    pub(crate) keep_draft: bool,
    #[serde(skip)]
    pub(crate) resume: Option<PathBuf>,
    #[serde(skip)]
    pub(crate) change: Option<Change>,
    #[serde(flatten)]
    pub(crate) engine: EngineOptions,
    pub(crate) out: Option<PathBuf>,
    pub(crate) json: bool,
}

/// A section of a whole draft that is to be changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    /// Which, from 0.
    pub(crate) index: usize,
    /// Words to add; `None` to write it anew.
    pub(crate) extend_by: Option<usize>,
    /// Whether the user named a seed.
    pub(crate) seed_given: bool,
}

/// Where the prompt comes from.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PromptSource {
    /// A request, put into the chat template.
    Request(String),
    /// A text to go on with.
    Raw(String),
    /// Token ids.
    Ids(Vec<u32>),
}

impl Recipe {
    /// The settings of a draft, but for those that are the user's or this machine's.
    pub(crate) fn with_draft(self, header: &DraftHeader) -> anyhow::Result<Self> {
        let (task, settings) = (&header.task, &header.settings);
        let device = match self.engine.device {
            Device::Auto => settings.device.parse().map_err(anyhow::Error::msg)?,
            named => named,
        };
        let prefill_chunk = match self.engine.prefill_chunk {
            lwv_runtime::DEFAULT_PREFILL_CHUNK => settings.prefill_chunk,
            named => named,
        };
        Ok(Self {
            prompt: PromptSource::Request(task.instruction.clone()),
            images: task.images.iter().map(|image| image.path.clone()).collect(),
            system: task.system.clone(),
            words: Some(header.outline.words()),
            max_new_tokens: settings.max_section_tokens,
            stop: settings.stop.clone(),
            deterministic: settings.deterministic,
            loop_guard: settings.loop_guard,
            engine: EngineOptions {
                device,
                threads: self.engine.threads.or(u32::try_from(settings.threads).ok()),
                prefill_chunk,
                ..self.engine
            },
            out: self.out.or_else(|| header.out.clone()),
            ..self
        })
    }

    /// Whether a text of a number of words is written, planned or in one piece.
    pub(crate) fn is_long_text(&self) -> bool {
        self.words.is_some() || self.plan_file.is_some()
    }

    /// Where the draft is; only long texts have one.
    pub(crate) fn draft_path(&self) -> Option<PathBuf> {
        let beside_text = || self.out.as_deref().map(|out| out.with_added_extension("draft"));
        let named = self.resume.clone().or_else(|| self.draft.clone());
        named.or_else(beside_text).filter(|_| self.is_long_text())
    }
}
