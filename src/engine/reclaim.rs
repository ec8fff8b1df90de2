//! Safe reclamation for tables with one writer and many readers: hazard slots with an asymmetric fence.
//!
//! A reader that is about to look at an entry announces it in a slot of its own and then checks that the table still
//! holds it (M. Michael, "Hazard Pointers", TPDS 2004). The writer unlinks an entry, and frees it once no slot
//! announces it. Between the reader's announcement and its check a store-load fence is needed; the writer takes it
//! over for all readers with one `membarrier` call a batch, so that a read costs a plain store to a line that no other
//! reader touches. Where the kernel has no `membarrier`, both sides fence.
//!
//! A borrow that lasts long keeps the entry that it borrows, and no other.
//!
//! ```text
//! reader                               writer
//!   slot = entry                         unlink entry from the table
//!   (light fence)                        (heavy fence)
//!   table still holds entry? use it      slot == entry? keep it for the next round : free it
//! ```

use std::array;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use crossbeam::utils::CachePadded;

use super::entry::Header;
use super::sync::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering, compiler_fence, fence, membarrier,
    thread_local,
};

/// Borrows that one thread may nest before it takes another record. The first is what nearly all need.
const SLOTS: usize = 4;
/// The slot of a record that was taken for one borrow alone.
const LONE: usize = SLOTS;

/// Where one thread says at which entry it looks, one at a time.
pub(crate) struct Slot {
    announced: AtomicPtr<Header>,
    /// The thread's; see [`Guard::reader`].
    reader: u32,
    /// Whether who announces has to fence; see [`prepare`].
    fences: bool,
    is_lone: bool,
}

impl Slot {
    #[inline(always)]
    fn is_free(&self) -> bool {
        self.announced.load(Ordering::Relaxed).is_null()
    }

    /// Announces `entry`. If it is still at its place after that, it lives until the next call or the guard's end.
    #[inline(always)]
    pub fn announce(&self, entry: NonNull<Header>) {
        // Release: what was read of the entry that the slot held before is read before that one may be freed.
        self.announced.store(entry.as_ptr(), Ordering::Release);
        if self.fences {
            fence(Ordering::SeqCst);
        } else {
            compiler_fence(Ordering::SeqCst);
        }
    }
}

/// The slots of one thread; padded, so that threads share no line.
#[repr(C)]
struct Record {
    slots: [Slot; SLOTS + 1],
    taken: AtomicBool,
    next: *const CachePadded<Record>,
}

// SAFETY: `next` is written before the record is published and never after.
unsafe impl Sync for Record {}

/// All records of the process. They are never freed, and taken again by threads to come: there are as many as
/// threads (and nested borrows beyond `SLOTS`) ever were at once.
static RECORDS: AtomicPtr<CachePadded<Record>> = AtomicPtr::new(ptr::null_mut());
static RECORD_COUNT: AtomicU32 = AtomicU32::new(0);

type RecordRef = &'static CachePadded<Record>;

fn records() -> impl Iterator<Item = RecordRef> {
    let mut at: *const CachePadded<Record> = RECORDS.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: records are leaked, and fully written before they are published.
        let record = unsafe { at.as_ref() }?;
        at = record.next;
        Some(record)
    })
}

fn take_record() -> RecordRef {
    let free = records().find(|record| {
        !record.taken.load(Ordering::Relaxed) && !record.taken.swap(true, Ordering::Acquire)
    });
    if let Some(record) = free {
        return record;
    }
    let reader = RECORD_COUNT.fetch_add(1, Ordering::Relaxed);
    let fences = MEMBARRIER.load(Ordering::Relaxed) != READY;
    let record = Box::leak(Box::new(CachePadded::new(Record {
        slots: array::from_fn(|index| Slot {
            announced: AtomicPtr::new(ptr::null_mut()),
            reader,
            fences,
            is_lone: index == LONE,
        }),
        taken: AtomicBool::new(true),
        next: ptr::null(),
    })));
    let mut head = RECORDS.load(Ordering::Relaxed);
    loop {
        record.next = head;
        match RECORDS.compare_exchange_weak(head, record, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return record,
            Err(newer) => head = newer,
        }
    }
}

fn give_back(record: RecordRef) {
    record.taken.store(false, Ordering::Release);
}

/// How many numbers of readers there have been; see [`Guard::reader`].
pub(crate) fn readers() -> usize {
    RECORD_COUNT.load(Ordering::Relaxed) as usize
}

/// Gives the thread's record back when the thread ends.
struct AtExit;

impl Drop for AtExit {
    fn drop(&mut self) {
        RECORD.with(|record| {
            // Nothing is borrowed any more; if something were, its record would be kept for good.
            let unused = |record: &RecordRef| record.slots.iter().all(Slot::is_free);
            if let Some(record) = record.take().filter(unused) {
                give_back(record);
            }
        });
    }
}

thread_local! {
    static RECORD: Cell<Option<RecordRef>> = const { Cell::new(None) };
    static AT_EXIT: AtExit = const { AtExit };
}

