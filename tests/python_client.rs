//! A stock Python client, grpcio as PyPI has it, against a real node.

mod support;

use std::path::Path;
use std::process::Command;

use support::{Door, Node, at_both_doors, python};

const CLIENT: &str = "tests/python/client.py";

#[test]
fn a_stock_python_client_is_served() {
    let Some(python) = python::interpreter() else {
        return;
    };
    at_both_doors(|door| be_served(python, door));
}

fn be_served(python: &Path, door: Door) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let group = format!("blobs=dir:{}", folder.path().display());
    let node = Node::start(["--group", &group]);
    let report = python::run(
        Command::new(python)
            .arg(CLIENT)
            .arg(door.of(&node).to_string())
            .arg(folder.path())
            .args((door == Door::Express).then(|| node.addr.to_string())),
    );
    match report {
        Ok(report) => println!("{report}"),
        Err(report) => panic!("{report}"),
    }
}
