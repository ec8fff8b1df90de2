//! A Python with the packages of our Python clients.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const REQUIREMENTS: &str = "tests/python/requirements.txt";

/// The interpreter; none, where that is allowed and has been said, on a machine that can not have it.
pub fn interpreter() -> Option<&'static Path> {
    static INSTALLED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match INSTALLED.get_or_init(installed) {
        Ok(python) => Some(python),
        Err(reason) if env::var_os("CI").is_some_and(|ci| ci == "true") => panic!("{reason}"),
        Err(reason) => {
            // Past the test harness, which would swallow what a passing test prints.
            let _ = writeln!(io::stderr(), "skipped, no Python client: {reason}");
            None
        }
    }
}

/// A Python with the client's packages, made once and again whenever what it requires changes.
fn installed() -> Result<PathBuf, String> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let python = venv.join("bin/python");
    let installed = venv.join("installed.txt");
    let required = fs::read_to_string(REQUIREMENTS).expect("what the client requires is readable");
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == required)
        && run(Command::new(&python).args(["-c", "import grpc"])).is_ok()
    {
        return Ok(python);
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&venv))?;
    run(Command::new(&python).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
        REQUIREMENTS,
    ]))?;
    fs::write(installed, required).expect("the folder for the tests' files is writable");
    Ok(python)
}

/// Runs `command` to its end. Returns what it printed, or else says what failed and how.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?} does not run: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(printed.into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{command:?}: {}\n{printed}{complaint}",
        output.status
    ))
}
