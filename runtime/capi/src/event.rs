use std::ffi::{c_char, c_int, c_void};

use lwv_runtime::{Event, WriterEvent};

use crate::finish_reason::lwv_finish_reason;
use crate::stats::{HeldStats, lwv_stats};
use crate::structure::Structure;
use crate::text::terminated;

/// What happened. Later versions may have more: pass over those that you do not know.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum lwv_event_kind {
    /// Something that this version of the interface does not name.
    Other = 0,
    /// Prompt tokens were computed: `done` of `total`; those that were in the cache are not among them.
    Prefill = 1,
    /// Image `index` of the session was encoded; it takes `total` tokens.
    ImageEncoded = 2,
    /// Token `token` was chosen. `text` is what is certain with it: whole characters, no part of a stop string, often empty.
    Token = 3,
    /// The end of a generation, told once: `reason`, `stats`, and in `text` what was held back.
    Finished = 4,
    /// Line `index` of the plan was made; `text` is what the section will say.
    PlanLine = 5,
    /// Section `index` begins; it is to have `total` words.
    SectionStarted = 6,
    /// Text that is not generated now: headings, empty lines, and what a draft holds.
    Text = 7,
    /// Section `index` ended with `total` words, for `reason`.
    SectionFinished = 8,
    /// The model turned in circles: `total` bytes of the text that was told are taken back, and `done` tokens. Comes only with
    /// `LWV_LOOP_GUARD`.
    Rewound = 9,
    /// The first `total` bytes of the text, of this generation or section, are sure to stay. Comes only with
    /// `LWV_LOOP_GUARD`, usually with the sentence after; without it all text stays.
    Settled = 10,
    /// The context cannot hold all that was written: section `index` is not shown the first `total` words.
    TextLeftOut = 11,
    /// Section `index` stays short, however often it was written on: it has `done` of `total` words.
    Shortfall = 12,
}

/// Something that happened. All texts of the kinds token, finished and text, put together, are the text, less what is taken
/// back. Pointers are good until the next event of the same generation or writing.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_event {
    /// Bytes of this structure.
    pub size: usize,
    /// What happened; it says which fields have a meaning.
    pub kind: lwv_event_kind,
    /// Why it ended.
    pub reason: lwv_finish_reason,
    /// Which image, line or section, from 0.
    pub index: usize,
    /// How much is done.
    pub done: usize,
    /// How much it is in all.
    pub total: usize,
    /// The token's id.
    pub token: u64,
    /// UTF-8 with a zero after it; never NULL.
    pub text: *const c_char,
    /// Its bytes without that zero: a model can write zeros of its own.
    pub text_length: usize,
    /// What it cost; NULL but at the end of a generation.
    pub stats: *const lwv_stats,
}

// SAFETY: `repr(C)`, `size` first; it is written and never read, so that the enumerations have no other values.
unsafe impl Structure for lwv_event {
    fn usual() -> Self {
        Self {
            size: size_of::<Self>(),
            kind: lwv_event_kind::Other,
            reason: lwv_finish_reason::Other,
            index: 0,
            done: 0,
            total: 0,
            token: 0,
            text: c"".as_ptr(),
            text_length: 0,
            stats: std::ptr::null(),
        }
    }
}

/// Is told what happens, on the thread that called. Anything but 0 stops: the callback is not called again, and what was
/// written counts. It must not throw or jump out. What it calls with the same session, generation or
/// draft is `LWV_STATUS_BUSY`.
pub type lwv_event_callback =
    Option<unsafe extern "C" fn(event: *const lwv_event, user_data: *mut c_void) -> c_int>;

/// The last event beside the memory that it points to.
pub(crate) struct HeldEvent {
    event: lwv_event,
    text: Vec<u8>,
    stats: Option<Box<HeldStats>>,
}

// SAFETY: the pointers are to what it owns itself, or to constants.
unsafe impl Send for HeldEvent {}

impl HeldEvent {
    pub(crate) fn new() -> Self {
        Self {
            event: lwv_event::usual(),
            text: Vec::new(),
            stats: None,
        }
    }

