//! From a stored frame to the C-core's slice: a copy of a small one, a reference to a large one.

use std::cell::Cell;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;

use grpcio::GrpcSlice;

use super::outgoing::Encoded;
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

/// Whether it is a copy of a small frame, and holds nothing of the cache.
pub(super) fn is_copy(slice: &GrpcSlice) -> bool {
    slice.len() <= COPY_MAX_BYTES
}

/// A slice of a frame that is held.
pub(super) fn of_blob(frame: &Blob) -> GrpcSlice {
    if frame.len() <= COPY_MAX_BYTES {
        GrpcSlice::from(&**frame)
    } else {
        referring(frame.clone())
    }
}

/// A slice of a part of a blob that is held.
pub(super) fn of_part(blob: &Blob, part: Range<usize>) -> GrpcSlice {
    if part.len() <= COPY_MAX_BYTES {
        GrpcSlice::from(&blob[part])
    } else {
        referring_to(blob.clone(), part)
    }
}

/// A slice of a reply that was put together, counted until the C-core has sent it.
pub(super) fn of_encoded(reply: Encoded) -> GrpcSlice {
    let (bytes, len) = (reply.as_ptr(), reply.len());
    // SAFETY: the bytes lie on the heap, where they stay while the box holds the reply.
    unsafe {
        holding(
            bytes,
            len,
            Box::into_raw(Box::new(reply)).cast(),
            release_encoded,
        )
    }
}

/// A slice that holds the blob until the C-core has sent it. So long the blob counts against the budget.
fn referring(frame: Blob) -> GrpcSlice {
    let all = 0..frame.len();
    referring_to(frame, all)
}

fn referring_to(blob: Blob, part: Range<usize>) -> GrpcSlice {
    let (bytes, len) = (blob[part.clone()].as_ptr(), part.len());
    // SAFETY: the reference that is given away keeps the bytes.
    unsafe { holding(bytes, len, blob.into_raw().as_ptr().cast(), release_blob) }
}

/// A slice of bytes that are not copied.
///
/// # Safety
/// The bytes stay as they are until `release` is called with `held`.
unsafe fn holding(
    bytes: *const u8,
    len: usize,
    held: *mut c_void,
    release: unsafe extern "C" fn(*mut c_void),
) -> GrpcSlice {
    let mut slice = GrpcSlice::default();
    // SAFETY: the bytes live, by the caller's word, until `release` is called, which the C-core does once, when it is
    // done with the slice; it never writes to a slice that it sends. The empty slice written over owns nothing.
    unsafe {
        *slice.as_mut_ptr() = grpcio_sys::grpc_slice_new_with_user_data(
            bytes.cast_mut().cast(),
            len,
            Some(release),
            held,
        );
    }
    slice
}

unsafe extern "C" fn release_blob(held: *mut c_void) {
    if let Some(raw) = NonNull::new(held.cast()) {
        // SAFETY: `referring` gave this pointer away, and the C-core calls back once for each slice.
        drop(unsafe { Blob::from_raw(raw) });
    }
}

unsafe extern "C" fn release_encoded(held: *mut c_void) {
    // SAFETY: `of_encoded` gave this box away, and the C-core calls back once for each slice.
    drop(unsafe { Box::from_raw(held.cast::<Encoded>()) });
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
