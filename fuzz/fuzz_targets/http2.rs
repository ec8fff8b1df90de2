//! Plays the fuzzer's bytes as a script of a client and its server, or gives them to a connection or to a call as they are.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The protocol alone: what is around it would need the gRPC C-core.
#[allow(dead_code, unused_imports)]
#[path = "../../src/http2/mod.rs"]
mod http2;

fuzz_target!(|bytes: &[u8]| match bytes.split_first() {
    Some((0, bytes)) => http2::tests::bytes::play(bytes),
    Some((1, bytes)) => http2::tests::bytes::play_frames(bytes),
    Some((2, bytes)) => http2::tests::bytes::play_to_caller(bytes),
    Some((3, bytes)) => http2::tests::bytes::play_frames_to_caller(bytes),
    Some((_, script)) => http2::tests::script::play(script),
    None => (),
});
