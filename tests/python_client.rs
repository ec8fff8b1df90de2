//! A stock Python client, grpcio as PyPI has it, against a real node.

mod support;

use std::path::Path;
use std::process::Command;

use support::{Door, Node, python};

const CLIENT: &str = "tests/python/client.py";

#[test]
fn a_stock_python_client_is_served() {
    let Some(python) = python::interpreter() else {
        return;
    };
    let [front, express] = [Door::Front, Door::Express].map(|door| be_served(python, door));
    assert_eq!(front, express);
}

/// What both doors have, as it was seen at this one: codes and messages. The values are compared with the files there.
fn be_served(python: &Path, door: Door) -> String {
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
    let report = report.unwrap_or_else(|report| panic!("{report}"));
    println!("{report}");
    let (common, _own) = report.split_once("---\n").expect("a line between");
    common.to_owned()
}