    /// The event for C. It points into `self`.
    pub(crate) fn hold(&mut self, event: Event) -> lwv_event {
        self.begin(lwv_event_kind::Other);
        match event {
            Event::Prefill { done, total } => {
                self.event.kind = lwv_event_kind::Prefill;
                (self.event.done, self.event.total) = (done, total);
            }
            Event::ImageEncoded { index, tokens } => {
                self.event.kind = lwv_event_kind::ImageEncoded;
                (self.event.index, self.event.total) = (index, tokens);
            }
            Event::Token { id, text } => {
                self.event.kind = lwv_event_kind::Token;
                self.event.token = u64::from(id);
                self.hold_text(text);
            }
            Event::Rewound { tokens, bytes } => {
                self.event.kind = lwv_event_kind::Rewound;
                (self.event.done, self.event.total) = (tokens, bytes);
            }
            Event::Settled { bytes } => {
                self.event.kind = lwv_event_kind::Settled;
                self.event.total = bytes;
            }
            Event::Finished { reason, text, stats } => {
                self.event.kind = lwv_event_kind::Finished;
                self.event.reason = reason.into();
                self.hold_text(text);
                let stats = self.stats.insert(Box::new(HeldStats::new(&stats)));
                self.event.stats = &raw const stats.stats;
            }
            _ => {}
        }
        self.event
    }

    /// The same for a writer's.
    pub(crate) fn hold_writer(&mut self, event: WriterEvent) -> lwv_event {
        self.begin(lwv_event_kind::Other);
        match event {
            WriterEvent::PlanLine { index, main_point } => {
                self.event.kind = lwv_event_kind::PlanLine;
                self.event.index = index;
                self.hold_text(main_point);
            }
            WriterEvent::SectionStarted { index, words } => {
                self.event.kind = lwv_event_kind::SectionStarted;
                (self.event.index, self.event.total) = (index, words);
            }
            WriterEvent::TextLeftOut { index, words } => {
                self.event.kind = lwv_event_kind::TextLeftOut;
                (self.event.index, self.event.total) = (index, words);
            }
            WriterEvent::Shortfall { index, words, wanted } => {
                self.event.kind = lwv_event_kind::Shortfall;
                (self.event.index, self.event.done, self.event.total) = (index, words, wanted);
            }
            WriterEvent::Generation(event) => return self.hold(event),
            WriterEvent::Text(text) => {
                self.event.kind = lwv_event_kind::Text;
                self.hold_text(text);
            }
            WriterEvent::SectionFinished { index, words, reason } => {
                self.event.kind = lwv_event_kind::SectionFinished;
                self.event.reason = reason.into();
                (self.event.index, self.event.total) = (index, words);
            }
            _ => {}
        }
        self.event
    }

    fn begin(&mut self, kind: lwv_event_kind) {
        self.event = lwv_event {
            kind,
            ..lwv_event::usual()
        };
        self.stats = None;
    }

    fn hold_text(&mut self, text: String) {
        self.text = terminated(text);
        self.event.text = self.text.as_ptr().cast();
        self.event.text_length = self.text.len() - 1;
    }
}

#[cfg(test)]
mod tests {
    use lwv_runtime::{FinishReason, Stats};

    use super::*;

    #[test]
    fn an_event_points_to_its_own_text() {
        let mut held = HeldEvent::new();
        let text = |event: &lwv_event| unsafe {
            assert_eq!(event.text.add(event.text_length).read(), 0);
            let bytes = std::slice::from_raw_parts(event.text.cast::<u8>(), event.text_length);
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        let token = held.hold(Event::Token {
            id: 7,
            text: "a\0é".into(),
        });
        assert_eq!(
            (token.kind, token.token, text(&token).as_str()),
            (lwv_event_kind::Token, 7, "a\0é")
        );
        let prefill = held.hold(Event::Prefill { done: 1, total: 2 });
        assert_eq!((prefill.done, prefill.total, text(&prefill).as_str()), (1, 2, ""));
        let finished = held.hold(Event::Finished {
            reason: FinishReason::Eos,
            text: "!".into(),
            stats: Stats::default(),
        });
        assert_eq!(finished.reason, lwv_finish_reason::Eos);
        assert!(!finished.stats.is_null() && text(&finished) == "!");
        assert!(held.hold_writer(WriterEvent::Text("x".into())).stats.is_null());
    }
}
