//! The C interface: any calls, in any order, with any sizes, flags, texts and NULL, are a status and never a crash. With
//! `LWV_FUZZ_BUNDLE` sessions and generations take part too.
#![no_main]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::sync::{LazyLock, OnceLock};

use libfuzzer_sys::fuzz_target;
use lwv::*;
use tempfile::TempDir;

/// Where drafts are. Names come from here and not from the input, since drafts write files and remove them.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

/// Bytes of the input, taken one after the other.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// Small numbers, and those where arithmetic ends.
    fn number(&mut self) -> usize {
        match self.byte() {
            255 => usize::MAX,
            254 => usize::MAX / 2,
            253 => u32::MAX as usize,
            252 => 1 << 20,
            small => usize::from(small) % 64,
        }
    }

    fn flags(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            small => u64::from(small) % 16,
        }
    }

    fn float(&mut self) -> f32 {
        match self.byte() {
            255 => f32::NAN,
            254 => f32::INFINITY,
            253 => -1.0,
            small => f32::from(small) / 64.0,
        }
    }

    /// A text of any bytes.
    fn text(&mut self) -> CString {
        let length = usize::from(self.byte()) % 24;
        let (text, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        CString::new(text.split(|byte| *byte == 0).next().unwrap_or_default()).unwrap_or_default()
    }

    /// A size, mostly the right one.
    fn size<T>(&mut self) -> usize {
        match self.byte() {
            0..=199 => size_of::<T>(),
            // Never more than there is: that a caller lies about its memory cannot be told.
            other => usize::from(other - 200) * 8 % (size_of::<T>() + 1),
        }
    }
}

/// Handles of one run.
#[derive(Default)]
struct Handles {
    images: Vec<*mut lwv_image>,
    tokens: Vec<*mut lwv_cancel_token>,
    sessions: Vec<*mut lwv_session>,
    generations: Vec<*mut lwv_generation>,
    texts: Vec<*mut lwv_text>,
    drafts: Vec<*mut lwv_draft>,
}

/// One of the handles, or NULL.
fn pick<T>(handles: &[*mut T], input: &mut Input<'_>) -> *mut T {
    let index = usize::from(input.byte());
    handles
        .get(index % (handles.len() + 1))
        .copied()
        .unwrap_or(null_mut())
}

/// A failure has words, and what is not made is NULL.
fn keep<T>(handles: &mut Vec<*mut T>, status: lwv_status, made: *mut T) {
    told(status);
    assert_eq!(made.is_null(), status != lwv_status::Ok);
    if !made.is_null() {
        handles.push(made);
    }
}

fn told(status: lwv_status) {
    assert!(status != lwv_status::Panic, "{:?}", last_error());
    assert!((status as i32) >= 0 || !last_error().is_empty());
}

fn last_error() -> &'static CStr {
    // SAFETY: never NULL, and looked at before the next call.
    unsafe { CStr::from_ptr(lwv_last_error()) }
}

/// The engine of all runs, or NULL.
fn engine() -> *mut lwv_engine {
    static ENGINE: OnceLock<usize> = OnceLock::new();
    *ENGINE.get_or_init(|| {
        let Ok(bundle) = std::env::var("LWV_FUZZ_BUNDLE") else {
            return 0;
        };
        let bundle = CString::new(bundle).expect("a path");
        let mut options = MaybeUninit::<lwv_engine_options>::uninit();
        let mut engine = null_mut();
        // SAFETY: the options are initialized by the first call.
        unsafe {
            lwv_engine_options_init(options.as_mut_ptr(), size_of::<lwv_engine_options>());
            let mut options = options.assume_init();
            options.bundle = bundle.as_ptr();
            options.device = c"cpu".as_ptr();
            options.threads = 1;
            let status = lwv_engine_open(&raw const options, &raw mut engine);
            assert!(status == lwv_status::Ok, "{:?}", last_error());
        }
        engine as usize
    }) as *mut lwv_engine
}

unsafe extern "C" fn on_event(event: *const lwv_event, calls: *mut c_void) -> c_int {
    // SAFETY: events are whole, and `calls` is what the call below gives.
    unsafe {
        let event = &*event;
        assert_eq!(event.text.add(event.text_length).read(), 0);
        let calls = &mut *calls.cast::<c_int>();
        *calls -= 1;
        c_int::from(*calls <= 0)
    }
}

