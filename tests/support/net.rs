//! Hosts of their own: network namespaces on a bridge, whose packets a test may drop. And a connection that takes long.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::Node;

/// Some hosts, and this one, on one network. It is taken down when this is dropped.
pub struct Network {
    /// What all names begin with.
    name: String,
    /// The network without the number of the host.
    prefix: [u8; 3],
    hosts: usize,
}

impl Network {
    /// So many hosts; none, with a word about it, where this system or user can not have them.
    pub fn new(hosts: usize) -> Option<Network> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = process::id() * 8 + NEXT.fetch_add(1, Ordering::SeqCst);
        let network = Network {
            name: format!("cc{}", number % 1_000_000),
            prefix: [10, 128 + (number >> 8) as u8 % 128, number as u8],
            hosts,
        };
        match network.put_up() {
            Ok(()) => Some(network),
            Err(why) => {
                eprintln!(
                    "SKIPPED: no network namespaces here, so no test of a network that fails: {why}. It takes root, \
                     iproute2 and iptables"
                );
                None
            }
        }
    }

    fn put_up(&self) -> Result<(), String> {
        let Network { name, hosts, .. } = self;
        ip(&format!("link add {name} type bridge"))?;
        ip(&format!("addr add {}/24 dev {name}", self.here()))?;
        ip(&format!("link set {name} up"))?;
        for host in 0..*hosts {
            let space = self.space(host);
            ip(&format!("netns add {space}"))?;
            ip(&format!(
                "link add {space} type veth peer name eth0 netns {space}"
            ))?;
            ip(&format!("link set {space} master {name} up"))?;
            ip(&format!(
                "-n {space} addr add {}/24 dev eth0",
                self.address(host)
            ))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
            self.iptables(host, "-L")?;
        }
        Ok(())
    }

    /// Where this process is on the network.
    pub fn here(&self) -> Ipv4Addr {
        self.numbered(254)
    }

    pub fn address(&self, host: usize) -> Ipv4Addr {
        self.numbered(host as u8 + 1)
    }

    fn numbered(&self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.prefix;
        Ipv4Addr::new(a, b, c, host)
    }

    fn space(&self, host: usize) -> String {
        format!("{}h{host}", self.name)
    }

    /// Starts a node on each host, which knows of all.
    pub fn start_nodes(&self, args: &[&str]) -> Vec<Node> {
        let addresses = (0..self.hosts).map(|host| SocketAddr::from((self.address(host), 8800)));
        let peers: Vec<_> = addresses.map(|address| address.to_string()).collect();
        let peers = peers.join(",");
        let start = |host| {
            let mut command = Command::new("ip");
            command.args([
                "netns",
                "exec",
                &self.space(host),
                env!("CARGO_BIN_EXE_corecache"),
            ]);
            command.stdin(Stdio::null());
            let args = [&["--insecure", "--peers", &peers], args].concat();
            Node::start_with(command, (self.address(host), 8800).into(), args)
        };
        (0..self.hosts).map(start).collect()
    }

    /// From now on `at` gets nothing of what `from` sends.
    pub fn deafen(&self, at: usize, from: usize) {
        let rule = format!("-A INPUT -s {} -j DROP", self.address(from));
        self.iptables(at, &rule).expect("packets can be dropped");
    }

    /// From now on `at` does not get one in so many packets of what `from` sends, by chance.
    pub fn lose(&self, at: usize, from: usize, one_in: u32) {
        let part = 1.0 / f64::from(one_in);
        let rule = format!(
            "-A INPUT -s {} -m statistic --mode random --probability {part:.4} -j DROP",
            self.address(from)
        );
        self.iptables(at, &rule).expect("packets can be dropped");
    }

    /// All get everything again.
    pub fn heal(&self) {
        for host in 0..self.hosts {
            self.iptables(host, "-F INPUT")
                .expect("rules can be removed");
        }
    }

    fn iptables(&self, host: usize, args: &str) -> Result<(), String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(host), "iptables", "-w"]);
        succeed(command.args(args.split(' ')))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            let _ = ip(&format!("netns del {}", self.space(host)));
        }
        let _ = ip(&format!("link del {}", self.name));
    }
}

fn ip(args: &str) -> Result<(), String> {
    succeed(Command::new("ip").args(args.split(' ')))
}

fn succeed(command: &mut Command) -> Result<(), String> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(format!("{command:?}: {words}"))
        }
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// A way to `to` on which all takes so long, each way. It ends with the process of the test.
pub fn slow_way(listener: TcpListener, to: SocketAddr, delay: Duration) {
    way(listener, to, move |from, to| carry(from, to, delay));
}

/// A way to `to`, on which `carry` sees to each direction of a connection.
fn way(
    listener: TcpListener,
    to: SocketAddr,
    carry: impl Fn(TcpStream, TcpStream) + Send + 'static,
) {
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(to) else {
                continue;
            };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let copies = near
                .try_clone()
                .and_then(|near| Ok((near, far.try_clone()?)));
            let Ok((near_too, far_too)) = copies else {
                continue;
            };
            carry(near, far);
            carry(far_too, near_too);
        }
    });
}

/// Carries what one says to the other, late.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, carried) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(len @ 1..) = from.read(&mut bytes) {
            if sender
                .send((Instant::now() + delay, bytes[..len].to_vec()))
                .is_err()
            {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in carried {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// A way that a test can close.
pub struct Gate(Arc<AtomicU8>);

const OPEN: u8 = 0;
const SILENT: u8 = 1;
const CUT: u8 = 2;

impl Gate {
    /// An open way to `to`.
    pub fn new(listener: TcpListener, to: SocketAddr) -> Gate {
        let state = Arc::new(AtomicU8::new(OPEN));
        let at = state.clone();
        way(listener, to, move |from, to| pass(from, to, at.clone()));
        Gate(state)
    }

    /// Nothing comes through any more, and nobody is told.
    pub fn fall_silent(&self) {
        self.0.store(SILENT, Ordering::SeqCst);
    }

    /// Connections end, and new ones too.
    pub fn cut(&self) {
        self.0.store(CUT, Ordering::SeqCst);
    }
}

/// Passes on what one says to the other, while the gate is open.
fn pass(mut from: TcpStream, mut to: TcpStream, gate: Arc<AtomicU8>) {
    from.set_read_timeout(Some(Duration::from_millis(5)))
        .expect("a time limit can be set");
    thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        loop {
            match gate.load(Ordering::SeqCst) {
                OPEN => {}
                SILENT => {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
                _ => break,
            }
            match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(len) if to.write_all(&bytes[..len]).is_ok() => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => break,
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}
