//! What systemd is told of a node: that it serves, that it is alive, that it stops; sd_notify(3) has the protocol.
//! Elsewhere nobody is told anything.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::thread;
use std::time::Duration;

use corecache::server::Node;

/// Between the end of a drain and the end of the process, at the most.
const END: Duration = Duration::from_secs(10);

/// Tells that the node serves; and from now on that it is alive, where the unit has a watchdog.
pub fn serving(node: &Node) {
    tell_or_warn(&format!("READY=1\nSTATUS=serving on {}", node.listen()));
    if let Some(limit) = watchdog()
        && let Err(error) = watch(node.pulse(), limit)
    {
        log::warn!("systemd's watchdog will not be answered: {error}");
    }
}

/// Tells that the node stops, and how long that may take, whatever the unit says about it.
pub fn stopping(patience: Duration) {
    let micros = (patience + END).as_micros();
    tell_or_warn(&format!(
        "STOPPING=1\nSTATUS=draining for up to {} s\nEXTEND_TIMEOUT_USEC={micros}",
        patience.as_secs_f64()
    ));
}

/// The time after which systemd takes a silent node for dead, if it does.
fn watchdog() -> Option<Duration> {
    let micros = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    // One of another process, which this one has inherited the environment of, is none.
    let is_ours = env::var("WATCHDOG_PID").map_or(true, |pid| pid == process::id().to_string());
    (is_ours && micros > 0).then(|| Duration::from_micros(micros))
}

/// Says that the node is alive each time that its pulse was felt. A node whose pulse stops says nothing more.
fn watch(pulse: impl Fn() + Send + 'static, limit: Duration) -> io::Result<()> {
    let watchdog = thread::Builder::new().name("watchdog".to_owned());
    watchdog.spawn(move || {
        loop {
            pulse();
            if let Err(error) = tell("WATCHDOG=1") {
                log::debug!("systemd can not be told that the node is alive: {error}");
            }
            thread::sleep(limit / 3);
        }
    })?;
    Ok(())
}

fn tell_or_warn(state: &str) {
    if let Err(error) = tell(state) {
        log::warn!("systemd can not be told {state:?}: {error}");
    }
}

fn tell(state: &str) -> io::Result<()> {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address(&socket)?)
        .map(drop)
}

/// The address of a socket that is a file; or of one that has a name and no file.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    if let Some(name) = socket.as_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(socket)
}
