//! A program that asks a cluster for keys: each goes to the node that owns it.
//!
//! ```sh
//! cargo run --release --example ask_cluster                              # of a node from `make run`
//! cargo run --release --example ask_cluster NODE,NODE,... GROUP KEY...   # any nodes of a cluster, as HOST:PORT
//! ```

use std::time::Duration;
use std::{env, process};

use corecache::client::{Client, ClientError};

const USAGE: &str = "write ask_cluster [NODE,NODE,... GROUP KEY...]";

fn run() -> Result<(), String> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (nodes, group, keys) = match &arguments[..] {
        [] => (
            "127.0.0.1:8800",
            "blobs",
            &["hello.txt", "planets/mars.json"][..],
        ),
        [nodes, group, keys @ ..] if !keys.is_empty() => (*nodes, *group, keys),
        _ => return Err(format!("too few arguments; {USAGE}")),
    };
    // Any of them will do: it tells who else is in. Clones of a client, in as many threads, share all of it.
    let client = Client::builder()
        .nodes(nodes.split(','))
        .deadline(Duration::from_secs(5))
        .build()
        .map_err(|error| error.to_string())?;

    // One key. Its owner loads it, unless it holds it.
    match client.get(group, keys[0]) {
        Ok(value) => println!("{} alone: {} bytes", keys[0], value.len()),
        Err(ClientError::NotFound { message, .. }) => println!("{} alone: {message}", keys[0]),
        Err(error) => return Err(error.to_string()),
    }

    // Many keys, in a message for each of their owners, all at the same time. Each has an answer of its own.
    for (key, answer) in keys.iter().zip(client.get_many(group, keys)) {
        match answer {
            Ok(value) => println!("{key}: {} bytes", value.len()),
            Err(error) => println!("{key}: {error}"),
        }
    }
    Ok(())
}

fn main() {
    if let Err(error) = run() {
        eprintln!("ask_cluster: {error}");
        process::exit(1);
    }
}
