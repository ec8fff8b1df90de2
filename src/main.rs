//! The command line of corecache.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

/// In place of malloc, for the C-core too: its symbols are jemalloc's in this binary.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info,grpcio=off"))
        .init();
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where not even this can be written, the exit code says it.
            let _ = writeln!(io::stderr(), "corecache: {error}");
            ExitCode::FAILURE
        }
    }
}
