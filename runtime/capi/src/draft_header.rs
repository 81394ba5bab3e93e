use std::ffi::c_char;

use lwv_runtime::{
    CancelToken, Draft, DraftHeader, DraftSettings, DraftTask, Engine, Recovery, Sampler, Writer,
    WriterSettings,
};

use crate::argument::{clear, open, path, required};
use crate::border::call;
use crate::draft::lwv_draft;
use crate::engine::lwv_engine;
use crate::failure::Result;
use crate::image::files_of;
use crate::status::lwv_status;
use crate::structure::read;
use crate::writer::{lwv_writer_settings, order_of};

/// Begins a draft in `file` of what `settings` say, and writes nothing of it yet; `lwv_draft_write` does. `cancel` has no
/// meaning here. Pictures must come from files (`lwv_image_open`): their paths and hashes are kept, and they are read again
/// when the draft is written. A draft without plan and text that is there is replaced; `LWV_STATUS_DRAFT` where one with
/// text or another file is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_draft_create(
    engine: *const lwv_engine,
    file: *const c_char,
    settings: *const lwv_writer_settings,
    draft: *mut *mut lwv_draft,
) -> lwv_status {
    call(|| {
        clear(draft, "draft")?;
        let engine = &required(engine, "engine")?.engine;
        let file = path(file, "file")?;
        let begun = Draft::create(file, header(engine, &read(settings, "settings")?)?)?;
        open(lwv_draft::new(begun, &Recovery::default()), draft);
        Ok(())
    })
}

unsafe fn header(engine: &Engine, given: &lwv_writer_settings) -> Result<DraftHeader> {
    let order = order_of(given)?;
    let (task, settings) = (order.task, order.settings);
    let files = files_of(given.images, given.image_count)?;
    let kept = DraftTask::new(&task.instruction, task.system.as_deref(), &files)?;
    // A draft whose settings cannot be used could never be gone on with, and JSON has no NaN.
    Sampler::new(settings.sampler.clone())?;
    let prefill_chunk = Writer::new(engine, task, settings.clone())?.prefill_chunk();
    let settings = DraftSettings {
        sampler: settings.sampler,
        max_section_tokens: (settings.max_section_tokens < usize::MAX).then_some(settings.max_section_tokens),
        stop: settings.stop,
        loop_guard: settings.loop_guard,
        lookup_tokens: settings.lookup_tokens,
        deterministic: settings.deterministic,
        prefill_chunk,
        threads: engine.threads(),
        device: engine.device().to_string(),
    };
    Ok(DraftHeader::new(engine.id(), kept, order.outline, settings, None))
}

/// A draft is gone on with as it was begun.
pub(crate) fn settings_of(header: &DraftHeader, cancel: CancelToken) -> WriterSettings {
    let settings = &header.settings;
    WriterSettings {
        sampler: settings.sampler.clone(),
        max_section_tokens: settings.max_section_tokens.unwrap_or(usize::MAX),
        stop: settings.stop.clone(),
        loop_guard: settings.loop_guard,
        lookup_tokens: settings.lookup_tokens,
        deterministic: settings.deterministic,
        cancel,
    }
}
