use crate::error::Result;
use crate::generation::{Generation, GenerationSettings};
use crate::lookup::Lookup;
use crate::loop_guard::LoopGuard;
use crate::session::Session;

/// What guesses the tokens of a generation, where it may and the decoder can verify several at once.
pub(super) fn lookup(session: &mut Session, settings: &GenerationSettings) -> Option<Lookup> {
    let most = settings.lookup_tokens.min(session.most_guesses());
    let looks_up = most > 0 && !session.is_deterministic();
    looks_up.then(|| Lookup::new(most, session.tokens()))
}

/// What a generation does whose tokens are guessed. A guess that comes true saves a step: its scores are there when it has been
/// chosen. All else goes on token by token, as without guesses.
impl Generation<'_> {
    /// Sees to the scores after the last token.
    pub(super) fn step(&mut self) -> Result<()> {
        if let Some(lookup) = &mut self.lookup {
            lookup.follow(self.session.tokens());
        }
        if self.session.was_guessed() {
            self.clock.accepted += 1;
            return Ok(());
        }
        let guesses = self.guess();
        self.session.step(&guesses)?;
        self.clock.guessed += guesses.len();
        Ok(())
    }

    /// Tokens that the text may go on with. None that could not be chosen any more, and none that ends the text: nothing is
    /// asked about what comes after it.
    fn guess(&self) -> Vec<u32> {
        let Some(lookup) = self.lookup.as_ref().filter(|_| !self.is_near_loop()) else {
            return Vec::new();
        };
        let tokens = self.session.tokens();
        let left = self.settings.max_new_tokens - self.generated().len();
        let room = self.session.context_length() - tokens.len();
        let ends = &self.session.context().eos_token_ids;
        let guess = lookup.guess(tokens, left.min(room) - 1);
        guess
            .iter()
            .copied()
            .take_while(|id| !ends.contains(id))
            .collect()
    }

    /// Whether a loop is suspected, which would be guessed best of all, or was just left.
    fn is_near_loop(&self) -> bool {
        self.sampler.is_strengthened() || self.guard.as_ref().is_some_and(LoopGuard::suspects_loop)
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    use super::*;
    use crate::generation::{Event, FinishReason};
    use crate::sampler::{SamplerSettings, SamplerState};
    use crate::scripted::{END, Log, ScriptedDecoder, text_prompt, token_of};
    use crate::stats::Stats;

    const SENTENCES: [&str; 9] = [
        "Bees fly far. ",
        "The river is wide, and the river is slow. ",
        "\u{201c}Hm\u{201d} \u{2013} so it is.\n",
        "\u{6cb3}\u{6c34}\u{6d41}\u{3002}",
        "| a | b |\n| c | d |\n",
        "```\nlet a = b;\nlet a = c;\n```\n",
        "It is said that bees fly far over wide rivers. ",
        "aaaaaaaaaaaaaaaa. ",
        "na\u{ef}ve \u{1f469}\u{200d}\u{1f680}!\n\n",
    ];

    fn below(random: &mut ChaCha8Rng, limit: usize) -> usize {
        random.next_u32() as usize % limit
    }

    /// Sentences, of which many come again.
    fn text(random: &mut ChaCha8Rng, sentences: usize) -> String {
        let mut pool = SENTENCES.to_vec();
        pool.truncate(2 + below(random, SENTENCES.len() - 1));
        let sentences = (0..sentences).map(|_| pool[below(random, pool.len())]);
        sentences.collect()
    }

    fn settings(random: &mut ChaCha8Rng) -> GenerationSettings {
        let mut one_in = |n| below(random, n) == 0;
        let sampler = SamplerSettings {
            greedy: one_in(3),
            temperature: 1.0,
            repetition_penalty: if one_in(3) { 1.1 } else { 1.0 },
            frequency_penalty: if one_in(4) { 0.3 } else { 0.0 },
            dry_multiplier: if one_in(3) { 0.8 } else { 0.0 },
            no_repeat_ngram_size: if one_in(4) { 12 } else { 0 },
            xtc_probability: if one_in(4) { 0.3 } else { 0.0 },
            penalize_prompt: one_in(4),
            logit_bias: one_in(4).then_some((token_of(b'e'), -60.0)).into_iter().collect(),
            ..SamplerSettings::default()
        };
        let (guard, stops, ignore_eos, early) = (one_in(3), one_in(4), one_in(5), one_in(3));
        GenerationSettings {
            sampler: SamplerSettings {
                seed: random.next_u64(),
                ..sampler
            },
            loop_guard: guard,
            stop: if stops {
                vec!["| a b".to_owned(), "\u{3002}".to_owned()]
            } else {
                vec![]
            },
            ignore_eos,
            max_new_tokens: if early { 1 + below(random, 200) } else { 600 },
            min_new_tokens: below(random, 300),
            ..GenerationSettings::default()
        }
    }

    /// Everything that can be seen of a generation, and its session afterwards.
    #[derive(Debug, PartialEq)]
    struct Seen {
        events: Vec<(Event, SamplerState, usize)>,
        tokens: Vec<u32>,
        cached: usize,
        /// Ids and positions in the cache.
        rows: Vec<(u32, Vec<i64>)>,
    }

    /// What is left of events when times are.
    fn timeless(event: Event) -> Event {
        match event {
            Event::Finished { reason, text, .. } => Event::Finished {
                reason,
                text,
                stats: Stats::default(),
            },
            event => event,
        }
    }

    fn run(session: &mut Session, log: &Log, settings: GenerationSettings, most: usize) -> (Seen, Stats) {
        let mut generation = session.generate(settings).unwrap();
        let mut events = Vec::new();
        while events.len() < most {
            let Some(event) = generation.next() else { break };
            let state = (generation.sampler_state(), generation.words());
            events.push((timeless(event.unwrap()), state.0, state.1));
        }
        let stats = generation.stats();
        drop(generation);
        let cached = session.cached_tokens();
        let rows = log.rows.lock().unwrap();
        let rows = rows[..cached].iter().map(|row| (row.id, row.position.clone()));
        let rows: Vec<(u32, Vec<i64>)> = rows.collect();
        let ids: Vec<u32> = rows.iter().map(|row| row.0).collect();
        assert_eq!(ids, session.tokens()[..cached]);
        let tokens = session.tokens().to_vec();
        (
            Seen {
                events,
                tokens,
                cached,
                rows,
            },
            stats,
        )
    }

    /// What two generations, one after another in one session, come to with so many guesses.
    fn seen(seed: u64, lookup_tokens: usize) -> ([Seen; 2], [Stats; 2]) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (prompt, script) = (text(&mut random, 6), text(&mut random, 30));
        let start = prompt.len();
        let decoder = ScriptedDecoder::new(move |ids| {
            let byte = script.as_bytes().get(ids.len().wrapping_sub(start));
            byte.map_or(END, |byte| token_of(*byte))
        });
        // Rows that nobody may choose from any more fill the context at times.
        let context = if below(&mut random, 4) == 0 {
            start + 150
        } else {
            4096
        };
        let decoder = decoder.undecided().with_longest_step(8).with_context(context);
        let log = decoder.log();
        let mut session = decoder.session();
        session.extend(text_prompt(&prompt)).unwrap();
        let settings = GenerationSettings {
            lookup_tokens,
            ..settings(&mut random)
        };
        // The first is dropped early at times.
        let most = if below(&mut random, 2) == 0 {
            usize::MAX
        } else {
            below(&mut random, 200)
        };
        let (first, first_stats) = run(&mut session, &log, settings.clone(), most);
        let (second, second_stats) = run(&mut session, &log, settings, usize::MAX);
        ([first, second], [first_stats, second_stats])
    }

    #[test]
    fn guesses_change_nothing_that_can_be_seen() {
        let (mut accepted, mut guessed, mut rewinds) = (0, 0, 0);
        let mut reasons = std::collections::HashSet::new();
        for seed in 0..150 {
            let (plain, _) = seen(seed, 0);
            for lookup_tokens in [1, 7] {
                let (looked_up, stats) = seen(seed, lookup_tokens);
                assert_eq!(plain, looked_up, "seed {seed}, {lookup_tokens} tokens");
                accepted += stats.iter().map(|stats| stats.accepted_tokens).sum::<usize>();
                guessed += stats.iter().map(|stats| stats.guessed_tokens).sum::<usize>();
                rewinds += stats.iter().map(|stats| stats.loop_interventions).sum::<usize>();
            }
            for (event, ..) in plain.iter().flat_map(|seen| &seen.events) {
                if let Event::Finished { reason, .. } = event {
                    reasons.insert(*reason);
                }
            }
        }
        assert!(accepted > 1000 && guessed > accepted, "{accepted} of {guessed}");
        assert!(rewinds > 10, "{rewinds}");
        let all = [
            FinishReason::Eos,
            FinishReason::StopString,
            FinishReason::MaxTokens,
            FinishReason::ContextFull,
            FinishReason::LoopDetected,
        ];
        assert!(all.iter().all(|reason| reasons.contains(reason)), "{reasons:?}");
    }

    fn copy(lookup_tokens: usize, deterministic: bool, longest_step: usize) -> (Log, Stats) {
        let text = "A text of which every word is there already, as in rewriting.";
        let decoder = ScriptedDecoder::writing(text.len(), text).with_longest_step(longest_step);
        let log = decoder.log();
        let mut session = decoder.session();
        session.set_deterministic(deterministic);
        session.extend(text_prompt(text)).unwrap();
        let settings = GenerationSettings {
            sampler: SamplerSettings::greedy(),
            lookup_tokens,
            ..GenerationSettings::default()
        };
        let output = session.generate(settings).unwrap().complete().unwrap();
        assert_eq!(output.text, text);
        (log, output.stats)
    }

    #[test]
    fn copies_take_few_steps() {
        let (plain, stats) = copy(0, false, 8);
        assert_eq!((stats.guessed_tokens, stats.accepted_tokens), (0, 0));
        let steps = |log: &Log| log.runs.lock().unwrap().len();
        let (log, stats) = copy(7, false, 8);
        assert!(
            steps(&log) * 2 < steps(&plain),
            "{} of {}",
            steps(&log),
            steps(&plain)
        );
        assert!(log.runs.lock().unwrap().contains(&8));
        assert!(stats.accepted_tokens > 40 && stats.guessed_tokens >= stats.accepted_tokens);
        assert_eq!(stats.generated_tokens, 62);
        let (log, _) = copy(3, false, 8);
        let longest = log.runs.lock().unwrap()[8..].iter().max().copied();
        assert_eq!(longest, Some(4), "no more than are allowed");
    }

    #[test]
    fn nothing_is_guessed_where_it_cannot_be_verified_or_may_not() {
        for (deterministic, longest_step) in [(true, 8), (false, 1)] {
            let (log, stats) = copy(7, deterministic, longest_step);
            assert_eq!(stats.guessed_tokens, 0);
            assert!(log.runs.lock().unwrap()[8..].iter().all(|run| *run == 1));
        }
    }
}
