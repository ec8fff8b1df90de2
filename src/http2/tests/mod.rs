//! Connections as clients see them: bytes in, frames out.

#[cfg(test)]
mod calls;
#[cfg(test)]
mod chunks;
mod client;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod floods;
pub(crate) mod script;
#[cfg(test)]
mod times;
