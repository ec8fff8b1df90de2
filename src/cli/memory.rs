//! Whether this machine, or the container that the node runs in, has the memory that it is given.

use std::fs;
use std::path::Path;

use super::size;

/// Where the kernel shows control groups: version 2, and the memory controller of version 1.
const CGROUPS: [(&str, &str); 2] = [
    ("/sys/fs/cgroup", "memory.max"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];

/// Refuses a cache that can never be in memory as a whole, and warns of one that leaves too little to the rest of the node.
/// Where the system does not say what there is, nothing is refused.
pub fn check(memory_bytes: usize, core_bytes: usize) -> Result<(), String> {
    let Some((there_bytes, whose)) = there() else {
        return Ok(());
    };
    let show = |bytes: usize| size::show(bytes as u64);
    let there = show(there_bytes);
    if memory_bytes > there_bytes {
        return Err(format!(
            "--memory {} is more than the {there} of {whose}: the node would be killed, or swapped out, when its cache \
             fills; give about three quarters of what there is",
            show(memory_bytes)
        ));
    }
    if memory_bytes.saturating_add(core_bytes) > there_bytes {
        log::warn!(
            "--memory {} and --core-memory {} are together more than the {there} of {whose}: if both are used, the node \
             is killed or swapped out",
            show(memory_bytes),
            show(core_bytes)
        );
    }
    Ok(())
}

/// The least of all that bounds this process, and what it is.
fn there() -> Option<(usize, &'static str)> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|info| total_bytes(&info))
        .map(|bytes| (bytes, "this machine"));
    let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = CGROUPS
        .iter()
        .zip(paths(&memberships))
        .filter_map(|((root, file), path)| limit_bytes(Path::new(root), file, path?))
        .map(|bytes| (bytes, "this control group (container)"));
    machine
        .into_iter()
        .chain(limits)
        .min_by_key(|(bytes, _)| *bytes)
}

fn total_bytes(meminfo: &str) -> Option<usize> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The groups of this process in version 2, and in version 1 for memory: see cgroups(7), `/proc/pid/cgroup`.
fn paths(memberships: &str) -> [Option<&str>; 2] {
    let of = |controllers: fn(&str) -> bool| {
        memberships.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (names, path) = rest.split_once(':')?;
            controllers(names).then_some(path)
        })
    };
    [
        of(str::is_empty),
        of(|names| names.split(',').any(|name| name == "memory")),
    ]
}

/// The least limit of the group at `path` and those that it is in. A path that is not there is one of the host's, which
/// a container does not see: its own group is at the root then.
fn limit_bytes(root: &Path, file: &str, path: &str) -> Option<usize> {
    let groups = Path::new(path.trim_start_matches('/')).ancestors();
    groups
        .filter_map(|group| fs::read_to_string(root.join(group).join(file)).ok())
        // In place of a number, `max` means none.
        .filter_map(|limit| limit.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_has_is_read() {
        let info = "MemTotal:       24683656 kB\nMemFree:        1 kB\n";
        assert_eq!(total_bytes(info), Some(24_683_656 << 10));
        assert_eq!(total_bytes("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn groups_are_found_by_their_controllers() {
        let both = "9:name=systemd:/\n4:cpu,memory:/pod/a:b\n0::/new\n";
        assert_eq!(paths(both), [Some("/new"), Some("/pod/a:b")]);
        assert_eq!(paths("0::/\n"), [Some("/"), None]);
        assert_eq!(paths(""), [None, None]);
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, limit: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("memory.max"), limit).unwrap();
        };
        let limit = |path| limit_bytes(root.path(), "memory.max", path);
        assert_eq!(limit("/pod/node"), None);
        write("pod/node", "max\n");
        assert_eq!(limit("/pod/node"), None);
        write("pod", "1048576\n");
        assert_eq!(limit("/pod/node"), Some(1 << 20));
        write("pod/node", "4096\n");
        write("", "8192\n");
        assert_eq!(limit("/pod/node"), Some(4096));
        assert_eq!(limit("/of/the/host"), Some(8192));
    }
}
