//! Reads the fuzzer's bytes as a trace of requests: what is accepted is what its lines say.
#![no_main]

use corecache::engine::policy::simulate::Trace;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let lines = bytes
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty());
    match Trace::read(bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(trace) => {
            assert_eq!(trace.requests().len(), lines.count());
            let keys = trace.keys();
            assert!(trace.requests().iter().all(|request| (request.key as usize) < keys));
        }
    }
});
