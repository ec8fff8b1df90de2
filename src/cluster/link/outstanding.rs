//! What a peer has been asked, or is to be asked, and has not answered.
//!
//! A group may have as many places as are free, where there are others: so one whose keys are loaded slowly, or not at all,
//! leaves half of them to the others.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Numbers of slots take so many bits of an id; the rest counts how often the slot was used.
const SLOT_BITS: u32 = 14;
/// Questions without an answer.
pub(super) const QUESTIONS_MAX: usize = 8192;
/// What their keys take, in bytes.
pub(super) const BYTES_MAX: usize = 16 << 20;

const _: () = assert!(QUESTIONS_MAX <= 1 << SLOT_BITS);

/// As many questions wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{of_group} keys of the group, and {of_others} of others, wait for the answer of a peer, with {bytes} bytes; \
     {QUESTIONS_MAX} of {BYTES_MAX} bytes are the most, and one group may have as many as are free; try again later"
)]
pub struct Full {
    of_group: u32,
    of_others: u32,
    bytes: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    Sent,
    /// The peer has said that it is loading.
    Loading,
}

/// Why a question is not waited for any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The connection is gone, or the peer is silent.
    Broken,
    /// The peer has said nothing of this question.
    Unheard,
    /// The time that was given to the peer is over.
    TooLate,
}

struct Slot<Q> {
    /// How often it has been used.
    round: u64,
    question: Option<Asked<Q>>,
}

struct Asked<Q> {
    question: Q,
    group: u16,
    bytes: usize,
    since: Instant,
    until: Instant,
    stage: Stage,
}

/// Questions by id, in the order in which they are to be sent.
pub(super) struct Outstanding<Q> {
    slots: Vec<Slot<Q>>,
    free: Vec<usize>,
    queue: VecDeque<u64>,
    len: usize,
    bytes: usize,
    by_group: Vec<Taken>,
    /// Whether there is no other group to leave places to.
    is_alone: bool,
}

/// What a group has of it.
#[derive(Clone, Copy, Default)]
struct Taken {
    questions: usize,
    bytes: usize,
}