/// One call.
unsafe fn step(input: &mut Input<'_>, handles: &mut Handles) {
    let text = input.text();
    let given = if input.byte() == 255 {
        null()
    } else {
        text.as_ptr()
    };
    let stop: [*const c_char; 2] = [given, null()];
    let stop_count = usize::from(input.byte() % 3);
    let images: [*const lwv_image; 2] = [pick(&handles.images, input), null()];
    let image_count = usize::from(input.byte() % 3);
    let cancel = pick(&handles.tokens, input);
    let session = pick(&handles.sessions, input);
    let generation = pick(&handles.generations, input);
    let draft = pick(&handles.drafts, input);
    let draft_file = FOLDER.path().join(format!("{}.draft", input.byte() % 2));
    let draft_file = CString::new(draft_file.as_os_str().as_encoded_bytes()).unwrap_or_default();

    let mut sampler = MaybeUninit::<lwv_sampler_settings>::zeroed();
    unsafe {
        told(lwv_sampler_settings_init(
            sampler.as_mut_ptr(),
            input.size::<lwv_sampler_settings>(),
        ))
    };
    let sampler = unsafe { sampler.assume_init_mut() };
    sampler.size = input.size::<lwv_sampler_settings>();
    sampler.temperature = input.float();
    sampler.top_p = input.float();
    sampler.min_p = input.float();
    sampler.repetition_penalty = input.float();
    sampler.top_k = input.number();
    sampler.penalty_window = input.number();
    sampler.flags = input.flags();
    sampler.no_repeat_ngram_size = input.number();
    sampler.dry_multiplier = input.float();
    sampler.dry_range = input.number();
    sampler.xtc_probability = input.float();
    sampler.typical_p = input.float();
    let (biased, biases) = ([input.number() as u32, 1], [input.float(); 2]);
    sampler.biased_tokens = biased.as_ptr();
    sampler.biases = biases.as_ptr();
    sampler.bias_count = usize::from(input.byte() % 3);

    let mut settings = MaybeUninit::<lwv_generation_settings>::zeroed();
    unsafe {
        told(lwv_generation_settings_init(
            settings.as_mut_ptr(),
            size_of::<lwv_generation_settings>(),
        ))
    };
    let settings = unsafe { settings.assume_init_mut() };
    settings.size = input.size::<lwv_generation_settings>();
    settings.sampler = sampler;
    settings.max_new_tokens = usize::from(input.byte() % 4);
    settings.min_words = input.number();
    settings.stop = stop.as_ptr();
    settings.stop_count = stop_count;
    settings.flags = input.flags();
    settings.cancel = cancel;
    if settings.size < size_of::<lwv_generation_settings>() {
        // As many tokens as are usual take too long here.
        settings.stop_count = 1;
        settings.size = size_of::<lwv_generation_settings>();
    }
    let mut calls: c_int = c_int::from(input.byte() % 8);
    let user_data = (&raw mut calls).cast();
    let mut number = [0_u32; 4];
    let mut made_session = null_mut();
    let mut made_generation = null_mut();
    let mut made_image = null_mut();
    let mut made_token = null_mut();
    let mut made_text = null_mut();
    let mut made_engine = null_mut();
    let mut made_draft = null_mut();
    let mut made_text_too = null_mut();

    // SAFETY: pointers are NULL or of live values; handles leave their list before they are closed.
    unsafe {
        match input.byte() % 32 {
            0 => keep(
                &mut handles.tokens,
                lwv_cancel_token_open(&raw mut made_token),
                made_token,
            ),
            1 => told(lwv_cancel_token_cancel(cancel)),
            2 => {
                handles.tokens.retain(|token| *token != cancel);
                lwv_cancel_token_close(cancel);
            }
            3 => {
                let (width, height, stride) = (input.number() as u32, input.number() as u32, input.number());
                let pixels = [7_u8; 4096];
                let fits = u128::from(width) * u128::from(height) * 3 <= 4096 && stride < 60;
                let fits = fits && stride as u64 * u64::from(height) + u64::from(width) * 3 <= 4096;
                let pixels = if fits { pixels.as_ptr() } else { null() };
                let status = lwv_image_from_rgb(pixels, width, height, stride, &raw mut made_image);
                keep(&mut handles.images, status, made_image);
            }
            4 => keep(
                &mut handles.images,
                lwv_image_open(given, &raw mut made_image),
                made_image,
            ),
            5 => told(lwv_image_size(images[0], &raw mut number[0], &raw mut number[1])),
            6 => {
                let image = images[0].cast_mut();
                handles.images.retain(|known| *known != image);
                lwv_image_close(image);
            }
            7 => {
                let mut device = MaybeUninit::<lwv_device>::zeroed().assume_init();
                device.size = input.size::<lwv_device>();
                told(lwv_device_at(input.number(), &raw mut device));
            }
            8 => {
                let mut options = MaybeUninit::<lwv_engine_options>::zeroed().assume_init();
                told(lwv_engine_options_init(
                    &raw mut options,
                    input.size::<lwv_engine_options>(),
                ));
                options.size = input.size::<lwv_engine_options>();
                options.bundle = given;
                options.device = given;
                options.flags = input.flags();
                options.threads = input.number();
                options.cancel = cancel;
                told(lwv_engine_open(&raw const options, &raw mut made_engine));
                lwv_engine_close(made_engine);
            }
            9 => {
                let mut estimate = MaybeUninit::<lwv_memory_estimate>::zeroed().assume_init();
                estimate.size = input.size::<lwv_memory_estimate>();
                told(lwv_bundle_estimate(given, input.number(), &raw mut estimate));
                told(lwv_engine_estimate(engine(), input.number(), &raw mut estimate));
            }
            10 => {
                let mut info = MaybeUninit::<lwv_engine_info>::zeroed().assume_init();
                info.size = input.size::<lwv_engine_info>();
                told(lwv_engine_describe(engine(), &raw mut info));
                told(lwv_engine_with_adapter(engine(), given, &raw mut made_engine));
                told(lwv_engine_describe(made_engine, &raw mut info));
                lwv_engine_close(made_engine);
            }
            11 if handles.sessions.len() < 4 => {
                keep(
                    &mut handles.sessions,
                    lwv_session_open(engine(), &raw mut made_session),
                    made_session,
                );
            }
            12 => {
                let message = lwv_message {
                    role: given,
                    text: given,
                    images: images.as_ptr(),
                    image_count,
                };
                told(lwv_session_set_messages(
                    session,
                    &raw const message,
                    usize::from(input.byte() % 2),
                ));
            }
            13 => told(lwv_session_set_text(session, given, images.as_ptr(), image_count)),
            14 => told(lwv_session_add_text(session, given, images.as_ptr(), image_count)),
            15 => told(lwv_session_rewind(session, input.number())),
            16 => {
                let mut count = 0;
                let capacity = usize::from(input.byte() % 5);
                told(lwv_session_tokens(
                    session,
                    number.as_mut_ptr(),
                    capacity,
                    &raw mut count,
                ));
            }
            17 => {
                let mut info = MaybeUninit::<lwv_session_info>::zeroed().assume_init();
                info.size = input.size::<lwv_session_info>();
                told(lwv_session_describe(session, &raw mut info));
            }
            18 => told(lwv_generate(
                session,
                settings,
                Some(on_event),
                user_data,
                null_mut(),
            )),
            19 => {
                let status = lwv_generation_start(session, settings, &raw mut made_generation);
                keep(&mut handles.generations, status, made_generation);
            }
            20 => {
                let mut event = MaybeUninit::<lwv_event>::zeroed().assume_init();
                event.size = input.size::<lwv_event>();
                told(lwv_generation_next(generation, &raw mut event));
            }
            21 => {
                handles.generations.retain(|known| *known != generation);
                lwv_generation_close(generation);
            }
            22 => {
                handles.sessions.retain(|known| *known != session);
                lwv_session_close(session);
            }
            23 => {
                let mut info = MaybeUninit::<lwv_draft_info>::zeroed().assume_init();
                info.size = input.size::<lwv_draft_info>();
                told(lwv_draft_describe(draft, &raw mut info));
            }
            24 => {
                let mut info = MaybeUninit::<lwv_section_info>::zeroed().assume_init();
                info.size = input.size::<lwv_section_info>();
                let (index, info) = (input.number(), &raw mut info);
                let status =
                    lwv_draft_section(draft, index, info, &raw mut made_text, &raw mut made_text_too);
                keep(&mut handles.texts, status, made_text);
                keep(&mut handles.texts, status, made_text_too);
            }
            25 => {
                let status = lwv_draft_variant(draft, input.number(), input.number(), &raw mut made_text);
                keep(&mut handles.texts, status, made_text);
            }
            26 => {
                let status = lwv_draft_text(draft, &raw mut made_text);
                keep(&mut handles.texts, status, made_text);
            }
            27 => {
                let status = lwv_draft_open(draft_file.as_ptr(), &raw mut made_draft);
                keep(&mut handles.drafts, status, made_draft);
            }
            28 => {
                handles.drafts.retain(|known| *known != draft);
                if input.byte() % 2 == 0 {
                    told(lwv_draft_remove(draft));
                }
                lwv_draft_close(draft);
            }
            29 => {
                let mut revision = MaybeUninit::<lwv_revision_settings>::zeroed().assume_init();
                told(lwv_revision_settings_init(
                    &raw mut revision,
                    input.size::<lwv_revision_settings>(),
                ));
                revision.size = input.size::<lwv_revision_settings>();
                revision.section = input.number();
                revision.extend_by = input.number().min(20);
                revision.sampler = if input.byte() % 2 == 0 { null() } else { sampler };
                revision.cancel = cancel;
                let status = lwv_draft_revise(
                    engine(),
                    draft,
                    &raw const revision,
                    Some(on_event),
                    user_data,
                    &raw mut made_text,
                    null_mut(),
                );
                keep(&mut handles.texts, status, made_text);
            }
            30 => {
                let status = lwv_draft_write(
                    engine(),
                    draft,
                    cancel,
                    Some(on_event),
                    user_data,
                    &raw mut made_text,
                    null_mut(),
                );
                keep(&mut handles.texts, status, made_text);
            }
            _ => {
                let mut order = MaybeUninit::<lwv_writer_settings>::zeroed().assume_init();
                told(lwv_writer_settings_init(
                    &raw mut order,
                    input.size::<lwv_writer_settings>(),
                ));
                order.size = size_of::<lwv_writer_settings>();
                order.instruction = given;
                order.images = images.as_ptr();
                order.image_count = image_count;
                order.words = input.number().min(20);
                order.sections = input.number();
                order.plan = if input.byte() % 2 == 0 { null() } else { given };
                order.sampler = sampler;
                order.max_section_tokens = 3;
                order.flags = input.flags();
                order.cancel = cancel;
                if input.byte() % 2 == 0 {
                    let status = lwv_draft_create(
                        engine(),
                        draft_file.as_ptr(),
                        &raw const order,
                        &raw mut made_draft,
                    );
                    keep(&mut handles.drafts, status, made_draft);
                    return;
                }
                let status = lwv_write(
                    engine(),
                    &raw const order,
                    Some(on_event),
                    user_data,
                    &raw mut made_text,
                    null_mut(),
                );
                keep(&mut handles.texts, status, made_text);
                lwv_text_data(made_text, null_mut());
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (mut input, mut handles) = (Input(bytes), Handles::default());
    while !input.0.is_empty() {
        // SAFETY: said there.
        unsafe { step(&mut input, &mut handles) };
    }
    // SAFETY: what is in the lists was not closed.
    unsafe {
        handles
            .sessions
            .drain(..)
            .for_each(|handle| lwv_session_close(handle));
        handles
            .generations
            .drain(..)
            .for_each(|handle| lwv_generation_close(handle));
        handles
            .images
            .drain(..)
            .for_each(|handle| lwv_image_close(handle));
        handles
            .tokens
            .drain(..)
            .for_each(|handle| lwv_cancel_token_close(handle));
        handles.texts.drain(..).for_each(|handle| lwv_text_close(handle));
        handles
            .drafts
            .drain(..)
            .for_each(|handle| lwv_draft_close(handle));
    }
    // What one input left would change what the next one does.
    for file in std::fs::read_dir(FOLDER.path()).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(file.path());
    }
});
