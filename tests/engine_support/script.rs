//! A script of operations, read from bytes, played on a small cache beside a model that says what may be found.
//!
//! A cache that evicts may always find nothing; what it must not find is a value that was never written to the key, was
//! overwritten, removed, cleared, or has expired. The bytes come from a fuzzer or from proptest: any bytes are a script,
//! and shorter ones are shorter scripts.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use corecache::engine::{BlobCache, BuildError, Builder, Cache, Cause, Failure, Stats};

const KIB: usize = 1 << 10;
const KEYS: u8 = 48;
/// Values that are held at once.
const HELD: usize = 24;
/// How deep loaders and borrowers do what the script says next.
const DEPTH: usize = 6;
const BUDGETS: [usize; 4] = [48 * KIB, 64 * KIB, 128 * KIB, 1024 * KIB];
const BUDGET_MAX: usize = BUDGETS[3];

/// What is stored: a number that no other value has, and how many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Value {
    number: u64,
    len: usize,
}

impl Value {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = self.number.to_le_bytes().to_vec();
        bytes.resize(8 + self.len, self.number as u8);
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        let (number, rest) = bytes.split_first_chunk().expect("a value has a number");
        let number = u64::from_le_bytes(*number);
        assert!(rest.iter().all(|&byte| byte == number as u8), "torn");
        let len = rest.len();
        Self { number, len }
    }
}

/// Values that left, by their numbers.
type Told = Arc<Mutex<HashMap<u64, (u8, Cause)>>>;

/// What a loader does when its key is missed.
type Loader<'a> = &'a mut dyn FnMut() -> Result<Value, ()>;

/// Loads many keys at once.
type ManyLoader<'a> = &'a mut dyn FnMut(&[u8]) -> Result<Vec<Value>, ()>;

/// What both caches can.
trait Subject {
    type Held;
    fn make(builder: &Builder) -> Self;
    fn listen(self, told: Told) -> Self;
    fn insert(&self, key: u8, value: Value, how: How) -> bool;
    fn remove(&self, key: u8) -> bool;
    fn hold(&self, key: u8) -> Option<Self::Held>;
    fn held(held: &Self::Held) -> Value;
    fn borrow(&self, key: u8, meanwhile: &mut dyn FnMut(Value));
    fn get_many(&self, keys: &[u8]) -> Vec<Option<Value>>;
    fn load(&self, key: u8, load: Loader) -> Result<Value, Failure>;
    fn load_many(&self, keys: &[u8], load: ManyLoader) -> Result<Vec<Value>, Failure>;
    fn clear(&self);
    fn flush(&self);
    fn resize(&self, budget_bytes: usize) -> Result<(), BuildError>;
    fn stats(&self) -> Stats;
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    Now,
    Soon,
    For(Duration),
}

fn tell(told: &Told, key: u8, value: Value, cause: Cause) {
    let before = told.lock().unwrap().insert(value.number, (key, cause));
    assert_eq!(before, None, "told twice");
    if value.number.is_multiple_of(13) {
        resume_unwind(Box::new(OnPurpose));
    }
}

/// A value of the typed cache, with its bytes on the heap.
type Whole = Arc<Vec<u8>>;

impl Subject for Cache<u8, Whole> {
    type Held = Whole;

    fn make(builder: &Builder) -> Self {
        let cache = Self::from_builder(builder).expect("the budget is large enough");
        cache.weigh_with(|_, value: &Whole| value.len())
    }

    fn listen(self, told: Told) -> Self {
        self.eviction_listener(move |key, value, cause| {
            tell(&told, *key, Value::of_bytes(value), cause);
        })
    }

    fn insert(&self, key: u8, value: Value, how: How) -> bool {
        let value = Arc::new(value.bytes());
        match how {
            How::Now => self.insert(key, value).is_ok(),
            How::Soon => self.insert_soon(key, value).is_ok(),
            How::For(ttl) => self.insert_for(key, value, ttl).is_ok(),
        }
    }

    fn remove(&self, key: u8) -> bool {
        self.remove(&key)
    }

    fn hold(&self, key: u8) -> Option<Whole> {
        self.get(&key)
    }

    fn held(held: &Whole) -> Value {
        Value::of_bytes(held)
    }

    fn borrow(&self, key: u8, meanwhile: &mut dyn FnMut(Value)) {
        self.get_with(&key, |value| {
            let before = Value::of_bytes(value);
            meanwhile(before);
            assert_eq!(Value::of_bytes(value), before);
        });
    }

    fn get_many(&self, keys: &[u8]) -> Vec<Option<Value>> {
        let values = self.get_many(keys).into_iter();
        values.map(|value| Some(Value::of_bytes(&value?))).collect()
    }

