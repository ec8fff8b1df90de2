use std::collections::HashMap;
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, SLOT_ALIGN).unwrap()
}

fn fill(start: NonNull<u8>, bytes: usize, with: u8) {
    // SAFETY: allocated with so many bytes.
    unsafe { start.as_ptr().write_bytes(with, bytes) }
}

fn holds(start: NonNull<u8>, bytes: usize, with: u8) -> bool {
    // SAFETY: allocated with so many bytes, and filled.
    let content = unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) };
    content.iter().all(|&byte| byte == with)
}

impl Arena {
    /// Checks every invariant of the arena.
    fn validate(&self) {
        let state = self.state.lock();
        let mut used = 0;
        for (&region, &free) in &state.regions {
            used += free.count_zeros() as usize;
            assert_eq!(state.roomy_regions.contains(&region), free != 0);
        }
        assert_eq!(used, state.used_spans);
        let mut at_hand_bytes = 0;
        for (class, &first) in state.at_hand.iter().enumerate() {
            let mut at = first;
            while !at.is_null() {
                at_hand_bytes += class_bytes(class);
                // SAFETY: a slot at hand holds its list's next, guarded by the lock.
                at = unsafe { (*at).next };
            }
        }
        assert_eq!(at_hand_bytes, state.at_hand_bytes);
        assert!(at_hand_bytes <= AT_HAND_MAX_BYTES);
        let classes = state.roomy.iter().copied().enumerate();
        for (class, first) in classes.chain([(CLASSES, state.closed)]) {
            let (mut previous, mut at) = (ptr::null_mut(), first);
            while !at.is_null() {
                // SAFETY: spans in the lists are in use, and guarded by the lock.
                unsafe {
                    assert_eq!((*at).previous, previous);
                    let is_closed = (*at).is_closed.load(Ordering::Relaxed);
                    assert_eq!(is_closed, class == CLASSES);
                    assert!(is_closed || (*at).class as usize == class);
                    assert!(!is_full(at) && (*at).used_slots > 0);
                    (previous, at) = (at, (*at).next);
                }
            }
        }
    }
}

#[test]
fn a_class_holds_what_it_is_for_and_wastes_little() {
    for bytes in 1..=SLOT_MAX_BYTES {
        let slot_bytes = class_bytes(class_of(bytes));
        assert!(slot_bytes >= bytes, "{bytes} bytes in {slot_bytes}");
        assert!(
            slot_bytes - bytes < (bytes / 16).max(8),
            "{bytes} in {slot_bytes}"
        );
        assert_eq!(slot_bytes % SLOT_ALIGN, 0);
    }
    assert_eq!(class_bytes(CLASSES - 1), SLOT_MAX_BYTES);
}

proptest! {
    #[test]
    fn a_footprint_covers_its_bytes_and_is_near_them(bytes in 1usize..1 << 33) {
        let footprint_bytes = |bytes| footprint_bytes(layout(bytes));
        let footprint = footprint_bytes(bytes);
        prop_assert!(footprint >= bytes);
        prop_assert!(footprint <= bytes + (bytes / 4).max(16));
        prop_assert!(footprint_bytes(bytes + 1) >= footprint);
        prop_assert_eq!(footprint_bytes(footprint), footprint);
    }

    #[test]
    fn slots_do_not_overlap_and_memory_comes_back(
        steps in vec((1usize..6000, any::<u8>(), 0u8..20), 1..300),
    ) {
        let arena = Arena::new(0);
        let mut held: HashMap<NonNull<u8>, (usize, u8)> = HashMap::new();
        for (bytes, with, step) in steps {
            if step == 0 {
                arena.close_sparse_spans();
            } else if step == 1 {
                arena.open_spans();
            } else if step == 2 {
                arena.put_away();
            } else if step < 12 {
                let start = arena.allocate(layout(bytes));
                // SAFETY: allocated just now.
                let is_closed = unsafe { is_in_closed_span(start, layout(bytes)) };
                prop_assert!(!is_closed);
                fill(start, bytes, with);
                prop_assert!(held.insert(start, (bytes, with)).is_none());
            } else if let Some(&start) = held.keys().next() {
                let (bytes, with) = held.remove(&start).unwrap();
                prop_assert!(holds(start, bytes, with));
                // SAFETY: allocated with this layout, and forgotten.
                unsafe {
                    if step < 16 {
                        arena.release_all([(start, layout(bytes))].into_iter());
                    } else {
                        release(start, layout(bytes));
                    }
                }
            }
            arena.validate();
        }
        for (start, (bytes, with)) in held {
            prop_assert!(holds(start, bytes, with));
            // SAFETY: as above.
            unsafe { release(start, layout(bytes)) }
        }
        arena.put_away();
        arena.validate();
        prop_assert_eq!(arena.span_bytes(), 0);
        prop_assert_eq!(Arc::strong_count(&arena), 1);
    }
}

