//! A gRPC server that answers as a test wants.

use std::net::SocketAddr;
use std::sync::Arc;

use grpcio::{Environment, Server, ServerBuilder, ServerCredentials, Service};

/// A service at a free port, as long as this lives.
pub struct Served {
    pub addr: SocketAddr,
    _server: Server,
}

impl Served {
    pub fn start(service: Service) -> Self {
        let mut server = ServerBuilder::new(Arc::new(Environment::new(1)))
            .register_service(service)
            .build()
            .expect("a server");
        let port = server.add_listening_port("127.0.0.1:0", ServerCredentials::insecure());
        server.start();
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], port.expect("a free port"))),
            _server: server,
        }
    }
}
