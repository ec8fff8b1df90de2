//! The caches and maps that are measured, each with the hasher, the options, and the key and value types that were
//! found to suit it best.
//!
//! `get` does what a program does with the value: it ends up with one that it owns, a copy or a counted reference.

mod caches;
mod maps;
mod ours;

use std::sync::Arc;

use crate::keys::{Payload, Words};

/// The fastest hasher of those that are not to be foreseen; corecache brings its own.
type Hasher = foldhash::fast::RandomState;

/// What is measured of a cache. It makes its keys and values from ranks itself.
pub trait Rival: Send + Sync + 'static {
    /// Whether the key was there.
    fn get(&self, rank: u64) -> bool;
    fn insert(&self, rank: u64);
    /// The value, brought by a loader that takes no time if it was not there; whether it was.
    fn get_or_load(&self, rank: u64) -> bool;
    /// Returns when what was inserted is to be seen.
    fn flush(&self) {}
    /// Does what was put off.
    fn tidy(&self) {
        self.flush();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one whose times are divided by.
    Ours,
    /// Ours in another form.
    OurOther,
    /// Ours, lending the value in place of copying it.
    OurLoan,
    /// The yardstick, in its variants.
    QuickCache,
    Cache,
    /// Evicts nothing: no part in workloads that grow for ever.
    Map,
}

impl Role {
    pub fn is_rival(self) -> bool {
        matches!(self, Self::QuickCache | Self::Cache | Self::Map)
    }
}

/// Does something with each of the contenders, whatever their types.
pub trait Visitor {
    /// `make` is told for how many entries.
    fn visit<R: Rival>(&mut self, name: &'static str, role: Role, make: fn(usize) -> R);
}

/// Those with 16 bytes of key and 100 of value.
pub fn each(visitor: &mut impl Visitor) {
    visitor.visit("corecache", Role::Ours, ours::typed::<Words, Payload>);
    visitor.visit("corecache blobs", Role::OurOther, ours::blobs);
    visitor.visit("corecache get_with", Role::OurLoan, ours::loan);
    visitor.visit(
        "quick_cache",
        Role::QuickCache,
        caches::quick::<Words, Payload>,
    );
    visitor.visit(
        "quick_cache tuned",
        Role::QuickCache,
        caches::quick_tuned::<Words, Payload>,
    );
    visitor.visit(
        "quick_cache Arc",
        Role::QuickCache,
        caches::quick_tuned::<Words, Arc<Payload>>,
    );
    visitor.visit("moka", Role::Cache, caches::moka::<Words, Payload>);
    visitor.visit(
        "mini-moka",
        Role::Cache,
        caches::mini_moka::<Words, Payload>,
    );
    visitor.visit("foyer", Role::Cache, caches::foyer::<Words, Payload>);
    visitor.visit("papaya (map)", Role::Map, maps::papaya::<Words, Payload>);
    visitor.visit("dashmap (map)", Role::Map, maps::dashmap::<Words, Payload>);
}

/// Those with a word of key and of value, that start empty and small.
pub fn each_growing(visitor: &mut impl Visitor) {
    visitor.visit("corecache", Role::Ours, ours::typed::<u64, u64>);
    visitor.visit("quick_cache", Role::QuickCache, caches::quick::<u64, u64>);
    visitor.visit("moka", Role::Cache, caches::growing_moka::<u64, u64>);
    visitor.visit(
        "mini-moka",
        Role::Cache,
        caches::growing_mini_moka::<u64, u64>,
    );
    visitor.visit("foyer", Role::Cache, caches::foyer::<u64, u64>);
    visitor.visit("papaya (map)", Role::Map, maps::growing_papaya::<u64, u64>);
    visitor.visit(
        "dashmap (map)",
        Role::Map,
        maps::growing_dashmap::<u64, u64>,
    );
}

/// The names of those that `visit_all` visits, by their roles.
pub fn names(visit_all: fn(&mut Names)) -> Vec<(&'static str, Role)> {
    let mut names = Names(Vec::new());
    visit_all(&mut names);
    names.0
}

pub struct Names(Vec<(&'static str, Role)>);

impl Visitor for Names {
    fn visit<R: Rival>(&mut self, name: &'static str, role: Role, _: fn(usize) -> R) {
        self.0.push((name, role));
    }
}
