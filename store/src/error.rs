//! What can go wrong in the store. Every error names the file and the position it speaks of.

use std::io;
use std::path::{Path, PathBuf};

/// An error of the store. Everything but [`StoreError::TooLarge`] and [`StoreError::Illegal`] stops the node.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb phrase ("write", "sync").
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// A file holds what it must not hold, at a place where it cannot be the torn end of an unfinished write.
    #[error("{} is corrupt at position {position} (physical offset {physical_offset}): {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Byte position within that file.
        position: u64,
        /// The same place counted from the start of the log (or of the structure the file belongs to).
        physical_offset: u64,
        /// What was expected and what was found.
        what: String,
    },
    /// What was to be appended does not continue what is there.
    #[error("divergence: {0}")]
    Divergence(String),
    /// The configuration contradicts what the directory was made with.
    #[error("{} was made with {what} = {found}, and is opened with {wanted}", path.display())]
    Contradiction {
        /// The file that records the setting.
        path: PathBuf,
        /// The setting.
        what: &'static str,
        /// Its recorded value.
        found: String,
        /// The value asked for.
        wanted: String,
    },
    /// Another process has the directory open.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// An entry that could never fit.
    #[error("{what} of {size} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The store failed before, or was closed; nothing is written any more.
    #[error("the store has stopped: {0}")]
    Stopped(String),
    /// An argument that makes no sense here.
    #[error("{0}")]
    Illegal(String),
}

impl StoreError {
    /// An I/O error with what was being done, and to which file.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// The same with where in the file.
    pub(crate) fn io_at(doing: &'static str, path: &Path, position: u64) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let source = io::Error::new(source.kind(), format!("at position {position}: {source}"));
            Self::Io { doing, path, source }
        }
    }

    /// Whether something was not written as the disk is full, or a quota is. After a sync that failed for that it is not known
    /// what was: that is no such error.
    pub(crate) fn is_for_lack_of_room(&self) -> bool {
        let Self::Io { doing, source, .. } = self else { return false };
        *doing != "sync" && matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl From<StoreError> for io::Error {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Io { ref source, .. } => io::Error::new(source.kind(), e),
            other => io::Error::other(other),
        }
    }
}
