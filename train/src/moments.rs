use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::{Error, Result};

/// Elements of a parameter that one thread updates at a time.
const CHUNK: usize = 1 << 18;

/// AdamW's two moments of every parameter, in the host's memory or in a file.
///
/// In a file they cost no memory of the process, and as they are read and written in order once a step, little time:
/// the system's page cache holds what there is room for. The file has no name, so nothing is left of it after a crash.
///
/// Either way the moments of each piece of `CHUNK` elements stand together, first all first moments, then all second.
pub(crate) struct Moments {
    place: Place,
    /// Start, in elements, and number of elements of each parameter.
    index: BTreeMap<String, (usize, usize)>,
}

enum Place {
    Memory(Vec<f32>),
    File { file: File, dir: PathBuf },
}

impl Moments {
    /// Moments, all zero, of parameters with these names and sizes; in a file in `dir` where one is given.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn new<'a>(sizes: impl Iterator<Item = (&'a str, usize)>, dir: Option<&Path>) -> Result<Self> {
        let mut end = 0;
        let index = sizes
            .map(|(name, size)| {
                end += 2 * size;
                (name.to_owned(), (end - 2 * size, size))
            })
            .collect();
        let place = match dir {
            None => Place::Memory(vec![0.0; end]),
            Some(dir) => {
                let io = |source| Error::Io {
                    path: dir.to_owned(),
                    source,
                };
                let file = tempfile::tempfile_in(dir).map_err(io)?;
                file.set_len(4 * end as u64).map_err(io)?;
                Place::File {
                    file,
                    dir: dir.to_owned(),
                }
            }
        };
        Ok(Self { place, index })
    }

    /// Lets `update(value, gradient, first, second)` change each piece of a parameter and its moments.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn update(
        &mut self,
        name: &str,
        value: &mut [f32],
        gradient: &[f32],
        update: impl Fn(&mut [f32], &[f32], &mut [f32], &mut [f32]) + Sync,
    ) -> Result<()> {
        let (start, size) = self.place_of(name)?;
        assert_eq!(
            (value.len(), gradient.len()),
            (size, size),
            "`{name}` changed its size"
        );
        let pieces = value.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
        match &mut self.place {
            Place::Memory(moments) => {
                let moments = moments[start..start + 2 * size].par_chunks_mut(2 * CHUNK);
                pieces.zip(moments).for_each(|((value, gradient), moments)| {
                    let (first, second) = moments.split_at_mut(value.len());
                    update(value, gradient, first, second);
                });
                Ok(())
            }
            Place::File { file, dir } => pieces
                .enumerate()
                .try_for_each(|(piece, (value, gradient))| {
                    let offset = 4 * (start + 2 * piece * CHUNK) as u64;
                    let mut moments = vec![0.0; 2 * value.len()];
                    file.read_exact_at(bytemuck::cast_slice_mut(&mut moments), offset)?;
                    let (first, second) = moments.split_at_mut(value.len());
                    update(value, gradient, first, second);
                    file.write_all_at(bytemuck::cast_slice(&moments), offset)
                })
                .map_err(|source| Error::Io {
                    path: dir.clone(),
                    source,
                }),
        }
    }

    /// The first and the second moments of a parameter.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read(&self, name: &str) -> Result<[Vec<f32>; 2]> {
        let (start, size) = self.place_of(name)?;
        let mut moments = [Vec::with_capacity(size), Vec::with_capacity(size)];
        for (piece, range) in pieces(size).enumerate() {
            let mut both = vec![0.0; 2 * range];
            self.read_piece(start + 2 * piece * CHUNK, &mut both)?;
            moments[0].extend_from_slice(&both[..range]);
            moments[1].extend_from_slice(&both[range..]);
        }
        Ok(moments)
    }

    /// Puts saved moments of a parameter in place.
    ///
    /// # Errors
    /// Another number of elements, or the file cannot be written.
    pub(crate) fn write(&mut self, name: &str, first: &[f32], second: &[f32]) -> Result<()> {
        let (start, size) = self.place_of(name)?;
        if (first.len(), second.len()) != (size, size) {
            return Err(Error::UnknownParameter(name.to_owned()));
        }
        for (piece, (first, second)) in first.chunks(CHUNK).zip(second.chunks(CHUNK)).enumerate() {
            self.write_piece(start + 2 * piece * CHUNK, &[first, second].concat())?;
        }
        Ok(())
    }

    fn read_piece(&self, start: usize, target: &mut [f32]) -> Result<()> {
        match &self.place {
            Place::Memory(moments) => {
                target.copy_from_slice(&moments[start..start + target.len()]);
                Ok(())
            }
            Place::File { file, dir } => file
                .read_exact_at(bytemuck::cast_slice_mut(target), 4 * start as u64)
                .map_err(|source| Error::Io {
                    path: dir.clone(),
                    source,
                }),
        }
    }

    fn write_piece(&mut self, start: usize, values: &[f32]) -> Result<()> {
        match &mut self.place {
            Place::Memory(moments) => {
                moments[start..start + values.len()].copy_from_slice(values);
                Ok(())
            }
            Place::File { file, dir } => file
                .write_all_at(bytemuck::cast_slice(values), 4 * start as u64)
                .map_err(|source| Error::Io {
                    path: dir.clone(),
                    source,
                }),
        }
    }

    fn place_of(&self, name: &str) -> Result<(usize, usize)> {
        let place = self.index.get(name).copied();
        place.ok_or_else(|| Error::UnknownParameter(name.to_owned()))
    }
}

/// Sizes of the pieces of a parameter of `size` elements.
fn pieces(size: usize) -> impl Iterator<Item = usize> {
    (0..size).step_by(CHUNK).map(move |start| CHUNK.min(size - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_memory_hold_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let size = CHUNK + 10;
        let both = [None, Some(dir.path())].map(|dir| {
            let mut moments = Moments::new([("small", 3), ("large", size)].into_iter(), dir).unwrap();
            let gradient: Vec<f32> = (0..size).map(|i| i as f32).collect();
            for _ in 0..2 {
                let mut value = vec![0.0; size];
                let add = |value: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]| {
                    for (i, gradient) in gradient.iter().enumerate() {
                        first[i] += gradient;
                        second[i] -= gradient;
                        value[i] = first[i];
                    }
                };
                moments.update("large", &mut value, &gradient, add).unwrap();
            }
            let [first, second] = moments.read("large").unwrap();
            assert_eq!((first[CHUNK + 1], second[5]), (2.0 * (CHUNK + 1) as f32, -10.0));
            moments.write("small", &[1.0, 2.0, 3.0], &[4.0; 3]).unwrap();
            [first, second, moments.read("small").unwrap().concat()]
        });
        assert_eq!(both[0], both[1]);
        assert_eq!(both[0][2], [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]);
    }
}
