//! What a change of the members would move.

use super::{Client, patience};
use crate::cluster::{Epoch, Member, MemberError, Movement, View};
use crate::server::pb::cluster::WeighRequest;

/// A change of the members: one that joins takes the place of one with its address.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Who joins.
    pub add: Vec<Member>,
    /// The addresses of those who leave.
    pub remove: Vec<String>,
}

/// What a change would move.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Members now, and after the change.
    pub members: (usize, usize),
    /// The epoch by which the client goes.
    pub epoch: Epoch,
    /// Slots.
    pub movement: Movement,
    /// What each node that is a member now holds, by its address, or why it has not said so.
    pub nodes: Vec<(String, Result<Weighed, String>)>,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub struct Weighed {
    /// The epoch by which the node goes.
    pub epoch: Epoch,
    /// Its groups, in the order of their names.
    pub groups: Vec<WeighedGroup>,
}

/// What a node holds of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeighedGroup {
    /// The group.
    pub name: String,
    /// Where the group loads from.
    pub origin: String,
    /// All entries.
    pub held: Amount,
    /// Those that the node owns.
    pub owned: Amount,
    /// Those among them that another node would own.
    pub moving: Amount,
}

/// Entries, and what they take of the budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub entries: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// No node has told who is in.
    #[error(
        "no node has said who is in the cluster: none is a member of one, or none can be reached"
    )]
    NoCluster,
    /// It is not there.
    #[error("{0} is no member of the cluster; its members are: {1}")]
    NotThere(String, String),
    /// It is to join and to leave.
    #[error(
        "{0} is to be added and removed at once: give it once; one that is added takes the place of a member of that address"
    )]
    Both(String),
    /// All members leave.
    #[error("that removes all members: nobody would be left to own a key")]
    Nobody,
    /// The members after the change are no view.
    #[error(transparent)]
    View(#[from] MemberError),
}

impl Client {
    /// Asks all nodes how many of their entries a change would move. Each walks over all that it holds.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn plan(&self, change: &Change) -> Result<Plan, PlanError> {
        let known = self.inner.known(self.deadline);
        let now = known.placement.as_ref().ok_or(PlanError::NoCluster)?;
        let then = now.next(&changed(now.view(), change)?);
        let mut request = WeighRequest::new();
        request.add = change.add.iter().map(Member::to_string).collect();
        request.remove.clone_from(&change.remove);
        let asked: Vec<_> = known
            .members
            .iter()
            .map(|node| (node, node.weigh(&request, self.deadline)))
            .collect();
        let nodes = asked.into_iter().map(|(node, answer)| {
            let weighed = node.wait(&answer, patience(self.deadline));
            let weighed = weighed.map(|reply| Weighed {
                epoch: Epoch(reply.epoch),
                groups: reply.groups.into_iter().map(WeighedGroup::from).collect(),
            });
            (
                node.address.clone(),
                weighed.map_err(|fault| fault.to_string()),
            )
        });
        Ok(Plan {
            members: (now.view().members().len(), then.view().members().len()),
            epoch: known.epoch,
            movement: Movement::between(now, &then),
            nodes: nodes.collect(),
        })
    }
}

impl Plan {
    /// What would move of each group, over all nodes that have said so: names, origins and amounts.
    pub fn moving(&self) -> Vec<(&str, &str, Amount)> {
        let mut groups: Vec<(&str, &str, Amount)> = Vec::new();
        let weighed = self
            .nodes
            .iter()
            .filter_map(|(_, weighed)| weighed.as_ref().ok());
        for group in weighed.flat_map(|weighed| &weighed.groups) {
            let place = groups.iter().position(|(name, ..)| *name == group.name);
            let place = place.unwrap_or_else(|| {
                groups.push((&group.name, &group.origin, Amount::default()));
                groups.len() - 1
            });
            groups[place].2.add(group.moving);
        }
        groups.sort_unstable_by_key(|(name, ..)| *name);
        groups
    }
}

impl Amount {
    /// Adds another amount.
    pub fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
    }
}

impl From<crate::server::pb::cluster::WeighedGroup> for WeighedGroup {
    fn from(group: crate::server::pb::cluster::WeighedGroup) -> Self {
        let amount = |entries, bytes| Amount { entries, bytes };
        Self {
            held: amount(group.entries, group.bytes),
            owned: amount(group.owned_entries, group.owned_bytes),
            moving: amount(group.moving_entries, group.moving_bytes),
            name: group.name,
            origin: group.origin,
        }
    }
}

fn changed(now: &View, change: &Change) -> Result<View, PlanError> {
    if let Some(unknown) = change
        .remove
        .iter()
        .find(|address| now.position(address).is_none())
    {
        let members = now.members().iter().take(16);
        let members: Vec<_> = members.map(|member| &*member.address).collect();
        return Err(PlanError::NotThere(unknown.clone(), members.join(", ")));
    }
    let mut joining = change.add.iter();
    if let Some(both) = joining.find(|new| change.remove.contains(&new.address)) {
        return Err(PlanError::Both(both.address.clone()));
    }
    let goes = |member: &Member| {
        change.remove.contains(&member.address)
            || change.add.iter().any(|new| new.address == member.address)
    };
    let stay = now.members().iter().filter(|member| !goes(member));
    let then: Vec<_> = stay.chain(&change.add).cloned().collect();
    if then.is_empty() {
        return Err(PlanError::Nobody);
    }
    Ok(View::new(then)?)
}
