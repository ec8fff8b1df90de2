//! The connections that are open, and how many may be.
//!
//! The gRPC core has no limit for them. It lets a *socket mutator* look at each socket that it accepts, and that is
//! where they are counted: by descriptor and by the number that the kernel gives to no other socket. One too many is
//! shut down there, and the core closes it as it would any other whose peer has gone. (A mutator that refuses a socket
//! would end the listener.) What has been closed since is only looked for when the limit seems to be reached: a
//! descriptor that is not that socket any more counts no longer.
//!
//! A call is told by its peer's address, and so the connection that it came by is found: the core does not tell a unary
//! call that its caller has gone, the socket does.

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use grpcio::{ChannelBuilder, ServerBuilder};
use grpcio_sys::{
    grpc_arg_grpc_arg_value_grpc_arg_pointer as ArgPointer, grpc_arg_pointer_vtable as ArgVtable,
    grpc_arg_type,
};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::lookout::Line;

const ARGUMENT: &CStr = c"grpc.socket_mutator";
/// Looking for those that have been closed takes a system call for each: so often it is done at the most.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the kernel keeps of what a peer has sent and the node has not read.
const RECEIVED_MAX_BYTES: usize = 256 << 10;
/// How long those that send most are looked for.
const WEIGH: Duration = Duration::from_millis(10);
/// Who sends no more in that time is not the one.
const HEAVY_BYTES: u64 = 8 << 10;

/// It lives as long as the process: the gRPC core may call it as long. A copy is the same.
#[derive(Clone, Copy)]
pub(super) struct Connections(&'static Mutator);

struct Counted {
    limit: usize,
    open: Mutex<Open>,
    /// Those of the express door, which tells when they are closed; they are among `open` too.
    express: AtomicUsize,
    refused: AtomicU64,
    cut: AtomicU64,
}

#[derive(Default)]
struct Open {
    /// By descriptor.
    sockets: HashMap<RawFd, Arc<Connection>>,
    /// The descriptors, by the peers' addresses; some of them may have been closed.
    by_peer: HashMap<SocketAddr, RawFd>,
    looked_at: Option<Instant>,
}

/// A socket that was accepted.
struct Connection {
    raw: RawFd,
    /// What the kernel calls it, and no other.
    number: u64,
    peer: Option<SocketAddr>,
}

impl Line for Connection {
    fn is_cut(&self) -> bool {
        // SAFETY: whatever the descriptor is by now, it is only looked at.
        let fd = unsafe { BorrowedFd::borrow_raw(self.raw) };
        if number(fd) != Some(self.number) {
            return true;
        }
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut polled, Some(&at_once)).is_ok() && polled[0].revents().intersects(gone)
    }
}

impl Connections {
    pub fn new(limit: usize) -> Self {
        Self(Box::leak(Box::new(Mutator {
            vtable: &VTABLE,
            references: AtomicIsize::new(1),
            counted: Counted {
                limit,
                open: Mutex::default(),
                express: AtomicUsize::new(0),
                refused: AtomicU64::new(0),
                cut: AtomicU64::new(0),
            },
        })))
    }

    /// Gives a server these arguments, and has its connections counted.
    pub fn count(&self, server: ServerBuilder, arguments: ChannelBuilder) -> ServerBuilder {
        // grpcio sets numbers and strings alone: what it sets here is a place for the pointer.
        let arguments = arguments.raw_cfg_int(ARGUMENT.into(), 0).build_args();
        let pointer = ArgPointer {
            p: std::ptr::from_ref(self.0).cast_mut().cast(),
            vtable: &ARG_VTABLE,
        };
        // SAFETY: the arguments are a list of valid names and values, and nobody else has them yet.
        unsafe {
            let list = *arguments.as_ptr();
            for argument in slice::from_raw_parts_mut(list.args, list.num_args) {
                if CStr::from_ptr(argument.key) == ARGUMENT {
                    argument.type_ = grpc_arg_type::GRPC_ARG_POINTER;
                    argument.value.pointer = pointer;
                }
            }
        }
        server.channel_args(arguments)
    }

    /// The connection of a call with this peer, as the C-core writes it, if it is known.
    pub fn of_peer(&self, peer: &str) -> Option<Arc<dyn Line>> {
        let peer = address(peer)?;
        let open = self.0.counted.open.lock();
        let socket = open.sockets.get(open.by_peer.get(&peer)?)?;
        (socket.peer == Some(peer)).then(|| socket.clone() as Arc<dyn Line>)
    }

