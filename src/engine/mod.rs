//! The shard engine: a concurrent in-memory cache that is read without locks, and changed by one thread a shard at a
//! time.
//!
//! ```text
//!   any thread                                  owner thread of a shard
//!     get ── table (no lock) ── entry             sleeps, and now and then
//!      │ miss                                       sweeps what readers held
//!      └─ flight: join it, or lead it               gives back what has expired
//!          └─ the shard's turn: make room,          tells the listener
//!             publish, retire                       gives room to other shards
//! ```
//!
//! # A tour
//!
//! A [`Cache`] holds any `K` and `V`, a [`BlobCache`] bytes. Both have one budget in bytes, which covers entries, their
//! overhead, the tables, and what was evicted but is still held.
//!
//! ```
//! use corecache::engine::{Builder, Cache};
//!
//! let names = Cache::<u32, String>::from_builder(&Builder::new(64 << 20).shards(4))?
//!     .weigh_with(|_id, name| name.capacity()); // bytes on the heap that an entry owns
//! names.insert(1, "one".to_owned())?;
//! assert_eq!(names.get(&1).as_deref(), Some("one"));
//! assert_eq!(names.get_with(&1, String::len), Some(3)); // lent, not cloned
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A key is loaded once, however many threads ask for it at the same time; they all get what the first one brought, an
//! error too. Many keys are loaded by one call.
//!
//! ```
//! # use corecache::engine::{Cache, Failure};
//! # use std::time::{Duration, Instant};
//! let squares = Cache::<u64, u64>::new(1 << 20)?;
//! assert_eq!(squares.get_or_load(&3, |key| Ok(key * key))?, 9);
//! let soon = Instant::now() + Duration::from_millis(50); // waits no longer for another thread's load
//! assert_eq!(squares.get_or_load_by(&4, soon, |key| Ok(key * key))?, 16);
//! let refused = squares.get_or_load(&5, |_| Err("no origin".into()));
//! assert!(matches!(refused, Err(Failure::Failed(_))));
//! let many = squares.get_many_or_load(&[3, 6, 7], |keys| Ok(keys.iter().map(|key| **key * **key).collect()))?;
//! assert_eq!(many, [9, 36, 49]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Entries can expire, each at a time of its own: [`Cache::insert_for`] gives one to a value, [`Cache::expire_after`] to all
//! that are stored, loaded ones too. They are served until that moment and not after it; their memory comes back by
//! itself. A listener is told what left, and why.
//!
//! ```
//! # use corecache::engine::{BlobCache, Cause};
//! # use std::time::Duration;
//! # use std::sync::mpsc;
//! let (left, leaving) = mpsc::channel();
//! let sessions = BlobCache::new(1 << 20)?
//!     .eviction_listener(move |key, _value, cause| drop(left.send((key.to_vec(), cause))));
//! sessions.insert_for(b"alice", b"token", Duration::from_millis(10))?;
//! assert_eq!(leaving.recv()?, (b"alice".to_vec(), Cause::Expired));
//! let stats = sessions.stats();
//! assert_eq!((stats.expired, stats.entries), (1, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The budget can be set anew while the cache is in use, up and down: [`Cache::resize`]. What is held can be walked over,
//! without holding anybody up: [`Cache::iter`]. And it can outlive the process, in a file that is checked as a whole:
//!
//! ```
//! # use corecache::engine::BlobCache;
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("pages");
//! let pages = BlobCache::new(1 << 20)?;
//! pages.insert(b"/index", b"hello")?;
//! pages.save(&path)?; // a crash meanwhile leaves the former file as it was
//!
//! let after_a_restart = BlobCache::new(1 << 20)?;
//! assert_eq!(after_a_restart.restore(&path)?.entries, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Threads share a cache by reference, as scoped ones do, or in an `Arc`; all calls take `&self`. It ends with its last
//! owner: whoever still waits for a load gets [`Failure::Closed`].
//!
//! # Choosing sizes
//!
//! * **Budget.** The memory of entries, tables, and what is held after it left. What comes on top: slots that lie idle, a
//!   quarter of those in use and some MiB a shard at the most; what a slow listener was not told of yet, an eighth of the
//!   budget at the most; what is left of tables that have shrunk, 128 KiB a shard, or a little over 2 MiB where the table
//!   still has as much; and what the weigher does not know of. Beside what is given below, an entry costs its key and
//!   its value, and on the heap what the weigher says. How large it should be, [`policy::simulate`] tells from a trace
//!   of keys, which it replays through this engine's [`policy`]; `corecache simulate` is the same as a command, and a
//!   part of the server's binary.
//! * **Shards.** About as many as threads that change the cache at the same time; reads do not care. Without a word there
//!   is one a core, eight at the most. Each takes a thread, which sleeps, and 16 KiB of the budget at least. More shards
//!   choose a little worse what to evict.
//! * **Cores.** Owners run anywhere unless [`Builder::pin_to`] binds them. Bind them where the threads that use the cache
//!   are bound too. Memory lies on the socket of the thread that first writes to it.
//!
//! # Costs
//!
//! * **An entry** takes a slot (key, value and 20 bytes; 28 for a blob of much, and what alignment adds; 8 more if
//!   it expires), 9 to 11 bytes of the table, 8.5 of the queues, and up to 8 of what is remembered of evicted keys. Slots
//!   up to 4 KiB come in steps of 8 bytes to a sixteenth; larger entries are the program's allocator's.
//! * **A hit** writes to the reader's own slot and counter, and to the entry's two-bit counter until that is at its top:
//!   to nothing else, so readers do not slow each other down. A [`Blob`] is a counted reference: taking and dropping one
//!   of a hot key from many threads does; [`Cache::get_with`] and [`BlobCache::get_with`] do not.
//! * **A change** takes its shard's turn, a lock that readers do not know of, for a microsecond or less. Eviction costs a
//!   system call (`membarrier`) a batch.
//! * **Threads.** One a shard. While nothing is to be done they take no time. They do not follow a `fork`: make caches after
//!   it. A child may use one that was made before if nobody was changing it at that moment; its listener is told where
//!   [`Cache::flush`] is called.
//! * **Addresses.** A shard sets addresses aside for its slots, which is no memory: twice its part of the budget, 64 MiB at
//!   the least and 16 GiB at the most; `top` shows that as virtual. What finds no place there, after a [`Cache::resize`] to
//!   much more or where the process may have so many addresses only (`ulimit -v`), takes 8 bytes more an entry.
//! * **Huge pages.** Tables and slots ask for them once there are some MiB of them. Where the system gives none
//!   (`/sys/kernel/mm/transparent_hugepage/enabled` is `never`), hits in a large cache are slower.
//!
//! # What it is not
//!
//! * Not a map: an entry can leave at any time, and one that does not fit is refused.
//! * Not the least memory for tiny entries: a `Cache<u64, u64>` takes some 60 bytes beside key and value.
//! * Writes to one key from many threads meet at one shard's turn.
//! * The slots of one size are given to another only in pieces of 64 KiB. After a change of sizes the owners of a
//!   [`BlobCache`] gather what is left, until about a quarter of the memory lies idle at the most; a [`Cache`] has one
//!   size, but after a [`Cache::resize`] to much less its memory comes back only as entries leave.
//!
//! # Code that runs inside
//!
//! `Eq` of keys runs while a shard's turn is held, `Drop` of keys and values mostly after it. Both may use caches: what
//! they change there is done soon after, and lost, with an error in the log, where the queue is full. What `Eq` or `Clone` of a
//! key load may be for them alone, and not stored. But they must not wait for a thread that is changing the same cache. A
//! panic in either costs its own change, and is logged. A listener may use every cache; while it runs, its thread tells no
//! other one.

