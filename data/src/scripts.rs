use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::json_file::JsonFile;
use crate::media::MediaDir;
use crate::{Error, ImageSource, Problem, Result, Script, ScriptRow};

/// Corrected texts in files of JSON, one a line or all in one list.
#[derive(Debug)]
pub struct Scripts {
    files: Vec<JsonFile>,
    /// The first row of each file, and the number of rows.
    starts: Vec<usize>,
    /// The folder of the pictures, if it is one for all.
    media_dir: Option<PathBuf>,
}

impl Scripts {
    /// Finds the rows of these files. Relative paths of pictures start from `media_dir`, or else from each file's folder.
    ///
    /// # Errors
    /// A file cannot be read, or there is no row.
    pub fn open(paths: &[PathBuf], media_dir: Option<&Path>) -> Result<Self> {
        let own = |path: &Path| path.parent().unwrap_or(Path::new("")).to_owned();
        let media = |path: &Path| MediaDir(media_dir.map_or_else(|| own(path), Path::to_owned));
        let files = paths.iter().map(|path| JsonFile::open(path, media(path)));
        let files = files.collect::<Result<Vec<_>>>()?;
        let mut starts = vec![0];
        for file in &files {
            starts.push(starts.last().map_or(0, |start| start + file.len()));
        }
        if starts.last() == Some(&0) {
            let path = paths.last().cloned().unwrap_or_default();
            return Err(Error::Empty { path });
        }
        Ok(Self {
            files,
            starts,
            media_dir: media_dir.map(Path::to_owned),
        })
    }

    /// Number of rows, readable or not.
    pub fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Whether there is no row; never so after [`open`](Self::open).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads row `index`, whose pictures must be there. Their paths become such that they hold in the folder `target` too, or
    /// everywhere if there is none.
    ///
    /// # Errors
    /// A row that is no script, or a picture that is missing.
    pub fn get(&self, index: usize, target: Option<&Path>) -> Result<ScriptRow> {
        let len = self.len();
        if index >= len {
            return Err(Error::NoSample { index, len });
        }
        let file = self.starts.partition_point(|start| *start <= index) - 1;
        let has_media_dir = self.media_dir.is_some();
        self.files[file].parsed(index - self.starts[file], |value, media, origin| {
            let mut script = read(value)?;
            for path in &mut script.images {
                *path = placed(path, media, has_media_dir, target)?;
            }
            Ok(ScriptRow { script, origin })
        })
    }
}

fn read(value: &Value) -> Result<Script, Problem> {
    for field in ["id", "instruction", "original", "revised"] {
        if value.get(field).is_none() {
            return Err(Problem::field(
                field,
                "is missing; a row has `id`, `instruction`, `original` and `revised`",
            ));
        }
    }
    serde_json::from_value(value.clone()).map_err(|error| Problem::Json(error.to_string()))
}

/// The path of a picture that is there, as it must be written for a reader in the folder `target`.
fn placed(
    path: &str,
    media: &MediaDir,
    has_media_dir: bool,
    target: Option<&Path>,
) -> Result<String, Problem> {
    let ImageSource::File(file) = media.source("images", path)? else {
        return Ok(path.to_owned());
    };
    if !file.is_file() {
        return Err(Problem::field(
            "images",
            format!("names `{}`, which is no file", file.display()),
        ));
    }
    // A reader is given the same folder of pictures, or looks beside the file that it reads.
    let real = |path: &Path| path.canonicalize().ok();
    if has_media_dir || target.is_some_and(|target| real(&target.join(path)) == real(&file)) {
        return Ok(path.to_owned());
    }
    let absolute = std::path::absolute(&file).unwrap_or(file);
    Ok(absolute.display().to_string())
}
