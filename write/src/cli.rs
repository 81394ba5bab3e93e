use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgGroup, CommandFactory, Parser, Subcommand};
use lwv_runtime::{DraftHeader, GenerationSettings, SamplerSettings};
use lwv_write::EngineOptions;

use crate::bench::{Bench, read_ids};
use crate::recipe::{Change, PromptSource, Recipe};

const EXAMPLES: &str = "\
Examples:
  Write about two photographs, 800 words, as they come:
    lwv-write bundle --image a.jpg --image b.png --prompt 'Compare these two gardens.' --words 800

  Plan and write a long text into a file, with progress on the terminal:
    lwv-write bundle --image slides/01.png --prompt-file task.txt --words 3000 --plan --out talk.md

  Make a plan, edit it, write it, and go on after a power cut:
    lwv-write bundle --prompt-file task.txt --words 3000 --plan-only plan.md
    lwv-write bundle --prompt-file task.txt --plan-file plan.md --out talk.md
    lwv-write bundle --resume talk.md.draft

  What would a long text take on a board whose memory gives 102 GB/s?
    lwv-write bundle --estimate --bandwidth 102

  A long text without loops: penalize repeated phrases, and never write twelve tokens in the same order twice:
    lwv-write bundle --prompt-file task.txt --words 1500 --dry-multiplier 0.8 --no-repeat-ngram 12 --out talk.md

  What keeps small models at their subject for thousands of words:
    lwv-write bundle --prompt-file task.txt --words 10000 --plan --temperature 0.7 --min-p 0.1 \
        --repetition-penalty 1.1 --penalty-window 256 --dry-multiplier 0.8 --out book.md

  Livelier words, and never token 4032:
    lwv-write bundle --prompt 'Describe a harbour.' --temperature 0.9 --min-p 0.05 --xtc-probability 0.3 \
        --logit-bias 4032=-inf

  Write with an adapter that a LoRA was made into (`lwv-export adapter --help`):
    lwv-write bundle --adapter bundle/adapters/formal.onnx_adapter --prompt-file task.txt --words 800

  Let editors that speak OpenAI's protocol write with it, on this machine only:
    lwv-write serve bundle

  How fast does it read and write here?
    lwv-write bench bundle

  Twenty tokens, always the same ones, as JSON:
    lwv-write bundle --prompt 'The capital of France is' --raw-prompt --greedy --max-new-tokens 20 --json

Exit status: 0 written, 1 failed, 2 wrong usage, 130 cancelled (the text so far is kept).";

