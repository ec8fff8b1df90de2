//! `dir:PATH`: a key is the path of a regular file below a folder.
//!
//! **What is served.** Regular files that are reached through real folders. No symbolic link is
//! followed, wherever it leads and wherever in the path it stands, whenever it is put there; no
//! pipe, socket or device is opened. Names are bytes and need not be UTF-8. A mount below the
//! folder belongs to it.
//!
//! **Which error.** A key that is no plain path, has a NUL or is longer than the system takes, and
//! one that leads to a folder, a link, a pipe, a socket or a device, can not be a key here:
//! [`LoadError::InvalidKey`]. Where there is nothing: [`LoadError::NotFound`]. When the system
//! refuses (no permission, no descriptors, a broken disk): [`LoadError::Unavailable`] in its words.
//!
//! **Files that change.** A file that changes while it is read, or was modified less than 0.2 s
//! before, is looked at again a few times, and then is unavailable. So a value is one state of its
//! file, unless who writes the file in place is held up for longer, or writes through a memory
//! mapping: put files in place complete, by renaming them. See `snapshot`.
//!
//! **The folder** is held open from the start. Renamed, it is still the origin; removed, every key
//! is unavailable until the node is started anew, even when a new folder takes the name.
//!
//! **Deadlines** are looked at between reads of [`snapshot::PIECE_BYTES`]. A read that the file
//! system itself holds up (a network mount whose server is away) can not be cut short.

mod folder;
mod snapshot;

use std::fmt;
use std::path::Path;

use crate::group::{LoadContext, LoadError, Loader, Sink};

use super::{OriginError, require_plain_path};
use folder::{Folder, Obstacle};
use snapshot::{Outcome, QUIET};

/// How often a file that changes is looked at.
const ATTEMPTS: usize = 3;

/// A folder whose files are the values of a group.
#[derive(Debug)]
pub struct Dir {
    path: String,
    folder: Folder,
}

impl Dir {
    /// Opens the folder at `path`.
    ///
    /// # Errors
    /// [`OriginError::Folder`] when there is no folder at `path`, or none that can be used.
    pub fn open(path: &str) -> Result<Self, OriginError> {
        match Folder::open(Path::new(path)) {
            Ok(folder) => Ok(Self {
                path: path.to_owned(),
                folder,
            }),
            Err(error) => Err(OriginError::Folder {
                path: path.to_owned(),
                source: error.into(),
            }),
        }
    }

    /// Loads `key`, calling `after_piece` after each piece that was read.
    fn load_in_pieces(
        &self,
        key: &[u8],
        ctx: &LoadContext<'_>,
        sink: &mut Sink,
        mut after_piece: impl FnMut(),
    ) -> Result<(), LoadError> {
        require_plain_path(key)?;
        if key.contains(&0) {
            return Err(LoadError::InvalidKey(
                "it has a NUL, which no file name has".into(),
            ));
        }
        for _ in 0..ATTEMPTS {
            let file = self.folder.file(key).map_err(refusal)?;
            match snapshot::read(&file, ctx, sink, QUIET, &mut after_piece)? {
                Outcome::Settled => return Ok(()),
                Outcome::Fleeting => {
                    sink.do_not_store();
                    return Ok(());
                }
                Outcome::Changed => sink.clear(),
            }
        }
        Err(LoadError::Unavailable(format!(
            "its file changed each of the {ATTEMPTS} times it was looked at: ask again, and \
             replace files by renaming new ones over them"
        )))
    }
}

impl Loader for Dir {
    fn load(&self, key: &[u8], ctx: &LoadContext<'_>, sink: &mut Sink) -> Result<(), LoadError> {
        self.load_in_pieces(key, ctx, sink, || ())
    }
}

impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dir:{}", self.path)
    }
}

fn refusal(obstacle: Obstacle) -> LoadError {
    match obstacle {
        Obstacle::Missing => LoadError::NotFound("the folder has no such file".into()),
        Obstacle::FolderGone => LoadError::Unavailable(
            "the origin's folder was removed: start the node again when it is back".into(),
        ),
        Obstacle::NotAFile(what) => {
            LoadError::InvalidKey(format!("it leads to {what}; only regular files are served"))
        }
        Obstacle::TooLong => {
            LoadError::InvalidKey("it is longer than a path, or a name in it, can be".into())
        }
        Obstacle::Failed(error) => {
            LoadError::Unavailable(format!("its file can not be opened: {error}"))
        }
    }
}

#[cfg(test)]
mod tests;
