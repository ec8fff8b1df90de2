//! Members that do not change.

use super::{Report, Source, own};
use crate::cluster::{Member, MemberError, View};

/// A list of members, given once and for all.
#[derive(Debug, Clone)]
pub struct List(Vec<Member>);

impl List {
    /// A source that says that these are the members. The own member is one of them, whether it is in the list or not.
    ///
    /// # Errors
    ///
    /// [`MemberError`] where the list is no view.
    pub fn new(members: Vec<Member>) -> Result<Self, MemberError> {
        View::new(members.clone())?;
        Ok(Self(members))
    }

    /// A source that knows of nobody: a node alone.
    pub fn alone() -> Self {
        Self(Vec::new())
    }
}

impl Source for List {
    fn name(&self) -> &'static str {
        match self.0.is_empty() {
            true => "none",
            false => "list",
        }
    }

    fn follow(&mut self, report: &Report) {
        report.once_and_for_all(self.0.clone());
        own::seek_alias(report, &self.0);
    }
}
