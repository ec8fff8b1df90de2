//! The server's side of HTTP/2 (RFC 9113) and of gRPC's unary calls, without any I/O: bytes go in, calls come out, and
//! bytes come out again.
//!
//! A [`Connection`] is one client's. Whoever has the socket gives it what was read ([`Connection::receive`]) and writes
//! what it has to say ([`Connection::pieces`], [`Connection::written`]); the calls go to a [`Handler`], which answers on
//! the spot, by a [`Reply`], or later ([`Connection::answer`]). It has no clock: the time is passed in.
//!
//! ```text
//!              receive(bytes)                    call(Request, Reply)
//!   socket ---------------------> Connection -----------------------> Handler
//!          <---------------------            <-----------------------
//!           pieces(), written(n)              Reply, or answer(id, Answer)
//! ```
//!
//! Nothing here knows of caches, groups or servers.

mod abuse;
mod call;
mod connection;
mod fault;
mod frame;
mod grpc;
mod head;
mod hpack;
mod known_heads;
mod limits;
mod opened;
mod output;
mod receive;
mod replies;
mod requests;
mod sending;
mod solo;
mod status;
mod stream;
mod streams;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
mod timing;
mod window;

pub(crate) use abuse::{Abuse, Counts};
pub(crate) use call::{Answer, Body, Handler, Method, Reply, Request, StreamId};
pub(crate) use connection::{Closing, Connection, Progress};
pub(crate) use frame::ErrorCode;
pub(crate) use limits::{Allowance, Limits};
pub(crate) use solo::{End, Solo, Target};
pub(crate) use status::{Code, Status};
