//! RFC 9113 and RFC 7541 at the express door, as h2spec (<https://github.com/summerwind/h2spec>) checks them: all of its tests,
//! the strict ones too, without an exception.

mod support;

use std::process::Command;

use support::{Node, folder, go, group, run};

#[test]
fn h2spec_finds_nothing() {
    let Some(h2spec) = go::build("h2spec") else {
        return;
    };
    let blobs = folder(&[]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let (host, port) = (
        node.express.ip().to_string(),
        node.express.port().to_string(),
    );
    let output = run(Command::new(h2spec).args([&*host, &port, "/corecache.v1.Cache/Get"]));
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}");
    assert!(report.contains(" 0 skipped, 0 failed"), "{report}");
}
