//! Connections as clients see them: bytes in, frames out.

mod calls;
mod chunks;
mod client;
mod errors;
mod floods;
mod times;
