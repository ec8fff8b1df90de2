//! From a stored frame to the C-core's slice: a copy of a small one, a reference to a large one.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::NonNull;

use grpcio::GrpcSlice;

use crate::engine::{Blob, Lent};

/// Up to here a copy costs less than a reference that the cores that answer would all count up and down.
const COPY_MAX_BYTES: usize = 4096;

/// A slice of a frame that is lent.
pub(super) fn of_lent(frame: &Lent) -> GrpcSlice {
    if frame.value().len() <= COPY_MAX_BYTES {
        GrpcSlice::from(frame.value())
    } else {
        referring(frame.to_blob())
    }
}

/// A slice of a frame that is held.
pub(super) fn of_blob(frame: &Blob) -> GrpcSlice {
    if frame.len() <= COPY_MAX_BYTES {
        GrpcSlice::from(&**frame)
    } else {
        referring(frame.clone())
    }
}

/// A slice that holds the blob until the C-core has sent it. So long the blob counts against the budget.
fn referring(frame: Blob) -> GrpcSlice {
    let (bytes, len) = (frame.as_ptr().cast_mut().cast(), frame.len());
    let mut slice = GrpcSlice::default();
    // SAFETY: the bytes live until `release` gives the reference back, which the C-core does once, when it is done
    // with the slice; it never writes to a slice that it sends. The empty slice that is written over owns nothing.
    unsafe {
        let held = frame.into_raw().as_ptr().cast();
        *slice.as_mut_ptr() =
            grpcio_sys::grpc_slice_new_with_user_data(bytes, len, Some(release), held);
    }
    slice
}

unsafe extern "C" fn release(held: *mut c_void) {
    if let Some(raw) = NonNull::new(held.cast()) {
        // SAFETY: `referring` gave this pointer away, and the C-core calls back once for each slice.
        drop(unsafe { Blob::from_raw(raw) });
    }
}

/// An encoded reply, on its way to the C-core.
pub(super) struct Reply(Cell<Option<GrpcSlice>>);

impl Reply {
    pub fn new(slice: GrpcSlice) -> Self {
        Self(Cell::new(Some(slice)))
    }

    /// Hands the slice over; grpcio asks for it once.
    pub fn serialize(&self, into: &mut GrpcSlice) -> grpcio::Result<()> {
        if let Some(slice) = self.0.take() {
            *into = slice;
        }
        Ok(())
    }
}
