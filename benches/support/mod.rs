//! What the benchmarks share: servers in processes of their own, figures, and what is printed of them.

// Each benchmark is a crate of its own, and uses its part of this.
#![allow(dead_code)]

pub mod client;
pub mod cluster;
pub mod echo;
pub mod h2load;
pub mod origin;

use std::env;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use corecache::engine::pin_to_core;

/// The core of the servers that are measured. What loads them is bound to the next one, if there is one.
pub const SERVER_CORE: usize = 0;

/// A server in a process of its own, killed when this is dropped.
pub struct Server {
    pub addr: SocketAddr,
    child: Child,
    /// Kept open: the server may go on printing.
    output: BufReader<ChildStdout>,
}

impl Server {
    /// Starts `command`, and waits for its line `listening on ADDRESS`.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server's binary runs");
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut output = BufReader::new(stdout);
        Self {
            addr: read_address(&mut output, "listening on "),
            child,
            output,
        }
    }

    /// Starts a node of this build on a free port, without its admin pages.
    pub fn node<'a>(args: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corecache"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "off"]);
        command.args(["--express", "off"]);
        Self::start(command.args(args))
    }

    /// The same with the express door, and where that is.
    pub fn express_node<'a>(args: impl IntoIterator<Item = &'a str>) -> (Self, SocketAddr) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corecache"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "off"]);
        command.args(["--express", "127.0.0.1:0"]);
        let mut server = Self::start(command.args(args));
        let express = read_address(&mut server.output, "express on ");
        (server, express)
    }

    /// The processor time that it has used, in user and in kernel mode.
    pub fn cpu(&self) -> Duration {
        cpu_of(&self.child.id().to_string())
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak_rss_bytes(&self) -> u64 {
        self.memory_bytes("VmHWM:")
    }

    /// The memory that it has, in bytes.
    pub fn rss_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS:")
    }

    fn memory_bytes(&self, field: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        1024 * kib.and_then(|kib| kib.parse::<u64>().ok()).expect(field)
    }

    fn proc(&self, file: &str) -> String {
        proc(&self.child.id().to_string(), file)
    }
}

/// The processor time that this process has used.
pub fn own_cpu() -> Duration {
    cpu_of("self")
}

fn cpu_of(process: &str) -> Duration {
    // Fixed for programs, whatever the kernel counts in.
    const TICK: Duration = Duration::from_millis(10);
    let stat = proc(process, "stat");
    let (_, after_name) = stat.rsplit_once(')').expect("a process has a name");
    // proc(5): utime and stime are the fields 14 and 15; here field 3 comes first.
    let ticks = after_name.split_whitespace().skip(11).take(2);
    TICK * ticks
        .map(|field| field.parse::<u32>().expect("a number of ticks"))
        .sum()
}

fn proc(process: &str, file: &str) -> String {
    let path = format!("/proc/{process}/{file}");
    fs::read_to_string(path).expect("this benchmark needs Linux, and the server to run")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_address(output: &mut impl BufRead, before: &str) -> SocketAddr {
    let mut line = String::new();
    output.read_line(&mut line).expect("a line of text");
    let addr = line.strip_prefix(before).map(str::trim);
    let addr = addr.and_then(|addr| addr.parse().ok());
    addr.unwrap_or_else(|| panic!("the server said {line:?}, and not its address"))
}

/// Puts the calling thread, and those that it makes from now on, behind all others where they compete for a core: it stands for
/// what has machines of its own.
pub fn give_way() {
    // SAFETY: it takes numbers alone; 0 is the calling thread.
    let refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    assert_eq!(refused, 0, "a thread may always lower its priority");
}

/// Binds this thread, and what it starts from now on, to the core after the servers'; says where that is not possible.
pub fn leave_server_core() {
    if let Err(error) = pin_to_core(SERVER_CORE + 1) {
        println!("note        server and load share a core: {error}");
    }
}

/// Writes a certificate for 127.0.0.1 to the file `cert`, and its key, of RSA with 2048 bits, to `key`.
pub fn make_certificate(cert: &str, key: &str) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-keyout", key, "-out", cert])
        .output();
    let made = made.expect("openssl runs");
    assert!(made.status.success(), "{made:?}");
}

/// The number after the argument `name`, as in `cargo bench --bench front_door -- --pairs 5`.
pub fn argument(name: &str, default: usize) -> usize {
    let given = env::args().skip_while(|arg| arg != name).nth(1);
    given.map_or(default, |number| {
        number.parse().expect("a number after its name")
    })
}

/// Prints what is measured, and on which machine.
pub fn print_head(title: &str) {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("{title}");
    println!(
        "machine     {} cores, {}, Linux {}",
        thread::available_parallelism().map_or(1, usize::from),
        model.map_or("unknown CPU", |(_, model)| model),
        kernel.trim()
    );
}

/// Prints the figure that was asked for, and whether it was reached.
pub fn print_verdict(wanted: &str, is_reached: bool) {
    let verdict = if is_reached { "reached" } else { "NOT REACHED" };
    println!("wanted      {wanted}: {verdict}");
}

/// How figures of one kind are spread.
pub struct Spread(Vec<f64>);

impl Spread {
    /// # Panics
    /// If there are none.
    pub fn new(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<_> = figures.into_iter().collect();
        assert!(!sorted.is_empty(), "a spread of no figures");
        sorted.sort_unstable_by(f64::total_cmp);
        Self(sorted)
    }

    /// The figure that the part `q` of them does not exceed.
    pub fn quantile(&self, q: f64) -> f64 {
        let rank = (q * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() % 2 {
            0 => (self.0[middle - 1] + self.0[middle]) / 2.0,
            _ => self.0[middle],
        }
    }
}

impl fmt::Display for Spread {
    /// With the precision that is asked for, as in `{:.2}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        write!(
            f,
            "median {:.digits$}, quartiles {:.digits$}..{:.digits$}, all {:.digits$}..{:.digits$}",
            self.median(),
            self.quantile(0.25),
            self.quantile(0.75),
            self.quantile(0.0),
            self.quantile(1.0)
        )
    }
}

/// What stands between the first `start` and the first `end` after it.
pub fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(found, _)| found)
}
