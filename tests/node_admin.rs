//! The admin port: what probes and Prometheus ask.

mod support;

use support::{Node, folder, group, http};

#[test]
fn each_page_has_its_answer() {
    let blobs = folder(&[]);
    // A name that has to be escaped where it is a label.
    let node = Node::start(["--group", &group("q\"uo\\te", &blobs)]);
    let get = |path| http::get(node.admin, path);

    assert_eq!(get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(get("/readyz?verbose=1").0, 200);
    let (status, words) = get("/");
    assert_eq!(status, 404);
    assert!(words.contains("/metrics"), "{words}");
    let (status, metrics) = get("/metrics");
    assert_eq!(status, 200);
    let label = r#"corecache_group_hits_total{group="q\"uo\\te"} 0"#;
    assert!(metrics.contains(label), "{metrics}");
    let help = "# HELP corecache_calls_waiting Calls that wait";
    assert!(metrics.contains(help), "{metrics}");

    let (status, head, body) = http::request(node.admin, "HEAD", "/metrics");
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(
        head.to_lowercase()
            .contains("content-type: application/openmetrics-text")
    );
    for method in ["POST", "PUT", "DELETE"] {
        let (status, _, words) = http::request(node.admin, method, "/metrics");
        assert_eq!(
            (status, words.as_str()),
            (405, "only GET is answered here\n")
        );
    }
}