/// One slot of the calling thread, to look at one entry at a time; nobody but this crate holds one.
///
/// A slot is taken by what stands in it. So between the making of a guard and its first entry the thread must not make
/// another one: no code of others runs there.
pub(crate) struct Guard {
    slot: &'static Slot,
    /// Slots belong to the thread that took them.
    _not_send: PhantomData<*const ()>,
}

impl Guard {
    #[inline(always)]
    pub fn enter() -> Self {
        match RECORD.with(Cell::get) {
            Some(record) if record.slots[0].is_free() => Self::new(&record.slots[0]),
            _ => Self::new(RECORD.with(slot_slowly)),
        }
    }

    #[inline(always)]
    fn new(slot: &'static Slot) -> Self {
        Self {
            slot,
            _not_send: PhantomData,
        }
    }

    /// A small number that no other guard of another thread has at the same time.
    #[inline(always)]
    pub fn reader(&self) -> usize {
        self.slot.reader as usize
    }

    /// What the table is to announce in.
    #[inline(always)]
    pub fn slot(&self) -> &'static Slot {
        self.slot
    }
}

#[cold]
#[inline(never)]
fn slot_slowly(local: &Cell<Option<RecordRef>>) -> &'static Slot {
    if let Some(record) = local.get()
        && let Some(slot) = record.slots[..LONE].iter().find(|slot| slot.is_free())
    {
        return slot;
    }
    let record = take_record();
    // A thread whose destructors run has no end to give its record back at.
    if local.get().is_none() && AT_EXIT.try_with(|_| ()).is_ok() {
        local.set(Some(record));
        return &record.slots[0];
    }
    &record.slots[LONE]
}

impl Drop for Guard {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: what was read through the guard is read before the writer may free it.
        self.slot
            .announced
            .store(ptr::null_mut(), Ordering::Release);
        if self.slot.is_lone {
            give_back_of(self.slot);
        }
    }
}

#[cold]
#[inline(never)]
fn give_back_of(lone: &Slot) {
    let mut records = records();
    let record = records.find(|record| ptr::eq(&record.slots[LONE], lone));
    give_back(record.expect("records are never freed"));
}

/// Keeps those of `retired` that a reader still announces or holds a reference to, shows them to `kept`, and frees the
/// others.
///
/// # Safety
/// The entries are unlinked from every table; the caller holds the table's reference to each; `free` drops it.
pub(crate) unsafe fn sweep(
    retired: &mut Vec<NonNull<Header>>,
    mut free: impl FnMut(NonNull<Header>),
    mut kept: impl FnMut(NonNull<Header>),
) {
    heavy_fence();
    let mut announced: Vec<*mut Header> = records()
        .flat_map(|record| &record.slots)
        // Acquire: a reader that took a reference did so before it cleared its slot, so `is_unshared` sees it.
        .map(|slot| slot.announced.load(Ordering::Acquire))
        .filter(|entry| !entry.is_null())
        .collect();
    announced.sort_unstable();
    let mut list = Compacting {
        list: retired,
        seen: 0,
        kept: 0,
    };
    while let Some(entry) = list.next() {
        // The slots first, the references after: the other way round a reader could pass between the two.
        let is_announced = announced.binary_search(&entry.as_ptr()).is_ok();
        // SAFETY: not freed yet, by the caller's word.
        if is_announced || !unsafe { entry.as_ref() }.is_unshared() {
            kept(entry);
            list.keep(entry);
        } else {
            // Off the list already: what panics while it is freed must not be freed again.
            free(entry);
        }
    }
}

/// Goes through a list once, in its order; what is not kept is off it, however this ends.
struct Compacting<'a> {
    list: &'a mut Vec<NonNull<Header>>,
    seen: usize,
    kept: usize,
}

impl Compacting<'_> {
    fn next(&mut self) -> Option<NonNull<Header>> {
        let entry = self.list.get(self.seen).copied()?;
        self.seen += 1;
        Some(entry)
    }

    fn keep(&mut self, entry: NonNull<Header>) {
        self.list[self.kept] = entry;
        self.kept += 1;
    }
}

impl Drop for Compacting<'_> {
    fn drop(&mut self) {
        self.list.drain(self.kept..self.seen);
    }
}

/// Whether `membarrier` is at hand; see [`prepare`].
static MEMBARRIER: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const READY: u8 = 1;
const ABSENT: u8 = 2;

/// To be called before the first table is made. Until it has run, and where it finds no `membarrier`, readers fence.
pub(crate) fn prepare() {
    if MEMBARRIER.load(Ordering::Relaxed) == UNKNOWN {
        let found = if membarrier::register() {
            READY
        } else {
            ABSENT
        };
        // The first answer stands: readers and writers have to agree.
        let _ = MEMBARRIER.compare_exchange(UNKNOWN, found, Ordering::SeqCst, Ordering::SeqCst);
    }
}

fn heavy_fence() {
    fence(Ordering::SeqCst);
    if MEMBARRIER.load(Ordering::SeqCst) == READY {
        membarrier::run();
    }
}

#[cfg(all(test, corecache_model))]
pub(super) mod model;
#[cfg(test)]
mod tests;