#[cfg(not(corecache_malloc))]
#[test]
fn regions_go_back_to_the_system_but_for_one() {
    let arena = Arena::new(0);
    let slots: Vec<_> = (0..20_000).map(|_| arena.allocate(layout(1000))).collect();
    assert!(arena.state.lock().regions.len() >= 9);
    for slot in slots {
        // SAFETY: allocated with this layout, and not used any more.
        unsafe { release(slot, layout(1000)) }
    }
    arena.validate();
    assert_eq!(arena.state.lock().regions.len(), 1);
}

#[cfg(not(corecache_malloc))]
#[test]
fn slots_have_names_as_far_as_the_range_reaches() {
    let range_bytes = 4 * REGION_BYTES;
    let arena = Arena::with_range(range_bytes, SMALL_PAGE_REGIONS);
    let range = arena.range();
    let slots: Vec<_> = (0..12_000).map(|_| arena.allocate(layout(1000))).collect();
    let names: Vec<_> = slots.iter().map(|&slot| range.name_of(slot)).collect();
    let named = names
        .iter()
        .flatten()
        .collect::<std::collections::HashSet<_>>();
    let near = names.iter().filter(|name| name.is_some()).count();
    assert_eq!(named.len(), near, "a name is given twice");
    assert!(near * 1000 > range_bytes * 9 / 10 && near < slots.len());
    for (slot, name) in slots.into_iter().zip(names) {
        assert!(name.is_none_or(|name| name > 0 && range.at(name) == slot.as_ptr()));
        // SAFETY: allocated with this layout, and not used any more.
        unsafe { release(slot, layout(1000)) }
    }
    assert_eq!(Range::NONE.name_of(NonNull::<u8>::dangling()), None);
}

#[test]
fn a_span_that_has_been_emptied_serves_another_size() {
    let arena = Arena::new(0);
    for bytes in [16, 100, 1000, 4000] {
        let slots: Vec<_> = (0..1000).map(|_| arena.allocate(layout(bytes))).collect();
        assert!(arena.span_bytes() <= 1100 * bytes + SPAN_BYTES);
        for slot in slots {
            // SAFETY: allocated with this layout, and not used any more.
            unsafe { release(slot, layout(bytes)) }
        }
    }
    assert_eq!(arena.span_bytes(), 0);
}

#[cfg(not(corecache_malloc))]
#[test]
fn slots_outlive_whoever_allocated_them_and_are_released_anywhere() {
    let arena = Arena::new(0);
    let slots: Vec<_> = (0..3000)
        .map(|_| arena.allocate(layout(100)).as_ptr().expose_provenance())
        .collect();
    let weak = Arc::downgrade(&arena);
    drop(arena);
    assert!(weak.upgrade().is_some());
    thread::scope(|scope| {
        for part in slots.chunks(1000) {
            scope.spawn(move || {
                for &slot in part {
                    let slot = NonNull::new(ptr::with_exposed_provenance_mut(slot)).unwrap();
                    fill(slot, 100, 1);
                    // SAFETY: allocated with this layout, and not used any more.
                    unsafe { release(slot, layout(100)) }
                }
            });
        }
    });
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_size_keeps_a_span_open_for_what_is_moved() {
    let arena = Arena::new(0);
    let size = layout(1000);
    let in_span = slots_in_span(class_of(size.size()));
    let slots: Vec<_> = (0..3 * in_span).map(|_| arena.allocate(size)).collect();
    let release_all = |slots: &mut dyn Iterator<Item = &NonNull<u8>>| {
        for &slot in slots {
            // SAFETY: allocated with this layout, and released once, after all that is asked of it.
            unsafe { release(slot, size) }
        }
    };
    let are_closed = || {
        arena.close_sparse_spans();
        let firsts = slots.iter().step_by(in_span);
        // SAFETY: allocated with this layout, and released at the end.
        let is_closed = |slot: &&NonNull<u8>| unsafe { is_in_closed_span(**slot, size) };
        let closed = firsts.filter(is_closed).count();
        arena.open_spans();
        closed
    };
    assert_eq!(are_closed(), 0);
    for (emptied, span) in slots.chunks(in_span).enumerate() {
        release_all(&mut span[1..].iter());
        assert_eq!(are_closed(), if HAS_SLOTS { emptied } else { 0 });
    }
    release_all(&mut slots.iter().step_by(in_span));
}
