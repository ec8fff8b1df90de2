use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use tempfile::TempDir;

use super::*;

const LIMIT_BYTES: usize = 1 << 20;

/// A folder `served` with `secret.txt` beside it, and the two ways to reach what is in it.
struct Scene {
    _temp: TempDir,
    outside: PathBuf,
    served: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().to_owned();
        let served = outside.join("served");
        fs::create_dir(&served).unwrap();
        fs::write(outside.join("secret.txt"), "secret").unwrap();
        Self {
            _temp: temp,
            outside,
            served,
        }
    }

    fn write(&self, name: &str, value: impl AsRef<[u8]>) {
        let path = self.served.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
    }

    fn dir(&self) -> Dir {
        Dir::open(self.served.to_str().unwrap()).unwrap()
    }

    fn dirs(&self) -> [Dir; 2] {
        let Dir { path, folder } = self.dir();
        let folder = folder.without_openat2();
        [self.dir(), Dir { path, folder }]
    }
}

fn ctx() -> LoadContext<'static> {
    LoadContext::new("blobs", Instant::now() + Duration::from_secs(60))
}

/// The value, and whether it would be kept.
fn load(dir: &impl Loader, key: impl AsRef<[u8]>) -> Result<Vec<u8>, LoadError> {
    let mut sink = Sink::detached(LIMIT_BYTES);
    let loaded = dir.load(key.as_ref(), &ctx(), &mut sink);
    match loaded {
        Ok(()) => Ok(sink.bytes().to_vec()),
        Err(error) => {
            assert!(sink.bytes().is_empty(), "a failed load wrote a value");
            Err(error)
        }
    }
}

#[track_caller]
fn assert_invalid(dir: &Dir, key: impl AsRef<[u8]>, why: &str) {
    let outcome = load(dir, key);
    assert!(
        matches!(&outcome, Err(LoadError::InvalidKey(text)) if text.contains(why)),
        "{outcome:?}, not {why:?}"
    );
}

#[test]
fn files_are_values() {
    let scene = Scene::new();
    let large: Vec<u8> = (0..900_000_u32).map(|i| (i >> 8) as u8).collect();
    scene.write("a", "1");
    scene.write("empty", "");
    scene.write("b/c/..d", "2");
    scene.write("large", &large);
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9\n");
    fs::write(scene.served.join(odd), "3").unwrap();
    for dir in scene.dirs() {
        assert_eq!(load(&dir, "a").unwrap(), b"1");
        assert_eq!(load(&dir, "empty").unwrap(), b"");
        assert_eq!(load(&dir, "b/c/..d").unwrap(), b"2");
        assert_eq!(load(&dir, "large").unwrap(), large);
        assert_eq!(load(&dir, b"caf\xe9\n").unwrap(), b"3");
    }
}

#[test]
fn a_missing_key_is_told() {
    let scene = Scene::new();
    scene.write("a", "1");
    for dir in scene.dirs() {
        for key in ["b", "b/c", "a/b", "a/b/c"] {
            let error = load(&dir, key).unwrap_err();
            let LoadError::NotFound(text) = error else {
                panic!("{key}: {error:?}");
            };
            assert_eq!(text, "the folder has no such file", "{key}");
        }
    }
}

#[test]
fn keys_that_leave_the_folder_are_refused() {
    let scene = Scene::new();
    scene.write("a/b", "1");
    let absolute = scene.outside.join("secret.txt");
    for dir in scene.dirs() {
        assert_invalid(&dir, "../secret.txt", "component \"..\"");
        assert_invalid(&dir, "a/../../secret.txt", "component \"..\"");
        assert_invalid(&dir, "a/../a/b", "component \"..\"");
        assert_invalid(&dir, "./a/b", "component \".\"");
        assert_invalid(&dir, absolute.as_os_str().as_bytes(), "empty component");
        assert_invalid(&dir, "a//b", "empty component");
        assert_invalid(&dir, "a/b/", "empty component");
        assert_invalid(&dir, "", "empty component");
        assert_invalid(&dir, "a/b\0", "NUL");
        assert_invalid(&dir, "a\0/../../secret.txt", "component \"..\"");
    }
}

