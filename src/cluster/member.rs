//! Who is in the cluster.

/// One node, as the others know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member {
    /// `host:port` at which the others reach it. It is also the node's identity: two members never share one.
    pub address: String,
    /// Its share of the keys, against the weights of the others. At least 1.
    pub weight: u32,
    /// Where it stands, empty where nobody said: nodes of one zone are near each other.
    pub zone: String,
}

/// The weight of a member of which nobody said another.
pub(super) const USUAL_WEIGHT: u32 = 100;

/// The most members that a view may have.
pub const MEMBERS_MAX: usize = 4096;

/// What makes a set of members no view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Two members with one address.
    #[error("member {0:?} is there twice; give each node once")]
    Twice(String),
    /// A weight of 0.
    #[error(
        "member {0:?} has weight 0; a weight is at least 1, and a node that should own nothing is left out"
    )]
    NoWeight(String),
    /// More members than [`MEMBERS_MAX`].
    #[error("{0} members; a cluster has {MEMBERS_MAX} at the most")]
    TooMany(usize),
}

impl Member {
    /// A member of the usual weight, in no zone.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            weight: USUAL_WEIGHT,
            zone: String::new(),
        }
    }
}

/// All members at one moment, in the order of their addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    members: Vec<Member>,
}

impl View {
    /// A view of these members, in whatever order they come.
    ///
    /// # Errors
    ///
    /// [`MemberError`] where an address is there twice, a weight is 0, or there are more than [`MEMBERS_MAX`].
    pub fn new(mut members: Vec<Member>) -> Result<Self, MemberError> {
        if members.len() > MEMBERS_MAX {
            return Err(MemberError::TooMany(members.len()));
        }
        members.sort();
        if let Some(pair) = members
            .windows(2)
            .find(|pair| pair[0].address == pair[1].address)
        {
            return Err(MemberError::Twice(pair[0].address.clone()));
        }
        if let Some(member) = members.iter().find(|member| member.weight == 0) {
            return Err(MemberError::NoWeight(member.address.clone()));
        }
        Ok(Self { members })
    }

    /// The members, in the order of their addresses.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Where in [`members`](Self::members) the one with this address is.
    pub fn position(&self, address: &str) -> Option<usize> {
        self.members
            .binary_search_by(|member| member.address.as_str().cmp(address))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_does_not_depend_on_the_order_in_which_members_come() {
        let [a, b] = ["a:1", "b:1"].map(Member::new);
        let view = View::new(vec![b.clone(), a.clone()]).unwrap();
        assert_eq!(view, View::new(vec![a, b]).unwrap());
        assert_eq!(view.position("b:1"), Some(1));
        assert_eq!(view.position("c:1"), None);
    }

    #[test]
    fn what_is_no_view_is_refused() {
        let twice = View::new(vec![
            Member::new("a:1"),
            Member {
                weight: 7,
                ..Member::new("a:1")
            },
        ]);
        assert_eq!(twice, Err(MemberError::Twice("a:1".to_owned())));
        let nothing = View::new(vec![Member {
            weight: 0,
            ..Member::new("a:1")
        }]);
        assert_eq!(nothing, Err(MemberError::NoWeight("a:1".to_owned())));
        let many = |count| View::new((1..=count).map(|n| Member::new(format!("a:{n}"))).collect());
        assert!(many(MEMBERS_MAX).is_ok());
        assert_eq!(
            many(MEMBERS_MAX + 1),
            Err(MemberError::TooMany(MEMBERS_MAX + 1))
        );
    }
}
