use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use super::*;
use crate::engine::entry::Typed;

type Body = Typed<u64, u64>;
type Entry = Handle<Body>;

const PAST: Duration = Duration::ZERO;

fn join(flights: &Arc<Flights<Body>>, hash: u64, key: u64) -> Joined<Body> {
    flights.join(hash, |other| *other == key, || key, || None)
}

fn lead(flights: &Arc<Flights<Body>>, key: u64) -> Lead<Body> {
    match join(flights, key, key) {
        Joined::Lead(lead) => lead,
        _ => panic!("somebody leads key {key} already"),
    }
}

fn follow(flights: &Arc<Flights<Body>>, key: u64) -> Arc<Flight<Body>> {
    match join(flights, key, key) {
        Joined::Follow(flight) => flight,
        _ => panic!("nobody loads key {key}"),
    }
}

fn entry(key: u64) -> Entry {
    Handle::lone(key, key, key * 10)
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn value(outcome: Outcome<Body>) -> Result<u64, String> {
    outcome
        .map(|entry| *entry.value())
        .map_err(|failure| failure.to_string())
}

fn waited(waited: Waited<Body>) -> Result<u64, String> {
    match waited {
        Waited::Outcome(outcome) => value(outcome),
        Waited::Lead => Err("lead".into()),
        Waited::LateLead => Err("late lead".into()),
    }
}

fn subscribe(flight: &Flight<Body>) -> Receiver<Result<u64, String>> {
    let (tell, told) = channel();
    let subscribed = flight.subscribe(
        later(),
        Box::new(move |outcome| tell.send(value(outcome)).unwrap()),
        100,
    );
    assert!(subscribed.is_ok());
    told
}

/// Returns when so many threads sleep on the flight.
fn await_sleepers(flight: &Flight<Body>, sleepers: usize) {
    while flight.state.lock().sleepers < sleepers {
        thread::yield_now();
    }
}

#[test]
fn a_flight_stays_open_until_it_is_published() {
    let flights = Flights::new();
    let flight = lead(&flights, 1).deliver(entry(1));
    assert_eq!(waited(follow(&flights, 1).wait(None)), Ok(10));
    flights.close(&flight);
    assert_eq!(flights.len(), 0);
    assert!(matches!(
        flights.join(1, |key| *key == 1, || 1, || Some(entry(1))),
        Joined::Hit(_)
    ));
}

#[test]
fn an_outcome_that_is_not_stored_closes_the_flight() {
    let flights = Flights::new();
    let first = lead(&flights, 1);
    let told = subscribe(first.flight());
    first.finish(Err(Failure::Closed));
    assert_eq!(told.recv().unwrap(), Err("the cache is gone".into()));
    assert_eq!(flights.len(), 0);
}

#[test]
fn closing_a_flight_leaves_its_successor_open() {
    let flights = Flights::new();
    let first = lead(&flights, 1);
    flights.fence(1);
    assert!(first.flight().is_fenced());
    let second = lead(&flights, 1);
    flights.close(first.flight());
    assert_eq!(flights.len(), 1);
    assert!(!second.flight().is_fenced());
    first.finish(Ok(entry(1)));
    second.finish(Ok(entry(1)));
}

#[test]
fn fence_all_takes_the_keys_that_it_is_told() {
    let flights = Flights::new();
    let leads: Vec<_> = (0..10).map(|key| lead(&flights, key)).collect();
    flights.fence_all(|key| key % 2 == 0);
    assert_eq!(flights.len(), 5);
    for lead in leads {
        assert_eq!(lead.flight().is_fenced(), lead.flight().key() % 2 == 0);
    }
    assert_eq!(
        flights.len(),
        0,
        "leads that are dropped close their flights"
    );
}

#[test]
fn a_key_whose_hash_is_taken_loads_without_being_stored() {
    let flights = Flights::new();
    let first = lead(&flights, 7);
    let Joined::Lead(other) = join(&flights, 7, 8) else {
        panic!("another key must not follow");
    };
    assert!(other.flight().is_fenced());
    assert!(!first.flight().is_fenced());
    other.finish(Ok(entry(8)));
    assert_eq!(flights.len(), 1);
    first.finish(Ok(entry(7)));
}

#[test]
fn a_lead_that_is_lost_passes_to_one_sleeper() {
    let flights = Flights::new();
    let first = lead(&flights, 1);
    let (led, leaders) = channel();
    thread::scope(|scope| {
        for _ in 0..8 {
            let flight = follow(&flights, 1);
            let (flights, led) = (&flights, led.clone());
            scope.spawn(move || match flight.wait(None) {
                Waited::Lead => {
                    led.send(()).unwrap();
                    Lead::take_over(flights, flight).finish(Ok(entry(1)));
                }
                outcome => assert_eq!(waited(outcome), Ok(10)),
            });
        }
        await_sleepers(first.flight(), 8);
        drop(first);
    });
    drop(led);
    assert_eq!(leaders.iter().count(), 1);
    assert_eq!(flights.len(), 0);
}

#[test]
fn a_follower_that_comes_to_wait_after_the_lead_was_lost_leads() {
    let flights = Flights::new();
    let first = lead(&flights, 1);
    let (one, other) = (follow(&flights, 1), follow(&flights, 1));
    drop(first);
    assert_eq!(flights.len(), 0);
    assert!(matches!(one.wait(None), Waited::Lead));
    let lead = Lead::take_over(&flights, one);
    assert!(!lead.flight().is_fenced());
    assert!(Arc::ptr_eq(&follow(&flights, 1), &other));
    let late = Instant::now() + PAST;
    assert_eq!(
        waited(other.wait(Some(late))),
        Err(Failure::TimedOut.to_string())
    );
    lead.finish(Ok(entry(1)));
    assert_eq!(waited(other.wait(None)), Ok(10));
}

#[test]
fn a_flight_that_is_resumed_where_another_has_come_does_not_store() {
    let flights = Flights::new();
    let first = lead(&flights, 1);
    let follower = follow(&flights, 1);
    drop(first);
    let second = lead(&flights, 1);
    assert!(matches!(follower.wait(None), Waited::Lead));
    let resumed = Lead::take_over(&flights, follower);
    assert!(resumed.flight().is_fenced());
    assert!(!second.flight().is_fenced());
    resumed.finish(Ok(entry(1)));
    assert_eq!(flights.len(), 1);
    second.finish(Ok(entry(1)));
}

#[test]
fn who_only_left_a_callback_is_told_when_the_lead_is_lost() {
    let flights = Flights::new();
    let first = lead(&flights, 1);
    let told = subscribe(first.flight());
    drop(first);
    assert_eq!(told.recv().unwrap(), Err(Failure::Abandoned.to_string()));
    assert_eq!(flights.len(), 0);
}

#[test]
fn callbacks_have_a_bound_and_come_back() {
    let flights = Flights::new();
    let lead = lead(&flights, 1);
    assert!(
        lead.flight()
            .subscribe(later(), Box::new(|_| ()), 1)
            .is_ok()
    );
    assert!(
        lead.flight()
            .subscribe(later(), Box::new(|_| ()), 1)
            .is_err()
    );
    let flight = lead.deliver(entry(1));
    assert_eq!(
        subscribe(&flight).recv().unwrap(),
        Ok(10),
        "at once, with the outcome there"
    );
}

#[test]
fn a_flight_knows_until_when_it_is_wanted() {
    let flights = Flights::new();
    let lead = lead(&flights, 1);
    let flight = lead.flight();
    assert_eq!(flight.wanted_until(), None);
    let (soon, later) = (Instant::now(), later());
    for (deadline, latest) in [(soon, soon), (later, later), (soon, later)] {
        assert!(flight.subscribe(deadline, Box::new(|_| ()), 9).is_ok());
        assert_eq!(flight.wanted_until(), Some(latest));
    }
}

#[test]
fn a_callback_that_panics_costs_the_others_nothing() {
    let flights = Flights::new();
    let lead = lead(&flights, 1);
    let before = subscribe(lead.flight());
    let panics = lead
        .flight()
        .subscribe(later(), Box::new(|_| panic!("on purpose")), 100);
    assert!(panics.is_ok());
    let after = subscribe(lead.flight());
    let flight = lead.deliver(entry(1));
    assert_eq!(before.recv().unwrap(), Ok(10));
    assert_eq!(after.recv().unwrap(), Ok(10));
    flights.close(&flight);
}

#[test]
fn a_parked_flight_is_led_by_who_claims_it() {
    let flights = Flights::new();
    let parked = lead(&flights, 1).park();
    let told = subscribe(&follow(&flights, 1));
    let lead = parked.claim().expect("nobody else has claimed it");
    lead.finish(Ok(entry(1)));
    assert_eq!(told.recv().unwrap(), Ok(10));
}

#[test]
fn a_parked_flight_is_led_by_a_waiter_that_may_block() {
    let flights = Flights::new();
    let parked = lead(&flights, 1).park();
    let flight = follow(&flights, 1);
    assert!(matches!(flight.wait(None), Waited::Lead));
    let lead = Lead::take_over(&flights, flight);
    assert!(parked.claim().is_none());
    lead.finish(Ok(entry(1)));
    assert_eq!(flights.len(), 0);
}

#[test]
fn a_parked_flight_whose_load_is_done_is_not_claimed() {
    let flights = Flights::new();
    let parked = lead(&flights, 1).park();
    let flight = follow(&flights, 1);
    assert!(matches!(flight.wait(None), Waited::Lead));
    Lead::take_over(&flights, flight).finish(Ok(entry(1)));
    assert!(parked.claim().is_none());
}

#[test]
fn a_waiter_whose_deadline_passes_leaves() {
    let flights = Flights::new();
    let lead = lead(&flights, 1);
    let late = Instant::now() + Duration::from_millis(1);
    let outcome = waited(follow(&flights, 1).wait(Some(late)));
    assert_eq!(outcome, Err(Failure::TimedOut.to_string()));
    assert_eq!(lead.flight().state.lock().sleepers, 0);
    lead.finish(Ok(entry(1)));
}

#[test]
fn a_cache_that_goes_tells_all_who_wait() {
    let flights = Flights::new();
    let lead = lead(&flights, 1);
    let told = subscribe(lead.flight());
    flights.close_all();
    assert_eq!(told.recv().unwrap(), Err(Failure::Closed.to_string()));
    assert_eq!(flights.len(), 0);
}

#[test]
fn a_thread_does_not_wait_for_itself() {
    let flights = Flights::new();
    let (one, two) = (lead(&flights, 1), lead(&flights, 2));
    let leading = (one.enter(), two.enter());
    let outcome = waited(follow(&flights, 1).wait(None));
    drop(leading);
    assert_eq!(outcome, Err(Failure::Reentrant.to_string()));
    assert_eq!(LEADING.with(Cell::get), 0);
    one.finish(Ok(entry(1)));
    two.finish(Ok(entry(2)));
}

#[test]
fn a_panic_names_itself() {
    let text = |payload: Box<dyn Any + Send>| panic_text(&*payload).to_string();
    assert_eq!(text(Box::new("static")), "static");
    assert_eq!(text(Box::new("owned".to_owned())), "owned");
    assert_eq!(text(Box::new(7)), "no message");
}
