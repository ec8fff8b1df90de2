//! The first words of TLS.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// What a client says first to a node at 127.0.0.1. A node that takes it signs its answer, which is what a handshake costs; the same may
/// be said any number of times.
pub fn hello() -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("the versions of all")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "127.0.0.1".try_into().expect("an address");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("there is room");
    hello
}
