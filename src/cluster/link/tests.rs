use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;

const PATIENCE: Duration = Duration::from_millis(500);
const HOUR: Duration = Duration::from_secs(3600);
const EPOCH: Epoch = Epoch(1);

/// Counts how often it was woken.
#[derive(Default)]
struct Driver(AtomicUsize);

impl Wake for Driver {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Rig {
    link: Link<&'static str>,
    driver: Arc<Driver>,
    stream: u64,
}

impl Rig {
    fn new() -> Self {
        let link = Link::new(PATIENCE, 1, 1);
        let stream = link
            .tick(Instant::now(), true)
            .connect
            .expect("a first try");
        Self {
            link,
            driver: Arc::default(),
            stream,
        }
    }

    fn ask(&self, question: &'static str) -> Result<(), Refused> {
        let until = Instant::now() + HOUR;
        let asked = self.link.ask(question, 0, question.len(), until);
        asked.map_err(|(_, refused)| refused)
    }

    /// What the next message has, and its pings; none if there is no message.
    fn message(&self) -> Option<(Vec<(u64, &'static str)>, bool)> {
        let waker = Waker::from(self.driver.clone());
        let next = self.link.next(self.stream, &waker, true, |sending| {
            let (mut questions, ping) = (Vec::new(), sending.ping);
            sending.questions(|id, question, _| {
                questions.push((id, *question));
                true
            });
            (questions, ping)
        });
        match next {
            Next::Send(message) => Some(message),
            Next::Wait => None,
            Next::Stop => panic!("the stream is to stop"),
        }
    }

    fn is_stopped(&self) -> bool {
        let waker = Waker::from(self.driver.clone());
        matches!(
            self.link.next(self.stream, &waker, true, |_| ()),
            Next::Stop
        )
    }

    fn woken(&self) -> usize {
        self.driver.0.load(Ordering::SeqCst)
    }
}

#[test]
fn what_is_asked_before_the_first_hello_is_sent_after_it() {
    let rig = Rig::new();
    rig.ask("a").unwrap();
    assert!(rig.message().is_none(), "the peer has not said hello");
    rig.link.greeted(rig.stream);
    assert_eq!(rig.woken(), 1);
    let (questions, _) = rig.message().unwrap();
    let answered = rig.link.heard(rig.stream, Some(EPOCH), |answers| {
        answers.take(questions[0].0)
    });
    assert_eq!(answered, Some(Some("a")));
    assert_eq!(rig.link.figures().answered, 1);
}

#[test]
fn what_is_asked_while_a_message_is_sent_is_the_next_message() {
    let rig = Rig::new();
    rig.link.greeted(rig.stream);
    rig.ask("a").unwrap();
    assert_eq!(rig.message().unwrap().0.len(), 1);
    for question in ["b", "c", "d"] {
        rig.ask(question).unwrap();
    }
    assert_eq!(rig.message().unwrap().0.len(), 3);
    assert!(rig.message().is_none());
    rig.ask("e").unwrap();
    assert_eq!(rig.woken(), 1, "only who waits is woken");
}

#[test]
fn a_stream_that_ends_gives_back_what_was_asked_and_the_breaker_opens() {
    let rig = Rig::new();
    rig.link.greeted(rig.stream);
    rig.ask("sent").unwrap();
    rig.message();
    rig.ask("queued").unwrap();
    let mut lost = rig.link.ended(rig.stream);
    lost.sort_unstable();
    assert_eq!(lost, ["queued", "sent"]);
    assert_eq!(rig.ask("more"), Err(Refused::Unreachable));
    assert!(rig.is_stopped());
    assert!(rig.link.ended(rig.stream).is_empty(), "it has ended once");
    assert_eq!(rig.link.figures().opened, 1);

    let later = Instant::now() + HOUR;
    let stream = rig.link.tick(later, true).connect.expect("another try");
    assert_eq!(rig.link.figures().condition, Condition::HalfOpen);
    assert_eq!(rig.ask("more"), Err(Refused::Unreachable));
    rig.link.greeted(stream);
    rig.ask("more").unwrap();
}

#[test]
fn a_silent_peer_is_pinged_and_then_given_up() {
    let rig = Rig::new();
    rig.link.greeted(rig.stream);
    rig.ask("a").unwrap();
    let (questions, ping) = rig.message().unwrap();
    assert!(!ping);
    rig.link.heard(rig.stream, Some(EPOCH), |answers| {
        answers.loading(questions[0].0)
    });
    let now = Instant::now() + PING_AFTER;
    assert!(rig.link.tick(now, true).lost.is_empty());
    assert!(rig.message().unwrap().1, "a ping");
    assert!(rig.link.tick(now + PATIENCE / 2, true).lost.is_empty());
    let lost = rig.link.tick(now + PATIENCE, true).lost;
    assert_eq!(lost, [("a", Lost::Broken)]);
    assert!(rig.is_stopped());
}

#[test]
fn a_peer_that_answers_pings_is_waited_for() {
    let rig = Rig::new();
    rig.link.greeted(rig.stream);
    rig.ask("a").unwrap();
    let (questions, _) = rig.message().unwrap();
    rig.link.heard(rig.stream, Some(EPOCH), |answers| {
        answers.loading(questions[0].0)
    });
    let mut now = Instant::now();
    for _ in 0..100 {
        now += PING_AFTER;
        assert!(rig.link.tick(now, true).lost.is_empty());
        assert!(rig.message().unwrap().1, "a ping");
        rig.link.heard(rig.stream, Some(EPOCH), |_| ());
        rig.link.state.lock().heard_at = now;
    }
}

#[test]
fn a_peer_that_does_not_say_hello_is_given_up() {
    let rig = Rig::new();
    assert_eq!(rig.message(), None, "it is reached");
    rig.ask("a").unwrap();
    let lost = rig.link.tick(Instant::now() + PATIENCE * 3, true).lost;
    assert_eq!(lost.len(), 1);
    assert!(rig.is_stopped());
}

#[test]
fn a_peer_that_talks_nonsense_is_given_up() {
    let rig = Rig::new();
    rig.link.greeted(rig.stream);
    rig.ask("a").unwrap();
    assert!(rig.link.judge(rig.stream, 0, 1).is_empty());
    assert!(rig.link.judge(rig.stream, 0, 1).is_empty());
    assert!(rig.link.judge(rig.stream, 1, 0).is_empty());
    for _ in 1..GARBAGE_MAX {
        assert!(rig.link.judge(rig.stream, 0, 1).is_empty());
    }
    assert_eq!(rig.link.judge(rig.stream, 0, 1), ["a"]);
    assert_eq!(rig.ask("b"), Err(Refused::Unreachable));
    assert_eq!(rig.link.figures().garbage, 5);
}

#[test]
fn a_link_that_is_closed_is_not_opened_again() {
    let rig = Rig::new();
    rig.ask("a").unwrap();
    assert_eq!(rig.link.close(), ["a"]);
    assert!(rig.link.tick(Instant::now() + HOUR, true).connect.is_none());
    assert_eq!(rig.ask("b"), Err(Refused::Unreachable));
}

#[test]
fn a_link_that_retires_answers_all_and_opens_another_stream() {
    let rig = Rig::new();
    rig.link.greeted(rig.stream);
    rig.ask("a").unwrap();
    let (questions, _) = rig.message().unwrap();
    rig.link.retire();
    assert_eq!(rig.ask("b"), Err(Refused::Unreachable));
    let now = Instant::now();
    assert!(
        rig.link.tick(now, true).connect.is_none(),
        "a question is out"
    );
    let answered = rig.link.heard(rig.stream, Some(EPOCH), |answers| {
        answers.take(questions[0].0)
    });
    assert_eq!(answered, Some(Some("a")));
    let stream = rig.link.tick(now, true).connect.expect("another stream");
    assert!(rig.is_stopped());
    rig.link.greeted(stream);
    rig.ask("b").unwrap();
    assert_eq!(rig.link.figures().opened, 0, "nothing has failed");
}

#[test]
fn a_link_that_is_doubted_pings_at_once_and_finds_out_with_the_others() {
    let rig = Rig::new();
    rig.link.greeted(rig.stream);
    rig.link.heard(rig.stream, None, |_| ());
    let since = Instant::now();
    rig.link.doubt(since);
    assert_eq!(rig.message(), Some((Vec::new(), true)), "a ping");
    assert!(!rig.link.tick(since + PATIENCE / 2, true).is_silent);
    assert!(rig.link.tick(since + PATIENCE, true).is_silent);
}

#[test]
fn a_link_that_has_heard_something_is_not_doubted() {
    let rig = Rig::new();
    rig.link.greeted(rig.stream);
    let since = Instant::now();
    rig.link.heard(rig.stream, None, |_| ());
    rig.link.doubt(since);
    assert_eq!(rig.message(), None);
    assert!(
        rig.link
            .tick(since + PATIENCE, true)
            .doubted_since
            .is_none()
    );
}

#[test]
fn a_peer_that_has_failed_is_tried_again_only_when_it_may_be() {
    let fresh = Link::<()>::new(PATIENCE, 1, 1);
    assert!(
        fresh.tick(Instant::now(), false).connect.is_some(),
        "a first try"
    );
    let rig = Rig::new();
    rig.link.ended(rig.stream);
    let later = Instant::now() + HOUR;
    assert!(rig.link.tick(later, false).connect.is_none());
    assert!(rig.link.tick(later, true).connect.is_some());
}

/// Its name is looked up for long, or the first of its addresses does not answer.
#[test]
fn a_peer_that_is_reached_late_is_linked_to_but_not_waited_for() {
    let rig = Rig::new();
    rig.ask("a").unwrap();
    let begun = Instant::now();
    let tick = rig.link.tick(begun + PATIENCE * 3, true);
    assert!(!tick.is_silent && tick.connect.is_none());
    assert_eq!(tick.lost, [("a", Lost::Unheard)]);
    assert_eq!(rig.ask("b"), Err(Refused::Unreachable));
    assert_eq!(rig.message(), None, "it is reached, and has to say hello");
    rig.link.greeted(rig.stream);
    rig.ask("c").unwrap();
    let (questions, _) = rig.message().expect("a message");
    assert_eq!(questions.len(), 1);
    assert_eq!(rig.link.figures().opened, 0, "nothing has failed");
}

#[test]
fn a_peer_that_is_reached_and_says_no_hello_is_silent_and_so_is_one_that_is_never_reached() {
    let rig = Rig::new();
    assert_eq!(rig.message(), None);
    let reached = Instant::now();
    assert!(!rig.link.tick(reached + PATIENCE, true).is_silent);
    assert!(rig.link.tick(reached + PATIENCE * 3, true).is_silent);
    assert!(rig.is_stopped());
    let rig = Rig::new();
    let begun = Instant::now();
    assert!(!rig.link.tick(begun + REACH_MAX / 2, true).is_silent);
    assert!(rig.link.tick(begun + REACH_MAX * 2, true).is_silent);
}
