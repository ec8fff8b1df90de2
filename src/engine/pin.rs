//! Binding a thread to a core.

use std::io;

/// Binds the calling thread to one core of the machine, by the system's number.
///
/// # Errors
/// The system's refusal: a core that is not there, or that a container does not give to this process. On systems
/// other than Linux always [`io::ErrorKind::Unsupported`].
pub fn pin_to_core(core: usize) -> io::Result<()> {
    imp::pin(core)
}

#[cfg(target_os = "linux")]
mod imp {
    use std::io;
    use std::mem;

    pub fn pin(core: usize) -> io::Result<()> {
        if core >= libc::CPU_SETSIZE as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: a set of all zeros is an empty set; the core lies within it; the call reads the set alone.
        let refused = unsafe {
            let mut set: libc::cpu_set_t = mem::zeroed();
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
        };
        if refused == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::io;

    pub fn pin(_core: usize) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
