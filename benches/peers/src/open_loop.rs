//! Calls that are sent when their time has come, whether replies to others have come or not.
//!
//! When that is, is drawn beforehand (independent arrivals at a given rate), and the time of a call counts from then, so
//! what a server is late with is not left out (coordinated omission), nor is what the load itself is late with. The load
//! is one thread that never sleeps.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::grpc;
use crate::h2::{Connection, Event};
use crate::rounds::Goal;
use crate::spread::Spread;

const ROUND: Duration = Duration::from_secs(1);
/// After it a reply is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// One round: times of calls in us, and how late they were sent.
struct Round {
    calls: Spread,
    late: Spread,
}

/// Lets two take turns, and prints what the first's 99th percentile is over the second's.
pub fn compare(
    servers: [(&str, SocketAddr); 2],
    connections: usize,
    a_second: f64,
    pairs: usize,
    goal: Goal,
) {
    let mut rounds: [Vec<Round>; 2] = Default::default();
    for pair in 0..pairs {
        let due = arrivals(a_second, pair as u64);
        for ((_, addr), rounds) in servers.iter().zip(&mut rounds) {
            let round = round(*addr, connections, &due);
            rounds.push(round.expect("all calls are answered"));
        }
    }
    for ((name, _), rounds) in servers.iter().zip(&rounds) {
        let of = |figure: fn(&Round) -> f64| Spread::of(rounds.iter().map(figure));
        println!(
            "{name:<19} us, 50th percentile {}",
            of(|round| round.calls.median())
        );
        for (name, part) in [("99th", 0.99), ("99.9th", 0.999)] {
            let quantiles = rounds.iter().map(|round| round.calls.quantile(part));
            println!("                    {name} {}", Spread::of(quantiles));
        }
        println!(
            "                    sent late by, 99th {}",
            of(|round| round.late.quantile(0.99))
        );
    }
    let p99 = |round: &Round| round.calls.quantile(0.99);
    let ratios = rounds[0]
        .iter()
        .zip(&rounds[1])
        .map(|(a, b)| p99(a) / p99(b));
    println!("ratio of 99th       {}", goal.verdict(&Spread::of(ratios)));
}

/// When each call of a round is due.
fn arrivals(a_second: f64, seed: u64) -> Vec<Duration> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(2 * seed + 1);
    let mut at = Duration::ZERO;
    std::iter::from_fn(|| {
        // xorshift64* (Vigna)
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let draw = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64;
        at += Duration::from_secs_f64(-(1.0 - draw).ln() / a_second);
        (at < ROUND).then_some(at)
    })
    .collect()
}

/// A connection, and when the calls under way on it were due, with their streams.
struct Line {
    connection: Connection,
    under_way: VecDeque<(u32, Duration)>,
}

fn round(addr: SocketAddr, connections: usize, due: &[Duration]) -> io::Result<Round> {
    let request = grpc::request(&[0]);
    let mut lines = Vec::new();
    for _ in 0..connections {
        let mut line = Line {
            connection: Connection::open(addr, grpc::GET)?,
            under_way: VecDeque::new(),
        };
        // Whose server knows its headers from then on.
        line.send(&request, Duration::ZERO)?;
        while !line.under_way.is_empty() {
            line.receive(|_| ())?;
        }
        lines.push(line);
    }
    let mut ready: Vec<libc::pollfd> = lines
        .iter()
        .map(|line| libc::pollfd {
            fd: line.connection.stream().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let (mut calls, mut late) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while calls.len() < due.len() {
        while let Some(&due) = due.get(late.len())
            && due <= start.elapsed()
        {
            let line = late.len() % connections;
            lines[line].send(&request, due)?;
            late.push(us(start.elapsed() - due));
        }
        // SAFETY: the kernel fills in an array that lives as long, and has as many as it is told.
        let count = unsafe { libc::poll(ready.as_mut_ptr(), ready.len() as libc::nfds_t, 0) };
        if count > 0 {
            for (line, _) in lines
                .iter_mut()
                .zip(&ready)
                .filter(|(_, ready)| ready.revents != 0)
            {
                line.receive(|due| calls.push(us(start.elapsed() - due)))?;
            }
        }
        if start.elapsed() > ROUND + PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(Round {
        calls: Spread::of(calls),
        late: Spread::of(late),
    })
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl Line {
    fn send(&mut self, request: &[u8], due: Duration) -> io::Result<()> {
        if !self.connection.takes(request.len()) {
            return Err(io::Error::other("the window of a connection is used up"));
        }
        let stream = self.connection.begin();
        self.connection.send(stream, request, true);
        self.under_way.push_back((stream, due));
        self.connection.flush()
    }

    /// Reads what there is; shows when the calls were due that it ends.
    fn receive(&mut self, mut ended: impl FnMut(Duration)) -> io::Result<()> {
        let under_way = &mut self.under_way;
        self.connection.receive(|event| {
            if let Event::End(stream) = event
                && let Some(at) = under_way.iter().position(|call| call.0 == stream)
                && let Some((_, due)) = under_way.remove(at)
            {
                ended(due);
            }
        })
    }
}
