//! What callers may take, as flags of `corecache serve`.

use std::time::Duration;

use clap::Args;
use corecache::server::ConnectionLimits;

use super::{seconds, size};

#[derive(Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Connections that may be open, at both doors together; one more is closed at once
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = connections)]
    max_connections: usize,

    /// Those that one address may have at the express door; one more is closed at once [default: three in four of all]
    #[arg(long, value_name = "N", value_parser = super::at_least_one)]
    max_address_connections: Option<usize>,

    /// Calls that one connection may have open at once
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = super::at_least_one)]
    max_streams: usize,

    /// The largest request
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = request)]
    max_request: usize,

    /// The metadata of a call, with 32 bytes for each pair of name and value
    #[arg(long, value_name = "SIZE", default_value = "16KiB", value_parser = metadata)]
    max_metadata: usize,

    /// Seconds that a connection may have no call; `off` for any time
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds_or_off)]
    max_idle: Span,

    /// Seconds until clients are asked to open another connection; `off` for never
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds_or_off)]
    max_age: Span,

    /// Seconds that the calls of a connection over --max-age may go on
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds::limit)]
    age_grace: Duration,

    /// Seconds that a connection may take to begin with HTTP/2, and TLS if there is
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds::limit)]
    handshake_timeout: Duration,

    /// What the gRPC core may use for connections and calls, beside --memory, and as much what the connections of the express
    /// door may keep
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = core_memory)]
    core_memory: usize,
}

impl Limits {
    pub fn of_connections(&self) -> ConnectionLimits {
        ConnectionLimits {
            connections: self.max_connections,
            connections_an_address: self.max_address_connections,
            streams_a_connection: self.max_streams,
            request_bytes: self.max_request,
            metadata_bytes: self.max_metadata,
            idle: self.max_idle.0,
            age: self.max_age.0,
            age_grace: self.age_grace,
            handshake: self.handshake_timeout,
            core_bytes: self.core_memory,
        }
    }

    pub fn core_memory(&self) -> usize {
        self.core_memory
    }

    /// Refuses limits of which one makes the other vain.
    pub fn check(&self) -> Result<(), String> {
        if self.max_request <= self.core_memory {
            return Ok(());
        }
        let show = |bytes| size::show(bytes as u64);
        Err(format!(
            "--max-request {} is more than --core-memory {}: a request that large would always be cancelled",
            show(self.max_request),
            show(self.core_memory)
        ))
    }
}

#[derive(Clone)]
struct Span(Option<Duration>);

fn seconds_or_off(text: &str) -> Result<Span, String> {
    match text {
        "off" => Ok(Span(None)),
        _ => match seconds::limit(text) {
            Ok(limit) => Ok(Span(Some(limit))),
            Err(error) => Err(format!("{error}, or off")),
        },
    }
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        Ok(number @ 1..=1_000_000) => Ok(number),
        Ok(_) => Err("at most 1000000".to_owned()),
        Err(_) => Err("write a whole number".to_owned()),
    }
}

fn request(text: &str) -> Result<usize, String> {
    within(text, 8 << 10, 64 << 20)
}

fn metadata(text: &str) -> Result<usize, String> {
    within(text, 1 << 10, 1 << 20)
}

fn core_memory(text: &str) -> Result<usize, String> {
    within(text, 1 << 20, 1 << 50)
}

fn within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let bytes = size::parse(text)?;
    if (least..=most).contains(&bytes) {
        return Ok(bytes);
    }
    let show = |bytes| size::show(bytes as u64);
    Err(format!("give {} to {}", show(least), show(most)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        limits: Limits,
    }

    #[test]
    fn without_flags_limits_are_those_of_the_library() {
        let Only { limits } = Only::parse_from(["serve"]);
        assert_eq!(limits.of_connections(), ConnectionLimits::default());
    }

    #[test]
    fn what_is_off_has_no_limit() {
        let args = ["serve", "--max-idle", "off", "--max-age", "off"];
        let limits = Only::parse_from(args).limits.of_connections();
        assert_eq!((limits.idle, limits.age), (None, None));
    }
}
