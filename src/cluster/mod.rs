//! The cluster: which nodes there are, and which of them owns a key.
//!
//! A [`View`] says who is in. A [`Ring`] made from it says who is asked for a key, best first; every node that has the same
//! view makes the same ring, and calls it by the same epoch.

pub mod link;
mod member;
pub mod membership;
mod notation;
mod ring;

pub use member::{MEMBERS_MAX, Member, MemberError, View};
pub use notation::ParseMemberError;
pub use ring::{Epoch, Ring};