#[test]
fn links_are_not_followed() {
    let scene = Scene::new();
    scene.write("real/file", "1");
    symlink("/dev/zero", scene.served.join("zero")).unwrap();
    symlink("../secret.txt", scene.served.join("out")).unwrap();
    symlink(&scene.outside, scene.served.join("up")).unwrap();
    symlink("real", scene.served.join("alias")).unwrap();
    symlink("real/file", scene.served.join("within")).unwrap();
    symlink("nowhere", scene.served.join("broken")).unwrap();
    symlink("loop", scene.served.join("loop")).unwrap();
    for dir in scene.dirs() {
        for key in [
            "zero",
            "out",
            "up",
            "up/secret.txt",
            "alias/file",
            "within",
            "broken",
            "loop",
            "loop/x",
            "real/../up/secret.txt",
        ] {
            let why = if key.contains("..") {
                ".."
            } else {
                "symbolic link"
            };
            assert_invalid(&dir, key, why);
        }
        assert_eq!(load(&dir, "real/file").unwrap(), b"1");
    }
}

#[test]
fn the_root_may_be_a_link() {
    let scene = Scene::new();
    scene.write("a", "1");
    let link = scene.outside.join("link");
    symlink("served", &link).unwrap();
    let dir = Dir::open(link.to_str().unwrap()).unwrap();
    assert_eq!(load(&dir, "a").unwrap(), b"1");
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let scene = Scene::new();
    scene.write("folder/a", "1");
    rustix::fs::mkfifoat(CWD, scene.served.join("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    let _socket = UnixListener::bind(scene.served.join("socket")).unwrap();
    for dir in scene.dirs() {
        assert_invalid(&dir, "folder", "a folder");
        assert_invalid(&dir, "pipe", "a pipe");
        assert_invalid(&dir, "socket", "a socket");
        assert_invalid(&dir, "x".repeat(256), "longer than");
    }
    assert_invalid(&scene.dir(), ["y"; 4096].join("/"), "longer than");
}

#[test]
fn devices_and_magic_links_are_refused() {
    let devices = Dir::open("/dev").unwrap();
    assert_invalid(&devices, "zero", "a device");
    assert_invalid(&devices, "null", "a device");
    let process = Dir::open("/proc/self").unwrap();
    assert_invalid(&process, "cwd/Cargo.toml", "symbolic link");
    assert_invalid(&process, "root/etc/passwd", "symbolic link");
    assert_invalid(&process, "exe", "symbolic link");
}

#[test]
fn files_that_the_kernel_makes_up_are_read_whole_and_not_kept() {
    let process = Dir::open("/proc/self").unwrap();
    let file = process.folder.file(b"stat").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    let mut sink = Sink::detached(LIMIT_BYTES);
    let outcome = snapshot::read(&file, &ctx(), &mut sink, QUIET, &mut || ());
    assert_eq!(outcome, Ok(Outcome::Fleeting));
    let id = std::process::id().to_string();
    assert!(sink.bytes().starts_with(id.as_bytes()));

    let refused = process.load(b"stat", &ctx(), &mut Sink::detached(10));
    assert!(
        matches!(refused, Err(LoadError::TooLarge(_))),
        "{refused:?}"
    );
}

/// Says that it is over when the test is, however that ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Opens `key` while `there` is exchanged for a link to `outside` and back, all the time.
fn open_while_swapped(folder: &Folder, key: &str, there: &Path, outside: &Path) {
    let (aside, link) = (there.with_extension("aside"), there.with_extension("link"));
    symlink(outside, &link).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                fs::rename(there, &aside).unwrap();
                fs::rename(&link, there).unwrap();
                fs::rename(there, &link).unwrap();
                fs::rename(&aside, there).unwrap();
            }
        });
        let (mut opened, mut refused) = (0, 0);
        while opened < 2000 || refused < 2000 {
            match folder.file(key.as_bytes()) {
                Ok(file) => {
                    assert_eq!(std::io::read_to_string(file).unwrap(), "public");
                    opened += 1;
                }
                Err(Obstacle::NotAFile("a symbolic link")) => refused += 1,
                Err(Obstacle::Missing) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    });
    fs::remove_file(link).unwrap();
}

#[test]
fn links_swapped_in_while_keys_are_opened_lead_nowhere() {
    let scene = Scene::new();
    scene.write("a/secret.txt", "public");
    let (parent, secret) = (scene.served.join("a"), scene.outside.join("secret.txt"));
    let file = parent.join("secret.txt");
    for Dir { folder, .. } in scene.dirs() {
        open_while_swapped(&folder, "a/secret.txt", &parent, &scene.outside);
        open_while_swapped(&folder, "a/secret.txt", &file, &secret);
    }
}

