//! Faults found in a file, each with its line.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How far a fault reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The manifest does not say what is wanted: nothing can be written.
    Form,
    /// What it says is refused: it could be written, and Merus would refuse it.
    Semantic,
}

/// Faults in one file.
#[derive(Default)]
pub struct Report {
    path: PathBuf,
    /// Where each line begins.
    lines: Vec<usize>,
    /// Line (from 1; 0 is the file as a whole), kind and text.
    faults: Vec<(usize, Kind, String)>,
}

impl Report {
    /// An empty report about the file at `path` with this text.
    pub fn new(path: &Path, text: &str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { path: path.to_path_buf(), lines, faults: Vec::new() }
    }
    /// Adds a fault at this byte range of the file.
    pub fn add(&mut self, at: &Range<usize>, kind: Kind, text: impl fmt::Display) {
        let line = self.lines.partition_point(|start| *start <= at.start);
        self.faults.push((line, kind, text.to_string()));
    }
    /// Adds a fault of the file as a whole.
    pub fn add_whole(&mut self, kind: Kind, text: impl fmt::Display) {
        self.faults.push((0, kind, text.to_string()));
    }
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }
    /// Whether the file says clearly what is wanted, be it refused or not.
    pub fn is_semantic(&self) -> bool {
        self.faults.iter().all(|(_, kind, _)| *kind == Kind::Semantic)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut faults: Vec<_> = self.faults.iter().collect();
        faults.sort_by_key(|(line, ..)| *line);
        for (line, _, text) in faults {
            match line {
                0 => writeln!(f, "{}: {text}", self.path.display())?,
                _ => writeln!(f, "{}:{line}: {text}", self.path.display())?,
            }
        }
        Ok(())
    }
}
