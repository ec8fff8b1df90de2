//! Calls to one endpoint of etcd, each with a time limit.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{self, Receiver};
use futures_channel::oneshot;
use futures_executor::block_on;
use futures_util::future::{Either, select};
use futures_util::{SinkExt, StreamExt};
use grpcio::{
    CallOption, Channel, ChannelBuilder, Client, ClientDuplexReceiver, Environment,
    MetadataBuilder, Method, MethodType, RpcStatusCode, WriteFlags,
};
use protobuf::Message;

use super::EtcdConfig;
use crate::server::pb;
use crate::server::pb::etcd::compare::{CompareTarget, Target_union};
use crate::server::pb::etcd::request_op::Request;
use crate::server::pb::etcd::watch_request::Request_union;
use crate::server::pb::etcd::{
    AuthenticateRequest, AuthenticateResponse, Compare, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, RangeRequest, RangeResponse,
    RequestOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};

/// What a call may take, connecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// The same for a node that is leaving.
const REVOKE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Messages of a watch that wait to be looked at. If there are more, the watch ends and all keys are read anew.
pub(super) const WATCHED_MAX: usize = 64;
/// The header in which etcd looks for the token of a user.
const TOKEN: &str = "token";
/// With it, a watch ends if its endpoint is cut off from the others of etcd.
const HAS_LEADER: &str = "hasleader";

const AUTHENTICATE: Method<AuthenticateRequest, AuthenticateResponse> =
    pb::method(MethodType::Unary, "/etcdserverpb.Auth/Authenticate");
const RANGE: Method<RangeRequest, RangeResponse> =
    pb::method(MethodType::Unary, "/etcdserverpb.KV/Range");
const TXN: Method<TxnRequest, TxnResponse> = pb::method(MethodType::Unary, "/etcdserverpb.KV/Txn");
const WATCH: Method<WatchRequest, WatchResponse> =
    pb::method(MethodType::Duplex, "/etcdserverpb.Watch/Watch");
const GRANT: Method<LeaseGrantRequest, LeaseGrantResponse> =
    pb::method(MethodType::Unary, "/etcdserverpb.Lease/LeaseGrant");
const REVOKE: Method<LeaseRevokeRequest, LeaseRevokeResponse> =
    pb::method(MethodType::Unary, "/etcdserverpb.Lease/LeaseRevoke");
const KEEP_ALIVE: Method<LeaseKeepAliveRequest, LeaseKeepAliveResponse> =
    pb::method(MethodType::Duplex, "/etcdserverpb.Lease/LeaseKeepAlive");
const TIME_TO_LIVE: Method<LeaseTimeToLiveRequest, LeaseTimeToLiveResponse> =
    pb::method(MethodType::Unary, "/etcdserverpb.Lease/LeaseTimeToLive");

/// Why etcd did not do what it was asked for: in words, with what it was.
pub(super) type Fault = String;

/// A connection to an endpoint.
pub(super) struct Endpoint {
    client: Client,
    address: String,
    token: Option<String>,
}

/// What a watch has heard.
pub(super) struct Watch {
    /// Disconnected without an error if there were too many.
    pub messages: Receiver<Result<WatchResponse, Fault>>,
    /// Ends the call when it goes.
    _open: oneshot::Sender<()>,
}

impl Endpoint {
    /// Connects to one of the endpoints, and logs in.
    pub fn connect(
        env: &Arc<Environment>,
        config: &EtcdConfig,
        address: &str,
    ) -> Result<Self, Fault> {
        let mut endpoint = Self {
            client: Client::new(channel(env, config, address)),
            address: address.to_owned(),
            token: None,
        };
        if let Some((user, password)) = &config.login {
            let request = AuthenticateRequest {
                name: user.clone(),
                password: password.clone(),
                ..AuthenticateRequest::default()
            };
            let reply = endpoint.call("login", &AUTHENTICATE, &request)?;
            endpoint.token = Some(reply.token);
        }
        Ok(endpoint)
    }

