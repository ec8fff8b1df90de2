//! Atomics that the checker sees. They have the size of std's, and are all zero where those are.

use std::cell::UnsafeCell;
use std::sync::atomic::Ordering;

use super::memory::{self, Memory};

/// What an atomic holds, as 64 bits.
pub(crate) trait Bits: Copy + PartialEq {
    fn to_bits(self) -> u64;
    fn from_bits(bits: u64) -> Self;
}

macro_rules! bits_of_integers {
    ($($integer:ty)*) => {$(
        impl Bits for $integer {
            fn to_bits(self) -> u64 {
                self as u64
            }

            fn from_bits(bits: u64) -> Self {
                bits as Self
            }
        }
    )*};
}
bits_of_integers!(u8 u32 u64 usize isize);

impl Bits for bool {
    fn to_bits(self) -> u64 {
        self.into()
    }

    fn from_bits(bits: u64) -> Self {
        bits != 0
    }
}

impl<T> Bits for *mut T {
    fn to_bits(self) -> u64 {
        self.expose_provenance() as u64
    }

    fn from_bits(bits: u64) -> Self {
        std::ptr::with_exposed_provenance_mut(bits as usize)
    }
}

/// The cell always holds the newest store; `memory` knows those before.
#[repr(transparent)]
pub(crate) struct Atomic<T>(UnsafeCell<T>);

pub(crate) type AtomicBool = Atomic<bool>;
pub(crate) type AtomicU8 = Atomic<u8>;
pub(crate) type AtomicU32 = Atomic<u32>;
pub(crate) type AtomicU64 = Atomic<u64>;
pub(crate) type AtomicUsize = Atomic<usize>;
pub(crate) type AtomicIsize = Atomic<isize>;
pub(crate) type AtomicPtr<T> = Atomic<*mut T>;

// SAFETY: the cell is only accessed in an execution, whose threads take turns on one thread of the system, and the
// executions of a process take turns, too.
unsafe impl<T> Sync for Atomic<T> {}
// SAFETY: it holds a number or an address, which std's atomics send as well.
unsafe impl<T> Send for Atomic<T> {}

/// As std's, whether the engine calls them or not.
#[allow(dead_code)]
impl<T> Atomic<T> {
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    pub fn get_mut(&mut self) -> &mut T {
        memory::forget(self.address());
        self.0.get_mut()
    }

    fn address(&self) -> usize {
        self.0.get().addr()
    }
}

/// As std's, whether the engine calls them or not.
#[allow(dead_code)]
impl<T: Bits> Atomic<T> {
    pub fn load(&self, order: Ordering) -> T {
        self.access(false, |memory, place| {
            T::from_bits(memory.load(place, order))
        })
    }

    pub fn store(&self, value: T, order: Ordering) {
        self.access(true, |memory, place| {
            memory.store(place, value.to_bits(), order);
            self.set(value);
        });
    }

    pub fn swap(&self, value: T, order: Ordering) -> T {
        self.update(order, |_| value)
    }

    pub fn compare_exchange(
        &self,
        current: T,
        new: T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<T, T> {
        self.try_update(success, failure, |seen| (seen == current).then_some(new))
    }

    pub fn compare_exchange_weak(
        &self,
        current: T,
        new: T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<T, T> {
        self.compare_exchange(current, new, success, failure)
    }

    pub fn fetch_update(
        &self,
        success: Ordering,
        failure: Ordering,
        f: impl FnMut(T) -> Option<T>,
    ) -> Result<T, T> {
        self.try_update(success, failure, f)
    }

    fn update(&self, order: Ordering, f: impl FnOnce(T) -> T) -> T {
        self.try_update(order, Ordering::Relaxed, |seen| Some(f(seen)))
            .unwrap_or_else(|seen| seen)
    }

    fn try_update(
        &self,
        success: Ordering,
        failure: Ordering,
        f: impl FnOnce(T) -> Option<T>,
    ) -> Result<T, T> {
        self.access(true, |memory, place| {
            let update = |bits| {
                let new = f(T::from_bits(bits))?;
                self.set(new);
                Some(new.to_bits())
            };
            memory
                .update(place, success, failure, update)
                .map(T::from_bits)
                .map_err(T::from_bits)
        })
    }

    fn access<R>(&self, is_write: bool, f: impl FnOnce(&mut Memory, usize) -> R) -> R {
        super::switch();
        memory::with(|memory| {
            // SAFETY: see `Sync`; nobody holds a reference into the cell.
            let newest = unsafe { *self.0.get() }.to_bits();
            let place = memory.place(self.address(), newest);
            memory.note(self.address(), is_write);
            f(memory, place)
        })
    }

    fn set(&self, value: T) {
        // SAFETY: see `Sync`; nobody holds a reference into the cell.
        unsafe { *self.0.get() = value }
    }
}

macro_rules! arithmetic {
    ($($integer:ty)*) => {$(
        /// As std's, whether the engine calls them or not.
        #[allow(dead_code)]
        impl Atomic<$integer> {
            pub fn fetch_add(&self, value: $integer, order: Ordering) -> $integer {
                self.update(order, |seen| seen.wrapping_add(value))
            }

            pub fn fetch_sub(&self, value: $integer, order: Ordering) -> $integer {
                self.update(order, |seen| seen.wrapping_sub(value))
            }

            pub fn fetch_and(&self, value: $integer, order: Ordering) -> $integer {
                self.update(order, |seen| seen & value)
            }

            pub fn fetch_or(&self, value: $integer, order: Ordering) -> $integer {
                self.update(order, |seen| seen | value)
            }

            pub fn fetch_max(&self, value: $integer, order: Ordering) -> $integer {
                self.update(order, |seen| seen.max(value))
            }
        }
    )*};
}
arithmetic!(u8 u32 u64 usize isize);

impl<T: Default> Default for Atomic<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Drop for Atomic<T> {
    fn drop(&mut self) {
        memory::forget(self.address());
    }
}

pub(crate) fn fence(order: Ordering) {
    super::switch();
    memory::with(|memory| memory.fence(order));
}

/// The machine has no compiler.
pub(crate) fn compiler_fence(_order: Ordering) {}
