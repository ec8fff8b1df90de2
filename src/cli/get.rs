//! `corecache get`.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use corecache::server::pb::cache::{GetRequest, Value};

use super::client::Target;
use super::output;

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
}

impl Get {
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        let mut request = GetRequest::new();
        request.group = self.group;
        request.key = self.key;
        let value: Value = self.target.call("/corecache.v1.Cache/Get", &request)?;
        match self.output {
            Some(path) => fs::write(&path, &value.value)
                .map_err(|error| format!("-o {}: {error}", path.display()))?,
            None => output::write(&value.value)?,
        }
        Ok(())
    }
}