    /// The keys from `from` to before `to`, `limit` at the most.
    pub fn range(&self, from: &[u8], to: &[u8], limit: usize) -> Result<RangeResponse, Fault> {
        let request = RangeRequest {
            key: from.to_owned(),
            range_end: to.to_owned(),
            limit: limit as i64,
            ..RangeRequest::default()
        };
        self.call("reading the members", &RANGE, &request)
    }

    /// Writes a key if it was last written at `seen`, 0 for never. Returns whether that was so.
    pub fn put(&self, key: &[u8], value: &[u8], lease: i64, seen: i64) -> Result<bool, Fault> {
        let compare = Compare {
            target: CompareTarget::MOD.into(),
            key: key.to_owned(),
            target_union: Some(Target_union::ModRevision(seen)),
            ..Compare::default()
        };
        let put = PutRequest {
            key: key.to_owned(),
            value: value.to_owned(),
            lease,
            ..PutRequest::default()
        };
        let request = TxnRequest {
            compare: vec![compare],
            success: vec![RequestOp {
                request: Some(Request::RequestPut(put)),
                ..RequestOp::default()
            }],
            ..TxnRequest::default()
        };
        let reply = self.call("registering", &TXN, &request)?;
        Ok(reply.succeeded)
    }

    /// A new lease, and what it has, in seconds.
    pub fn grant(&self, ttl: Duration) -> Result<(i64, u64), Fault> {
        let request = LeaseGrantRequest {
            TTL: ttl.as_secs_f64().ceil() as i64,
            ..LeaseGrantRequest::default()
        };
        let reply = self.call("asking for a lease", &GRANT, &request)?;
        match reply.error.is_empty() {
            true => Ok((reply.ID, reply.TTL.max(1) as u64)),
            false => Err(format!("{}: no lease: {}", self.address, reply.error)),
        }
    }

    /// Ends a lease, and the key with it.
    pub fn revoke(&self, lease: i64) -> Result<(), Fault> {
        let request = LeaseRevokeRequest {
            ID: lease,
            ..LeaseRevokeRequest::default()
        };
        let options = self.options(Some(REVOKE_TIMEOUT), false)?;
        let reply = pb::call(&self.client, &REVOKE, &request, options);
        reply
            .map(drop)
            .map_err(|error| self.fault("giving the lease back", &error))
    }

    /// What a lease has left, and what it had, in seconds; none for one that is over.
    pub fn time_to_live(&self, lease: i64) -> Result<Option<(i64, i64)>, Fault> {
        let request = LeaseTimeToLiveRequest {
            ID: lease,
            ..LeaseTimeToLiveRequest::default()
        };
        let reply = self.call("looking at a lease", &TIME_TO_LIVE, &request)?;
        Ok((reply.TTL >= 0).then_some((reply.TTL, reply.grantedTTL)))
    }

    /// Renews a lease. Returns whether it was there still.
    pub fn keep_alive(&self, lease: i64) -> Result<bool, Fault> {
        let request = LeaseKeepAliveRequest {
            ID: lease,
            ..LeaseKeepAliveRequest::default()
        };
        let options = self.options(Some(CALL_TIMEOUT), false)?;
        let renew = async {
            let (mut sink, mut replies) = self.client.duplex_streaming(&KEEP_ALIVE, options)?;
            sink.send((request, WriteFlags::default())).await?;
            let reply = replies.next().await.transpose()?;
            // The lease has been renewed, whatever is said of the end of the call.
            if sink.close().await.is_ok() {
                while let Some(Ok(_)) = replies.next().await {}
            }
            Ok(reply)
        };
        match block_on(renew) {
            Ok(Some(reply)) => Ok(reply.TTL > 0),
            Ok(None) => Err(format!("{}: renewing the lease: no answer", self.address)),
            Err(error) => Err(self.fault("renewing the lease", &error)),
        }
    }

