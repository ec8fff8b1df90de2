//! The cluster: which nodes there are, and which of them owns a key.
//!
//! A [`View`] says who is in. A [`Ring`] made from it says who is asked for a key, best first; every node that has the same
//! view makes the same ring, and calls it by the same epoch.

mod auction;
mod draw;
pub mod link;
mod member;
pub mod membership;
mod movement;
mod notation;
mod placement;
mod ring;
pub(crate) mod sketch;
mod slot;
pub(crate) mod spread;

pub use member::{MEMBERS_MAX, Member, MemberError, View};
pub use movement::Movement;
pub use notation::ParseMemberError;
pub use placement::{Placement, Rank};
pub use ring::{Epoch, Ring};
pub use slot::{SLOTS, slot};