    /// Counts a connection of the express door until what is returned is dropped; none if there is no room for it.
    pub fn admit(&self, fd: BorrowedFd<'_>) -> Option<Admitted> {
        let raw = fd.as_raw_fd();
        let number = number(fd)?;
        let counted = &self.0.counted;
        // By its peer the front door would find its own.
        let peer = None;
        if !counted.take_in(Connection { raw, number, peer }) {
            return None;
        }
        counted.express.fetch_add(1, Ordering::Relaxed);
        Some(Admitted {
            connections: *self,
            raw,
            number,
        })
    }

    /// How many are open, at both doors.
    pub fn open(&self) -> usize {
        let mut open = self.0.counted.open.lock();
        open.forget_closed();
        open.sockets.len()
    }

    /// How many of them are the express door's.
    pub fn express(&self) -> usize {
        self.0.counted.express.load(Ordering::Relaxed)
    }

    /// How many were closed because there were too many.
    pub fn refused(&self) -> u64 {
        self.0.counted.refused.load(Ordering::Relaxed)
    }

    /// How many were cut because the process had grown too large.
    pub fn cut(&self) -> u64 {
        self.0.counted.cut.load(Ordering::Relaxed)
    }

    /// Resets the connection that sends most; false if none sends much.
    pub fn cut_heaviest(&self) -> bool {
        let counted = &self.0.counted;
        let sockets: Vec<_> = {
            let open = counted.open.lock();
            open.sockets
                .iter()
                .map(|(&raw, socket)| (raw, socket.number))
                .collect()
        };
        let mut weighed: Vec<_> = sockets
            .into_iter()
            .filter_map(|(raw, socket)| {
                let held = hold(raw, socket)?;
                let before = received_bytes(&held)?;
                Some((held, before))
            })
            .collect();
        thread::sleep(WEIGH);
        let sent =
            |(held, before): &(OwnedFd, u64)| received_bytes(held).map_or(0, |now| now - before);
        weighed.retain(|weighed| sent(weighed) > HEAVY_BYTES);
        let Some((heaviest, _)) = weighed.into_iter().max_by_key(sent) else {
            return false;
        };
        counted.cut.fetch_add(1, Ordering::Relaxed);
        // After a shutdown what has arrived would still be read: megabytes of it.
        rustix::net::connect_unspec(heaviest).is_ok()
    }
}

/// A connection of the express door, counted.
pub(super) struct Admitted {
    connections: Connections,
    raw: RawFd,
    number: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let counted = &self.connections.0.counted;
        counted.express.fetch_sub(1, Ordering::Relaxed);
        let mut open = counted.open.lock();
        let of_descriptor = open.sockets.get(&self.raw);
        if of_descriptor.is_some_and(|socket| socket.number == self.number) {
            open.forget(self.raw);
        }
    }
}

impl Counted {
    /// Counts a connection, or shuts it down.
    fn accept(&self, fd: BorrowedFd<'_>, raw: RawFd) {
        // Requests are small, and what the kernel holds of a flood is read after it was cut.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(fd, RECEIVED_MAX_BYTES);
        let Some(number) = number(fd) else { return };
        let peer = rustix::net::getpeername(fd).ok();
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer?).ok());
        let peer = peer.map(canonical);
        if !self.take_in(Connection { raw, number, peer }) {
            let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
        }
    }

    /// Counts a connection; false if it is one too many.
    fn take_in(&self, connection: Connection) -> bool {
        let Connection { raw, peer, .. } = connection;
        let mut open = self.open.lock();
        // Whatever had the descriptor before has been closed.
        open.forget(raw);
        open.sockets.insert(raw, Arc::new(connection));
        if let Some(peer) = peer {
            open.by_peer.insert(peer, raw);
        }
        let now = Instant::now();
        let may_look = |at| now.duration_since(at) >= LOOK_EVERY;
        if open.sockets.len() > self.limit && open.looked_at.is_none_or(may_look) {
            open.looked_at = Some(now);
            open.forget_closed();
        }
        let is_one_too_many = open.sockets.len() > self.limit;
        if is_one_too_many {
            open.forget(raw);
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        !is_one_too_many
    }
}

