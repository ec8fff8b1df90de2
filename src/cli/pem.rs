//! Files with certificates to trust.

use std::fs;
use std::path::Path;

/// What is in the file that a flag names, if that may be certificates. Of others the gRPC core would only say, call after
/// call, that it reaches nobody.
pub fn certificates(flag: &str, path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |cause: String| format!("{flag} {}: {cause}", path.display());
    let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    match String::from_utf8_lossy(&text).contains("CERTIFICATE-----") {
        true => Ok(text),
        false => Err(wrong("no certificate in it; give a PEM file".to_owned())),
    }
}
