use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::json_file::JsonFile;
use crate::media::MediaDir;
use crate::parquet_file::ParquetFile;
use crate::{Conversation, Error, Pair, Result};

/// What a Parquet file begins with.
const PARQUET: &[u8] = b"PAR1";

/// Endings of the files that a folder is searched for.
const ENDINGS: [&str; 3] = ["jsonl", "json", "parquet"];

/// LLaMA-Factory's list of the datasets in a folder, which is no dataset.
const DATASET_INFO: &str = "dataset_info.json";

/// Conversations in files, read one at a time. In memory is only where they stand.
#[derive(Debug)]
pub struct Dataset {
    files: Vec<DataFile>,
    /// The first sample of each file, and the number of samples.
    starts: Vec<usize>,
    paths: Vec<PathBuf>,
}

#[derive(Debug)]
enum DataFile {
    Json(JsonFile),
    Parquet(ParquetFile),
}

impl Dataset {
    /// Finds the samples of files and folders, in the order given; files of a folder (or, if it has none, of its folder
    /// `data`) in the order of their names.
    ///
    /// A file is Parquet with the published columns (`messages`, `images`), or JSON, as one record a line or one list of
    /// records. Each record may be of LLaMA-Factory's sharegpt or alpaca format or OpenAI messages. `<image>` in a text
    /// is the place of the next of `images`; where a record has images but no place for any, they come before the first
    /// user's words. Relative paths of images start from `media_dir`, or else from the folder of the dataset's file.
    ///
    /// # Errors
    /// A file cannot be read, a folder has no data file, a JSON list does not end, a Parquet file has other columns, or
    /// there is no sample. What is wrong with a sample is told by [`get`](Self::get).
    pub fn open(paths: &[PathBuf], media_dir: Option<&Path>) -> Result<Self> {
        let mut all = Vec::new();
        for path in paths {
            all.extend(files_of(path)?);
        }
        let files = all
            .iter()
            .map(|path| DataFile::open(path, media_dir))
            .collect::<Result<Vec<_>>>()?;
        let mut starts = vec![0];
        for file in &files {
            starts.push(starts.last().map_or(0, |start| start + file.len()));
        }
        if starts.last() == Some(&0) {
            let path = all.pop().unwrap_or_default();
            return Err(Error::Empty { path });
        }
        Ok(Self {
            files,
            starts,
            paths: all,
        })
    }

    /// The samples of this dataset, and after them those of `other`.
    #[must_use]
    pub fn followed_by(mut self, other: Self) -> Self {
        let len = self.len();
        self.starts
            .extend(other.starts.iter().skip(1).map(|start| len + start));
        self.files.extend(other.files);
        self.paths.extend(other.paths);
        self
    }

    /// Number of samples, readable or not.
    pub fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Whether it has no sample; never so after [`open`](Self::open).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its files, in order.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads sample `index`, counted from 0, from its file. Images are not opened. Any number of threads may read.
    ///
    /// # Errors
    /// There is no such sample, its file cannot be read any more, or it is no usable conversation: not JSON, of an unknown
    /// format or role, without an answer, or with another number of images than of places for one.
    pub fn get(&self, index: usize) -> Result<Conversation> {
        let (file, row) = self.locate(index)?;
        file.get(row)
    }

    /// Reads sample `index` as a pair of answers to one prompt, else as [`get`](Self::get) does.
    ///
    /// A record may be LLaMA-Factory's sharegpt or alpaca format with `chosen` and `rejected`, OpenAI messages with them
    /// or with `rejected_response` (as ms-swift writes it), or TRL's `prompt`, `chosen` and `rejected`, of which `prompt`
    /// may be missing where both begin with it. `weight` and `open` ([`Pair`]) may be there too.
    ///
    /// # Errors
    /// As for [`get`](Self::get); prompts that differ; a file of Parquet.
    pub fn pair(&self, index: usize) -> Result<Pair> {
        let (file, row) = self.locate(index)?;
        match file {
            DataFile::Json(file) => file.pair(row),
            DataFile::Parquet(file) => Err(file.without_pairs()),
        }
    }

    /// The file that sample `index` is in, and its place there.
    fn locate(&self, index: usize) -> Result<(&DataFile, usize)> {
        let len = self.len();
        if index >= len {
            return Err(Error::NoSample { index, len });
        }
        let file = self.starts.partition_point(|start| *start <= index) - 1;
        Ok((&self.files[file], index - self.starts[file]))
    }

    /// SHA-256, in hexadecimal, over the SHA-256 of each file in order. Reads all files once; names, folders and image
    /// files do not count. A run that goes on later compares it.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut all = Sha256::new();
        for path in &self.paths {
            let digest = sha256(path).map_err(|source| Error::Read {
                path: path.clone(),
                source,
            })?;
            all.update(digest);
        }
        Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl DataFile {
    fn open(path: &Path, media_dir: Option<&Path>) -> Result<Self> {
        let own = || path.parent().unwrap_or(Path::new(""));
        let media = MediaDir(media_dir.unwrap_or_else(own).to_owned());
        let is_parquet = begins_with(path, PARQUET).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        if is_parquet {
            ParquetFile::open(path, media).map(Self::Parquet)
        } else {
            JsonFile::open(path, media).map(Self::Json)
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Json(file) => file.len(),
            Self::Parquet(file) => file.len(),
        }
    }

    fn get(&self, index: usize) -> Result<Conversation> {
        match self {
            Self::Json(file) => file.get(index),
            Self::Parquet(file) => file.get(index),
        }
    }
}

/// The file itself, or the data files of a folder.
fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    for folder in [path.to_owned(), path.join("data")] {
        let files = files_in(&folder).map_err(|source| Error::Read {
            path: folder.clone(),
            source,
        })?;
        if !files.is_empty() {
            return Ok(files);
        }
    }
    Err(Error::NoFiles {
        path: path.to_owned(),
    })
}