impl Open {
    fn forget(&mut self, raw: RawFd) {
        let peer = self.sockets.remove(&raw).and_then(|socket| socket.peer);
        if let Some(peer) = peer
            && self.by_peer.get(&peer) == Some(&raw)
        {
            self.by_peer.remove(&peer);
        }
    }

    fn forget_closed(&mut self) {
        let is_closed = |socket: &&Arc<Connection>| {
            // SAFETY: the descriptor may be closed, or another file's by now; then its number is another one, or none.
            let fd = unsafe { BorrowedFd::borrow_raw(socket.raw) };
            number(fd) != Some(socket.number)
        };
        let closed = self.sockets.values().filter(is_closed);
        let closed: Vec<_> = closed.map(|socket| socket.raw).collect();
        closed.into_iter().for_each(|raw| self.forget(raw));
    }
}

/// The address in what the C-core calls a peer: `ipv4:127.0.0.1:80`, `ipv6:%5B::1%5D:80`.
fn address(peer: &str) -> Option<SocketAddr> {
    let (_, address) = peer.split_once(':')?;
    let address = address.replace("%5B", "[").replace("%5D", "]");
    address.parse().ok().map(canonical)
}

/// An IPv4 peer of an IPv6 listener is called by its IPv4 address. What else goes with an address tells no peers apart.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A descriptor of our own for a socket, if it is that one still.
fn hold(raw: RawFd, socket: u64) -> Option<OwnedFd> {
    // SAFETY: whatever the descriptor is by now, it is only copied; what the copy is, is looked at.
    let fd = unsafe { BorrowedFd::borrow_raw(raw) };
    let held = rustix::io::fcntl_dupfd_cloexec(fd, 0).ok()?;
    (number(held.as_fd()) == Some(socket)).then_some(held)
}

/// What a peer has sent so far.
fn received_bytes(fd: &OwnedFd) -> Option<u64> {
    /// Where `struct tcp_info` of Linux 4.1 and later has it (`tcpi_bytes_received`).
    const AT: usize = 128;
    let mut info = [0_u8; AT + 8];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes up to `len` bytes.
    let status = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    let bytes = info[AT..].first_chunk()?;
    (status == 0 && len as usize == info.len()).then(|| u64::from_ne_bytes(*bytes))
}

/// What the kernel calls the socket; none for what is none.
fn number(fd: BorrowedFd<'_>) -> Option<u64> {
    rustix::net::sockopt::socket_cookie(fd).ok()
}

/// `grpc_socket_mutator` of the C-core (`src/core/lib/iomgr/socket_mutator.h`), and what is ours behind it.
#[repr(C)]
struct Mutator {
    vtable: *const MutatorVtable,
    /// Never 0: one is ours.
    references: AtomicIsize,
    counted: Counted,
}

// SAFETY: the pointer is to a constant, and the rest can be shared.
unsafe impl Sync for Mutator {}

#[repr(C)]
struct MutatorVtable {
    mutate: Option<extern "C" fn(c_int, *mut Mutator) -> bool>,
    compare: extern "C" fn(*mut Mutator, *mut Mutator) -> c_int,
    destroy: extern "C" fn(*mut Mutator),
    mutate_for: unsafe extern "C" fn(*const Socket, *mut Mutator) -> bool,
}

#[repr(C)]
struct Socket {
    fd: c_int,
    usage: c_int,
}

/// A socket that was accepted; listeners are shown too.
const SERVER_CONNECTION: c_int = 2;

static VTABLE: MutatorVtable = MutatorVtable {
    mutate: None,
    compare,
    destroy: forget,
    mutate_for: look_at,
};

static ARG_VTABLE: ArgVtable = ArgVtable {
    copy: Some(same),
    destroy: Some(leave),
    cmp: Some(order),
};

/// # Safety
/// To be called by the C-core, with a socket of its own and a mutator of ours.
unsafe extern "C" fn look_at(socket: *const Socket, mutator: *mut Mutator) -> bool {
    // SAFETY: the caller's promise.
    let (socket, mutator) = unsafe { (&*socket, &*mutator) };
    if socket.usage == SERVER_CONNECTION {
        // SAFETY: the C-core has just opened it, and closes it later.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.fd) };
        mutator.counted.accept(fd, socket.fd);
    }
    true
}

extern "C" fn compare(a: *mut Mutator, b: *mut Mutator) -> c_int {
    a.cmp(&b) as c_int
}

extern "C" fn forget(_: *mut Mutator) {}

