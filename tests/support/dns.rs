//! A name server for one name, and nodes that ask it instead of the system's.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::{self, Command};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

use super::{corecache, folder, run};

const A: u16 = 1;
const AAAA: u16 = 28;
const NO_SUCH_NAME: u8 = 3;

/// What the server knows of the name.
#[derive(Clone)]
pub enum Name {
    /// It has these addresses.
    Has(Vec<IpAddr>),
    /// It is not there.
    Missing,
    /// The server does not answer.
    Silent,
}

/// The server. It answers whatever name it is asked for.
pub struct NameServer {
    name: Arc<Mutex<Name>>,
    files: TempDir,
}

impl NameServer {
    /// Starts it. None, loudly, where a test may not have the port and an /etc/resolv.conf of its own: it takes root for that.
    pub fn start(name: Name) -> Option<NameServer> {
        match NameServer::try_start(name) {
            Ok(server) => Some(server),
            Err(reason) => {
                // Past the test harness, which would swallow what a passing test prints.
                let _ = writeln!(io::stderr(), "skipped, no name server: {reason}");
                None
            }
        }
    }

    fn try_start(name: Name) -> Result<NameServer, String> {
        // Of the process's own: the port is always 53.
        let [high, low] = (process::id() as u16).to_be_bytes();
        let address = Ipv4Addr::new(127, 53, high, low.max(1));
        let socket = UdpSocket::bind((address, 53))
            .map_err(|error| format!("port 53 of {address}: {error}; run the test as root"))?;
        let files = folder(&[(
            "resolv.conf",
            format!("nameserver {address}\noptions timeout:5 attempts:1\n").as_bytes(),
        )]);
        let server = NameServer {
            name: Arc::new(Mutex::new(name)),
            files,
        };
        let output = run(server.shell("true").arg("true"));
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("unshare and mount: {why}"));
        }
        let name = server.name.clone();
        thread::spawn(move || serve(&socket, &name));
        Ok(server)
    }

    pub fn say(&self, name: Name) {
        *self.name.lock().unwrap() = name;
    }

    /// A node's command, for which this is the system's name server.
    pub fn node(&self) -> Command {
        self.shell(&corecache().get_program().to_string_lossy())
    }

    fn shell(&self, program: &str) -> Command {
        let conf = self.files.path().join("resolv.conf");
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script])
            .arg(conf)
            .arg(program)
            .stdin(process::Stdio::null());
        command
    }
}

fn serve(socket: &UdpSocket, name: &Mutex<Name>) {
    let mut question = [0; 512];
    while let Ok((len, asker)) = socket.recv_from(&mut question) {
        let name = name.lock().unwrap().clone();
        if let Some(answer) = answer(&question[..len], &name) {
            let _ = socket.send_to(&answer, asker);
        }
    }
}

/// The answer to a message with one question (RFC 1035, section 4).
fn answer(question: &[u8], name: &Name) -> Option<Vec<u8>> {
    const HEADER_LEN: usize = 12;
    let (addresses, code) = match name {
        Name::Has(addresses) => (&addresses[..], 0),
        Name::Missing => (&[][..], NO_SUCH_NAME),
        Name::Silent => return None,
    };
    let name_len = question
        .get(HEADER_LEN..)?
        .iter()
        .position(|&byte| byte == 0)?
        + 1;
    let end = HEADER_LEN + name_len + 4;
    let kind = question.get(end - 4..end - 2)?;
    let kind = u16::from_be_bytes([kind[0], kind[1]]);
    let records: Vec<Vec<u8>> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) if kind == A => Some(address.octets().to_vec()),
            IpAddr::V6(address) if kind == AAAA => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut answer = question[..end].to_vec();
    answer[2..4].copy_from_slice(&[0x84, 0x80 | code]);
    answer[4..12].copy_from_slice(&[0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    for record in records {
        // The name of the question, class IN, no time to live.
        answer.extend([0xc0, HEADER_LEN as u8]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 0, 0, record.len() as u8]);
        answer.extend(record);
    }
    Some(answer)
}
