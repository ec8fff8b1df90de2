//! What threads share, in one place: atomics, fences, locks, queues and thread-locals.
//!
//! With `--cfg corecache_model`, the crate's unit tests are built on those of `model` instead, a model checker's, and
//! only models can run: `make model`. Beside that, entries then have no slots, and a shard's queue is short.

pub(crate) use std::sync::atomic::Ordering;

#[cfg(not(all(test, corecache_model)))]
pub(crate) mod membarrier;
#[cfg(all(test, corecache_model))]
pub(crate) mod model;

#[cfg(not(all(test, corecache_model)))]
mod native {
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
        compiler_fence, fence,
    };
    pub(crate) use std::thread::LocalKey;
    pub(crate) use std::thread_local;

    pub(crate) use crossbeam::channel;
    pub(crate) use crossbeam::queue::ArrayQueue;
    pub(crate) use parking_lot::{Condvar, Mutex};
}

#[cfg(all(test, corecache_model))]
pub(crate) use model::{
    LocalKey,
    atomic::{
        AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
        compiler_fence, fence,
    },
    channel,
    lock::{Condvar, Mutex},
    membarrier,
    queue::ArrayQueue,
    thread_local,
};
#[cfg(not(all(test, corecache_model)))]
pub(crate) use native::*;
