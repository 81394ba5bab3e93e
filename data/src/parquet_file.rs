use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Row;
use parquet::record::reader::{ReaderIter, TreeBuilder};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type};

use crate::media::MediaDir;
use crate::{Conversation, Error, Origin, Place, Result, parquet_row};

/// The columns that are read.
const COLUMNS: [&str; 2] = ["messages", "images"];

/// Most places in the file that are kept open. Each holds the current page of every column, about a megabyte each as
/// files are usually written.
const CURSORS: usize = 16;

/// A Parquet file of the published dataset's columns: `messages`, texts that user and assistant say by turns, and
/// `images`, each of `bytes` or a `path`.
pub(crate) struct ParquetFile {
    path: PathBuf,
    media: MediaDir,
    schema: SchemaDescPtr,
    /// The first row of each row group, and the number of rows.
    starts: Vec<usize>,
    cursors: Mutex<Vec<Cursor>>,
}

/// A place in a row group, from which reading goes on.
struct Cursor {
    group: usize,
    next: usize,
    rows: ReaderIter,
}

impl ParquetFile {
    /// Reads the file's footer.
    pub(crate) fn open(path: &Path, media: MediaDir) -> Result<Self> {
        let reader = open_reader(path)?;
        let metadata = reader.metadata();
        let schema = projection(metadata.file_metadata().schema()).map_err(|message| Error::Parquet {
            path: path.to_owned(),
            message,
        })?;
        let mut starts = vec![0];
        for group in metadata.row_groups() {
            let rows = usize::try_from(group.num_rows()).unwrap_or(0);
            starts.push(starts.last().map_or(0, |start| start + rows));
        }
        Ok(Self {
            path: path.to_owned(),
            media,
            schema,
            starts,
            cursors: Mutex::default(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Reads one row. The rows before it in its row group are passed over, so going on is cheaper than going back.
    pub(crate) fn get(&self, index: usize) -> Result<Conversation> {
        let origin = Origin {
            file: self.path.clone(),
            place: Place::Row(index as u64),
        };
        let row = self.row(index)?;
        parquet_row::draft(&row, &self.media)
            .and_then(|draft| draft.finish(origin.clone()))
            .map_err(|problem| problem.at(&origin))
    }

    /// The error for one who expects pairs.
    pub(crate) fn without_pairs(&self) -> Error {
        Error::Parquet {
            path: self.path.clone(),
            message: "pairs of answers are read from JSON only; write one record a line".into(),
        }
    }

    fn row(&self, index: usize) -> Result<Row> {
        let group = self.starts.partition_point(|start| *start <= index) - 1;
        let row = index - self.starts[group];
        let mut cursor = match self.take_cursor(group, row) {
            Some(cursor) => cursor,
            None => self.cursor(group)?,
        };
        loop {
            let read = cursor.rows.next();
            cursor.next += 1;
            let read = read
                .transpose()
                .map_err(|error| unusable(&self.path, &error))?
                .ok_or_else(|| Error::Parquet {
                    path: self.path.clone(),
                    message: format!("row group `{group}` ends before row `{index}`; copy the file again"),
                })?;
            if cursor.next > row {
                self.put_back(cursor);
                return Ok(read);
            }
        }
    }

    /// The open place that is nearest before a row.
    fn take_cursor(&self, group: usize, row: usize) -> Option<Cursor> {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let (nearest, _) = cursors
            .iter()
            .enumerate()
            .filter(|(_, cursor)| cursor.group == group && cursor.next <= row)
            .max_by_key(|(_, cursor)| cursor.next)?;
        Some(cursors.remove(nearest))
    }

    /// Keeps a place open; the one that was not used for longest is given up.
    fn put_back(&self, cursor: Cursor) {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        if cursors.len() == CURSORS {
            cursors.remove(0);
        }
        cursors.push(cursor);
    }

    /// The start of a row group, through a file handle of its own: handles that were duplicated share their position.
    fn cursor(&self, group: usize) -> Result<Cursor> {
        let reader = open_reader(&self.path)?;
        let rows = reader
            .get_row_group(group)
            .and_then(|group| {
                TreeBuilder::new()
                    .with_batch_size(1)
                    .as_iter(Arc::clone(&self.schema), &*group)
            })
            .map_err(|error| unusable(&self.path, &error))?;
        Ok(Cursor { group, next: 0, rows })
    }
}

impl std::fmt::Debug for ParquetFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetFile")
            .field("path", &self.path)
            .field("rows", &self.len())
            .finish_non_exhaustive()
    }
}

fn open_reader(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = File::open(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    SerializedFileReader::new(file).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &ParquetError) -> Error {
    Error::Parquet {
        path: path.to_owned(),
        message: error.to_string(),
    }
}

/// The columns that are read, as they are in the file.
fn projection(schema: &Type) -> Result<SchemaDescPtr, String> {
    let fields = schema.get_fields().iter();
    let fields: Vec<_> = fields
        .filter(|field| COLUMNS.contains(&field.name()))
        .cloned()
        .collect();
    if !fields.iter().any(|field| field.name() == "messages") {
        return Err("it has no column `messages`; expected `messages` and `images`".to_owned());
    }
    let projection = Type::group_type_builder(schema.name())
        .with_fields(fields)
        .build();
    let projection = projection.map_err(|error| error.to_string())?;
    Ok(Arc::new(SchemaDescriptor::new(Arc::new(projection))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageSource;
    use crate::samples::{ParquetSample, png, write_parquet};

    fn open(samples: &[ParquetSample<'_>], group: usize) -> (tempfile::TempDir, ParquetFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train-00000.parquet");
        write_parquet(&path, samples, group);
        let file = ParquetFile::open(&path, MediaDir("media".into())).unwrap();
        (folder, file)
    }

    fn sample(index: usize) -> ParquetSample<'static> {
        let answer: &str = String::leak(format!("answer {index}"));
        ParquetSample {
            messages: vec!["write", answer],
            images: vec![(Some(png(2, 3 + index as u32)), None)],
        }
    }

    #[test]
    fn rows_come_back_in_any_order() {
        let samples: Vec<ParquetSample<'_>> = (0..11).map(sample).collect();
        let (_folder, file) = open(&samples, 4);
        assert_eq!(file.len(), 11);
        for index in [0, 1, 2, 10, 9, 3, 3, 7, 4, 0] {
            let conversation = file.get(index).unwrap();
            let answers: Vec<String> = conversation.answers().collect();
            assert_eq!(answers, [format!("answer {index}")]);
            assert_eq!(conversation.image_sizes().unwrap(), [(2, 3 + index as u32)]);
            assert_eq!(conversation.messages[0].image_count(), 1, "images come first");
            let origin = conversation.origin.to_string();
            assert!(
                origin.ends_with(&format!("train-00000.parquet row {index}")),
                "{origin}"
            );
        }
        assert!(file.cursors.lock().unwrap().len() <= CURSORS);
    }

    #[test]
    fn threads_read_at_once() {
        let samples: Vec<ParquetSample<'_>> = (0..40).map(sample).collect();
        let (_folder, file) = open(&samples, 10);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let file = &file;
                scope.spawn(move || {
                    for step in 0..40 {
                        let index = (step * 7 + thread * 11) % 40;
                        let sizes = file.get(index).unwrap().image_sizes().unwrap();
                        assert_eq!(sizes, [(2, 3 + index as u32)]);
                    }
                });
            }
        });
    }

    #[test]
    fn turns_paths_and_placeholders() {
        let sample = ParquetSample {
            messages: vec!["see <image>", "b", "and <image>?", "d"],
            images: vec![(None, Some("a.png")), (Some(vec![1]), Some("b.png"))],
        };
        let (_folder, file) = open(&[sample], 1);
        let conversation = file.get(0).unwrap();
        let roles: Vec<&str> = conversation.messages.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
        let expected = [
            ImageSource::File("media/a.png".into()),
            ImageSource::Bytes(vec![1]),
        ];
        assert_eq!(conversation.images, expected);
    }

    #[test]
    fn bad_rows_are_named() {
        let rows = [
            ParquetSample {
                messages: vec!["a", "b"],
                images: vec![],
            },
            ParquetSample {
                messages: vec!["<image><image>", "b"],
                images: vec![(Some(vec![1]), None)],
            },
            ParquetSample {
                messages: vec!["a", "b"],
                images: vec![(None, None)],
            },
            ParquetSample {
                messages: vec!["a"],
                images: vec![],
            },
        ];
        let (folder, file) = open(&rows, 10);
        assert!(file.get(0).is_ok());
        let error = |index| {
            let error = file.get(index).unwrap_err().to_string();
            error.replace(&format!("{}/", folder.path().display()), "")
        };
        assert_eq!(
            error(1),
            "`train-00000.parquet row 1`: `1` images, but `2` places for one (`<image>`); make them equal"
        );
        assert_eq!(
            error(2),
            "`train-00000.parquet row 2`: `images[0]` has neither `bytes` nor a `path`"
        );
        assert_eq!(
            error(3),
            "`train-00000.parquet row 3`: no message of the assistant, so there is nothing to learn"
        );
    }

    #[test]
    fn what_is_no_such_table_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        std::fs::write(&path, "PAR1 and no more").unwrap();
        let error = ParquetFile::open(&path, MediaDir("".into()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("x.parquet` is not usable: "), "{error}");
        let other = parquet::schema::parser::parse_message_type("message m { required int64 id; }").unwrap();
        let error = projection(&other).unwrap_err();
        assert_eq!(
            error,
            "it has no column `messages`; expected `messages` and `images`"
        );
    }
}
