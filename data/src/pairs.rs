use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use lwv_data::{
    PrefixCounts, PrefixPair, PrefixRule, Problem, Script, ScriptRow, Scripts, Validation, count_words, split,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tempfile::{Builder, NamedTempFile};

use crate::cli::{Ends, Pairs, Prefixes, ScriptWeight};

/// Unusable rows that are named; more are only counted.
const NAMED: usize = 20;

/// What was made of corrections.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Of those that are trained on.
    pub(crate) train: Part,
    /// Of those that are held out.
    pub(crate) held_out: Part,
    /// Rows that cannot be used.
    pub(crate) unusable: usize,
}

/// What one file has.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Part {
    #[serde(flatten)]
    counts: PrefixCounts,
    /// Words of all better answers, and of all worse ones.
    words: [usize; 2],
    /// For every page, from the first, the texts whose first correction is there.
    first_corrections: Vec<usize>,
}

/// Makes the pairs and writes them, all or none; `complain` hears of the first rows that cannot be used.
pub(crate) fn pairs(arguments: &Pairs, mut complain: impl FnMut(&str)) -> Result<Report> {
    let real = |path: &Path| path.canonicalize().ok();
    let outs = [Some(&arguments.out), arguments.eval_out.as_ref()]
        .into_iter()
        .flatten();
    for out in outs {
        if out.exists() && arguments.corrections.iter().any(|path| real(path) == real(out)) {
            bail!(
                "`{}` is among the corrections; write the pairs to another file",
                out.display()
            );
        }
    }
    if arguments.eval_out.as_ref() == Some(&arguments.out) {
        bail!("`--out` and `--eval-out` are the same file; name two");
    }
    if !(arguments.val_size >= 0.0 && arguments.val_size.is_finite()) {
        bail!("`--val-size` is `{}`: it must be at least 0", arguments.val_size);
    }
    let scripts = Scripts::open(&arguments.corrections, arguments.media_dir.as_deref())?;
    let mut report = Report::default();
    let rows = usable(&scripts, arguments, &mut report, &mut complain)?;
    let validation = match arguments.val_size {
        share if share < 1.0 => Validation::Share(share),
        count => Validation::Count(count as usize),
    };
    let (train, held_out) = split(rows.len(), validation, arguments.seed)?;
    let of = |places: &[usize]| places.iter().map(|place| &rows[*place]).collect::<Vec<_>>();
    let trained = write(&arguments.out, &of(&train), arguments, &mut report.train)?;
    if report.train.counts.pairs == 0 {
        let counts = report.train.counts;
        bail!(
            "no pair was made: of `{}` texts, nothing was corrected in `{}`, and the others are blank when corrected",
            counts.scripts,
            counts.untouched
        );
    }
    if let Some(path) = &arguments.eval_out {
        keep(
            write(path, &of(&held_out), arguments, &mut report.held_out)?,
            path,
        )?;
    }
    keep(trained, &arguments.out)?;
    Ok(report)
}

/// A text, and its pairs.
struct Made {
    row: ScriptRow,
    pairs: Vec<PrefixPair>,
    counts: PrefixCounts,
}

fn usable(
    scripts: &Scripts,
    arguments: &Pairs,
    report: &mut Report,
    complain: &mut impl FnMut(&str),
) -> Result<Vec<Made>> {
    let rule = PrefixRule {
        only_whole: arguments.prefixes == Prefixes::Whole,
        leaves_open: arguments.ends == Ends::Auto,
        separator: arguments.separator.replace("\\n", "\n"),
    };
    // Paths of images that hold beside both files.
    let folder = arguments.out.parent();
    let both = arguments
        .eval_out
        .as_ref()
        .is_none_or(|path| path.parent() == folder);
    let mut made: Vec<Made> = Vec::new();
    let mut ids = HashSet::new();
    for index in 0..scripts.len() {
        let row = scripts.get(index, folder.filter(|_| both));
        let row = row.and_then(|row| match ids.insert(row.script.id.clone()) {
            true => Ok(row),
            false => Err(Problem::SameId { id: row.script.id }.at(&row.origin)),
        });
        match row.and_then(|row| row.pairs(&rule).map(|pairs| (row, pairs))) {
            Ok((row, (pairs, counts))) => made.push(Made { row, pairs, counts }),
            Err(error) if arguments.strict || !error.is_of_sample() => return Err(error.into()),
            Err(error) => {
                report.unusable += 1;
                if report.unusable <= NAMED {
                    complain(&error.to_string());
                }
            }
        }
    }
    if report.unusable > NAMED {
        complain(&format!("… and `{}` more", report.unusable - NAMED));
    }
    if made.is_empty() {
        bail!("no row of `{}` can be used", scripts.len());
    }
    Ok(made)
}

