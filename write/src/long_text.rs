//! Texts of a number of words: planned or in one piece, new or gone on with.

use std::path::Path;

use anyhow::{Context, Result};
use lwv_processor::RgbImage;
use lwv_runtime::{
    CancelToken, Draft, DraftHeader, DraftSettings, DraftState, DraftTask, Engine, FinishReason, Manuscript,
    Outline, Plan, Revision, Task, Writer, WriterSettings,
};
use lwv_write::Progress;

use crate::desk::{Desk, Report};
use crate::recipe::{Change, PromptSource, Recipe};
use crate::say;
use crate::text_file::TextFile;

/// Opens a draft to go on with, and says what was lost of it.
pub(crate) fn open_draft(path: &Path) -> Result<Draft> {
    let (draft, recovery) = Draft::open(path)?;
    if !recovery.is_clean() {
        say(&format!("`{}`: {recovery}", path.display()));
    }
    Ok(draft)
}

/// Makes a plan and writes it to a file.
pub(crate) fn plan_only(
    recipe: &Recipe,
    engine: &Engine,
    cancel: &CancelToken,
    progress: &mut Progress,
    images: Vec<RgbImage>,
    path: &Path,
) -> Result<FinishReason> {
    let mut writer = Writer::new(engine, task(recipe, images), settings(recipe, cancel))?;
    let words = recipe.words.unwrap_or_default();
    let plan = writer.plan(words, recipe.sections, |event| progress.writer(&event))?;
    progress.finish();
    let text = match path.extension().is_some_and(|extension| extension == "json") {
        true => serde_json::to_string_pretty(&plan)?,
        false => plan.to_lines(),
    };
    let mut file = TextFile::create(path)?;
    file.push(&(text + "\n"))?;
    file.finish()?;
    Ok(FinishReason::Eos)
}

/// Writes a text, or goes on with `draft`, which at the end is the one that the text is in, whole or not.
pub(crate) fn write(
    recipe: &Recipe,
    engine: &Engine,
    cancel: &CancelToken,
    desk: &mut Desk,
    images: Vec<RgbImage>,
    draft: &mut Option<Draft>,
) -> Result<Report> {
    let mut writer = Writer::new(engine, task(recipe, images), settings(recipe, cancel))?;
    let outline = outline(recipe)?;
    match (draft.take(), recipe.draft_path()) {
        (Some(begun), _) => {
            warn_of_differences(begun.header(), engine);
            writer.keep(begun)?;
        }
        (None, Some(path)) => {
            let header = header(recipe, engine, &writer, outline.clone())?;
            writer.keep(Draft::create(&path, header)?)?;
        }
        (None, None) => {}
    }
    let written = write_all(recipe, &mut writer, desk, &outline);
    *draft = writer.into_draft();
    let manuscript = written?;
    let cancelled = cancel.is_cancelled() && draft.as_ref().is_none_or(|draft| draft.state().open.is_some());
    let reason = match manuscript.sections.last() {
        Some(last) if !cancelled => last.reason,
        _ => FinishReason::Cancelled,
    };
    let token_ids = manuscript
        .sections
        .into_iter()
        .flat_map(|section| section.token_ids);
    Ok(desk.report(token_ids.collect(), reason))
}

fn write_all(recipe: &Recipe, writer: &mut Writer, desk: &mut Desk, outline: &Outline) -> Result<Manuscript> {
    let Some(state) = writer.draft().map(Draft::state) else {
        let plan = match outline {
            Outline::Given(plan) => plan.clone(),
            Outline::ToMake { words, sections } => {
                writer.plan(*words, *sections, |event| desk.writer(&event))?
            }
        };
        return Ok(writer.write(plan, |event| desk.writer(&event))?);
    };
    let open = state
        .open
        .as_ref()
        .and_then(|open| Some((open.index, open.revision.clone()?)));
    let new = recipe
        .change
        .map(|change| (change.index, revision(recipe, change, state)));
    let Some((index, revision)) = new.or(open) else {
        return Ok(writer.write_draft(|event| desk.writer(&event))?);
    };
    // The text is in the middle of others, so it is shown when all of it is there.
    let manuscript = writer.revise(index, revision, |event| desk.watch(&event))?;
    desk.put(&manuscript.text());
    desk.settle_all();
    Ok(manuscript)
}

