//! A wall clock that is wrong: a library that is loaded before the system's, and tells another time.

use std::fs;
use std::process::Command;

/// What the system's library would tell, and some seconds.
const SOURCE: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += WRONG_BY_SECONDS;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec spec;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &spec);
    now->tv_sec = spec.tv_sec;
    now->tv_usec = spec.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec spec;
    clock_gettime(CLOCK_REALTIME, &spec);
    if (now)
        *now = spec.tv_sec;
    return spec.tv_sec;
}
";

pub struct WrongClock {
    library: tempfile::TempDir,
    seconds: i64,
}

impl WrongClock {
    /// One that is ahead by so many seconds, or behind.
    pub fn by(seconds: i64) -> Self {
        let library = tempfile::tempdir().expect("a temporary folder can be made");
        let (source, object) = (
            library.path().join("clock.c"),
            library.path().join("clock.so"),
        );
        fs::write(&source, SOURCE).expect("a temporary file can be written");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1"])
            .arg(format!("-DWRONG_BY_SECONDS={seconds}"))
            .arg("-o")
            .args([&object, &source])
            .status();
        assert!(built.expect("cc runs").success(), "{source:?} is compiled");
        Self { library, seconds }
    }

    /// Has a program go by it.
    pub fn set(&self, command: &mut Command) {
        command.env("LD_PRELOAD", self.library.path().join("clock.so"));
    }

    /// What it shows now, to the hour: `2026-01-31T23`.
    pub fn hour(&self) -> String {
        let shown = Command::new("date")
            .args([
                "-u",
                "-d",
                &format!("{} seconds", self.seconds),
                "+%Y-%m-%dT%H",
            ])
            .output()
            .expect("date runs");
        let shown = String::from_utf8(shown.stdout).expect("a date is text");
        shown.trim().to_owned()
    }
}
