use std::ffi::{c_char, c_void};

use lwv_runtime::{CancelToken, FinishReason, Outline, Plan, Task, Writer, WriterEvent, WriterSettings};

use crate::argument::{check_flags, clear, flag, offer, open, optional_text, required, text, texts};
use crate::border::call;
use crate::cancel_token::{lwv_cancel_token, token_of};
use crate::engine::lwv_engine;
use crate::event::{HeldEvent, lwv_event_callback};
use crate::failure::{Failure, Result};
use crate::finish_reason::lwv_finish_reason;
use crate::generation::LWV_LOOP_GUARD;
use crate::image::{images_of, lwv_image};
use crate::sampler::{lwv_sampler_settings, sampler_of};
use crate::status::lwv_status;
use crate::structure::{Structure, init, read};
use crate::text::lwv_text;

/// Write the whole text in one piece, without a plan.
pub const LWV_AT_ONCE: u64 = 4;

/// Make the text the same to the token whatever was computed before. It costs one more prefill of all that is written.
pub const LWV_DETERMINISTIC: u64 = 8;

/// What is to be written, and how. Set it by `lwv_writer_settings_init` first.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_writer_settings {
    /// Bytes of this structure.
    pub size: usize,
    /// What the reader asks for. Must be set.
    pub instruction: *const c_char,
    /// What the model is told before all else; NULL is nothing.
    pub system: *const c_char,
    /// Pictures that go with the instruction.
    pub images: *const *const lwv_image,
    /// How many they are.
    pub image_count: usize,
    /// Words of the whole. Must be set, unless `plan` is.
    pub words: usize,
    /// Sections of the plan that is made; 0 is as many as are usual.
    pub sections: usize,
    /// The plan, as `lwv_plan` gives it, perhaps changed: a line `Paragraph 1 - Main Point: … - Word Count: 300 words` for
    /// every section. NULL: the model makes one.
    pub plan: *const c_char,
    /// How tokens are chosen; NULL is as usual.
    pub sampler: *const lwv_sampler_settings,
    /// Most tokens of a section, whatever its words.
    pub max_section_tokens: usize,
    /// Texts that end a section.
    pub stop: *const *const c_char,
    /// How many they are.
    pub stop_count: usize,
    /// Any of `LWV_AT_ONCE`, `LWV_DETERMINISTIC` and `LWV_LOOP_GUARD`, which is set as usual.
    pub flags: u64,
    /// Cancels from another thread; may be NULL.
    pub cancel: *const lwv_cancel_token,
    /// Most tokens that are guessed at once, as in `lwv_generation_settings`.
    pub lookup_tokens: usize,
}

// SAFETY: `repr(C)`, `size` first, numbers and pointers.
unsafe impl Structure for lwv_writer_settings {
    fn usual() -> Self {
        let usual = WriterSettings::default();
        Self {
            size: size_of::<Self>(),
            instruction: std::ptr::null(),
            system: std::ptr::null(),
            images: std::ptr::null(),
            image_count: 0,
            words: 0,
            sections: 0,
            plan: std::ptr::null(),
            sampler: std::ptr::null(),
            max_section_tokens: usual.max_section_tokens,
            stop: std::ptr::null(),
            stop_count: 0,
            flags: flag(usual.loop_guard, LWV_LOOP_GUARD) | flag(usual.deterministic, LWV_DETERMINISTIC),
            cancel: std::ptr::null(),
            lookup_tokens: usual.lookup_tokens,
        }
    }
}

/// Settings in Rust's types.
pub(crate) struct Order {
    pub(crate) task: Task,
    pub(crate) settings: WriterSettings,
    pub(crate) outline: Outline,
    words: usize,
    sections: Option<usize>,
}

pub(crate) unsafe fn order_of(given: &lwv_writer_settings) -> Result<Order> {
    let flags = given.flags;
    check_flags(
        flags,
        LWV_AT_ONCE | LWV_DETERMINISTIC | LWV_LOOP_GUARD,
        "settings",
    )?;
    let plan = optional_text(given.plan, "plan")?.map(Plan::parse);
    if plan.as_ref().is_some_and(|plan| plan.sections.is_empty()) {
        let form = "has no line of the form `Paragraph 1 - Main Point: … - Word Count: 300 words`";
        return Err(Failure::argument("plan", form));
    }
    if plan.is_none() && given.words == 0 {
        return Err(Failure::argument("words", "is 0; say how long the text is to be"));
    }
    let (words, sections) = (given.words, (given.sections > 0).then_some(given.sections));
    Ok(Order {
        task: Task {
            instruction: text(given.instruction, "instruction")?.to_owned(),
            images: images_of(given.images, given.image_count)?,
            system: optional_text(given.system, "system")?.map(str::to_owned),
        },
        settings: WriterSettings {
            sampler: sampler_of(given.sampler)?,
            max_section_tokens: given.max_section_tokens,
            stop: texts(given.stop, given.stop_count, "stop")?,
            loop_guard: flags & LWV_LOOP_GUARD != 0,
            lookup_tokens: given.lookup_tokens,
            deterministic: flags & LWV_DETERMINISTIC != 0,
            cancel: token_of(given.cancel)?,
        },
        outline: match plan {
            _ if flags & LWV_AT_ONCE != 0 => Outline::Given(Plan::in_one_piece(words)),
            Some(plan) => Outline::Given(plan),
            None => Outline::ToMake { words, sections },
        },
        words,
        sections,
    })
}

