//! Why a cache was not saved, or not restored.

use std::io;
use std::path::{Path, PathBuf};

/// Why a cache was not saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The path ends with no name, or is that of a folder.
    #[error("a cache can not be saved to {path}: that names no file; add a file's name", path = path.display())]
    NoFileName {
        /// Where the cache was to be saved.
        path: PathBuf,
    },
    /// Another save to the same path is under way, in this process or in another.
    #[error(
        "a cache is being saved to {path} already ({temporary} is locked); wait for that, or save to another path",
        path = path.display(),
        temporary = temporary.display(),
    )]
    Busy {
        /// Where the cache was to be saved.
        path: PathBuf,
        /// What the other one writes to.
        temporary: PathBuf,
    },
    /// The system refused. What was saved before is still there.
    #[error(
        "a cache was not saved to {path}: could not {action} {temporary}: {source}; if there was a file before, it is still \
         there",
        path = path.display(),
        temporary = temporary.display(),
    )]
    Io {
        /// Where the cache was to be saved.
        path: PathBuf,
        /// The file in the same folder that is written first.
        temporary: PathBuf,
        /// What was tried: to create it, to write, sync or rename it.
        action: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// The file is there and whole, but if the machine fails now, the former one may come back.
    #[error("a cache was saved to {path}, but its folder could not be synced: {source}", path = path.display())]
    Unsynced {
        /// The file.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

impl SaveError {
    pub(super) fn failed(
        path: &Path,
        action: &'static str,
        temporary: &Path,
        source: io::Error,
    ) -> Self {
        Self::Io {
            path: path.to_owned(),
            temporary: temporary.to_owned(),
            action,
            source,
        }
    }
}

/// Why a cache was not restored. Nothing of the file is in the cache, except after [`RestoreError::Changed`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// There is no such file: as it has to be when a program runs for the first time.
    #[error("there is no file {path} to restore a cache from; save one first", path = path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path} can not be read, so no cache was restored: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// Something else than a saved cache.
    #[error("{path} is no saved cache; give the path of one, or save one there", path = path.display())]
    NotSaved {
        /// The file.
        path: PathBuf,
    },
    /// Saved by a release with another format.
    #[error(
        "{path} is a saved cache of format {version}, this release reads format 1; remove it, or use the release that saved \
         it",
        path = path.display(),
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
    /// Some of it is not what was saved.
    #[error(
        "the saved cache {path} is damaged at byte {at_byte}: {what}; nothing was restored, remove the file",
        path = path.display(),
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged part begins.
        at_byte: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It was whole when it was checked, and not any more when it was read again: somebody writes to it, or the disk
    /// fails. What was restored until then is in the cache.
    #[error("{path} changed while {entries} entries were restored from it ({source}); clear the cache if in doubt", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Entries that were restored.
        entries: u64,
        /// What was found.
        source: Box<RestoreError>,
    },
    /// The `Drop` or `Eq` of a key or a value in a cache called, on the cache's behalf.
    #[error("{path} was not restored: the code of a key or a value can not do that; do it elsewhere", path = path.display())]
    Inside {
        /// The file.
        path: PathBuf,
    },
}

impl RestoreError {
    pub(super) fn unreadable(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::NotFound {
            return Self::Missing { path };
        }
        Self::Io { path, source }
    }
}
