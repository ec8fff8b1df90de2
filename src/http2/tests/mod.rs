//! Connections as clients see them: bytes in, frames out.

mod calls;
mod client;
