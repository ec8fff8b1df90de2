//! How the client connects, and whether it did.
//!
//! Wraps the client's own connector for two things. The client builds a new TLS context, which
//! reads all of the system's roots (tens of milliseconds), for each connection of a request with
//! settings of its own; ours differ in their deadline alone, so one context serves all. And only
//! who knows that a request went over a kept connection may send it again when the origin turns
//! out to have closed that.

use std::cell::Cell;

use ureq::Error;
use ureq::unversioned::transport::{ConnectionDetails, Connector, DefaultConnector};

thread_local! {
    /// Whether the request that runs on this thread opened a connection.
    static CONNECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `request` on this thread; also says whether a connection was opened for it.
pub(super) fn watched<T>(request: impl FnOnce() -> T) -> (T, bool) {
    CONNECTED.set(false);
    let outcome = request();
    (outcome, CONNECTED.get())
}

/// The client's connector.
#[derive(Debug, Default)]
pub(super) struct Connect(DefaultConnector);

impl Connector for Connect {
    type Out = <DefaultConnector as Connector>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        CONNECTED.set(true);
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: false,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.0.connect(&details, chained)
    }
}
