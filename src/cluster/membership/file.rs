//! Members from a file that is looked at again and again: one on a line, `#` begins a comment.
//!
//! The file may be replaced by another one (renamed over it, or a link that is turned to it), which is never seen by halves.
//! One that is written in place is read when it has not changed from one look to the next.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Report, Source, own};
use crate::cluster::{Member, MemberError, ParseMemberError, View};

const LOOK_EVERY: Duration = Duration::from_millis(250);
const FILE_MAX_BYTES: u64 = 1 << 20;

/// A file with a member on each line.
#[derive(Debug)]
pub struct PeersFile {
    path: PathBuf,
    /// What was read when the file was opened.
    first: Option<Vec<Member>>,
    /// The file as it was read last, none since it was away, and what was wrong with it.
    read: Option<Stamp>,
    fault: Option<String>,
    /// The file as the last look saw it.
    seen: Option<Stamp>,
}

/// Why a file tells no members.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It can not be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It is too large for a list of members.
    #[error("it has over {FILE_MAX_BYTES} bytes")]
    Large,
    /// A line is no member.
    #[error("line {0}: {1}")]
    Line(usize, ParseMemberError),
    /// The members together are no view.
    #[error(transparent)]
    View(#[from] MemberError),
    /// It names nobody, which is taken for damage.
    #[error("no member is in it; write HOST:PORT on a line for each")]
    Empty,
    /// It changed while it was read.
    #[error("it is being written")]
    Written,
}

/// What tells one state of a file from another: device and inode, size, time of the last change and of the last write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp([i64; 7]);

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self([
            metadata.dev().cast_signed(),
            metadata.ino().cast_signed(),
            metadata.size().cast_signed(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ])
    }
}

impl PeersFile {
    /// Reads the file, so that one that is wrong is told at once.
    ///
    /// # Errors
    ///
    /// [`FileError`] where it tells no members.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        let (members, read) = read(&path)?;
        Ok(Self {
            path,
            first: Some(members),
            read: Some(read),
            fault: None,
            seen: None,
        })
    }

    /// Looks whether the file has changed, and reads it then. What is wrong with it is wrong until it can be read.
    fn look(&mut self, report: &Report) -> Result<(), String> {
        let metadata = fs::metadata(&self.path).map_err(|error| {
            let fault = error.to_string();
            (self.read, self.fault) = (None, Some(fault.clone()));
            fault
        })?;
        let now = Stamp::of(&metadata);
        let is_still = self.seen.replace(now) == Some(now);
        if self.read != Some(now) && is_still {
            match read(&self.path) {
                Ok((members, stamp)) => {
                    self.read = Some(stamp);
                    self.fault = None;
                    tell(report, members);
                }
                Err(FileError::Written) => {}
                Err(error) => {
                    // What is in the file stays wrong; what the system says of it may change.
                    if !matches!(error, FileError::Read(_)) {
                        self.read = Some(now);
                    }
                    self.fault = Some(error.to_string());
                }
            }
        }
        self.fault.clone().map_or(Ok(()), Err)
    }
}

impl Source for PeersFile {
    fn name(&self) -> &'static str {
        "file"
    }

    fn follow(&mut self, report: &Report) {
        tell(report, self.first.take().unwrap_or_default());
        while report.pause(LOOK_EVERY) {
            match self.look(report) {
                Ok(()) => report.confirm(),
                Err(fault) => report.down(&format!("{}: {fault}", self.path.display())),
            }
        }
    }
}

fn tell(report: &Report, members: Vec<Member>) {
    report.members(members.clone());
    own::seek_alias(report, &members);
}

fn read(path: &Path) -> Result<(Vec<Member>, Stamp), FileError> {
    let file = File::open(path)?;
    let before = Stamp::of(&file.metadata()?);
    let mut text = String::new();
    let read = (&file).take(FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_MAX_BYTES {
        return Err(FileError::Large);
    }
    if Stamp::of(&file.metadata()?) != before {
        return Err(FileError::Written);
    }
    Ok((parse(&text)?, before))
}

fn parse(text: &str) -> Result<Vec<Member>, FileError> {
    let mut members = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.split_once('#').map_or(text, |(text, _)| text).trim();
        if !text.is_empty() {
            let member = Member::parse(text).map_err(|error| FileError::Line(line, error))?;
            members.push(member);
        }
    }
    View::new(members.clone())?;
    match members.is_empty() {
        true => Err(FileError::Empty),
        false => Ok(members),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_member_on_each_line() {
        let text = "# ours\n\n a:1=7@z  # heavy\r\nb:1";
        let shown = |members: Vec<Member>| members.iter().map(Member::to_string).collect();
        let members: Vec<String> = shown(parse(text).unwrap());
        assert_eq!(members, ["a:1=7@z", "b:1"]);
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        for (text, words) in [
            ("a:1\n#\nb\n", "line 3: member \"b\": no port"),
            ("a:1\na:1\n", "member \"a:1\" is there twice"),
            ("", "no member"),
            ("# a:1\n", "no member"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        assert!(matches!(PeersFile::open(&path), Err(FileError::Read(_))));
        fs::write(&path, "#".repeat((1 << 20) + 1)).unwrap();
        assert!(matches!(PeersFile::open(&path), Err(FileError::Large)));
        fs::write(&path, b"a:1\n\xff").unwrap();
        assert!(matches!(PeersFile::open(&path), Err(FileError::Read(_))));
    }
}
