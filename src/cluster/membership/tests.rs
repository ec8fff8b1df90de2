//! What a membership shows of what its source says.

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// A source that says what a test wants.
struct Script(Receiver<Line>);

type Line = Box<dyn FnOnce(&Report) + Send>;

impl Source for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    fn follow(&mut self, report: &Report) {
        loop {
            channel::select! {
                recv(self.0) -> line => line.expect("the test goes on")(report),
                recv(report.silence()) -> _ => return,
            }
        }
    }
}

struct Play {
    membership: Membership,
    lines: Sender<Line>,
}

impl Play {
    fn start(own: &str) -> Self {
        let (lines, script) = unbounded();
        let membership = Membership::start(Member::new(own), Script(script)).unwrap();
        Self { membership, lines }
    }

    /// Has the source say something, and waits until it has.
    fn say(&self, line: impl FnOnce(&Report) + Send + 'static) {
        let (done, is_done) = bounded(1);
        let line = move |report: &Report| {
            line(report);
            done.send(()).unwrap();
        };
        self.lines.send(Box::new(line)).unwrap();
        is_done.recv_timeout(PATIENCE).unwrap();
    }

    fn addresses(&self) -> Vec<String> {
        addresses(&self.membership.view())
    }
}

fn addresses(view: &View) -> Vec<String> {
    let members = view.members().iter();
    members.map(|member| member.address.clone()).collect()
}

fn members(addresses: &[&str]) -> Vec<Member> {
    addresses
        .iter()
        .map(|&address| Member::new(address))
        .collect()
}

#[test]
fn a_node_that_knows_of_nobody_is_alone() {
    let membership = Membership::start(Member::new("127.0.0.1:1"), List::alone()).unwrap();
    assert!(membership.wait(PATIENCE));
    assert_eq!(addresses(&membership.view()), ["127.0.0.1:1"]);
    assert_eq!(membership.standing().source, "none");
    assert!(membership.leave(PATIENCE));
}

#[test]
fn the_own_member_is_in_the_view_whether_it_is_listed_or_not() {
    let play = Play::start("127.0.0.2:1");
    play.say(|report| report.members(members(&["127.0.0.3:1", "127.0.0.1:1"])));
    assert_eq!(
        play.addresses(),
        ["127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1"]
    );
    let heavy = Member {
        weight: 7,
        ..Member::new("127.0.0.2:1")
    };
    // What all nodes are told counts, not what this one says of itself.
    let told = vec![heavy.clone()];
    play.say(move |report| report.members(told));
    assert_eq!(play.membership.view().members(), [heavy]);
}

#[test]
fn who_subscribes_sees_each_change_once() {
    let play = Play::start("127.0.0.1:1");
    let (seen, views) = unbounded();
    play.membership
        .subscribe(move |view| seen.send(addresses(&view)).unwrap());
    for told in [&["127.0.0.2:1"][..], &["127.0.0.2:1"], &[]] {
        play.say(move |report| report.members(members(told)));
    }
    let views: Vec<_> = views.try_iter().collect();
    let (alone, both) = (vec!["127.0.0.1:1"], vec!["127.0.0.1:1", "127.0.0.2:1"]);
    assert_eq!(views, [alone.clone(), both, alone]);
    assert_eq!(play.membership.standing().changes, 2);
}

#[test]
fn the_last_view_stays_while_the_source_is_down() {
    let play = Play::start("127.0.0.1:1");
    assert!(!play.membership.wait(Duration::ZERO));
    play.say(|report| report.members(members(&["127.0.0.2:1"])));
    assert!(play.membership.wait(Duration::ZERO));
    play.say(|report| report.down("nobody answers"));
    let (why, _) = play.membership.standing().down.expect("it is down");
    assert_eq!(why, "nobody answers");
    assert_eq!(play.addresses().len(), 2);
    play.say(Report::confirm);
    assert!(play.membership.standing().down.is_none());
    // What is no view is as good as silence.
    play.say(|report| report.members(members(&["127.0.0.3:1", "127.0.0.3:1"])));
    let (why, _) = play.membership.standing().down.expect("it is down");
    assert!(why.contains("twice"), "{why}");
    assert_eq!(play.addresses(), ["127.0.0.1:1", "127.0.0.2:1"]);
}

#[test]
fn a_subscriber_that_panics_ends_nothing() {
    let play = Play::start("127.0.0.1:1");
    play.membership
        .subscribe(|view| assert!(view.members().len() < 2, "too many"));
    play.say(|report| report.members(members(&["127.0.0.2:1"])));
    play.say(|report| report.members(members(&["127.0.0.3:1"])));
    assert_eq!(play.addresses(), ["127.0.0.1:1", "127.0.0.3:1"]);
}

#[test]
fn a_loopback_address_among_others_is_doubted() {
    let play = Play::start("127.0.0.1:1");
    let doubts = || play.membership.standing().doubts;
    play.say(|report| report.members(members(&["127.0.0.2:1", "[::1]:1", "name:1"])));
    assert!(doubts().is_empty());
    play.say(|report| report.members(members(&["10.0.0.2:1"])));
    let doubts_then = doubts();
    assert_eq!(doubts_then[0].0, Doubt::Loopback);
    assert!(doubts_then[0].1.contains("10.0.0.2:1"), "{doubts_then:?}");
    play.say(|report| report.members(members(&["127.0.0.2:1"])));
    assert!(doubts().is_empty());
}

#[test]
fn a_node_that_the_list_has_by_another_address_is_told() {
    let doubts = |own: &str, list: &str| {
        let list = List::new(vec![Member::new(list), Member::new("127.0.0.2:1")]).unwrap();
        let membership = Membership::start(Member::new(own), list).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while membership.standing().doubts.is_empty() {
            assert!(Instant::now() < deadline, "no doubt");
            thread::yield_now();
        }
        membership.standing().doubts
    };
    for (own, list) in [
        ("127.0.0.1:1", "localhost:1"),
        ("localhost:1", "127.0.0.1:1"),
    ] {
        let doubts = doubts(own, list);
        assert_eq!(doubts[0].0, Doubt::Alias);
        assert!(doubts[0].1.contains(list), "{doubts:?}");
    }
}

#[test]
fn a_host_without_an_address_is_doubted() {
    // No name server knows it (RFC 6761).
    let membership = Membership::start(Member::new("nobody.invalid:1"), List::alone()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while membership.standing().doubts.is_empty() {
        assert!(Instant::now() < deadline, "no doubt");
        thread::yield_now();
    }
    assert_eq!(membership.standing().doubts[0].0, Doubt::Unresolved);
}

#[test]
fn a_source_that_does_not_end_is_not_waited_for_beyond_patience() {
    let play = Play::start("127.0.0.1:1");
    let (go_on, wait) = bounded::<()>(0);
    let (begun, has_begun) = bounded(1);
    let line = move |_: &Report| {
        begun.send(()).unwrap();
        let _ = wait.recv();
    };
    play.lines.send(Box::new(line)).unwrap();
    has_begun.recv_timeout(PATIENCE).unwrap();
    assert!(!play.membership.leave(Duration::from_millis(50)));
    drop(go_on);
    assert!(play.membership.leave(PATIENCE));
}