mod arena;
mod blobs;
mod budget;
mod builder;
mod bulk;
mod cache;
mod charge;
mod clock;
mod core;
mod entry;
mod flight;
mod foreign;
mod iterate;
mod owner;
mod pages;
mod pin;
pub mod policy;
mod reclaim;
mod shard;
mod stats;
mod sync;
mod table;
mod turn;
mod warm;

pub use blobs::{Blob, BlobCache, BlobSink};
pub use builder::{BuildError, Builder};
pub use cache::{Cache, Rejected};
pub use flight::{EntryTooLarge, Failure};
pub use iterate::{BlobIter, Entry, Iter};
pub use pin::pin_to_core;
pub use stats::{Cause, Stats};
pub use warm::{RestoreError, Restored, SaveError, Saved};

#[cfg(feature = "server")]
pub(crate) use blobs::Lent;
pub use budget::Share;
pub(crate) use charge::{Account, Charge, Full};
#[cfg(feature = "server")]
pub(crate) use clock::NEVER;
pub(crate) use core::Loaded;
#[cfg(feature = "server")]
pub(crate) use core::pin_or_warn;
pub(crate) use entry::{BlobBuilder, Bytes};
pub(crate) use flight::{Flight, Joined, Lead, Outcome, Parked, panic_text};
#[cfg(any(feature = "server", test))]
pub(crate) use foreign::guarded;
