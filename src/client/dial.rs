//! Channels to nodes, over grpcio.

use std::sync::Arc;
use std::time::Duration;

use grpcio::{Channel, ChannelBuilder, EnvBuilder, Environment};

use super::error::BuildClientError;
use crate::server::UNARY_LIMIT_BYTES;

/// What calls are made with: a channel to a door of a node.
pub(super) type Stub = grpcio::Client;

/// How soon a connection that was lost is made again, and how late at the most.
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(3);
/// A connection on which nothing comes is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// What the gRPC core, which takes C's strings, can take for an address.
pub(super) fn can_be_dialled(address: &str) -> bool {
    !address.contains('\0')
}

/// Makes channels to nodes, all on the same threads.
#[derive(Clone)]
pub(super) struct Dialler {
    env: Arc<Environment>,
    roots: Option<Arc<[u8]>>,
}

impl Dialler {
    pub fn new(threads: usize, roots: Option<Vec<u8>>) -> Result<Self, BuildClientError> {
        if roots.is_some() && cfg!(not(feature = "tls")) {
            return Err(BuildClientError::NoTls);
        }
        let env = EnvBuilder::new()
            .cq_count(threads)
            .name_prefix("client-cq")
            .build();
        Ok(Self {
            env: Arc::new(env),
            roots: roots.map(Arc::from),
        })
    }

    pub fn stub(&self, address: &str) -> Stub {
        Stub::new(self.channel(ChannelBuilder::new(self.env.clone()), address))
    }

    /// With a connection that no other channel has.
    pub fn side_stub(&self, address: &str) -> Stub {
        let builder = ChannelBuilder::new(self.env.clone()).use_local_subchannel_pool(true);
        Stub::new(self.channel(builder, address))
    }

    fn channel(&self, builder: ChannelBuilder, address: &str) -> Channel {
        let builder = builder
            .max_receive_message_len(UNARY_LIMIT_BYTES as i32)
            .initial_reconnect_backoff(RECONNECT_MIN)
            .max_reconnect_backoff(RECONNECT_MAX)
            .enable_retry(false)
            .keepalive_time(KEEPALIVE)
            .keepalive_timeout(KEEPALIVE);
        match &self.roots {
            Some(roots) => secure(builder, roots.to_vec(), address),
            None => builder.connect(address),
        }
    }
}

#[cfg(feature = "tls")]
fn secure(builder: ChannelBuilder, roots: Vec<u8>, address: &str) -> Channel {
    let credentials = grpcio::ChannelCredentialsBuilder::new()
        .root_cert(roots)
        .build();
    builder.set_credentials(credentials).connect(address)
}

#[cfg(not(feature = "tls"))]
fn secure(builder: ChannelBuilder, _: Vec<u8>, address: &str) -> Channel {
    // A dialler with roots is not made without the feature.
    builder.connect(address)
}
