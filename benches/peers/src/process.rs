//! Servers in processes of their own, bound to one core.

use std::io::{self, BufRead, BufReader};
use std::mem;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const SERVER_CORE: usize = 0;
const LOAD_CORE: usize = 1;

/// A server, killed when this is dropped.
pub struct Server {
    pub addr: SocketAddr,
    child: Child,
    /// Kept open: the server may go on printing.
    output: Option<BufReader<std::process::ChildStdout>>,
}

impl Server {
    /// Starts `command`, and waits for its line `listening on ADDRESS`.
    pub fn start(command: &mut Command) -> Self {
        let mut child = spawn(command.stdout(Stdio::piped()));
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut output = BufReader::new(stdout);
        Self {
            addr: read_address(&mut output, "listening on "),
            child,
            output: Some(output),
        }
    }

    /// Waits for its line `express on ADDRESS`.
    pub fn express(&mut self) -> SocketAddr {
        let output = self.output.as_mut().expect("it prints its addresses");
        read_address(output, "express on ")
    }

    /// Starts Redis, as it comes, without a file to save to.
    pub fn redis() -> Self {
        let addr = free_address();
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &addr.port().to_string()])
            .args(["--save", "", "--appendonly", "no"]);
        Self::start_at(addr, &mut command)
    }

    /// Starts `command`, and waits until it listens at `addr`.
    pub fn start_at(addr: SocketAddr, command: &mut Command) -> Self {
        let server = Self {
            addr,
            child: spawn(command.stdout(Stdio::null())),
            output: None,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(addr).is_err() {
            let is_late = Instant::now() >= deadline;
            assert!(!is_late, "{command:?} does not listen on {addr}");
            thread::yield_now();
        }
        server
    }

    /// The processor time that it has used, in user and in kernel mode.
    pub fn cpu(&self) -> Duration {
        let id = self.child.id() as libc::pid_t;
        let (mut clock, mut used) = (
            0,
            libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
        );
        // SAFETY: both are plain numbers that live while the calls fill them in.
        let failed = unsafe {
            libc::clock_getcpuclockid(id, &mut clock) != 0
                || libc::clock_gettime(clock, &mut used) != 0
        };
        assert!(!failed, "the server runs, on Linux");
        Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nobody listens at.
pub fn free_address() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.expect("a free port")
}

fn read_address(output: &mut impl BufRead, before: &str) -> SocketAddr {
    let mut line = String::new();
    output.read_line(&mut line).expect("a line of text");
    let addr = line.strip_prefix(before).map(str::trim);
    let addr = addr.and_then(|addr| addr.parse().ok());
    addr.unwrap_or_else(|| panic!("the server said {line:?}, and not its address"))
}

/// What is started inherits the core.
fn spawn(command: &mut Command) -> Child {
    bind(SERVER_CORE);
    let child = command.stdin(Stdio::null()).spawn();
    bind(LOAD_CORE);
    child.unwrap_or_else(|error| panic!("{command:?} does not run: {error}"))
}

/// Binds this thread, and what it starts from now on.
fn bind(core: usize) {
    // SAFETY: a set of cores is plain bits; it lives while the call reads it, and is as long as the call is told.
    let bound = unsafe {
        let mut cores: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(core, &mut cores);
        libc::sched_setaffinity(0, size_of_val(&cores), &cores)
    };
    if bound != 0 {
        println!(
            "note: not bound to core {core}: {}",
            io::Error::last_os_error()
        );
    }
}

/// The processor time of this process, and of its children that have ended.
pub fn own_cpu() -> Duration {
    let used = |who| {
        // SAFETY: the kernel fills the struct in, which is plain numbers.
        let usage = unsafe {
            let mut usage: libc::rusage = mem::zeroed();
            libc::getrusage(who, &mut usage);
            usage
        };
        let time = |time: libc::timeval| {
            Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
        };
        time(usage.ru_utime) + time(usage.ru_stime)
    };
    used(libc::RUSAGE_SELF) + used(libc::RUSAGE_CHILDREN)
}