fn revision(recipe: &Recipe, change: Change, state: &DraftState) -> Revision {
    let mut sampler = recipe.sampler.clone();
    if change.extend_by.is_none() && !change.seed_given {
        sampler.seed = state.rewrite_seed(change.index, sampler.seed);
    }
    Revision {
        extend_by: change.extend_by,
        sampler,
    }
}

/// What becomes of the draft when `outcome` is known: it goes when the text is whole and where it belongs.
pub(crate) fn settle(recipe: &Recipe, draft: Draft, outcome: &Result<FinishReason>) -> Result<()> {
    let state = draft.state();
    let written = matches!(outcome, Ok(reason) if *reason != FinishReason::Cancelled);
    let whole = state.manuscript.is_complete() && state.open.is_none();
    if state.is_empty() || (written && whole && !draft.header().keep && !recipe.keep_draft) {
        return Ok(draft.remove()?);
    }
    let path = draft.path().display();
    match (whole, outcome) {
        (true, _) => say(&format!("the draft is kept in `{path}`")),
        (false, Err(_)) if recipe.resume.is_some() => {}
        (false, _) => say(&format!(
            "go on with `lwv-write {} --resume {path}`",
            recipe.bundle.display()
        )),
    }
    Ok(())
}

fn task(recipe: &Recipe, images: Vec<RgbImage>) -> Task {
    Task {
        instruction: instruction(recipe).to_owned(),
        images,
        system: recipe.system.clone(),
    }
}

fn instruction(recipe: &Recipe) -> &str {
    match &recipe.prompt {
        PromptSource::Request(text) | PromptSource::Raw(text) => text,
        PromptSource::Ids(_) => "",
    }
}

fn settings(recipe: &Recipe, cancel: &CancelToken) -> WriterSettings {
    WriterSettings {
        sampler: recipe.sampler.clone(),
        max_section_tokens: recipe.max_new_tokens.unwrap_or(usize::MAX),
        stop: recipe.stop.clone(),
        loop_guard: recipe.loop_guard,
        lookup_tokens: recipe.lookup_tokens,
        deterministic: recipe.deterministic,
        cancel: cancel.clone(),
    }
}

fn outline(recipe: &Recipe) -> Result<Outline> {
    let words = recipe.words;
    Ok(match (&recipe.plan_file, recipe.plan) {
        (Some(path), _) => {
            let unreadable = || format!("cannot read the plan `{}`", path.display());
            let text = std::fs::read_to_string(path).with_context(unreadable)?;
            Outline::Given(Plan::read(&text, words).with_context(unreadable)?)
        }
        (None, true) => Outline::ToMake {
            words: words.unwrap_or_default(),
            sections: recipe.sections,
        },
        (None, false) => Outline::Given(Plan::in_one_piece(words.unwrap_or_default())),
    })
}

fn header(recipe: &Recipe, engine: &Engine, writer: &Writer, outline: Outline) -> Result<DraftHeader> {
    let task = DraftTask::new(instruction(recipe), recipe.system.as_deref(), &recipe.images)?;
    let settings = DraftSettings {
        sampler: recipe.sampler.clone(),
        max_section_tokens: recipe.max_new_tokens,
        stop: recipe.stop.clone(),
        loop_guard: recipe.loop_guard,
        lookup_tokens: recipe.lookup_tokens,
        deterministic: recipe.deterministic,
        prefill_chunk: writer.prefill_chunk(),
        threads: engine.threads(),
        device: engine.device().to_string(),
    };
    let mut header = DraftHeader::new(engine.id(), task, outline, settings, recipe.out.clone());
    header.keep = recipe.keep_draft;
    Ok(header)
}

/// A deterministic text is the same only where the same computes.
fn warn_of_differences(header: &DraftHeader, engine: &Engine) {
    let begun = (header.settings.device.as_str(), header.settings.threads);
    let (device, threads) = (engine.device().to_string(), engine.threads());
    if header.settings.deterministic && begun != (device.as_str(), threads) {
        say(&format!(
            "the draft was begun on {} with {} threads and goes on on {device} with {threads}; the rest may differ",
            begun.0, begun.1
        ));
    }
}
