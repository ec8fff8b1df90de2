//! `membarrier(2)`: a full fence on every core that runs a thread of this process.

#[cfg(target_os = "linux")]
mod linux {
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    fn call(command: libc::c_int) -> libc::c_long {
        // SAFETY: the call takes no pointers and changes nothing but the order of memory accesses.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
    }

    pub(crate) fn register() -> bool {
        call(REGISTER_PRIVATE_EXPEDITED) == 0
    }

    pub(crate) fn run() {
        // Registered, it can only fail if the kernel breaks its word; then nothing may be freed.
        assert_eq!(
            call(PRIVATE_EXPEDITED),
            0,
            "membarrier failed after it was registered"
        );
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{register, run};

/// Registers this process; false where there is no such call.
#[cfg(not(target_os = "linux"))]
pub(crate) fn register() -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn run() {}
