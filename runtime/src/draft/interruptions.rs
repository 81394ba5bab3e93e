//! What comes of texts that turn in circles and are interrupted, wherever that is.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::journal::read_lines;
use super::{Draft, Outline, copy_of};
use crate::scripted::{END, ScriptedDecoder, bytes_of, processor, token_of};
use crate::{Event, Manuscript, Plan, PlannedSection, SamplerSettings, Writer, WriterEvent, WriterSettings};

const SENTENCES: [&str; 10] = [
    "Bees fly far over wide rivers. ",
    "And wasps do not fly. ",
    "so it is and so on and ",
    "At 4 he comes and goes. ",
    "At 5 he comes and goes. ",
    "A hive is 3.",
    "5 m wide as they say.\n",
    "| a | b |\n| c | d |\n",
    "\u{201c}Hm\u{201d} \u{2013} so it is said here. ",
    "No na\u{ef}ve bee is idle!\n\n",
];

/// A model that goes on with a sentence by how the last one ended, so that it turns in circles, until letters that it chose in
/// doubt lead it out. Its scores depend on how the tokens before came into the cache, as last bits of sums do.
fn rambling(seed: u64) -> ScriptedDecoder {
    let decoder = ScriptedDecoder::new(move |ids| {
        let text = bytes_of(ids);
        let paragraph = text.windows(2).rposition(|pair| pair == b"\n\n");
        let mut at = paragraph.map_or(0, |end| end + 2);
        loop {
            let mut hasher = DefaultHasher::new();
            (seed, &text[at.saturating_sub(9)..at]).hash(&mut hasher);
            let drawn = hasher.finish() as usize;
            if drawn.is_multiple_of(29) {
                return END;
            }
            let sentence = SENTENCES[drawn / 29 % SENTENCES.len()].as_bytes();
            match sentence.get(text.len() - at) {
                Some(byte) => return token_of(*byte),
                None => at += sentence.len(),
            }
        }
    });
    decoder.doubtful().with_context(1 << 14)
}

fn outline() -> Outline {
    let section = |(main_point, words): (&str, usize)| PlannedSection {
        main_point: main_point.to_owned(),
        words,
    };
    let sections = [("Bees", 60), ("Wasps", 90)];
    Outline::Given(Plan {
        sections: sections.map(section).to_vec(),
    })
}

fn settings(seed: u64) -> WriterSettings {
    WriterSettings {
        sampler: SamplerSettings {
            greedy: seed.is_multiple_of(4),
            temperature: 1.0,
            seed,
            ..SamplerSettings::default()
        },
        deterministic: true,
        loop_guard: true,
        ..WriterSettings::default()
    }
}

/// What events tell of a text.
#[derive(Default)]
struct Told {
    text: String,
    /// Where in it the pass began that is being written.
    pass: usize,
    /// What of it was said to stay.
    settled: usize,
    rewinds: usize,
}

impl Told {
    fn hear(&mut self, event: WriterEvent) {
        match event {
            WriterEvent::Text(text) => {
                self.text.push_str(&text);
                self.pass = self.text.len();
            }
            WriterEvent::Generation(Event::Token { text, .. }) => self.text.push_str(&text),
            WriterEvent::Generation(Event::Rewound { bytes, .. }) => {
                self.text.truncate(self.text.len() - bytes);
                self.rewinds += 1;
                assert!(self.text.len() >= self.settled, "what is settled stays");
            }
            WriterEvent::Generation(Event::Settled { bytes }) => {
                self.settled = self.pass + bytes;
                assert!(self.text.is_char_boundary(self.settled));
            }
            WriterEvent::Generation(Event::Finished { text, .. }) => {
                self.text.push_str(&text);
                self.pass = self.text.len();
            }
            _ => {}
        }
    }
}

/// The whole text, written on from `draft`, and how often it went back.
fn written_on(seed: u64, draft: Draft) -> (Manuscript, usize) {
    let task = draft.header().task.open().unwrap();
    let mut writer = Writer::with_session(processor(), rambling(seed).session(), task, settings(seed));
    writer.keep(draft).unwrap();
    let mut told = Told::default();
    let manuscript = writer.write_draft(|event| told.hear(event)).unwrap();
    assert_eq!(told.text, manuscript.text());
    (manuscript, told.rewinds)
}

#[test]
fn a_text_that_turns_in_circles_is_the_same_wherever_it_was_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("draft");
    let mut went_back = 0;
    for seed in 0..12 {
        let header = super::tests::header(outline());
        let draft = Draft::create(&path, header).unwrap().save_every(Duration::ZERO);
        let (whole, rewinds) = written_on(seed, draft);
        went_back += rewinds;
        let bytes = fs::read(&path).unwrap();
        let lines = read_lines::<serde_json::Value>(&bytes);
        for line in lines.iter().step_by(61) {
            fs::remove_file(copy_of(&path)).unwrap_or_default();
            fs::write(&path, &bytes[..line.end]).unwrap();
            let (draft, _) = Draft::open(&path).unwrap();
            let (resumed, _) = written_on(seed, draft);
            assert_eq!(resumed, whole, "seed {seed}, after record {}", line.number);
        }
        fs::remove_file(&path).unwrap();
        fs::remove_file(copy_of(&path)).unwrap_or_default();
    }
    assert!(went_back > 50, "{went_back}");
}
