//! Certificates and their key, read again when their files have changed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use corecache::server::{Identity, Renewal};

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where the certificate chain and the private key are.
#[derive(Clone)]
pub struct IdentityFiles {
    pub certificates: PathBuf,
    pub key: PathBuf,
}

/// What tells one state of both files from another.
type Stamp = [[i64; 6]; 2];

impl IdentityFiles {
    pub fn read(&self) -> Result<Identity, String> {
        let read = |flag: &str, path: &PathBuf| {
            fs::read(path).map_err(|error| format!("{flag} {}: {error}", path.display()))
        };
        Ok(Identity {
            certificates: read("--tls-cert", &self.certificates)?,
            key: read("--tls-key", &self.key)?,
        })
    }

    /// Looks at the files as long as the process lives; what they are before has been read after `before`.
    pub fn follow(self, before: io::Result<Stamp>, renewal: Renewal) -> io::Result<()> {
        let run = move || {
            let mut read = before.ok();
            let mut seen = read;
            loop {
                thread::sleep(LOOK_EVERY);
                // While they are replaced one may be missing.
                let Ok(now) = self.stamp() else { continue };
                let is_still = seen.replace(now) == Some(now);
                if is_still && read != Some(now) {
                    read = Some(now);
                    self.renew(&renewal);
                }
            }
        };
        let thread = thread::Builder::new().name("certificates".to_owned());
        thread.spawn(run).map(drop)
    }

    fn renew(&self, renewal: &Renewal) {
        let renewed = self
            .read()
            .and_then(|identity| renewal.renew(identity).map_err(|error| error.to_string()));
        let path = self.certificates.display();
        match renewed {
            Ok(()) => log::info!("--tls-cert {path}: it has changed, and is shown from now on"),
            Err(why) => log::warn!(
                "--tls-cert {path}: it or its key has changed, and what was there before is shown as long as this is \
                 not mended: {why}"
            ),
        }
    }

    pub fn stamp(&self) -> io::Result<Stamp> {
        Ok([stamp(&self.certificates)?, stamp(&self.key)?])
    }
}

fn stamp(path: &Path) -> io::Result<[i64; 6]> {
    let metadata = fs::metadata(path)?;
    Ok([
        metadata.dev().cast_signed(),
        metadata.ino().cast_signed(),
        metadata.size().cast_signed(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime_nsec(),
    ])
}