unsafe extern "C" fn same(pointer: *mut c_void) -> *mut c_void {
    pointer
}

unsafe extern "C" fn leave(_: *mut c_void) {}

unsafe extern "C" fn order(a: *mut c_void, b: *mut c_void) -> c_int {
    a.cmp(&b) as c_int
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn accept(connections: &Connections, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let counted = &connections.0.counted;
        counted.accept(accepted.as_fd(), accepted.as_raw_fd());
        (client, accepted)
    }

    #[test]
    fn one_too_many_is_shut_down_until_another_has_gone() {
        let connections = Connections::new(2);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = accept(&connections, &listener);
        let _second = accept(&connections, &listener);
        let (mut refused, _third) = accept(&connections, &listener);
        assert_eq!(refused.read(&mut [0]).unwrap(), 0, "it has ended");
        assert_eq!((connections.open(), connections.refused()), (2, 1));
        drop(first);
        assert_eq!(connections.open(), 1);
        let _fourth = accept(&connections, &listener);
        assert_eq!((connections.open(), connections.refused()), (2, 1));
    }

    #[test]
    fn both_doors_have_one_limit() {
        let connections = Connections::new(2);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, listener.accept().unwrap().0)
        };
        let first = accept(&connections, &listener);
        let second = connect();
        let admitted = connections.admit(second.1.as_fd()).unwrap();
        assert_eq!((connections.open(), connections.express()), (2, 1));
        let third = connect();
        assert!(connections.admit(third.1.as_fd()).is_none());
        let (mut refused, _fourth) = accept(&connections, &listener);
        assert_eq!(refused.read(&mut [0]).unwrap(), 0, "it has ended");
        drop(admitted);
        assert_eq!((connections.open(), connections.express()), (1, 0));
        assert!(connections.admit(third.1.as_fd()).is_some());
        drop(first);
        assert_eq!((connections.open(), connections.refused()), (0, 2));
    }

    #[test]
    fn a_connection_is_found_by_its_peer_and_tells_when_that_has_gone() {
        let connections = Connections::new(9);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, mut accepted) = accept(&connections, &listener);
        let (_other, _) = accept(&connections, &listener);
        let peer = format!("ipv4:{}", client.local_addr().unwrap());
        let line = connections.of_peer(&peer).unwrap();
        assert!(connections.of_peer("ipv4:127.0.0.1:1").is_none());
        (&client).write_all(b"x").unwrap();
        assert!(!line.is_cut());
        drop(client);
        while accepted.read(&mut [0; 9]).unwrap() > 0 {}
        assert!(line.is_cut(), "its peer has gone");
        drop(accepted);
        assert!(line.is_cut(), "it is closed");
        assert_eq!(connections.open(), 0, "both are closed");
        assert!(connections.of_peer(&peer).is_none());
    }

    #[test]
    fn peers_are_called_as_the_core_calls_them() {
        let parsed = |text: &str| text.parse::<SocketAddr>().ok();
        assert_eq!(address("ipv4:127.0.0.1:80"), parsed("127.0.0.1:80"));
        assert_eq!(address("ipv6:%5B::1%5D:80"), parsed("[::1]:80"));
        assert_eq!(address("ipv6:[::1]:80"), parsed("[::1]:80"));
        assert_eq!(address("ipv6:[::ffff:1.2.3.4]:80"), parsed("1.2.3.4:80"));
        assert_eq!(address("unix:/run/socket"), None);
    }

    #[test]
    fn the_heaviest_is_cut_and_no_other() {
        let connections = Connections::new(9);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pairs: Vec<_> = (0..3).map(|_| accept(&connections, &listener)).collect();
        assert!(!connections.cut_heaviest(), "none sends anything");
        let mut heavy = pairs[1].0.try_clone().unwrap();
        let mut read = pairs[1].1.try_clone().unwrap();
        let flood = thread::spawn(move || while heavy.write_all(&[0; 1000]).is_ok() {});
        thread::spawn(move || while read.read(&mut [0; 1000]).is_ok_and(|len| len > 0) {});
        while !connections.cut_heaviest() {}
        flood.join().unwrap();
        assert_eq!(connections.cut(), 1);
        for index in [0, 2] {
            let (mut client, mut accepted) = (&pairs[index].0, &pairs[index].1);
            client.write_all(b"x").unwrap();
            assert_eq!(accepted.read(&mut [0; 9]).unwrap(), 1);
        }
    }
}