/// Tells the callback what happens until it wants no more; cancels then.
pub(crate) struct Listener {
    callback: lwv_event_callback,
    user_data: *mut c_void,
    cancel: CancelToken,
    held: HeldEvent,
    stopped: bool,
}

impl Listener {
    pub(crate) fn new(callback: lwv_event_callback, user_data: *mut c_void, cancel: CancelToken) -> Self {
        Self {
            callback,
            user_data,
            cancel,
            held: HeldEvent::new(),
            stopped: false,
        }
    }

    pub(crate) unsafe fn tell(&mut self, event: WriterEvent) {
        let Some(callback) = self.callback.filter(|_| !self.stopped) else {
            return;
        };
        let event = self.held.hold_writer(event);
        if callback(&raw const event, self.user_data) != 0 {
            self.stopped = true;
            self.cancel.cancel();
        }
    }
}

/// Sets a structure of `size` bytes, which is its `sizeof`, to what is usual.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_writer_settings_init(
    settings: *mut lwv_writer_settings,
    size: usize,
) -> lwv_status {
    call(|| init(settings, size, "settings"))
}

/// Makes the plan of a text and writes nothing. `plan` gets its lines, to be shown, changed and given to `lwv_write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_plan(
    engine: *const lwv_engine,
    settings: *const lwv_writer_settings,
    callback: lwv_event_callback,
    user_data: *mut c_void,
    plan: *mut *mut lwv_text,
) -> lwv_status {
    call(|| {
        clear(plan, "plan")?;
        let (order, mut writer, mut listener) = begin(engine, settings, callback, user_data)?;
        let made = writer.plan(order.words, order.sections, |event| unsafe {
            listener.tell(event)
        })?;
        open(lwv_text::new(made.to_lines()), plan);
        Ok(())
    })
}

/// Plans a long text, unless a plan is given, and writes it section by section, telling `callback` (may be NULL) what
/// happens. `text` and `reason`, unless NULL, get what was written and why it ended. A text that was cancelled, by the token
/// or by the callback, is a success with what was written until then; only where planning was cancelled is it
/// `LWV_STATUS_CANCELLED`. A callback that stops cancels the token that was given, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_write(
    engine: *const lwv_engine,
    settings: *const lwv_writer_settings,
    callback: lwv_event_callback,
    user_data: *mut c_void,
    text: *mut *mut lwv_text,
    reason: *mut lwv_finish_reason,
) -> lwv_status {
    call(|| {
        offer(std::ptr::null_mut(), text, "text")?;
        let (order, mut writer, mut listener) = begin(engine, settings, callback, user_data)?;
        let (written, ended) = write_all(order, &mut writer, &mut listener)?;
        offer(ended.into(), reason, "reason")?;
        if !text.is_null() {
            open(lwv_text::new(written), text);
        }
        Ok(())
    })
}

unsafe fn begin(
    engine: *const lwv_engine,
    settings: *const lwv_writer_settings,
    callback: lwv_event_callback,
    user_data: *mut c_void,
) -> Result<(Order, Writer, Listener)> {
    let engine = &required(engine, "engine")?.engine;
    let order = order_of(&read(settings, "settings")?)?;
    let writer = Writer::new(engine, order.task.clone(), order.settings.clone())?;
    let listener = Listener::new(callback, user_data, order.settings.cancel.clone());
    Ok((order, writer, listener))
}

unsafe fn write_all(
    order: Order,
    writer: &mut Writer,
    listener: &mut Listener,
) -> Result<(String, FinishReason)> {
    let plan = match order.outline {
        Outline::Given(plan) => plan,
        Outline::ToMake { words, sections } => {
            writer.plan(words, sections, |event| unsafe { listener.tell(event) })?
        }
    };
    let manuscript = writer.write(plan, |event| unsafe { listener.tell(event) })?;
    let ended = manuscript
        .sections
        .last()
        .map_or(FinishReason::Cancelled, |section| section.reason);
    Ok((manuscript.text(), ended))
}