/// Writes long texts from pictures and instructions, offline.
#[derive(Debug, Parser)]
#[command(name = "lwv-write", version, after_help = EXAMPLES)]
#[command(group = ArgGroup::new("what").required(true).args(["prompt", "prompt_file", "prompt_ids", "resume", "estimate", "list_engines"]))]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Folder of the bundle, as lwv-export writes it.
    #[arg(required_unless_present = "list_engines")]
    bundle: Option<PathBuf>,

    /// Tell what memory texts take and how fast they can be at most, instead of writing.
    #[arg(long)]
    pub(crate) estimate: bool,
    /// With --estimate: gigabytes that the memory gives in a second.
    #[arg(long, value_name = "N", requires = "estimate")]
    pub(crate) bandwidth: Option<f64>,
    /// List the engines that were built here and kept.
    #[arg(long)]
    pub(crate) list_engines: bool,

    /// A picture (JPEG, PNG or WebP); give it again for more, in their order.
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// What to write.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// File that says what to write.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// File with a JSON list of token ids as the whole prompt.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "words", "plan", "system"])]
    prompt_ids: Option<PathBuf>,
    /// What the model is told before all else.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw_prompt")]
    system: Option<String>,
    /// Take the prompt as it is, without the chat template.
    #[arg(long, conflicts_with_all = ["words", "plan"])]
    raw_prompt: bool,

    /// How many words to write.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    words: Option<u32>,
    /// Make a plan first and write it section by section; needs --words.
    #[arg(long, requires = "words")]
    plan: bool,
    /// Make a plan, write it to FILE (JSON if it ends with .json) and end.
    #[arg(long, value_name = "FILE", requires = "words", conflicts_with_all = ["plan_file", "out", "json", "draft"])]
    plan_only: Option<PathBuf>,
    /// Write the text of this plan: a line for each section, such as `- What it says (300 words)`, or JSON.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["plan", "sections", "raw_prompt", "prompt_ids", "ignore_eos"])]
    plan_file: Option<PathBuf>,
    /// How many sections to plan; by default one for every 300 words.
    #[arg(long, value_name = "N", requires = "words", value_parser = clap::value_parser!(u32).range(1..))]
    sections: Option<u32>,
    /// Most tokens to write; with --plan, in a section.
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Text that ends the writing and is left out; may be given again.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Never let the model end the text; it ends with --max-new-tokens.
    #[arg(long, conflicts_with_all = ["words", "plan"])]
    ignore_eos: bool,

    /// Always take the most likely token.
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold", "seed"])]
    greedy: bool,
    /// Divide scores by this; lower is more predictable [default: 0.6].
    #[arg(long, value_name = "X")]
    temperature: Option<f32>,
    /// Choose among the N most likely tokens; 0 for all [default: 0].
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// Choose among the most likely tokens that have this probability together [default: 0.95].
    #[arg(long, value_name = "X")]
    top_p: Option<f32>,
    /// Choose among tokens with at least this part of the best one's probability [default: 0].
    #[arg(long, value_name = "X")]
    min_p: Option<f32>,
    /// Choose among the tokens whose probability is nearest to what is usual, until they have this one together
    /// [default: 1].
    #[arg(long, value_name = "X")]
    typical_p: Option<f32>,
    /// How often the most likely tokens are left out in favour of a less likely one [default: 0].
    #[arg(long, value_name = "X")]
    xtc_probability: Option<f32>,
    /// Probability from which on --xtc-probability leaves tokens out; the least likely of them stays [default: 0.1].
    #[arg(long, value_name = "X")]
    xtc_threshold: Option<f32>,
    /// Divide the scores of tokens that were written by this [default: 1].
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// Subtract this from the scores of tokens that were written [default: 0].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtract this from a token's score as many times as it was written [default: 0].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// How many of the last tokens the three penalties look at; a loop with longer turns escapes them [default: 1024].
    #[arg(long, value_name = "N")]
    penalty_window: Option<usize>,
    /// Let penalties, DRY and --no-repeat-ngram look at the prompt too.
    #[arg(long)]
    penalize_prompt: bool,
    /// Penalize going on with a repeated phrase by this, and more the longer it is; 0.8 is usual [default: 0].
    #[arg(long, value_name = "X")]
    dry_multiplier: Option<f32>,
    /// Factor by which that penalty grows with every repeated token [default: 1.75].
    #[arg(long, value_name = "X")]
    dry_base: Option<f32>,
    /// Repeated tokens from which on that penalty comes [default: 3].
    #[arg(long, value_name = "N")]
    dry_allowed_length: Option<usize>,
    /// How many of the last tokens that penalty looks at; 0 for all [default: 0].
    #[arg(long, value_name = "N")]
    dry_range: Option<usize>,
    /// Text that a repeated phrase does not reach across; may be given again [default: line end, `:`, `\"`, `*`].
    #[arg(long, value_name = "TEXT")]
    dry_breaker: Vec<String>,
    /// Never write N tokens in the same order twice, but in code, tables and quotations; 12 is safe in prose
    /// [default: 0].
    #[arg(long, value_name = "N")]
    no_repeat_ngram: Option<usize>,
    /// Add a number to the score of a token; -inf bans it. May be given again.
    #[arg(long, value_name = "ID=X", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Watch for a model that turns in circles, which --words does anyway: go back to before the circle, try again up to
    /// three times, then end. Standard output then gets a sentence when the next one begins.
    #[arg(long)]
    loop_guard: bool,
    /// Write whatever the model writes, with --words too.
    #[arg(long, conflicts_with = "loop_guard")]
    no_loop_guard: bool,
    /// Guess up to N tokens at once by what came after the same tokens before, and verify them in one step: faster where a text
    /// is rewritten or quoted, and the same text but for the last bits of sums; `off` guesses nothing [default: off].
    #[arg(long, value_name = "N|off", value_parser = lookup, conflicts_with = "deterministic")]
    lookup: Option<usize>,
    /// Seed of the random choice [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Write the same text whatever was computed before and however often it is interrupted, on the same device and threads;
    /// costs some time.
    #[arg(long)]
    deterministic: bool,

    /// Keep the text here while it is written, to go on with after whatever happens; with --words and --out it is
    /// OUT.draft.
    #[arg(long, value_name = "FILE")]
    draft: Option<PathBuf>,
    /// Leave the draft when the text is whole; its sections can be rewritten and extended.
    #[arg(long)]
    keep_draft: bool,
    /// Go on with a draft, with the settings that it was begun with.
    #[arg(long, value_name = "DRAFT", conflicts_with_all = ["image", "system", "raw_prompt", "plan", "plan_only", "plan_file",
        "sections", "max_new_tokens", "stop", "ignore_eos", "loop_guard", "no_loop_guard", "deterministic", "draft"])]
    resume: Option<PathBuf>,
    /// With --resume: write section N of a whole text anew; the old one stays in the draft.
    #[arg(long, value_name = "N", requires = "resume", conflicts_with_all = ["words", "extend_section"],
        value_parser = clap::value_parser!(u32).range(1..))]
    rewrite_section: Option<u32>,
    /// With --resume: add --words words to section N of a whole text.
    #[arg(long, value_name = "N", requires_all = ["resume", "words"], value_parser = clap::value_parser!(u32).range(1..))]
    extend_section: Option<u32>,

    #[command(flatten)]
    pub(crate) engine: EngineOptions,

    /// Write the text here, as it comes; the settings go into FILE.recipe.json.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object at the end instead of the text.
    #[arg(long)]
    json: bool,
}