#[test]
fn a_value_over_the_limit_is_refused_with_both_sizes() {
    let scene = Scene::new();
    scene.write("a", vec![0; LIMIT_BYTES + 1]);
    let error = load(&scene.dir(), "a").unwrap_err();
    let LoadError::TooLarge(text) = error else {
        panic!("{error:?}");
    };
    assert!(
        text.contains("1048577") && text.contains("1048576"),
        "{text}"
    );
    scene.write("a", vec![0; LIMIT_BYTES]);
    assert_eq!(load(&scene.dir(), "a").unwrap().len(), LIMIT_BYTES);
}

/// Loads the key `a` while `change`, given the number of the read, changes the file during it.
fn load_while(scene: &Scene, mut change: impl FnMut(usize)) -> Result<Vec<u8>, LoadError> {
    let mut sink = Sink::detached(LIMIT_BYTES);
    let mut reads = 0;
    let loaded = scene.dir().load_in_pieces(b"a", &ctx(), &mut sink, || {
        reads += 1;
        change(reads);
    });
    assert!(loaded.is_ok() || sink.bytes().is_empty(), "torn bytes stay");
    loaded.map(|()| sink.bytes().to_vec())
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again() {
    type Change = fn(&PathBuf);
    let changes: [(&str, Change); 5] = [
        ("same size", |path| fs::write(path, "new").unwrap()),
        ("grown", |path| fs::write(path, "longer").unwrap()),
        ("shrunk", |path| fs::write(path, "n").unwrap()),
        ("emptied", |path| fs::write(path, "").unwrap()),
        ("with its old time", |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            file.write_all_at(b"new", 0).unwrap();
            file.set_modified(modified).unwrap();
        }),
    ];
    for (what, change) in changes {
        let scene = Scene::new();
        scene.write("a", "old");
        let path = scene.served.join("a");
        let loaded = load_while(&scene, |read| {
            if read == 1 {
                change(&path);
            }
        });
        assert_eq!(loaded.unwrap(), fs::read(&path).unwrap(), "{what}");
    }
}

#[test]
fn a_file_that_keeps_changing_is_unavailable() {
    let scene = Scene::new();
    scene.write("a", "0");
    let path = scene.served.join("a");
    let loaded = load_while(&scene, |read| fs::write(&path, read.to_string()).unwrap());
    assert!(
        matches!(&loaded, Err(LoadError::Unavailable(text)) if text.contains("changed")),
        "{loaded:?}"
    );
}

#[test]
fn a_file_renamed_over_another_is_served_whole() {
    let scene = Scene::new();
    scene.write("a", "old");
    let loaded = load_while(&scene, |read| {
        if read == 1 {
            scene.write("b", "new");
            fs::rename(scene.served.join("b"), scene.served.join("a")).unwrap();
        }
    });
    assert_eq!(loaded.unwrap(), b"new");
}

#[test]
fn a_deadline_that_passed_ends_the_load() {
    let scene = Scene::new();
    scene.write("a", "1");
    let ctx = LoadContext::new("blobs", Instant::now());
    let loaded = scene
        .dir()
        .load(b"a", &ctx, &mut Sink::detached(LIMIT_BYTES));
    assert!(matches!(loaded, Err(LoadError::TimedOut(_))), "{loaded:?}");
}

#[test]
fn a_renamed_folder_stays_and_a_removed_one_is_told() {
    let scene = Scene::new();
    scene.write("a", "1");
    let dir = scene.dir();
    let moved = scene.outside.join("moved");
    fs::rename(&scene.served, &moved).unwrap();
    assert_eq!(load(&dir, "a").unwrap(), b"1");
    fs::remove_dir_all(&moved).unwrap();
    let loaded = load(&dir, "a");
    assert!(
        matches!(&loaded, Err(LoadError::Unavailable(text)) if text.contains("removed")),
        "{loaded:?}"
    );
}

#[test]
fn what_the_system_refuses_is_unavailable_in_its_words() {
    for error in [
        Errno::ACCESS,
        Errno::IO,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
    ] {
        let refused = refusal(error.into());
        let words = std::io::Error::from(error).to_string();
        assert!(
            matches!(&refused, LoadError::Unavailable(text) if text.ends_with(&words)),
            "{refused:?}, not {words:?}"
        );
    }
}

#[test]
fn what_is_no_folder_is_no_origin() {
    let scene = Scene::new();
    scene.write("a", "1");
    let file = scene.served.join("a").to_str().unwrap().to_owned();
    let missing = scene.served.join("missing").to_str().unwrap().to_owned();
    for path in [&file, &missing, "", "a\0b"] {
        let text = Dir::open(path).unwrap_err().to_string();
        assert!(text.contains(&format!("dir:{path}")), "{text}");
    }
    assert!(
        Dir::open(&file)
            .unwrap_err()
            .to_string()
            .contains("Not a directory")
    );
}
