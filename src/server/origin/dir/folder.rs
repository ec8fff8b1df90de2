//! Regular files beneath a folder, and nothing else, whatever others do to the folder meanwhile.
//!
//! A path is reached from the folder's descriptor in two steps. First its parent: in one call of
//! openat2(2), where the kernel itself refuses links and ways out, or component by component
//! without following links, where openat2 is missing or forbidden. Then the name in it, which has
//! no `/` left and so leads nowhere else. The name is opened only after it was seen to be a
//! regular file, and seen again once open, because it may have been exchanged in between. What
//! can be exchanged there is opened without blocking and without becoming our terminal, and
//! nothing is read from it.

use std::fs::File;
use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

/// How folders are opened: to go through one takes no right to list it.
const THROUGH: OFlags = SEARCH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

const SEARCH: OFlags = OFlags::PATH;

/// A folder that is held open.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    /// Whether openat2 can be used.
    openat2: bool,
}

/// Why a path beneath the folder gives no file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Nothing has that path.
    Missing,
    /// The folder itself was removed.
    FolderGone,
    /// What has that path, or stands in its way, is no regular file but this.
    NotAFile(&'static str),
    /// The path or one of its names is longer than the system takes.
    TooLong,
    /// The system refused.
    Failed(Errno),
}

impl Folder {
    /// Opens `path`, which may be a link to a folder.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let fd = rustix::fs::openat(CWD, path, THROUGH, Mode::empty())?;
        let openat2 = beneath(fd.as_fd(), b".").is_ok();
        Ok(Self { fd, openat2 })
    }

    /// The same folder, never using openat2.
    #[cfg(test)]
    pub(super) fn without_openat2(mut self) -> Self {
        self.openat2 = false;
        self
    }

    /// Opens the regular file at `path`, a plain path without NUL.
    pub(super) fn file(&self, path: &[u8]) -> std::result::Result<File, Obstacle> {
        match path.iter().rposition(|&byte| byte == b'/') {
            None => file_in(self.fd.as_fd(), path),
            Some(slash) => {
                let parent = self.parent(&path[..slash])?;
                file_in(parent.as_fd(), &path[slash + 1..])
            }
        }
        .map_err(|obstacle| match obstacle {
            Obstacle::Missing if self.is_gone() => Obstacle::FolderGone,
            other => other,
        })
    }

    fn parent(&self, path: &[u8]) -> std::result::Result<OwnedFd, Obstacle> {
        if self.openat2 {
            return Ok(beneath(self.fd.as_fd(), path)?);
        }
        let mut names = path.split(|&byte| byte == b'/');
        let first = names.next().unwrap_or_default();
        names.try_fold(folder_in(self.fd.as_fd(), first)?, |parent, name| {
            folder_in(parent.as_fd(), name)
        })
    }

    fn is_gone(&self) -> bool {
        rustix::fs::fstat(&self.fd).is_ok_and(|stat| stat.st_nlink == 0)
    }
}

/// The folder at `path` beneath `root`, found by the kernel in one go.
fn beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    use rustix::fs::ResolveFlags;

    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, THROUGH, Mode::empty(), within)
}

/// The folder `name` in `parent`; a link is not followed.
fn folder_in(parent: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<OwnedFd, Obstacle> {
    rustix::fs::openat(parent, name, THROUGH | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| {
        // ENOTDIR may stand for a link here, which is to be told apart from a file.
        match kind_in(parent, name) {
            Ok(FileType::Symlink) => Obstacle::NotAFile(LINK),
            _ => error.into(),
        }
    })
}

/// The regular file `name` in `parent`.
fn file_in(parent: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<File, Obstacle> {
    const READ: OFlags = OFlags::RDONLY
        .union(OFlags::NOFOLLOW)
        .union(OFlags::NONBLOCK)
        .union(OFlags::NOCTTY)
        .union(OFlags::CLOEXEC);

    require_file(kind_in(parent, name)?)?;
    let fd = rustix::fs::openat(parent, name, READ, Mode::empty())?;
    require_file(kind_of_mode(rustix::fs::fstat(&fd)?.st_mode))?;
    Ok(fd.into())
}

fn kind_in(parent: BorrowedFd<'_>, name: &[u8]) -> Result<FileType> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(kind_of_mode(stat.st_mode))
}

fn kind_of_mode(mode: rustix::fs::RawMode) -> FileType {
    FileType::from_raw_mode(mode)
}

const LINK: &str = "a symbolic link";

fn require_file(kind: FileType) -> std::result::Result<(), Obstacle> {
    Err(Obstacle::NotAFile(match kind {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a folder",
        FileType::Symlink => LINK,
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something that is no file",
    }))
}

impl From<Errno> for Obstacle {
    fn from(error: Errno) -> Self {
        match error {
            // ENOTDIR: a file stands where the path has a folder.
            Errno::NOENT | Errno::NOTDIR => Self::Missing,
            Errno::LOOP => Self::NotAFile(LINK),
            Errno::NAMETOOLONG => Self::TooLong,
            other => Self::Failed(other),
        }
    }
}