    /// Watches the keys from `from` to before `to`, as they change from a revision on.
    pub fn watch(&self, from: &[u8], to: &[u8], revision: i64) -> Result<Watch, Fault> {
        let create = WatchCreateRequest {
            key: from.to_owned(),
            range_end: to.to_owned(),
            start_revision: revision,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest {
            request_union: Some(Request_union::CreateRequest(create)),
            ..WatchRequest::default()
        };
        let call = self
            .client
            .duplex_streaming(&WATCH, self.options(None, true)?);
        let (mut sink, mut replies) = call.map_err(|error| self.fault("watching", &error))?;
        let (hear, messages) = channel::bounded(WATCHED_MAX);
        let (open, mut closed) = oneshot::channel();
        // On the thread of the completion queue, which is etcd's alone.
        self.client.spawn(async move {
            if let Err(error) = sink.send((request, WriteFlags::default())).await {
                let _ = hear.try_send(Err(fault("watching", &error)));
                return;
            }
            while let Some(message) = next(&mut replies, &mut closed).await {
                let message = message.map_err(|error| fault("watching", &error));
                let is_last = message.is_err();
                if hear.try_send(message).is_err() || is_last {
                    return;
                }
            }
            let _ = hear.try_send(Err("watching: the call has ended".to_owned()));
        });
        Ok(Watch {
            messages,
            _open: open,
        })
    }

    fn call<Q: Message, R: Message + Unpin>(
        &self,
        what: &str,
        method: &Method<Q, R>,
        request: &Q,
    ) -> Result<R, Fault> {
        let options = self.options(Some(CALL_TIMEOUT), false)?;
        let reply = pb::call(&self.client, method, request, options);
        reply.map_err(|error| self.fault(what, &error))
    }

    fn options(&self, timeout: Option<Duration>, has_leader: bool) -> Result<CallOption, Fault> {
        let mut headers = MetadataBuilder::with_capacity(2);
        let unusable = |error| format!("{}: the token can not be sent: {error}", self.address);
        if let Some(token) = &self.token {
            headers.add_str(TOKEN, token).map_err(unusable)?;
        }
        if has_leader {
            headers.add_str(HAS_LEADER, "true").map_err(unusable)?;
        }
        let options = CallOption::default().headers(headers.build());
        Ok(match timeout {
            Some(timeout) => options.timeout(timeout),
            None => options,
        })
    }

    fn fault(&self, what: &str, error: &grpcio::Error) -> Fault {
        format!("{}: {}", self.address, fault(what, error))
    }
}

/// The next message of a watch; none at its end, or when nobody wants it.
async fn next(
    replies: &mut ClientDuplexReceiver<WatchResponse>,
    closed: &mut oneshot::Receiver<()>,
) -> Option<grpcio::Result<WatchResponse>> {
    match select(replies.next(), closed).await {
        Either::Left((message, _)) => message,
        Either::Right(_) => {
            replies.cancel();
            None
        }
    }
}

fn fault(what: &str, error: &grpcio::Error) -> Fault {
    match error {
        grpcio::Error::RpcFailure(status) if status.code() == RpcStatusCode::DEADLINE_EXCEEDED => {
            format!("{what}: no answer")
        }
        grpcio::Error::RpcFailure(status) => format!("{what}: {}", status.message()),
        error => format!("{what}: {error}"),
    }
}

fn channel(env: &Arc<Environment>, config: &EtcdConfig, address: &str) -> Channel {
    let builder = ChannelBuilder::new(env.clone())
        // A new connection at each try: when to try again is for the source to say.
        .use_local_subchannel_pool(true)
        .enable_http_proxy(false);
    match &config.tls {
        #[cfg(feature = "tls")]
        Some(tls) => {
            let mut credentials =
                grpcio::ChannelCredentialsBuilder::new().root_cert(tls.ca.clone());
            if let Some(identity) = &tls.identity {
                let (certificates, key) = (identity.certificates.clone(), identity.key.clone());
                credentials = credentials.cert(certificates, key);
            }
            builder
                .set_credentials(credentials.build())
                .connect(address)
        }
        _ => builder.connect(address),
    }
}
