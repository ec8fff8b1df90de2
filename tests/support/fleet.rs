//! A cluster whose members come and go, and callers that check each answer.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::client::Client;
use super::cluster::{free_addresses, wait_for_links};
use super::origin::{Answer, Origin};
use super::{Node, corecache};

/// What a key's value is, whoever is asked for it.
pub fn value_of(key: &str) -> Vec<u8> {
    format!("/{key}").into_bytes()
}

/// An origin of such values.
pub fn origin() -> Origin {
    origin_at(Ipv4Addr::LOCALHOST)
}

/// The same, at that address of this machine.
pub fn origin_at(address: Ipv4Addr) -> Origin {
    Origin::start_at(address, |path, _| Answer::Value(path.as_bytes().to_vec()))
}

pub fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("k{number}")).collect()
}

/// Nodes that have their members from one file.
pub struct Fleet {
    pub nodes: Vec<Node>,
    args: Vec<String>,
    home: tempfile::TempDir,
}

impl Fleet {
    /// Starts so many nodes, each with `args`, and returns when they are linked.
    pub fn start(nodes: usize, args: &[&str]) -> Fleet {
        let addresses = free_addresses(nodes);
        let mut fleet = Fleet {
            nodes: Vec::new(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            home: tempfile::tempdir().expect("a temporary folder can be made"),
        };
        fleet.tell(&addresses);
        for address in addresses {
            fleet.nodes.push(fleet.start_node(address));
        }
        fleet.settle();
        fleet
    }

    /// Starts one more, tells all of it, and returns when all know and are linked.
    pub fn join(&mut self) {
        self.start_unknown();
        self.tell_all();
        self.settle();
    }

    /// Starts one more, of which the others are not told.
    pub fn start_unknown(&mut self) {
        let node = self.start_node(free_addresses(1)[0]);
        self.nodes.push(node);
    }

    /// Tells all of all.
    pub fn tell_all(&self) {
        self.tell(&self.addresses());
    }

    /// Tells all that this node is no member any more, and returns it when they know. It runs on.
    pub fn part(&mut self, node: usize) -> Node {
        let node = self.nodes.remove(node);
        self.tell(&self.addresses());
        self.settle();
        node
    }

    /// Kills this node, and tells the others then.
    pub fn kill(&mut self, node: usize) {
        let mut node = self.nodes.remove(node);
        node.signal("KILL");
        node.wait();
        self.tell(&self.addresses());
        self.settle();
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.addr).collect()
    }

    /// Waits until all nodes know of all, and have links to them.
    pub fn settle(&self) {
        for node in &self.nodes {
            wait_for_links(node, self.nodes.len() - 1);
        }
    }

    fn start_node(&self, address: SocketAddr) -> Node {
        let file = self.file();
        let members = ["--peers-file".to_owned(), file.display().to_string()];
        Node::start_with(corecache(), address, members.iter().chain(&self.args))
    }

    /// Writes who is in.
    fn tell(&self, addresses: &[SocketAddr]) {
        let lines: String = addresses.iter().map(|addr| format!("{addr}\n")).collect();
        let new = self.home.path().join("new");
        let told = fs::write(&new, lines).and_then(|()| fs::rename(new, self.file()));
        told.expect("the file of members can be written");
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("members")
    }
}

/// Callers that ask for keys all the time, and note each answer that is not as it should be.
pub struct Checker {
    stop: Arc<AtomicBool>,
    faults: Arc<Mutex<Vec<String>>>,
    callers: Vec<JoinHandle<Vec<Call>>>,
}

/// A call that was answered as it should be.
#[derive(Clone, Copy)]
pub struct Call {
    pub begun: Instant,
    pub took: Duration,
}

/// What a caller gives a call: much more than nodes wait for one that is gone.
pub const DEADLINE: Duration = super::PATIENCE;

impl Checker {
    /// Starts so many callers, each of which asks one of the nodes for all keys, again and again.
    pub fn start(callers: usize, addresses: &[SocketAddr], keys: &[String]) -> Checker {
        let (stop, faults) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let caller = |number: usize| {
            let client = Client::connect(addresses[number % addresses.len()]);
            let (stop, faults, keys) = (stop.clone(), faults.clone(), keys.to_vec());
            thread::spawn(move || {
                let mut calls = Vec::new();
                for key in keys.iter().cycle().skip(number * keys.len() / callers) {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let begun = Instant::now();
                    let got = client.get_within(DEADLINE, "pages", key);
                    let took = begun.elapsed();
                    match got {
                        Ok(got) if got == value_of(key) => calls.push(Call { begun, took }),
                        Ok(got) => {
                            let got = String::from_utf8_lossy(&got).into_owned();
                            faults.lock().unwrap().push(format!("{key}: {got:?}"));
                        }
                        Err(error) => {
                            let fault = format!("{key}: {error:?} after {took:?}");
                            faults.lock().unwrap().push(fault);
                        }
                    }
                }
                calls
            })
        };
        Checker {
            callers: (0..callers).map(caller).collect(),
            stop,
            faults,
        }
    }

    /// Stops the callers. What they have called well, and what was wrong.
    pub fn end(self) -> (Vec<Call>, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let callers = self.callers.into_iter();
        let calls = callers.flat_map(|caller| caller.join().expect("a caller ends"));
        let calls = calls.collect();
        let faults = std::mem::take(&mut *self.faults.lock().unwrap());
        (calls, faults)
    }

    /// The same, where nothing may have gone wrong.
    pub fn end_well(self) -> Vec<Call> {
        let (calls, faults) = self.end();
        let shown = &faults[..faults.len().min(5)];
        assert!(faults.is_empty(), "{} faults: {shown:#?}", faults.len());
        calls
    }
}

/// How many loads of these keys there were beyond the first one of each.
pub fn second_loads(origin: &Origin, keys: &[String]) -> usize {
    let loads = keys.iter().map(|key| origin.requests(&format!("/{key}")));
    loads.map(|loads| loads.saturating_sub(1)).sum()
}

/// Asks a node for each key once.
pub fn warm(node: &Node, keys: &[String]) {
    let client = Client::connect(node.addr);
    // So few at a time that no node is silent for long.
    for keys in keys.chunks(100) {
        let calls = keys.iter().map(|key| (key, client.start_get("pages", key)));
        for (key, call) in calls.collect::<Vec<_>>() {
            assert_eq!(call.value().unwrap(), value_of(key));
        }
    }
}