fn files_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder)? {
            files.push(entry?.path());
        }
    }
    files.retain(|path| is_data_file(path));
    files.sort();
    Ok(files)
}

fn is_data_file(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    let is_info = path.file_name().is_some_and(|name| name == DATASET_INFO);
    path.is_file() && !is_info && ending.is_some_and(|ending| ENDINGS.contains(&ending))
}

fn begins_with(path: &Path, start: &[u8]) -> std::io::Result<bool> {
    let mut found = Vec::new();
    File::open(path)?
        .take(start.len() as u64)
        .read_to_end(&mut found)?;
    Ok(found == start)
}

fn sha256(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(hash.finalize().into());
        }
        hash.update(&buffer[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{ParquetSample, write_parquet};

    fn line(answer: &str) -> String {
        format!("{{\"instruction\": \"a\", \"output\": \"{answer}\"}}\n")
    }

    /// A folder with a file of each kind, and two that are none.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
        write("a.jsonl", &(line("0") + &line("1")));
        write("b.json", &format!("[{}]", line("2")));
        write("dataset_info.json", "{}");
        write("notes.txt", "x");
        let row = ParquetSample {
            messages: vec!["a", "3"],
            images: vec![],
        };
        write_parquet(&folder.path().join("c.parquet"), &[row], 1);
        folder
    }

    fn open(path: &Path) -> Result<Dataset> {
        Dataset::open(&[path.to_owned()], None)
    }

    #[test]
    fn a_folder_is_all_its_files() {
        let folder = folder();
        let dataset = open(folder.path()).unwrap();
        assert_eq!(
            (dataset.len(), dataset.paths().len(), dataset.is_empty()),
            (4, 3, false)
        );
        for index in [3, 0, 2, 1] {
            let answers: Vec<String> = dataset.get(index).unwrap().answers().collect();
            assert_eq!(answers, [index.to_string()]);
        }
        assert_eq!(
            dataset.get(4).unwrap_err().to_string(),
            "there is no sample `4`: the dataset has `4`"
        );
    }

    #[test]
    fn a_dataset_may_follow_another() {
        let folder = folder();
        let part = |name: &str| open(&folder.path().join(name)).unwrap();
        let dataset = part("b.json").followed_by(part("a.jsonl"));
        let answers = (0..dataset.len()).map(|index| dataset.get(index).unwrap().answers().collect());
        assert_eq!(answers.collect::<Vec<String>>(), ["2", "0", "1"]);
        assert_eq!(dataset.paths()[1], folder.path().join("a.jsonl"));
    }

    #[test]
    fn files_may_stand_in_data() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(open(folder.path()), Err(Error::NoFiles { .. })));
        std::fs::create_dir(folder.path().join("data")).unwrap();
        std::fs::write(folder.path().join("data/x.jsonl"), line("0")).unwrap();
        assert_eq!(open(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn the_fingerprint_follows_bytes_and_order() {
        let folder = folder();
        let (a, b) = (folder.path().join("a.jsonl"), folder.path().join("b.json"));
        let print = |paths: &[PathBuf]| Dataset::open(paths, None).unwrap().fingerprint().unwrap();
        let first = print(&[a.clone(), b.clone()]);
        assert_eq!((first.len(), &first), (64, &print(&[a.clone(), b.clone()])));
        assert_ne!(first, print(&[b.clone(), a.clone()]));
        std::fs::write(&a, line("0") + &line("x")).unwrap();
        assert_ne!(first, print(&[a, b]));
    }

    #[test]
    fn nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::fs::write(&path, "\n \n").unwrap();
        assert!(matches!(open(&path), Err(Error::Empty { .. })));
        let error = open(&folder.path().join("y.jsonl")).unwrap_err().to_string();
        assert!(error.contains("y.jsonl`: "), "{error}");
    }

    #[test]
    fn images_start_from_the_files_folder_or_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::fs::write(
            &path,
            r#"{"instruction": "a", "output": "b", "images": ["i.png"]}"#,
        )
        .unwrap();
        let image = |media: Option<&Path>| {
            let dataset = Dataset::open(std::slice::from_ref(&path), media).unwrap();
            dataset.get(0).unwrap().open_images().unwrap_err().to_string()
        };
        let own = format!(
            "image `0` (from `0`): cannot read `{}`",
            folder.path().join("i.png").display()
        );
        assert!(image(None).contains(&own), "{}", image(None));
        assert!(image(None).contains("x.jsonl:1`: "));
        assert!(image(Some(Path::new("/m"))).contains("cannot read `/m/i.png`"));
    }
}
