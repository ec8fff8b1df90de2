//! The cores that a node runs on.

use std::str::FromStr;
use std::thread;

/// The cores of a node: how many threads of each kind, and where they are bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    count: usize,
    /// The system's numbers; empty: the threads are not bound.
    pinned: Vec<usize>,
}

/// A list of cores that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no list of cores; write numbers and ranges such as 0-3 or 0,2,4-7, up to 1023")]
pub struct CoresError(String);

impl Cores {
    /// Each core that this process may run on, bound; or, where the system gives less time than these cores have (a
    /// quota of a container), as many threads as that time is for, unbound, with one warning.
    pub fn available() -> Self {
        let allowed = allowed();
        let count = thread::available_parallelism().map_or(1, usize::from);
        if allowed.len() == count {
            return Self {
                count,
                pinned: allowed,
            };
        }
        if !allowed.is_empty() {
            log::warn!(
                "this process may use {} cores, but only the time of {count}: its threads are not bound to cores; \
                 --cores binds them",
                allowed.len()
            );
        }
        Self {
            count,
            pinned: Vec::new(),
        }
    }

    /// The same number of threads, bound only to those of these cores that the system gives to this process; the
    /// others are named in one warning.
    pub fn where_allowed(self) -> Self {
        let allowed = allowed();
        let (pinned, refused): (Vec<_>, Vec<_>) = self
            .pinned
            .iter()
            .partition(|core| allowed.is_empty() || allowed.contains(core));
        if !refused.is_empty() {
            let instead = match &*pinned {
                [] => "the threads are not bound to cores".to_owned(),
                pinned => format!("the threads share the cores {}", ranges(pinned)),
            };
            log::warn!(
                "this process does not have the cores {}; {instead}",
                ranges(&refused)
            );
        }
        Self { pinned, ..self }
    }

    /// How many cores there are to use.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Never: there is always one.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The cores to bind threads to; none: they are not to be bound.
    pub fn pinned(&self) -> &[usize] {
        &self.pinned
    }
}

impl FromStr for Cores {
    type Err = CoresError;

    /// Reads a list as `0-3` or `0,2,4-7`.
    fn from_str(text: &str) -> Result<Self, CoresError> {
        const CORE_MAX: usize = 1023;
        let wrong = || CoresError(text.to_owned());
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let mut pinned = Vec::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last || last > CORE_MAX {
                return Err(wrong());
            }
            pinned.extend(
                (first..=last)
                    .filter(|core| !pinned.contains(core))
                    .collect::<Vec<_>>(),
            );
        }
        Ok(Self {
            count: pinned.len(),
            pinned,
        })
    }
}

/// A list of cores as [`Cores::from_str`] reads it.
fn ranges(cores: &[usize]) -> String {
    let range = |run: &[usize]| match run {
        [first, .., last] => format!("{first}-{last}"),
        run => run.iter().map(usize::to_string).collect(),
    };
    let runs = cores.chunk_by(|a, b| a + 1 == *b);
    runs.map(range).collect::<Vec<_>>().join(",")
}

/// The cores that the system lets this process run on; none where it does not say.
fn allowed() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};

    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU)
        .filter(|&core| set.is_set(core))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let cores = |text: &str| text.parse::<Cores>().map(|cores| cores.pinned);
        assert_eq!(cores("0-3"), Ok(vec![0, 1, 2, 3]));
        assert_eq!(cores("5,0-1,1"), Ok(vec![5, 0, 1]));
        for wrong in ["", "a", "3-1", "-1", "1-", "0,,1", "1024", "0-99999999999"] {
            assert_eq!(cores(wrong), Err(CoresError(wrong.to_owned())), "{wrong:?}");
        }
    }

    #[test]
    fn lists_are_shown_as_they_are_read() {
        for list in ["0", "0-3", "5,0-1", "7,3-4,1"] {
            assert_eq!(ranges(list.parse::<Cores>().unwrap().pinned()), list);
        }
    }

    #[test]
    fn cores_that_are_not_given_are_left_out() {
        let one = allowed()[0];
        let cores: Cores = format!("{one},1022-1023").parse().unwrap();
        let here = cores.where_allowed();
        assert_eq!((here.len(), here.pinned()), (3, &[one][..]));
    }
}
