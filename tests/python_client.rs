//! A stock Python client, grpcio as PyPI has it, against a real node.

mod support;

use std::process::Command;

use support::{Node, python};

const CLIENT: &str = "tests/python/client.py";

#[test]
fn a_stock_python_client_is_served() {
    let Some(python) = python::interpreter() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let group = format!("blobs=dir:{}", folder.path().display());
    let node = Node::start(["--group", &group]);
    let report = python::run(
        Command::new(python)
            .arg(CLIENT)
            .arg(node.addr.to_string())
            .arg(folder.path()),
    );
    match report {
        Ok(report) => println!("{report}"),
        Err(report) => panic!("{report}"),
    }
}
