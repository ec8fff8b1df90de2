//! The places of callers that wait for a load: bounded over all keys and connections, and shared by the groups.
//!
//! A group may take as many places as are free. So one that hangs alone takes half of them, and two a third each; however
//! many hang, as many places as each of those has are left to the others.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;

use super::lookout::{Caller, Lookout, Ticket};
use crate::group::Group;

/// Callers that may wait; the gRPC core keeps some 20 KB for each.
const WAITING_MAX: usize = 8192;

pub(super) struct Waiting {
    lookout: Lookout,
    taken: Arc<Mutex<Taken>>,
    /// By the group's name.
    index: HashMap<Box<str>, usize>,
}

struct Taken {
    all: usize,
    by_group: Vec<GroupWaiting>,
}

/// The callers of one group.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GroupWaiting {
    /// Those that wait now.
    pub waiting: usize,
    /// How many were refused a place.
    pub refused: u64,
}

/// Too many callers wait already.
#[derive(Debug, thiserror::Error)]
#[error(
    "{of_group} calls wait for keys of group {group:?} and {of_others} for those of others, {WAITING_MAX} are the most, and \
     one group may take as many as are free; its origin is slow, or hangs: try again later, and give calls deadlines"
)]
pub(super) struct Crowded {
    group: String,
    of_group: usize,
    of_others: usize,
}

impl Waiting {
    /// Starts the thread that looks who has gone.
    pub fn start<'a>(groups: impl Iterator<Item = &'a Group>) -> io::Result<Self> {
        let index: HashMap<_, _> = groups.map(|group| group.name().into()).zip(0..).collect();
        let by_group = vec![GroupWaiting::default(); index.len()];
        Ok(Self {
            lookout: Lookout::start("deadlines")?,
            taken: Arc::new(Mutex::new(Taken { all: 0, by_group })),
            index,
        })
    }

    /// Lets a caller wait for keys of a group until the place is dropped, or he has gone.
    pub fn enter(&self, group: &Group, caller: Caller) -> Result<Place, Crowded> {
        let seat = self.take_seat(group)?;
        Ok(Place {
            ticket: self.lookout.enter(caller),
            _seat: seat,
        })
    }

    /// As [`Waiting::enter`], for a door that knows by itself when the caller has gone, and drops the seat then.
    pub fn take_seat(&self, group: &Group) -> Result<Seat, Crowded> {
        let number = self.index[group.name()];
        let mut taken = self.taken.lock();
        let free = WAITING_MAX - taken.all;
        let is_alone = taken.by_group.len() == 1;
        let of_group = &mut taken.by_group[number];
        // A group that has no others to think of may have the last place too.
        if free == 0 || of_group.waiting >= free && !is_alone {
            of_group.refused += 1;
            let of_group = of_group.waiting;
            return Err(Crowded {
                group: group.name().to_owned(),
                of_group,
                of_others: taken.all - of_group,
            });
        }
        of_group.waiting += 1;
        taken.all += 1;
        drop(taken);
        Ok(Seat {
            taken: self.taken.clone(),
            group: number,
        })
    }

    /// Callers that wait now.
    pub fn len(&self) -> usize {
        self.taken.lock().all
    }

    pub fn of(&self, group: &Group) -> GroupWaiting {
        self.taken.lock().by_group[self.index[group.name()]]
    }
}

/// One of those who wait, counted.
pub(super) struct Seat {
    taken: Arc<Mutex<Taken>>,
    group: usize,
}

/// A seat whose caller is looked after. As a future it is done when he has gone.
pub(super) struct Place {
    ticket: Ticket,
    _seat: Seat,
}

impl Future for Place {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.ticket).poll(context)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        taken.all -= 1;
        taken.by_group[self.group].waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Builder;
    use crate::group::{GroupConfig, Groups, LoadContext, Sink};

    fn groups(count: usize) -> Vec<Group> {
        let load = |key: &[u8], _: &LoadContext<'_>, sink: &mut Sink| sink.append(key);
        let configs = (0..count).map(|number| GroupConfig::new(format!("g{number}"), load));
        let groups = Groups::new(&Builder::new(1 << 20), configs).unwrap();
        groups.iter().cloned().collect()
    }

    fn all_it_gets(waiting: &Waiting, group: &Group) -> Vec<Place> {
        let places = std::iter::from_fn(|| waiting.enter(group, Caller::default()).ok());
        places.collect()
    }

    #[test]
    fn a_group_alone_takes_all_places_and_gives_them_back() {
        let groups = groups(1);
        let waiting = Waiting::start(groups.iter()).unwrap();
        let mut places = all_it_gets(&waiting, &groups[0]);
        assert_eq!((places.len(), waiting.len()), (WAITING_MAX, WAITING_MAX));
        places.pop();
        places.push(waiting.enter(&groups[0], Caller::default()).unwrap());
        drop(places);
        assert_eq!(waiting.len(), 0);
        assert_eq!(waiting.of(&groups[0]).refused, 1);
    }

    #[test]
    fn groups_that_hang_leave_places_to_the_others() {
        let groups = groups(8);
        let waiting = Waiting::start(groups.iter()).unwrap();
        let first = all_it_gets(&waiting, &groups[0]);
        assert_eq!(first.len(), WAITING_MAX / 2);
        let error = waiting.enter(&groups[0], Caller::default()).err().unwrap();
        let words =
            "4096 calls wait for keys of group \"g0\" and 0 for those of others, 8192 are the most";
        assert!(error.to_string().starts_with(words), "{error}");
        let _others: Vec<_> = (1..7)
            .map(|at| all_it_gets(&waiting, &groups[at]))
            .collect();
        assert!(!all_it_gets(&waiting, &groups[7]).is_empty());
    }
}