    fn load(&self, key: u8, load: Loader) -> Result<Value, Failure> {
        let value = self.get_or_load(&key, |_| match load() {
            Ok(value) => Ok(Arc::new(value.bytes())),
            Err(()) => Err("no".into()),
        });
        value.map(|value| Value::of_bytes(&value))
    }

    fn load_many(&self, keys: &[u8], load: ManyLoader) -> Result<Vec<Value>, Failure> {
        let values = self.get_many_or_load(keys, |keys| {
            let keys: Vec<u8> = keys.iter().map(|key| **key).collect();
            let values = load(&keys).map_err(|()| "no")?;
            let values = values.into_iter();
            Ok(values.map(|value| Arc::new(value.bytes())).collect())
        });
        values.map(|values| values.iter().map(|value| Value::of_bytes(value)).collect())
    }

    fn clear(&self) {
        self.clear();
    }

    fn flush(&self) {
        self.flush();
    }

    fn resize(&self, budget_bytes: usize) -> Result<(), BuildError> {
        self.resize(budget_bytes)
    }

    fn stats(&self) -> Stats {
        self.stats()
    }
}

fn key_bytes(key: u8) -> Vec<u8> {
    vec![key; usize::from(key % 9) + usize::from(key > 0)]
}

impl Subject for BlobCache {
    type Held = corecache::engine::Blob;

    fn make(builder: &Builder) -> Self {
        Self::from_builder(builder).expect("the budget is large enough")
    }

    fn listen(self, told: Told) -> Self {
        self.eviction_listener(move |key, value, cause| {
            let key = key.first().copied().unwrap_or_default();
            tell(&told, key, Value::of_bytes(value), cause);
        })
    }

    fn insert(&self, key: u8, value: Value, how: How) -> bool {
        let (key, value) = (key_bytes(key), value.bytes());
        match how {
            How::Now => self.insert(&key, &value).is_ok(),
            How::Soon => self.insert_soon(&key, &value).is_ok(),
            How::For(ttl) => self.insert_for(&key, &value, ttl).is_ok(),
        }
    }

    fn remove(&self, key: u8) -> bool {
        self.remove(&key_bytes(key))
    }

    fn hold(&self, key: u8) -> Option<Self::Held> {
        self.get(&key_bytes(key))
    }

    fn held(held: &Self::Held) -> Value {
        Value::of_bytes(held)
    }

    fn borrow(&self, key: u8, meanwhile: &mut dyn FnMut(Value)) {
        self.get_with(&key_bytes(key), |value| {
            let before = Value::of_bytes(value);
            meanwhile(before);
            assert_eq!(Value::of_bytes(value), before);
        });
    }

    fn get_many(&self, keys: &[u8]) -> Vec<Option<Value>> {
        let keys: Vec<_> = keys.iter().map(|key| key_bytes(*key)).collect();
        let values = self.get_many(keys.iter().map(|key| &**key)).into_iter();
        values.map(|value| Some(Value::of_bytes(&value?))).collect()
    }

    fn load(&self, key: u8, load: Loader) -> Result<Value, Failure> {
        let value = self.get_or_load(&key_bytes(key), |_, sink| {
            let value = load().map_err(|()| "no")?;
            let bytes = value.bytes();
            bytes
                .chunks(7)
                .for_each(|part| sink.extend_from_slice(part));
            Ok(())
        });
        value.map(|value| Value::of_bytes(&value))
    }

    fn load_many(&self, keys: &[u8], load: ManyLoader) -> Result<Vec<Value>, Failure> {
        let keys: Vec<_> = keys.iter().map(|key| key_bytes(*key)).collect();
        let values = self.get_many_or_load(keys.iter().map(|key| &**key), |keys, sinks| {
            let keys = keys.iter().map(|key| key.first().copied().unwrap_or(0));
            let values = load(&keys.collect::<Vec<_>>()).map_err(|()| "no")?;
            for (sink, value) in sinks.iter_mut().zip(values) {
                sink.extend_from_slice(&value.bytes());
            }
            Ok(())
        });
        values.map(|values| values.iter().map(|value| Value::of_bytes(value)).collect())
    }

    fn clear(&self) {
        self.clear();
    }

    fn flush(&self) {
        self.flush();
    }

    fn resize(&self, budget_bytes: usize) -> Result<(), BuildError> {
        self.resize(budget_bytes)
    }

    fn stats(&self) -> Stats {
        self.stats()
    }
}

