//! Connections as clients see them: bytes in, frames out.

pub(crate) mod bytes;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod chunks;
pub(super) mod client;
#[cfg(test)]
mod errors;
#[cfg(fuzzing)]
pub(crate) mod fields;
#[cfg(test)]
mod floods;
pub(crate) mod script;
#[cfg(test)]
mod times;
