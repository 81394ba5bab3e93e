use std::fmt;
use std::path::PathBuf;

/// Where a sample stands. Displays as `file:line`, or `file row N` for Parquet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The place in it.
    pub place: Place,
}

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// A line of text, counted from 1.
    Line(u64),
    /// A row of a table, counted from 0 over all row groups, as dataset viewers do.
    Row(u64),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.place {
            Place::Line(line) => write!(f, "{file}:{line}"),
            Place::Row(row) => write!(f, "{file} row {row}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_file_and_place() {
        let shown = |place| {
            let file = PathBuf::from("a/b");
            Origin { file, place }.to_string()
        };
        assert_eq!(shown(Place::Line(3)), "a/b:3");
        assert_eq!(shown(Place::Row(0)), "a/b row 0");
    }
}