/// What a key may hold.
#[derive(Default, Clone)]
struct May {
    /// The last write, and behind it those that may still be queued; each with the end of its time.
    values: Vec<(Value, Option<Instant>)>,
    is_queued: bool,
    /// So many of the last ones come from loads that began while a write was queued: if that was made meanwhile, they
    /// are not stored.
    doubtful: usize,
    /// How many writes there were: a load that one of them came in between is not stored.
    writes: u64,
}

impl May {
    fn write(&mut self, value: Option<(Value, Option<Instant>)>) {
        self.values = value.into_iter().collect();
        (self.is_queued, self.doubtful) = (false, 0);
        self.writes += 1;
    }

    fn write_soon(&mut self, value: Value) {
        self.values.push((value, None));
        (self.is_queued, self.doubtful) = (true, 0);
        self.writes += 1;
    }

    /// A value was loaded, by a load that began while a write was queued, or not.
    fn load(&mut self, value: Value, was_queued: bool) {
        if was_queued && !self.values.is_empty() {
            self.doubtful += 1;
        } else {
            self.values.clear();
        }
        self.values.push((value, None));
        self.writes += 1;
    }

    /// Those before it do not come again.
    fn found(&mut self, index: usize) {
        self.values.drain(..index);
        self.doubtful = self.doubtful.min(self.values.len() - 1);
    }

    /// Nothing is queued any more.
    fn settle(&mut self) {
        let certain = self.values.len() - self.doubtful;
        self.values.drain(..certain.saturating_sub(1));
        self.is_queued = false;
    }

    /// Checks what was found by a read that began at `asked`; returns its index.
    fn check(&self, found: Value, asked: Instant) -> usize {
        let index = self.values.iter().position(|(value, _)| *value == found);
        let Some(index) = index else {
            panic!("{found:?} was found, and is none of {:?}", self.values);
        };
        let end = self.values[index].1;
        assert!(
            end.is_none_or(|end| asked < end),
            "{found:?} was served after its time"
        );
        index
    }
}

/// Bytes to be read; all zeros behind the end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.next() % bound
    }

    fn key(&mut self) -> u8 {
        self.below(KEYS)
    }

    fn keys(&mut self) -> Vec<u8> {
        let len = self.below(6);
        (0..len).map(|_| self.key()).collect()
    }
}

/// How a loader ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Value,
    Error,
    Panic,
}

struct Play<'a, S: Subject> {
    /// Counted, so that it can be used while the play goes on inside of it.
    cache: Rc<S>,
    script: Script<'a>,
    may: Vec<May>,
    held: Vec<(S::Held, Value)>,
    /// Keys that are being loaded now.
    loading: Vec<u8>,
    told: Option<Told>,
    /// The key of each value, by its number.
    keys: Vec<u8>,
    reads: u64,
    depth: usize,
}

/// Plays a script.
///
/// # Panics
/// If the cache does what it must not do.
pub fn play(bytes: &[u8]) {
    let mut script = Script(bytes);
    if script.next().is_multiple_of(2) {
        Play::<BlobCache>::new(script).run();
    } else {
        Play::<Cache<u8, Whole>>::new(script).run();
    }
}

impl<'a, S: Subject> Play<'a, S> {
    fn new(mut script: Script<'a>) -> Self {
        let budget_bytes = BUDGETS[usize::from(script.below(4))];
        let shards = usize::from(1 + script.below(3));
        let mut cache = S::make(&Builder::new(budget_bytes).shards(shards));
        let told = script.next().is_multiple_of(3).then(Told::default);
        if let Some(told) = &told {
            cache = cache.listen(told.clone());
        }
        Self {
            cache: Rc::new(cache),
            script,
            may: vec![May::default(); usize::from(KEYS)],
            held: Vec::new(),
            loading: Vec::new(),
            told,
            keys: Vec::new(),
            reads: 0,
            depth: 0,
        }
    }

    fn run(mut self) {
        while !self.script.0.is_empty() {
            self.step();
        }
        self.settle();
        self.held.clear();
        self.clear();
        self.settle();
        let stats = self.cache.stats();
        assert_eq!((stats.entries, stats.entry_bytes), (0, 0), "{stats:?}");
    }

    fn step(&mut self) {
        match self.script.below(25) {
            0..6 => self.insert(),
            6..8 => self.remove(),
            8..11 => self.get(),
            11..13 => self.borrow(),
            13..15 => self.get_many(),
            15..18 => self.load(),
            18..20 => self.load_many(),
            20..22 => self.hold(),
            22 => self.resize(),
            23 => self.settle(),
            _ => self.clear(),
        }
    }

