//! A file that is replaced as a whole: it is written under another name, synced, and renamed.
//!
//! The other name is always the same one, `<name>.saving`, so that a save that was killed leaves one file behind at the
//! most, and the next one uses it. A lock on it keeps two savers apart, also those of two processes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::SaveError;

/// Another save can come in between two steps; so often it is tried again.
const TRIES: usize = 16;

pub struct Replacement {
    path: PathBuf,
    temporary: PathBuf,
    pub file: File,
    is_published: bool,
}

impl Replacement {
    pub fn begin(path: &Path) -> Result<Self, SaveError> {
        let path = path.to_owned();
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            return Err(SaveError::NoFileName { path });
        };
        let mut temporary = name.to_owned();
        temporary.push(".saving");
        let temporary = path.with_file_name(temporary);
        for _ in 0..TRIES {
            match open_alone(&temporary) {
                Ok(Opened::Mine(file)) => {
                    return Ok(Self {
                        path,
                        temporary,
                        file,
                        is_published: false,
                    });
                }
                Ok(Opened::Gone) => {}
                Ok(Opened::Busy) => break,
                Err(source) => return Err(SaveError::failed(&path, "create", &temporary, source)),
            }
        }
        Err(SaveError::Busy { path, temporary })
    }

    /// Puts what was written in the place of the former file.
    pub fn publish(mut self) -> Result<(), SaveError> {
        let failed = |what, source| SaveError::failed(&self.path, what, &self.temporary, source);
        self.file
            .sync_all()
            .map_err(|source| failed("sync", source))?;
        fs::rename(&self.temporary, &self.path).map_err(|source| failed("rename", source))?;
        self.is_published = true;
        sync_folder(&self.path).map_err(|source| SaveError::Unsynced {
            path: self.path.clone(),
            source,
        })
    }

    pub fn failed(&self, source: io::Error) -> SaveError {
        SaveError::failed(&self.path, "write", &self.temporary, source)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.is_published {
            // Still locked; what can not be removed is used by the next save.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

enum Opened {
    Mine(File),
    /// Another save has it.
    Busy,
    /// Another save had it, and has renamed or removed it since it was opened.
    Gone,
}

fn open_alone(temporary: &Path) -> io::Result<Opened> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    system::keep_private(&mut options);
    let file = options.open(temporary)?;
    if !system::try_lock(&file)? {
        return Ok(Opened::Busy);
    }
    if !system::is_named(&file, temporary)? {
        return Ok(Opened::Gone);
    }
    file.set_len(0)?;
    Ok(Opened::Mine(file))
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
mod system {
    use std::fs::{self, File, OpenOptions};
    use std::io;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    use std::path::Path;

    /// For the user's eyes only, as what is cached may be secret; and never through somebody's symbolic link.
    pub fn keep_private(options: &mut OpenOptions) {
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    }

    /// The lock ends with the file's descriptor, however its process ends.
    pub fn try_lock(file: &File) -> io::Result<bool> {
        // SAFETY: the descriptor is open, and the call touches no memory of ours.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::WouldBlock {
            return Ok(false);
        }
        Err(error)
    }

    /// Whether the file still has its name.
    pub fn is_named(file: &File, path: &Path) -> io::Result<bool> {
        let named = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            named => named?,
        };
        let opened = file.metadata()?;
        Ok((opened.dev(), opened.ino()) == (named.dev(), named.ino()))
    }
}

/// Elsewhere savers of one file have to be kept apart by those who start them.
#[cfg(not(unix))]
mod system {
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::path::Path;

    pub fn keep_private(_options: &mut OpenOptions) {}

    pub fn try_lock(_file: &File) -> io::Result<bool> {
        Ok(true)
    }

    pub fn is_named(_file: &File, _path: &Path) -> io::Result<bool> {
        Ok(true)
    }
}

#[cfg(all(test, unix))]
mod tests;
