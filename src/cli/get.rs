//! `corecache get`.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::nodes::{Nodes, words};
use super::{output, size};

#[derive(Args)]
pub struct Get {
    /// The group
    group: String,

    /// The key
    key: String,

    #[command(flatten)]
    nodes: Nodes,

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
        let client = self.nodes.client()?;
        let mut file = None;
        let mut taken = Ok(true);
        let take = |chunk: &[u8]| {
            taken = match &self.output {
                Some(path) => append(&mut file, path, chunk).map(|()| true),
                None => output::write_part(chunk),
            };
            taken == Ok(true)
        };
        let (offset, length) = (self.offset as u64, self.length as u64);
        let read = client.read(&self.group, &self.key, offset, length, take);
        let read = read.map_err(|error| words(&error)).and(taken);
        match (read, &self.output) {
            (Err(error), Some(path)) if file.is_some() => {
                Err(format!("{error}; {} has what came before", path.display()).into())
            }
            (read, _) => Ok(read.map(drop)?),
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