    /// What the script says next, from within a loader or a borrow.
    fn nested(&mut self) {
        if self.depth < DEPTH {
            self.depth += 1;
            (0..self.script.below(3)).for_each(|_| self.step());
            self.depth -= 1;
        }
    }

    fn value(&mut self, key: u8) -> Value {
        let number = self.keys.len() as u64;
        self.keys.push(key);
        let len = match self.script.next() {
            len @ 0..200 => usize::from(len),
            len @ 200..240 => usize::from(len - 199) * 100,
            len => usize::from(len - 239) * 3 * KIB,
        };
        Value { number, len }
    }

    fn may(&mut self, key: u8) -> &mut May {
        &mut self.may[usize::from(key)]
    }

    /// What was found now by a read that began at `asked`.
    fn found(&mut self, key: u8, found: Value, asked: Instant) {
        let may = self.may(key);
        let index = may.check(found, asked);
        may.found(index);
    }

    fn insert(&mut self) {
        let key = self.script.key();
        let value = self.value(key);
        let how = match self.script.below(8) {
            0..4 => How::Now,
            4..6 => How::Soon,
            6 => How::For(Duration::ZERO),
            _ => How::For(Duration::from_millis(u64::from(self.script.next()))),
        };
        if !self.cache.insert(key, value, how) {
            assert!(value.len > 4 * KIB, "{value:?} was refused");
            return;
        }
        match how {
            How::Now => self.may(key).write(Some((value, None))),
            How::Soon => self.may(key).write_soon(value),
            How::For(ttl) => self
                .may(key)
                .write(Some((value, Some(Instant::now() + ttl)))),
        }
    }

    fn remove(&mut self) {
        let (key, asked) = (self.script.key(), Instant::now());
        let is_removed = self.cache.remove(key);
        let may = self.may(key);
        let is_live = |end: &Option<Instant>| end.is_none_or(|end| asked < end);
        let may_be_removed = may.values.iter().any(|(_, end)| is_live(end));
        assert!(!is_removed || may_be_removed, "key {key} was not there");
        may.write(None);
    }

    fn get(&mut self) {
        let (key, asked) = (self.script.key(), Instant::now());
        self.reads += 1;
        if let Some(held) = self.cache.hold(key) {
            self.found(key, S::held(&held), asked);
        }
    }

    fn hold(&mut self) {
        if self.held.len() == HELD {
            let at = usize::from(self.script.next()) % HELD;
            let (held, value) = self.held.swap_remove(at);
            assert_eq!(S::held(&held), value);
        }
        let (key, asked) = (self.script.key(), Instant::now());
        self.reads += 1;
        if let Some(held) = self.cache.hold(key) {
            let value = S::held(&held);
            self.found(key, value, asked);
            self.held.push((held, value));
        }
    }

    fn borrow(&mut self) {
        let (key, asked) = (self.script.key(), Instant::now());
        self.reads += 1;
        self.cache.clone().borrow(key, &mut |value| {
            self.found(key, value, asked);
            self.nested();
        });
    }

    fn get_many(&mut self) {
        let (keys, asked) = (self.script.keys(), Instant::now());
        self.reads += keys.len() as u64;
        let values = self.cache.get_many(&keys);
        assert_eq!(values.len(), keys.len());
        for (key, value) in keys.into_iter().zip(values) {
            if let Some(value) = value {
                self.found(key, value, asked);
            }
        }
    }

    fn end(&mut self) -> End {
        match self.script.below(8) {
            0 => End::Error,
            1 => End::Panic,
            _ => End::Value,
        }
    }

    /// Runs as a loader of `keys`.
    fn bring(&mut self, keys: &[u8], end: End) -> Result<Vec<Value>, ()> {
        self.loading.extend_from_slice(keys);
        self.nested();
        self.loading.truncate(self.loading.len() - keys.len());
        match end {
            End::Value => Ok(keys.iter().map(|&key| self.value(key)).collect()),
            End::Error => Err(()),
            End::Panic => resume_unwind(Box::new(OnPurpose)),
        }
    }

    fn load(&mut self) {
        let (key, end, asked) = (self.script.key(), self.end(), Instant::now());
        let May {
            writes, is_queued, ..
        } = *self.may(key);
        self.reads += 1;
        let mut ran = false;
        let mut loaded = None;
        let cache = self.cache.clone();
        let outcome = on_purpose(|| {
            cache.load(key, &mut || {
                ran = true;
                let values = self.bring(&[key], end)?;
                loaded = Some(values[0]);
                Ok(values[0])
            })
        });
        if let Some(loaded) = loaded
            && self.may(key).writes == writes
        {
            self.may(key).load(loaded, is_queued);
        }
        match outcome {
            None => assert!(ran && end == End::Panic),
            Some(Ok(value)) if ran => assert_eq!(Some(value), loaded),
            Some(Ok(value)) => self.found(key, value, asked),
            Some(Err(Failure::Failed(_))) => assert!(ran && end == End::Error),
            Some(Err(Failure::Reentrant)) => assert!(!ran && self.loading.contains(&key)),
            Some(Err(other)) => panic!("{other}"),
        }
    }

