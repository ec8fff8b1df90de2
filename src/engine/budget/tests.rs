use super::*;

fn whole(budget_bytes: usize) -> Share {
    Share {
        guaranteed_bytes: 0,
        largest_bytes: budget_bytes,
    }
}

fn pool(budget_bytes: usize, shards: usize) -> Pool {
    Pool::new(budget_bytes, shards, &[whole(budget_bytes)])
}

#[test]
fn leases_add_up_to_the_budget_and_no_more() {
    let pool = pool(1 << 20, 4);
    let mut leased = 0;
    loop {
        match pool.lease(1000) {
            0 => break,
            bytes => leased += bytes,
        }
    }
    assert!(leased <= 1 << 20);
    assert!(leased > (1 << 20) - 1000);
    assert_eq!(pool.debt_bytes(), 0);
    pool.give_back(leased);
    assert_eq!(pool.lease(1 << 20), 1 << 20);
}

#[test]
fn credit_is_given_to_one_who_finds_none_taken_and_up_to_the_cap() {
    let pool = pool(1600, 1);
    assert_eq!(pool.lease(1600), 1600);
    assert!(pool.borrow(1500));
    assert_eq!(pool.debt_bytes(), 1500);
    assert!(!pool.borrow(1));
    pool.give_back(1450);
    assert!(pool.borrow(50), "within a sixteenth");
    assert!(!pool.borrow(1));
    assert_eq!(
        pool.lease(1),
        0,
        "nothing is leased while the pool is in debt"
    );
}

#[test]
fn a_shard_is_asked_for_no_more_than_is_still_wanted() {
    let pool = pool(1600, 2);
    assert_eq!(pool.lease(1600), 1600);
    assert!(pool.borrow(100));
    pool.ask_back(1, 60);
    pool.ask_back(1, 60);
    assert_eq!(pool.take_owed(0), 0);
    assert_eq!(pool.take_owed(1), 100);
    assert_eq!(pool.take_owed(1), 0, "once");
}

#[test]
fn entries_on_their_way_are_counted() {
    let pool = pool(6400, 1);
    assert!(pool.enqueue(60));
    assert!(!pool.enqueue(60), "over its part of the budget");
    pool.dequeue(120);
    assert!(pool.enqueue(100));
}

#[test]
fn a_partition_knows_its_bounds() {
    let share = Share {
        guaranteed_bytes: 100,
        largest_bytes: 300,
    };
    let pool = Pool::new(1000, 1, &[share]);
    let account = &pool.partitions[0];
    account.add(100);
    assert!(!account.is_over_guarantee());
    assert_eq!(account.excess_with(200), 0);
    assert_eq!(account.excess_with(201), 1);
    account.add(1);
    assert!(account.is_over_guarantee());
    account.subtract(101);
    assert_eq!(account.used_bytes.load(Ordering::Relaxed), 0);
    let whole = Pool::new(1000, 1, &[Share::WHOLE]);
    whole.partitions[0].add(2000);
    assert_eq!(whole.partitions[0].excess_with(usize::MAX), 0);
    assert!(whole.partitions[0].is_over_guarantee());
}
