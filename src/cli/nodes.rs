//! What the commands share that ask a cluster by the client.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use corecache::client::{Client, ClientError};

use super::client::address;
use super::{pem, seconds};

#[derive(Args)]
pub struct Nodes {
    /// The node to ask: host and port; of a cluster any, or several of them, in case one is down
    #[arg(
        long,
        value_name = "ADDR,...",
        default_value = "127.0.0.1:8800",
        value_delimiter = ',',
        value_parser = address
    )]
    node: Vec<String>,

    /// Seconds to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds::limit)]
    timeout: Duration,

    /// Call the nodes by TLS, and trust the certificates in this PEM file
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Nodes {
    pub fn client(&self) -> Result<Client, String> {
        let mut builder = Client::builder().nodes(&self.node).deadline(self.timeout);
        if let Some(path) = &self.ca {
            builder = builder.tls_ca(pem::certificates("--ca", path)?);
        }
        builder.build().map_err(|error| error.to_string())
    }
}

/// In the words of a command: who calls it knows group and key.
pub fn words(error: &ClientError) -> String {
    match error {
        ClientError::Unreachable { node, message, .. } => {
            format!("{node}: UNAVAILABLE: {message}{}", hint(message))
        }
        ClientError::TimedOut { node, within, .. } => format!(
            "{node}: no answer within {} s; --timeout gives it more",
            within.as_secs_f64()
        ),
        other => other.to_string(),
    }
}

/// What it may be, where one side speaks TLS and the other does not.
fn hint(message: &str) -> &'static str {
    if message.contains("Socket closed") {
        "; if the node has TLS, give --ca FILE"
    } else if message.contains("wrong version number") {
        "; if the node has no TLS, leave --ca out"
    } else {
        ""
    }
}