    fn load_many(&mut self) {
        let (keys, end, asked) = (self.script.keys(), self.end(), Instant::now());
        let before = self.may.clone();
        self.reads += keys.len() as u64;
        let mut ran = false;
        let mut loaded = HashMap::new();
        let cache = self.cache.clone();
        let outcome = on_purpose(|| {
            cache.load_many(&keys, &mut |missed| {
                assert!(!ran, "called twice");
                ran = true;
                let values = self.bring(missed, end)?;
                loaded = missed.iter().copied().zip(values.clone()).collect();
                Ok(values)
            })
        });
        for (&key, &value) in &loaded {
            let May {
                writes, is_queued, ..
            } = before[usize::from(key)];
            if self.may(key).writes == writes {
                self.may(key).load(value, is_queued);
            }
        }
        match outcome {
            None => assert!(ran && end == End::Panic),
            Some(Ok(values)) => {
                assert_eq!(values.len(), keys.len());
                for (key, value) in keys.into_iter().zip(values) {
                    match loaded.get(&key) {
                        Some(loaded) => assert_eq!(value, *loaded),
                        None => drop(before[usize::from(key)].check(value, asked)),
                    }
                }
            }
            Some(Err(Failure::Failed(_))) => assert!(ran && end == End::Error),
            Some(Err(Failure::Reentrant)) => {
                assert!(keys.iter().any(|key| self.loading.contains(key)));
            }
            Some(Err(other)) => panic!("{other}"),
        }
    }

    fn resize(&mut self) {
        let budget_bytes = match self.script.below(5) {
            4 => 0,
            at => BUDGETS[usize::from(at)],
        };
        let is_resized = self.cache.resize(budget_bytes).is_ok();
        assert_eq!(is_resized, budget_bytes > 0);
        let shown = self.cache.stats().budget_bytes as usize;
        assert!(!is_resized || shown == budget_bytes);
    }

    fn clear(&mut self) {
        self.cache.clear();
        self.may.iter_mut().for_each(|may| may.write(None));
    }

    /// Waits for all that is queued, and checks that the figures add up.
    fn settle(&mut self) {
        self.cache.flush();
        self.may.iter_mut().for_each(May::settle);
        // Owners may be at work on what expires: they take a moment.
        let patience = Instant::now() + Duration::from_secs(60);
        while let Err(wrong) = self.add_up() {
            assert!(
                Instant::now() < patience,
                "{wrong}: {:?}",
                self.cache.stats()
            );
            thread::yield_now();
            self.cache.flush();
        }
    }

    fn add_up(&self) -> Result<(), &'static str> {
        let stats = self.cache.stats();
        let gone = stats.evicted + stats.expired + stats.removed + stats.replaced;
        let is_alone = self.held.is_empty() && self.depth == 0;
        let all = [
            (stats.entries + gone == stats.stored, "entries are lost"),
            (stats.hits + stats.misses == self.reads, "reads are lost"),
            (stats.queued == 0, "something is queued"),
            (
                stats.flights <= self.loading.len() as u64,
                "a flight is left",
            ),
            (
                !is_alone || stats.garbage_bytes == 0,
                "garbage that nobody holds",
            ),
            (
                stats.used_bytes as usize <= 2 * BUDGET_MAX,
                "far over the budget",
            ),
            (
                self.told.as_ref().is_none_or(|told| self.knows(told, gone)),
                "the listener knows another number",
            ),
        ];
        match all.into_iter().find(|(is_right, _)| !is_right) {
            Some((_, wrong)) => Err(wrong),
            None => Ok(()),
        }
    }

    fn knows(&self, told: &Told, gone: u64) -> bool {
        let told = told.lock().unwrap();
        for (number, (key, _)) in told.iter() {
            assert_eq!(self.keys[*number as usize], *key, "of another key");
        }
        told.len() as u64 == gone
    }
}

struct OnPurpose;

/// None if `f` panics on purpose. Hooks do not hear of it: a fuzzer takes every panic that it hears of for a find.
fn on_purpose<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(panic) if panic.is::<OnPurpose>() => None,
        Err(panic) => resume_unwind(panic),
    }
}
