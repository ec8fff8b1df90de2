//! A stock Python client, grpcio as PyPI has it, against a real node.

mod support;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::Node;

const CLIENT: &str = "tests/python/client.py";
const REQUIREMENTS: &str = "tests/python/requirements.txt";

#[test]
fn a_stock_python_client_is_served() {
    let python = match python() {
        Ok(python) => python,
        Err(reason) if env::var_os("CI").is_some_and(|ci| ci == "true") => panic!("{reason}"),
        Err(reason) => {
            // Past the test harness, which would swallow what a passing test prints.
            let _ = writeln!(io::stderr(), "skipped, no Python client: {reason}");
            return;
        }
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let group = format!("blobs=dir:{}", folder.path().display());
    let node = Node::start(["--group", &group]);
    let report = run(Command::new(python)
        .arg(CLIENT)
        .arg(node.addr.to_string())
        .arg(folder.path()));
    match report {
        Ok(report) => println!("{report}"),
        Err(report) => panic!("{report}"),
    }
}

/// A Python with the client's packages, made once and again whenever what it requires changes.
fn python() -> Result<PathBuf, String> {
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
fn run(command: &mut Command) -> Result<String, String> {
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
