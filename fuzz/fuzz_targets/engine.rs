//! Plays the fuzzer's bytes as a script on a cache; see `script`.
#![no_main]

use std::process::abort;
use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use log::{LevelFilter, Log, Metadata, Record};

#[path = "../../tests/engine_support/script.rs"]
mod script;

/// No script gives the engine a reason to log an error, but for a listener that panics.
struct Alarm;

impl Log for Alarm {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let text = record.args().to_string();
        if text != "a listener panicked" {
            eprintln!("the engine says: {text}");
            abort();
        }
    }

    fn flush(&self) {}
}

static BEGIN: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    BEGIN.call_once(|| {
        log::set_logger(&Alarm).expect("there is no other logger");
        log::set_max_level(LevelFilter::Error);
    });
    script::play(bytes);
});