/// What is done instead of writing a text.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Command {
    /// Measure how fast a bundle reads and writes here; see `lwv-write bench --help`.
    Bench(Bench),
    /// Answer OpenAI's chat completions on this machine; see `lwv-write serve --help`. A bundle of that name is `./serve`.
    #[command(disable_help_flag = true)]
    Serve {
        /// What `lwv-serve` is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
        arguments: Vec<OsString>,
    },
}

impl Arguments {
    /// Whether arguments go together, as far as their definitions cannot say it.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        let changes = self.rewrite_section.is_some() || self.extend_section.is_some();
        let usual = SamplerSettings::default();
        let draws = self.sampler(usual.clone()) != usual;
        let is_long_text = self.words.is_some() || self.plan_file.is_some();
        let has_draft =
            self.resume.is_some() || (is_long_text && (self.draft.is_some() || self.out.is_some()));
        let problem = if self.resume.is_some() && !changes && (draws || self.words.is_some()) {
            "a draft is gone on with as it was begun; --words and how tokens are chosen go with --extend-section and \
             --rewrite-section only"
        } else if self.draft.is_some() && !is_long_text {
            "--draft needs --words or --plan-file"
        } else if self.sections.is_some() && !self.plan && self.plan_only.is_none() {
            "--sections needs --plan or --plan-only"
        } else if changes && self.resume.is_none() {
            "--rewrite-section and --extend-section need --resume"
        } else if self.keep_draft && !has_draft {
            "--keep-draft needs --resume, or --words or --plan-file with --draft or --out"
        } else {
            return Ok(());
        };
        Err(Self::command().error(ErrorKind::ArgumentConflict, problem))
    }

    /// The draft to go on with.
    pub(crate) fn resume(&self) -> Option<&Path> {
        self.resume.as_deref()
    }

    /// Reads the prompt and fills in defaults, or what `header` says of the draft that is gone on with.
    pub(crate) fn resolve(self, header: Option<&DraftHeader>) -> anyhow::Result<Recipe> {
        let change = self.change();
        let is_long_text = self.words.is_some() || self.plan_file.is_some();
        let usual = header.map_or_else(SamplerSettings::default, |header| header.settings.sampler.clone());
        let recipe = Recipe {
            prompt: self.prompt_source()?,
            sampler: self.sampler(usual),
            loop_guard: self.loop_guard || (is_long_text && !self.no_loop_guard),
            lookup_tokens: self
                .lookup
                .or(header.map(|header| header.settings.lookup_tokens))
                .unwrap_or(GenerationSettings::default().lookup_tokens),
            bundle: self.bundle.unwrap_or_default(),
            images: self.image,
            system: self.system,
            words: self.words.map(|words| words as usize),
            plan: self.plan || self.plan_only.is_some(),
            plan_only: self.plan_only,
            plan_file: self.plan_file,
            sections: self.sections.map(|sections| sections as usize),
            max_new_tokens: self.max_new_tokens,
            stop: self.stop,
            ignore_eos: self.ignore_eos,
            deterministic: self.deterministic,
            draft: self.draft,
            keep_draft: self.keep_draft,
            resume: self.resume,
            change,
            engine: self.engine,
            out: self.out,
            json: self.json,
        };
        header.map_or(Ok(recipe.clone()), |header| recipe.with_draft(header))
    }

    fn change(&self) -> Option<Change> {
        let section = self.rewrite_section.or(self.extend_section)?;
        Some(Change {
            index: section as usize - 1,
            extend_by: self.extend_section.and(self.words).map(|words| words as usize),
            seed_given: self.seed.is_some(),
        })
    }

    /// Folder of the bundle; empty only where none is needed.
    pub(crate) fn bundle(&self) -> &Path {
        self.bundle.as_deref().unwrap_or(Path::new(""))
    }

    fn prompt_source(&self) -> anyhow::Result<PromptSource> {
        use anyhow::Context;
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the prompt `{}`", path.display()))
        };
        if let Some(path) = &self.prompt_ids {
            return Ok(PromptSource::Ids(read_ids(path)?));
        }
        let text = match (&self.prompt, &self.prompt_file) {
            (None, Some(path)) => read(path)?.trim_end().to_owned(),
            (text, _) => text.clone().unwrap_or_default(),
        };
        Ok(if self.raw_prompt {
            PromptSource::Raw(text)
        } else {
            PromptSource::Request(text)
        })
    }

    fn sampler(&self, usual: SamplerSettings) -> SamplerSettings {
        SamplerSettings {
            greedy: self.greedy || (usual.greedy && self.temperature.is_none()),
            temperature: self.temperature.unwrap_or(usual.temperature),
            top_k: self.top_k.unwrap_or(usual.top_k),
            top_p: self.top_p.unwrap_or(usual.top_p),
            min_p: self.min_p.unwrap_or(usual.min_p),
            typical_p: self.typical_p.unwrap_or(usual.typical_p),
            xtc_probability: self.xtc_probability.unwrap_or(usual.xtc_probability),
            xtc_threshold: self.xtc_threshold.unwrap_or(usual.xtc_threshold),
            repetition_penalty: self.repetition_penalty.unwrap_or(usual.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(usual.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(usual.frequency_penalty),
            penalty_window: self.penalty_window.unwrap_or(usual.penalty_window),
            penalize_prompt: self.penalize_prompt || usual.penalize_prompt,
            dry_multiplier: self.dry_multiplier.unwrap_or(usual.dry_multiplier),
            dry_base: self.dry_base.unwrap_or(usual.dry_base),
            dry_allowed_length: self.dry_allowed_length.unwrap_or(usual.dry_allowed_length),
            dry_range: self.dry_range.unwrap_or(usual.dry_range),
            dry_sequence_breakers: if self.dry_breaker.is_empty() {
                usual.dry_sequence_breakers
            } else {
                self.dry_breaker.clone()
            },
            no_repeat_ngram_size: self.no_repeat_ngram.unwrap_or(usual.no_repeat_ngram_size),
            logit_bias: match self.logit_bias.is_empty() {
                true => usual.logit_bias,
                false => self.logit_bias.iter().copied().collect(),
            },
            seed: self.seed.unwrap_or(usual.seed),
        }
    }
}

/// A number of tokens.
fn lookup(text: &str) -> Result<usize, String> {
    match text {
        "off" => Ok(0),
        number => number
            .parse()
            .map_err(|_| "use a number of tokens, such as 8, or `off`".to_owned()),
    }
}

/// A token's bias, such as `4032=-inf`.
fn bias(text: &str) -> Result<(u32, f32), String> {
    let pair = text
        .split_once('=')
        .and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    pair.ok_or_else(|| "use a token id and a number, such as 4032=-1.5 or 4032=-inf".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(arguments: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(["lwv-write", "bundle"].iter().chain(arguments))
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn defaults_are_filled_in() {
        let recipe = parse(&["--prompt", "x"]).unwrap().resolve(None).unwrap();
        assert_eq!(
            (
                recipe.sampler.temperature,
                recipe.sampler.top_p,
                recipe.sampler.greedy
            ),
            (0.6, 0.95, false)
        );
        assert!(matches!(recipe.prompt, PromptSource::Request(text) if text == "x"));
        assert_eq!(recipe.engine.kv_budget_mib, 4096);
    }

    #[test]
    fn what_follows_serve_is_passed_on() {
        let arguments =
            Arguments::try_parse_from(["lwv-write", "serve", "bundle", "--help", "--prompt", "x"]).unwrap();
        let Some(Command::Serve { arguments }) = arguments.command else {
            panic!("no `serve`: {arguments:?}");
        };
        assert_eq!(arguments, ["bundle", "--help", "--prompt", "x"]);
        assert!(parse(&["--prompt", "x"]).unwrap().command.is_none());
    }

    #[test]
    fn every_sampler_has_a_flag_and_is_in_the_recipe() {
        let flags = "--temperature 0.9 --top-k 40 --top-p 0.9 --min-p 0.05 --typical-p 0.95 --xtc-probability 0.5 \
                     --xtc-threshold 0.2 --repetition-penalty 1.1 --presence-penalty -0.5 --frequency-penalty 0.2 \
                     --penalty-window 256 --penalize-prompt --dry-multiplier 0.8 --dry-base 2 --dry-allowed-length 4 \
                     --dry-range 500 --dry-breaker ; --no-repeat-ngram 12 --logit-bias 5=-inf --logit-bias 6=1.5 --seed 3";
        let arguments: Vec<&str> = ["--prompt", "x"]
            .into_iter()
            .chain(flags.split_whitespace())
            .collect();
        let recipe = parse(&arguments).unwrap().resolve(None).unwrap();
        let stored: serde_json::Value = serde_json::to_value(&recipe).unwrap();
        let read: SamplerSettings = serde_json::from_value(stored["sampler"].clone()).unwrap();
        assert_eq!(read, recipe.sampler);
        let usual = serde_json::to_value(SamplerSettings::default()).unwrap();
        for (name, value) in stored["sampler"].as_object().unwrap() {
            assert!(
                name == "greedy" || *value != usual[name],
                "no flag changed `{name}`"
            );
        }
        assert_eq!(stored["sampler"]["logit_bias"]["5"], "-inf");
    }

    #[test]
    fn texts_of_many_words_are_guarded_and_plain_prompts_are_not() {
        let guarded = |flags: &[&str]| {
            let arguments = [&["--prompt", "x"], flags].concat();
            parse(&arguments).unwrap().resolve(None).unwrap().loop_guard
        };
        assert!(!guarded(&["--greedy"]) && guarded(&["--loop-guard"]));
        assert!(guarded(&["--words", "500"]) && !guarded(&["--words", "500", "--no-loop-guard"]));
        assert!(parse(&["--prompt", "x", "--loop-guard", "--no-loop-guard"]).is_err());
    }

    #[test]
    fn wrong_usage_is_refused() {
        assert!(parse(&[]).is_err(), "nothing to write");
        assert!(parse(&["--prompt", "x", "--prompt-file", "y"]).is_err());
        assert!(parse(&["--prompt", "x", "--plan"]).is_err(), "a plan needs words");
        assert!(parse(&["--prompt", "x", "--greedy", "--temperature", "1"]).is_err());
        assert!(parse(&["--prompt", "x", "--greedy", "--typical-p", "0.9"]).is_err());
        let error = parse(&["--prompt", "x", "--logit-bias", "a=1"]).unwrap_err();
        assert!(error.to_string().contains("4032=-inf"), "{error}");
        assert!(parse(&["--resume", "d", "--prompt", "x"]).is_err());
        assert!(
            parse(&["--resume", "d", "--extend-section", "1"]).is_err(),
            "words"
        );
        for (arguments, named) in [
            (&["--prompt", "x", "--rewrite-section", "1"][..], "need --resume"),
            (&["--resume", "d", "--seed", "1"], "--rewrite-section only"),
            (&["--resume", "d", "--words", "1"], "--extend-section"),
            (&["--prompt", "x", "--draft", "d"], "--words"),
            (&["--prompt", "x", "--words", "9", "--keep-draft"], "--out"),
            (&["--prompt", "x", "--words", "9", "--sections", "2"], "--plan"),
        ] {
            let error = parse(arguments).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        assert!(parse(&["--prompt", "x"]).unwrap().check().is_ok());
        let error = parse(&["--prompt", "x", "--device", "gpu"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("tensorrt-rtx"), "{error}");
    }
}
