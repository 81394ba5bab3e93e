//! Writing and hashing on threads of their own, fed with buffers that go round.

use std::{
    io::{self, Write},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use crate::{FileDigest, digest::Hasher};

/// The length of a full buffer.
pub(crate) const BUFFER: usize = 4 << 20;

// One in the caller's hands, one at the disk and one at the hash would do; the rest absorb a stalling disk.
const BUFFERS: usize = 8;

/// A buffer's way round: the caller fills it, one thread writes it, the next hashes it, the caller fills it.
///
/// Each stage owns the buffer while it has it, so the three overlap and nothing is copied or counted.
pub(crate) struct Pipeline<W> {
    filled: SyncSender<Vec<u8>>,
    emptied: Receiver<Vec<u8>>,
    allocated: usize,
    disk: JoinHandle<io::Result<W>>,
    hash: JoinHandle<FileDigest>,
}

/// A stage has ended early; [`Pipeline::finish`] says why.
#[derive(Debug)]
pub(crate) struct Stopped;

impl<W: Write + Send + 'static> Pipeline<W> {
    /// Starts both threads; `sink` comes back from [`Pipeline::finish`].
    pub(crate) fn start(sink: W) -> io::Result<Self> {
        let (filled, to_write) = sync_channel(BUFFERS);
        let (written, to_hash) = sync_channel(BUFFERS);
        let (hashed, emptied) = sync_channel(BUFFERS);
        let disk = thread::Builder::new()
            .name("external-data-disk".to_owned())
            .spawn(move || write_all(sink, &to_write, &written))?;
        let hash = thread::Builder::new()
            .name("external-data-hash".to_owned())
            .spawn(move || hash_all(&to_hash, &hashed))?;
        Ok(Self {
            filled,
            emptied,
            allocated: 0,
            disk,
            hash,
        })
    }

    /// An empty buffer with room for [`BUFFER`] bytes; waits for one when all are on their way.
    pub(crate) fn buffer(&mut self) -> Result<Vec<u8>, Stopped> {
        if let Ok(buffer) = self.emptied.try_recv() {
            return Ok(buffer);
        }
        if self.allocated < BUFFERS {
            self.allocated += 1;
            return Ok(Vec::with_capacity(BUFFER));
        }
        self.emptied.recv().map_err(|_| Stopped)
    }

    /// Hands a filled buffer on.
    pub(crate) fn send(&self, buffer: Vec<u8>) -> Result<(), Stopped> {
        self.filled.send(buffer).map_err(|_| Stopped)
    }

    /// Waits until everything sent is written and hashed, or for the error that stopped it.
    pub(crate) fn finish(self) -> io::Result<(W, FileDigest)> {
        // The threads end when there is nobody left who could send or take a buffer.
        drop(self.filled);
        drop(self.emptied);
        let written = self.disk.join();
        let hashed = self.hash.join();
        let sink = written.unwrap_or_else(|cause| Err(panicked(&cause)))?;
        let digest = hashed.map_err(|cause| panicked(&cause))?;
        Ok((sink, digest))
    }
}

fn write_all<W: Write>(
    mut sink: W,
    to_write: &Receiver<Vec<u8>>,
    written: &SyncSender<Vec<u8>>,
) -> io::Result<W> {
    for buffer in to_write {
        sink.write_all(&buffer)?;
        if written.send(buffer).is_err() {
            break;
        }
    }
    Ok(sink)
}

fn hash_all(to_hash: &Receiver<Vec<u8>>, hashed: &SyncSender<Vec<u8>>) -> FileDigest {
    let mut hasher = Hasher::default();
    for mut buffer in to_hash {
        hasher.update(&buffer);
        buffer.clear();
        // At the end nobody takes buffers back, and the rest is hashed all the same.
        let _ = hashed.send(buffer);
    }
    hasher.finish()
}

fn panicked(cause: &(dyn std::any::Any + Send)) -> io::Error {
    let text = cause.downcast_ref::<&str>().copied().unwrap_or("no message");
    io::Error::other(format!("a thread panicked: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digest;

    /// Takes `room` bytes and is full then.
    struct Disk {
        contents: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.contents.len() + bytes.len() > self.room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.contents.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn feed(pipeline: &mut Pipeline<Disk>, count: u8) -> Result<(), Stopped> {
        for fill in 0..count {
            let mut buffer = pipeline.buffer()?;
            assert!(buffer.is_empty());
            buffer.resize(1000, fill);
            pipeline.send(buffer)?;
        }
        Ok(())
    }

    #[test]
    fn buffers_arrive_in_order_and_are_reused() {
        let mut pipeline = Pipeline::start(Disk {
            contents: vec![],
            room: usize::MAX,
        })
        .unwrap();
        feed(&mut pipeline, 100).unwrap();
        assert!(pipeline.allocated <= BUFFERS);
        let (disk, found) = pipeline.finish().unwrap();
        let expected: Vec<u8> = (0..100_u8).flat_map(|fill| [fill; 1000]).collect();
        assert_eq!(disk.contents, expected);
        assert_eq!(found, digest(&expected));
    }

    #[test]
    fn full_disk_stops_the_feed_and_is_reported() {
        let mut pipeline = Pipeline::start(Disk {
            contents: vec![],
            room: 2500,
        })
        .unwrap();
        // More buffers than all queues together can swallow, so the caller must notice.
        assert!(feed(&mut pipeline, 100).is_err());
        let error = pipeline.finish().err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