impl<Q> Outstanding<Q> {
    /// For questions of so many groups.
    pub fn new(groups: usize) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            len: 0,
            bytes: 0,
            by_group: vec![Taken::default(); groups],
            is_alone: groups == 1,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Queues a question of a group, by its number, whose answer is waited for until `until`; gives it back if there are too
    /// many.
    pub fn push(
        &mut self,
        question: Q,
        group: u16,
        bytes: usize,
        until: Instant,
        now: Instant,
    ) -> Result<(), (Q, Full)> {
        // What was taken back before it was sent is in the queue still.
        let questions = self.len.max(self.queue.len());
        let free = QUESTIONS_MAX.saturating_sub(questions);
        let free_bytes = BYTES_MAX - self.bytes;
        let taken = &mut self.by_group[usize::from(group)];
        let has_its_share = taken.questions >= free || taken.bytes + bytes > free_bytes;
        if free == 0 || bytes > free_bytes || has_its_share && !self.is_alone {
            let full = Full {
                of_group: taken.questions as u32,
                of_others: (questions - taken.questions) as u32,
                bytes: self.bytes as u32,
            };
            return Err((question, full));
        }
        taken.questions += 1;
        taken.bytes += bytes;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                round: 0,
                question: None,
            });
            self.slots.len() - 1
        });
        self.slots[slot].question = Some(Asked {
            question,
            group,
            bytes,
            since: now,
            until,
            stage: Stage::Queued,
        });
        self.len += 1;
        self.bytes += bytes;
        self.queue.push_back(self.id(slot));
        Ok(())
    }

    /// Shows `send` what is queued, with ids and ends of time, until it says that there is no room for one.
    pub fn send(&mut self, mut send: impl FnMut(u64, &Q, Instant) -> bool) {
        while let Some(&id) = self.queue.front() {
            if let Some(asked) = self.asked(id) {
                if !send(id, &asked.question, asked.until) {
                    return;
                }
                asked.stage = Stage::Sent;
            }
            self.queue.pop_front();
        }
    }

    /// The peer is loading.
    pub fn loading(&mut self, id: u64) {
        if let Some(asked) = self.asked(id)
            && asked.stage == Stage::Sent
        {
            asked.stage = Stage::Loading;
        }
    }

    /// Takes what is answered; none if it is not waited for any more.
    pub fn take(&mut self, id: u64) -> Option<Q> {
        let slot = self.slot(id)?;
        let asked = self.slots[slot].question.take()?;
        self.slots[slot].round += 1;
        self.free.push(slot);
        self.len -= 1;
        self.bytes -= asked.bytes;
        let taken = &mut self.by_group[usize::from(asked.group)];
        taken.questions -= 1;
        taken.bytes -= asked.bytes;
        Some(asked.question)
    }

    /// Takes what is not to be waited for any longer.
    pub fn overdue(&mut self, now: Instant, patience: Duration) -> Vec<(Q, Lost)> {
        let why = |asked: &Asked<Q>| {
            if now >= asked.until {
                return Some(Lost::TooLate);
            }
            let waited = now.saturating_duration_since(asked.since);
            let is_unheard = asked.stage != Stage::Loading && waited >= patience;
            is_unheard.then_some(Lost::Unheard)
        };
        if self.len == 0 {
            return Vec::new();
        }
        let lost: Vec<_> = (0..self.slots.len())
            .filter_map(|slot| Some((self.id(slot), why(self.slots[slot].question.as_ref()?)?)))
            .collect();
        lost.into_iter()
            .filter_map(|(id, why)| Some((self.take(id)?, why)))
            .collect()
    }

    /// Takes all.
    pub fn take_all(&mut self) -> Vec<Q> {
        self.queue.clear();
        let all: Vec<_> = (0..self.slots.len()).map(|slot| self.id(slot)).collect();
        all.into_iter().filter_map(|id| self.take(id)).collect()
    }

    fn id(&self, slot: usize) -> u64 {
        self.slots[slot].round << SLOT_BITS | slot as u64
    }

    fn slot(&self, id: u64) -> Option<usize> {
        let slot = (id & ((1 << SLOT_BITS) - 1)) as usize;
        let is_its = self.slots.get(slot)?.round == id >> SLOT_BITS;
        is_its.then_some(slot)
    }

    fn asked(&mut self, id: u64) -> Option<&mut Asked<Q>> {
        let slot = self.slot(id)?;
        self.slots[slot].question.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(500);
    const HOUR: Duration = Duration::from_secs(3600);

    fn push(outstanding: &mut Outstanding<u32>, question: u32, now: Instant) {
        outstanding.push(question, 0, 1, now + HOUR, now).unwrap();
    }

    fn send_all(outstanding: &mut Outstanding<u32>) -> Vec<(u64, u32)> {
        let mut sent = Vec::new();
        outstanding.send(|id, &question, _| {
            sent.push((id, question));
            true
        });
        sent
    }

    #[test]
    fn questions_are_sent_in_order_and_answered_in_any() {
        let now = Instant::now();
        let mut outstanding = Outstanding::new(1);
        for question in 0..3 {
            push(&mut outstanding, question, now);
        }
        let sent = send_all(&mut outstanding);
        let order: Vec<_> = sent.iter().map(|(_, question)| *question).collect();
        assert_eq!(order, [0, 1, 2]);
        assert!(send_all(&mut outstanding).is_empty());
        for (id, question) in sent.into_iter().rev() {
            assert_eq!(outstanding.take(id), Some(question));
            assert_eq!(outstanding.take(id), None, "answered twice");
        }
        assert_eq!((outstanding.len(), outstanding.bytes), (0, 0));
    }

    #[test]
    fn an_id_is_not_that_of_the_question_before_in_its_slot() {
        let now = Instant::now();
        let mut outstanding = Outstanding::new(1);
        push(&mut outstanding, 1, now);
        let old = send_all(&mut outstanding)[0].0;
        assert_eq!(
            outstanding.overdue(now + PATIENCE, PATIENCE),
            [(1, Lost::Unheard)]
        );
        push(&mut outstanding, 2, now);
        assert_eq!(outstanding.take(old), None, "the answer came too late");
        let new = send_all(&mut outstanding)[0].0;
        assert_eq!(outstanding.take(new), Some(2));
    }

    #[test]
    fn who_says_that_it_loads_is_waited_for_until_the_end_of_the_time() {
        let now = Instant::now();
        let mut outstanding = Outstanding::new(1);
        push(&mut outstanding, 1, now);
        push(&mut outstanding, 2, now);
        let sent = send_all(&mut outstanding);
        outstanding.loading(sent[0].0);
        assert!(outstanding.overdue(now + PATIENCE / 2, PATIENCE).is_empty());
        assert_eq!(
            outstanding.overdue(now + PATIENCE, PATIENCE),
            [(2, Lost::Unheard)]
        );
        assert_eq!(
            outstanding.overdue(now + HOUR, PATIENCE),
            [(1, Lost::TooLate)]
        );
    }

    #[test]
    fn there_is_a_bound_in_questions_and_in_bytes() {
        let now = Instant::now();
        let mut outstanding = Outstanding::new(1);
        for question in 0..QUESTIONS_MAX as u32 {
            push(&mut outstanding, question, now);
        }
        let (question, full) = outstanding.push(7, 0, 1, now, now).unwrap_err();
        assert_eq!(question, 7);
        assert!(full.to_string().contains("8192"), "{full}");
        assert_eq!(outstanding.take_all().len(), QUESTIONS_MAX);
        outstanding.push(7, 0, BYTES_MAX, now, now).unwrap();
        assert!(outstanding.push(7, 0, 1, now, now).is_err());
    }

    #[test]
    fn a_group_leaves_places_to_others() {
        let now = Instant::now();
        let mut outstanding = Outstanding::new(3);
        let mut all_it_gets = |group, bytes| {
            let pushed = (0..).map_while(|question| {
                let pushed = outstanding.push(question, group, bytes, now + HOUR, now);
                pushed.err().map_or(Some(()), |_| None)
            });
            pushed.count()
        };
        assert_eq!(all_it_gets(0, 1), QUESTIONS_MAX / 2);
        assert_eq!(all_it_gets(1, 1), QUESTIONS_MAX / 4);
        assert_eq!(all_it_gets(2, 1), QUESTIONS_MAX / 8);
        assert_eq!(all_it_gets(0, 1), 0);
        let (_, full) = outstanding.push(7, 0, 1, now, now).unwrap_err();
        let words = "4096 keys of the group, and 3072 of others, wait for";
        assert!(full.to_string().starts_with(words), "{full}");
        assert_eq!(outstanding.take_all().len(), QUESTIONS_MAX / 8 * 7);

        let large = BYTES_MAX / 16;
        let mut all_it_gets = |group| {
            let mut push = || outstanding.push(1, group, large, now + HOUR, now);
            (0..20).filter(|_| push().is_ok()).count()
        };
        assert_eq!((all_it_gets(0), all_it_gets(1)), (8, 4));
        outstanding.take_all();
        assert!(
            outstanding
                .by_group
                .iter()
                .all(|of| of.questions == 0 && of.bytes == 0)
        );
    }

    #[test]
    fn what_has_no_room_in_a_message_is_for_the_next() {
        let now = Instant::now();
        let mut outstanding = Outstanding::new(1);
        push(&mut outstanding, 1, now);
        push(&mut outstanding, 2, now);
        let mut sent = Vec::new();
        outstanding.send(|_, &question, _| {
            let has_room = sent.is_empty();
            if has_room {
                sent.push(question);
            }
            has_room
        });
        assert_eq!(sent, [1]);
        assert_eq!(send_all(&mut outstanding)[0].1, 2);
    }
}
