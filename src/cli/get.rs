//! `corecache get`.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use corecache::server::pb::cache::{Chunk, ReadRequest};

use super::client::Target;
use super::{output, size};

#[derive(Args)]
pub struct Get {
    /// The group
    group: String,

    /// The key
    key: String,

    #[command(flatten)]
    target: Target,

    /// Write the value to this file, in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Begin so many bytes behind the start of the value
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    offset: usize,

    /// Read no more than so many bytes; 0 for all
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    length: usize,
}

impl Get {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        let mut request = ReadRequest::new();
        request.group = self.group;
        request.key = self.key;
        request.offset = self.offset as u64;
        request.length = self.length as u64;
        let mut file = None;
        let take = |chunk: Chunk| match &self.output {
            Some(path) => append(&mut file, path, &chunk.data).map(|()| true),
            None => output::write_part(&chunk.data),
        };
        let read = self
            .target
            .stream("/corecache.v1.Cache/Read", &request, take);
        match (read, &self.output) {
            (Err(error), Some(path)) if file.is_some() => {
                Err(format!("{error}; {} has what came before", path.display()).into())
            }
            (read, _) => read,
        }
    }
}

/// The file is made when there is something to write: a call that fails leaves the one that there was.
fn append(file: &mut Option<File>, path: &Path, bytes: &[u8]) -> Result<(), String> {
    let wrong = |error| format!("-o {}: {error}", path.display());
    let file = match file {
        Some(file) => file,
        None => file.insert(File::create(path).map_err(wrong)?),
    };
    file.write_all(bytes).map_err(wrong)
}
