//! What the commands share that ask one node.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use corecache::server::pb;
use grpcio::{
    CallOption, Channel, ChannelBuilder, Client, EnvBuilder, Method, MethodType, RpcStatusCode,
};
use protobuf::Message;

use super::{pem, seconds};

/// What the gRPC core says when the time of a call is over; a node says more.
const OWN_DEADLINE: &str = "Deadline Exceeded";

#[derive(Args)]
pub struct Target {
    /// The node to ask: host and port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8800", value_parser = address)]
    node: String,

    /// Seconds to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds::limit)]
    timeout: Duration,

    /// Call the node by TLS, and trust the certificates in this PEM file
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Checks that `text` is HOST:PORT. Without a port the gRPC core would take 443.
pub fn address(text: &str) -> Result<String, String> {
    let wrong = || "write HOST:PORT, such as 127.0.0.1:8800 or [::1]:8800".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.ends_with(']'),
        None => !host.is_empty() && !host.contains([':', '/']),
    };
    match port.parse::<u16>() {
        Ok(1..) if is_host && port.bytes().all(|byte| byte.is_ascii_digit()) => Ok(text.to_owned()),
        _ => Err(wrong()),
    }
}

impl Target {
    /// Makes a unary call of `corecache.v1.Cache`.
    pub fn call<Q: Message, R: Message + Unpin>(
        &self,
        path: &'static str,
        request: &Q,
    ) -> Result<R, Box<dyn Error>> {
        let client = Client::new(self.channel()?);
        let method: Method<Q, R> = pb::method(MethodType::Unary, path);
        let options = CallOption::default()
            .timeout(self.timeout)
            .wait_for_ready(false);
        pb::call(&client, &method, request, options).map_err(|error| self.explain(&error).into())
    }

    fn explain(&self, error: &grpcio::Error) -> String {
        match error {
            grpcio::Error::RpcFailure(status)
                if status.code() == RpcStatusCode::DEADLINE_EXCEEDED
                    && status.message() == OWN_DEADLINE =>
            {
                format!(
                    "{}: no answer within {} s; --timeout gives it more",
                    self.node,
                    self.timeout.as_secs_f64()
                )
            }
            grpcio::Error::RpcFailure(status) => {
                let code = status.code().to_string();
                let name = code.split_once('-').map_or(code.as_str(), |(_, name)| name);
                format!("{}: {name}: {}", self.node, status.message())
            }
            other => format!("{}: {other}", self.node),
        }
    }

    fn channel(&self) -> Result<Channel, String> {
        let env = Arc::new(EnvBuilder::new().cq_count(1).build());
        let channel = ChannelBuilder::new(env);
        match &self.ca {
            None => Ok(channel.connect(&self.node)),
            Some(path) => secure(channel, pem::certificates("--ca", path)?, &self.node),
        }
    }
}

#[cfg(feature = "tls")]
fn secure(channel: ChannelBuilder, roots: Vec<u8>, node: &str) -> Result<Channel, String> {
    let credentials = grpcio::ChannelCredentialsBuilder::new()
        .root_cert(roots)
        .build();
    Ok(channel.set_credentials(credentials).connect(node))
}

#[cfg(not(feature = "tls"))]
fn secure(_: ChannelBuilder, _: Vec<u8>, _: &str) -> Result<Channel, String> {
    Err("this build has no TLS; build it with the feature `tls`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_host_and_a_port() {
        for node in ["127.0.0.1:8800", "[::1]:8800", "node-7.example:1"] {
            assert_eq!(address(node), Ok(node.to_owned()));
        }
        for wrong in [
            "",
            "localhost",
            "localhost:",
            ":8800",
            "localhost:0",
            "localhost:65536",
            "localhost:+80",
            "localhost:grpc",
            "::1",
            "::1:8800",
            "[::1]",
            "[::1:8800",
            "http://localhost:8800",
        ] {
            assert!(address(wrong).is_err(), "{wrong:?}");
        }
    }
}