/// Writes pairs under a temporary name.
fn write(path: &Path, scripts: &[&Made], arguments: &Pairs, part: &mut Part) -> Result<NamedTempFile> {
    let failed = || format!("cannot write `{}`", path.display());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = Builder::new();
    // As any file, not for its owner alone, which is what temporary files are.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .with_context(failed)?;
    let mut writer = BufWriter::new(&mut file);
    for made in scripts {
        part.add(made);
        let weight = match arguments.script_weight {
            ScriptWeight::EqualPairs => 1.0,
            ScriptWeight::EqualScripts => 1.0 / made.counts.pages as f64,
        };
        for pair in &made.pairs {
            let record = record(&made.row.script, pair, weight, made.counts.pages);
            writeln!(writer, "{}", Value::Object(record)).with_context(failed)?;
        }
    }
    writer.flush().with_context(failed)?;
    drop(writer);
    file.as_file().sync_all().with_context(failed)?;
    Ok(file)
}

/// Gives a file that was written its own name.
fn keep(file: NamedTempFile, path: &Path) -> Result<()> {
    file.persist(path)
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(())
}

/// A pair as LLaMA-Factory's ranked ShareGPT has it, and what else is known of it.
fn record(script: &Script, pair: &PrefixPair, weight: f64, pages: usize) -> Map<String, Value> {
    let turn = |from: &str, value: &str| json!({"from": from, "value": value});
    let mut turns = vec![turn("human", &pair.prompt)];
    if !script.system.is_empty() {
        turns.insert(0, turn("system", &script.system));
    }
    let mut record = Map::new();
    let mut set = |key: &str, value: Value| record.insert(key.to_owned(), value);
    set("id", format!("{}/{}", script.id, pair.prefix).into());
    set("conversations", turns.into());
    set("chosen", turn("gpt", &pair.chosen));
    set("rejected", turn("gpt", &pair.rejected));
    if pair.images > 0 {
        set("images", script.images[..pair.images].into());
    }
    set("weight", weight.into());
    set("open", pair.is_open.into());
    set("script", script.id.clone().into());
    set("prefix", pair.prefix.into());
    set("pages", pages.into());
    record
}

impl Part {
    fn add(&mut self, made: &Made) {
        self.counts += made.counts;
        for pair in &made.pairs {
            self.words[0] += count_words(&pair.chosen);
            self.words[1] += count_words(&pair.rejected);
        }
        if let Some(first) = made.pairs.first() {
            let page = first.prefix - 1;
            if self.first_corrections.len() <= page {
                self.first_corrections.resize(page + 1, 0);
            }
            self.first_corrections[page] += 1;
        }
    }

    fn mean_words(&self) -> [f64; 2] {
        self.words
            .map(|words| words as f64 / self.counts.pairs.max(1) as f64)
    }

    /// The page of the median text's first correction, from 1.
    fn median_first(&self) -> usize {
        let all: usize = self.first_corrections.iter().sum();
        let mut below = 0;
        let reaches = |count: &usize| {
            below += count;
            2 * below >= all
        };
        self.first_corrections
            .iter()
            .position(reaches)
            .map_or(0, |page| page + 1)
    }
}

impl Report {
    /// What people read.
    pub(crate) fn table(&self) -> String {
        let parts: &[&Part] = if self.held_out.counts.scripts == 0 {
            &[&self.train]
        } else {
            &[&self.train, &self.held_out]
        };
        let mut table = String::new();
        let mut row = |name: &str, value: &dyn Fn(&Part) -> String| {
            let values: Vec<String> = parts.iter().map(|part| format!("{:>12}", value(part))).collect();
            table += &format!("{}  {name}\n", values.concat());
        };
        if parts.len() > 1 {
            row("", &|part| {
                let is_train = std::ptr::eq(part, &raw const self.train);
                if is_train { "training" } else { "held out" }.to_owned()
            });
        }
        row("texts", &|part| part.counts.scripts.to_string());
        row("without a correction", &|part| part.counts.untouched.to_string());
        row("pages", &|part| part.counts.pages.to_string());
        row("page of the first correction, median", &|part| {
            part.median_first().to_string()
        });
        row("pairs", &|part| part.counts.pairs.to_string());
        row("prefixes left out as nothing is corrected so far", &|part| {
            part.counts.identical.to_string()
        });
        row("prefixes left out as they are blank when corrected", &|part| {
            part.counts.blank_chosen.to_string()
        });
        row("pairs whose worse answer is blank", &|part| {
            part.counts.blank_rejected.to_string()
        });
        row("words of a better answer, mean", &|part| {
            format!("{:.1}", part.mean_words()[0])
        });
        row("words of a worse answer, mean", &|part| {
            format!("{:.1}", part.mean_words()[1])
        });
        if self.unusable > 0 {
            table += &format!("{:>12}  rows that cannot be used\n", self.unusable);
        }
        table
    }
}
