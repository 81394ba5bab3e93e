/// What loading is at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadProgress {
    /// Files are compared with their hashes.
    Hashing {
        /// Bytes read.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// A graph is being loaded.
    Loading {
        /// Its name.
        graph: String,
        /// Which one, from 0.
        index: usize,
        /// Number of graphs.
        count: usize,
    },
    /// It is measured how fast so many threads are, which is done once.
    Measuring {
        /// How many.
        threads: usize,
        /// Which measurement, from 0.
        index: usize,
        /// Number of measurements.
        count: usize,
    },
    /// An engine is being built for a graph, which takes minutes and is done once.
    Building {
        /// The graph's name.
        graph: String,
        /// Why one that is there cannot be used.
        reason: Option<String>,
    },
}
