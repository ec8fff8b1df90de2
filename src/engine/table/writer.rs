//! The one writer of a table.

use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::line::{Line, PLACES, tag_of};
use super::segments::{FIRST as FIRST_SEGMENT, Segments};
use super::{FAR, Header, Shape, Table, bucket_of};
use crate::engine::arena;
use crate::engine::pages::{self, HUGE_PAGE_BYTES, PAGE_BYTES};
use crate::engine::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// Entries a bucket, on the mean, with which the table grows, and below which it may shrink.
pub(super) const GROW_AT: usize = if cfg!(all(test, corecache_model)) {
    4
} else {
    7
};
pub(super) const SHRINK_AT: usize = GROW_AT / 2;
/// Buckets whose lines are given back together, among the first, and behind them.
const PAGE_BUCKETS: usize = PAGE_BYTES / size_of::<Line>();
const HUGE_PAGE_BUCKETS: usize = HUGE_PAGE_BYTES / size_of::<Line>();

/// A place that holds an entry.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    line: &'a Line,
    index: usize,
    name: u32,
    pub entry: NonNull<Header>,
}

impl<'a> At<'a> {
    fn place(&self) -> &'a AtomicU32 {
        &self.line.places[self.index]
    }

    fn tag(&self) -> u8 {
        self.line.tags().tag(self.index)
    }

    pub fn clear(&self) {
        // Release: what was done before (a split's announcement) is seen by whoever sees that the place is free.
        self.place().store(0, Ordering::Release);
        self.line.set_tag(self.index, 0);
    }
}

/// Numbers that are given out from the lowest on, and again.
struct Numbers {
    first: u32,
    /// The next that was never given out.
    next: u32,
    free: Vec<u32>,
}

impl Numbers {
    fn from(first: u32) -> Self {
        Self {
            first,
            next: first,
            free: Vec::new(),
        }
    }

    fn take(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    fn give_back(&mut self, number: u32) {
        self.free.push(number);
    }

    fn is_loose(&self) -> bool {
        self.free.len() >= FIRST_SEGMENT && self.free.len() > self.peak() / 2
    }

    /// Forgets those at the top that are free, and returns them. From here on the lowest are given out first.
    fn trim(&mut self) -> Range<u32> {
        let end = self.next;
        self.free.sort_unstable();
        while self.free.last().is_some_and(|last| last + 1 == self.next) {
            self.free.pop();
            self.next -= 1;
        }
        self.free.reverse();
        self.free.shrink_to_fit();
        self.next..end
    }

    /// Forgets those from `next` on, all of which are free.
    fn forget_from(&mut self, next: u32) {
        self.free.retain(|number| *number < next);
        self.free.shrink_to_fit();
        self.next = next;
    }

    /// How many are in use, or were and have not been forgotten.
    fn peak(&self) -> usize {
        (self.next - self.first) as usize
    }
}

/// The one writer of a table. It holds a reference to each entry that the table holds, as raw pointers: who gets one
/// back from `insert` or `remove` has to retire it.
pub(crate) struct Writer {
    table: Arc<Table>,
    books: Books,
}

/// What the writer alone knows.
struct Books {
    len: usize,
    /// Those of the overflow lines. A reader may still be at one that no bucket needs, so they stay mapped.
    overflow: Numbers,
    overflow_lines: usize,
    /// Those of the entries outside of the range.
    far: Numbers,
    walks: usize,
}

impl Writer {
    /// The writer of a new table, whose entries have names in `range`, or lie elsewhere.
    pub fn new(range: arena::Range) -> Self {
        let shape = Shape {
            buckets: FIRST_SEGMENT as u32,
            merges: 0,
        };
        let table = Arc::new(Table {
            glance: AtomicU64::new(shape.glance()),
            shape: AtomicU64::new(shape.bits()),
            range,
            buckets: Segments::new(),
            overflow: Segments::new(),
            far: Segments::new(),
        });
        table.buckets.add(0);
        Self {
            table,
            books: Books {
                len: 0,
                overflow: Numbers::from(1),
                overflow_lines: 0,
                far: Numbers::from(0),
                walks: 0,
            },
        }
    }

    #[inline]
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The bytes of all lines, and of the list of what lies elsewhere. The first lines, up to a page of either kind, are not
    /// given back: they stay memory where they are not in use any more, and count for nothing, so that the least of
    /// budgets has room for entries whatever the table once held.
    #[inline]
    pub fn bytes(&self) -> usize {
        let Books { overflow, far, .. } = &self.books;
        let far_bytes = far.peak() * size_of::<AtomicPtr<Header>>();
        (self.buckets() + overflow.peak()) * size_of::<Line>() + far_bytes
    }

    /// How many buckets there are.
    #[inline]
    pub fn buckets(&self) -> usize {
        self.table.shape().buckets as usize
    }

    /// Puts `entry` where `is_it` finds its predecessor, which is returned, or else at a free place.
    pub fn insert(
        &mut self,
        entry: NonNull<Header>,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let Self { table, books } = self;
        if let Some(at) = table.find_for_writer(hash, is_it) {
            books.put_in_place_of(table, at, entry);
            return Some(at.entry);
        }
        let name = books.name(table, entry);
        let Shape { buckets, .. } = table.shape();
        books.put(
            table,
            bucket_of(hash as u32, buckets as usize),
            name,
            tag_of(hash),
        );
        books.len += 1;
        while books.len > table.shape().buckets as usize * GROW_AT {
            books.split(table);
        }
        None
    }

    /// Whether there is an entry that `is_it` accepts.
    pub fn holds(&self, hash: u64, is_it: impl Fn(NonNull<Header>) -> bool) -> bool {
        self.table.find_for_writer(hash, is_it).is_some()
    }

    /// Unlinks the entry that `is_it` accepts and returns it.
    pub fn remove(
        &mut self,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<NonNull<Header>> {
        let Self { table, books } = self;
        let at = table.find_for_writer(hash, is_it)?;
        books.take_out(table, at, hash as u32);
        Some(at.entry)
    }

    /// Unlinks an entry.
    ///
    /// # Panics
    /// If it is not in the table.
    pub fn unlink(&mut self, entry: NonNull<Header>) {
        let Self { table, books } = self;
        let (at, hash) = table.place_of(entry);
        books.take_out(table, at, hash);
    }

    /// Puts a copy of an entry in its place.
    ///
    /// # Panics
    /// If `old` is not in the table.
    pub fn exchange(&mut self, old: NonNull<Header>, new: NonNull<Header>) {
        let Self { table, books } = self;
        let (at, _) = table.place_of(old);
        books.put_in_place_of(table, at, new);
    }

    /// Whether the table is much larger than it has to be, and may shrink.
    #[inline]
    pub fn is_loose(&self) -> bool {
        let Books { len, walks, .. } = self.books;
        walks == 0 && self.buckets() > FIRST_SEGMENT && len < self.buckets() * SHRINK_AT
    }

    /// Takes back so many buckets at the most. When that is done, overflow lines follow, and the list of what lies elsewhere,
    /// if most of them are free.
    pub fn shrink(&mut self, buckets: usize) {
        for _ in 0..buckets {
            if !self.is_loose() {
                break;
            }
            self.books.merge(&self.table);
        }
        if self.is_loose() {
            return;
        }
        if self.books.overflow.is_loose() {
            self.books.trim(&self.table);
        }
        if self.books.far.is_loose() {
            self.books.trim_far(&self.table);
        }
    }

    /// Until [`Writer::end_walk`] no bucket is merged: who walks over the buckets from the first to the last, in several
    /// turns, meets each entry that stays.
    pub fn begin_walk(&mut self) {
        self.books.walks += 1;
    }

    pub fn end_walk(&mut self) {
        self.books.walks -= 1;
    }

    /// The entries of one bucket.
    pub fn bucket(&self, bucket: usize) -> impl Iterator<Item = NonNull<Header>> {
        self.table.entries(bucket).map(|at| at.entry)
    }

    /// All entries.
    pub fn for_each(&self, mut f: impl FnMut(NonNull<Header>)) {
        (0..self.buckets()).for_each(|bucket| self.bucket(bucket).for_each(&mut f));
    }

    /// Leaves an entry in a bucket, whether it belongs there or not.
    #[cfg(test)]
    pub(super) fn put(&mut self, bucket: usize, entry: NonNull<Header>) {
        let name = self.books.name(&self.table, entry);
        self.books.put(&self.table, bucket, name, 1);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.books.len
    }

    #[cfg(test)]
    pub(super) fn overflow_lines(&self) -> usize {
        self.books.overflow_lines
    }
}

impl Books {
    /// Gives an entry the name by which a place knows it.
    fn name(&mut self, table: &Table, entry: NonNull<Header>) -> u32 {
        table
            .range
            .name_of(entry)
            .unwrap_or_else(|| self.far_name(table, entry))
    }

    #[cold]
    fn far_name(&mut self, table: &Table, entry: NonNull<Header>) -> u32 {
        let number = self.far.take();
        assert!(
            number < FAR,
            "a table has fewer than 2^31 entries elsewhere"
        );
        table.far.add(number as usize);
        // Release: the entry is written before it can be found.
        table.far(number).store(entry.as_ptr(), Ordering::Release);
        number | FAR
    }

    /// To be called when no place has the name any more.
    fn forget_name(&mut self, table: &Table, name: u32) {
        if name >= FAR {
            let number = name & !FAR;
            // Release: who sees this sees that the place is free, or another's.
            table.far(number).store(ptr::null_mut(), Ordering::Release);
            self.far.give_back(number);
        }
    }

    fn put_in_place_of(&mut self, table: &Table, at: At<'_>, entry: NonNull<Header>) {
        let name = self.name(table, entry);
        // Release: the entry is written before it can be found.
        at.place().store(name, Ordering::Release);
        self.forget_name(table, at.name);
    }

    /// Stores an entry's name at a free place of a bucket.
    fn put(&mut self, table: &Table, bucket: usize, name: u32, tag: u8) {
        let mut line = table.line(bucket);
        loop {
            let is_free = |place: &AtomicU32| place.load(Ordering::Relaxed) == 0;
            if let Some(index) = line.places.iter().position(is_free) {
                // Release: the entry is written before it can be found.
                line.places[index].store(name, Ordering::Release);
                return line.set_tag(index, tag);
            }
            match line.tags().link() {
                Some(number) => line = table.overflow_line(number),
                None => break,
            }
        }
        let number = self.overflow.take();
        table.overflow.add(number as usize);
        self.overflow_lines += 1;
        let new = table.overflow_line(number);
        new.places[0].store(name, Ordering::Release);
        new.set_tag(0, tag);
        line.set_link(Some(number));
    }

    /// Where an entry was the last of an overflow line, its bucket gives that away.
    fn take_out(&mut self, table: &Table, at: At<'_>, hash: u32) {
        at.clear();
        self.forget_name(table, at.name);
        self.len -= 1;
        self.cut(table, bucket_of(hash, table.shape().buckets as usize));
    }

    /// Takes the last line from a bucket as long as that is an overflow line without entries.
    fn cut(&mut self, table: &Table, bucket: usize) {
        loop {
            let mut line = table.line(bucket);
            let Some(mut number) = line.tags().link() else {
                return;
            };
            let mut last = table.overflow_line(number);
            while let Some(behind) = last.tags().link() {
                (line, last, number) = (last, table.overflow_line(behind), behind);
            }
            if !last.is_empty() {
                return;
            }
            line.set_link(None);
            self.overflow_lines -= 1;
            self.overflow.give_back(number);
        }
    }

    /// Gives back the overflow lines behind the last that is in use. A reader may still be at one of them: it finds there
    /// what it would find at a free line, zeroes.
    fn trim(&mut self, table: &Table) {
        let free = self.overflow.trim();
        let first = (free.start as usize).next_multiple_of(PAGE_BUCKETS);
        // Lower ones may lie in segments that are smaller than a page.
        for number in (first.max(PAGE_BUCKETS)..free.end as usize).step_by(PAGE_BUCKETS) {
            let start = NonNull::from(table.overflow_line(number as u32)).cast();
            // SAFETY: the page is one of a segment's own, all of its places are free, and free is what zeroes are.
            unsafe { pages::discard(start, PAGE_BYTES) }
        }
    }

    /// Gives back the list of what lies elsewhere behind the last that is in use: there are too many to be sorted in a turn.
    fn trim_far(&mut self, table: &Table) {
        const A_PAGE: usize = PAGE_BYTES / size_of::<AtomicPtr<Header>>();
        let (first, end) = (self.far.first, self.far.next);
        let is_free = |number: &u32| table.far(*number).load(Ordering::Relaxed).is_null();
        let free_from = (first..end).rev().take_while(is_free).last();
        let Some(next) = free_from else {
            return;
        };
        self.far.forget_from(next);
        let first = (next as usize).next_multiple_of(A_PAGE);
        // As above: a reader that still has one of the names finds no entry under it.
        for number in (first.max(A_PAGE)..end as usize).step_by(A_PAGE) {
            let start = NonNull::from(table.far(number as u32)).cast();
            // SAFETY: the page is one of a segment's own, all that it lists has left, and that is what zeroes say.
            unsafe { pages::discard(start, PAGE_BYTES) }
        }
    }

    /// Moves the entries of `from` that belong to `to` in the new shape.
    fn reshape(&mut self, table: &Table, from: usize, to: usize, shape: Shape) {
        let moves = |at: &At| {
            // SAFETY: the table holds a reference to what it links.
            let hash = unsafe { at.entry.as_ref() }.hash;
            shape.bucket_of(hash.into()) == to
        };
        for at in table.entries(from).filter(moves) {
            self.put(table, to, at.name, at.tag());
        }
        table.glance.store(shape.glance(), Ordering::Release);
        table.shape.store(shape.bits(), Ordering::Release);
        for at in table.entries(from).filter(moves) {
            at.clear();
        }
        self.cut(table, from);
    }

    fn split(&mut self, table: &Table) {
        let Shape { buckets, merges } = table.shape();
        let new = buckets as usize;
        table.buckets.add(new);
        let shape = Shape {
            buckets: buckets + 1,
            merges,
        };
        self.reshape(table, parent_of(new), new, shape);
    }

    fn merge(&mut self, table: &Table) {
        let Shape { buckets, merges } = table.shape();
        let old = buckets as usize - 1;
        let shape = Shape {
            buckets: buckets - 1,
            merges: merges.wrapping_add(1),
        };
        self.reshape(table, old, parent_of(old), shape);
        let page = if old >= HUGE_PAGE_BUCKETS {
            HUGE_PAGE_BYTES
        } else {
            PAGE_BYTES
        };
        if old > 0 && old.is_multiple_of(page / size_of::<Line>()) {
            let start = NonNull::from(table.line(old)).cast();
            // SAFETY: the page is one of a segment's own, all of its places are free, and free is what zeroes are.
            unsafe { pages::discard(start, page) }
        }
    }
}

impl Table {
    fn at<'a>(&self, line: &'a Line, index: usize) -> Option<At<'a>> {
        let name = line.places[index].load(Ordering::Relaxed);
        let entry = (name != 0).then(|| self.entry(name))??;
        Some(At {
            line,
            index,
            name,
            entry,
        })
    }

    /// The entries of a bucket, for the writer: each is linked.
    pub(super) fn entries(&self, bucket: usize) -> impl Iterator<Item = At<'_>> {
        let first = Some(self.line(bucket));
        let behind = |line: &&Line| Some(self.overflow_line(line.tags().link()?));
        let lines = std::iter::successors(first, behind);
        lines.flat_map(move |line| (0..PLACES).filter_map(move |index| self.at(line, index)))
    }

    /// Where an entry is, for the writer, with its hash.
    fn place_of(&self, entry: NonNull<Header>) -> (At<'_>, u32) {
        // SAFETY: the writer has it from the table or the queues, and it was not retired.
        let hash = unsafe { entry.as_ref() }.hash;
        let bucket = self.shape().bucket_of(hash.into());
        let found = self.entries(bucket).find(|at| at.entry == entry);
        (found.expect("what is to leave is in the table"), hash)
    }

    /// As [`Table::find`], for the writer, whom nothing can surprise.
    fn find_for_writer(
        &self,
        hash: u64,
        is_it: impl Fn(NonNull<Header>) -> bool,
    ) -> Option<At<'_>> {
        let mut line = self.line(self.shape().bucket_of(hash));
        loop {
            let tags = line.tags();
            for index in tags.matches(tag_of(hash)) {
                if let Some(at) = self.at(line, index).filter(|at| is_it(at.entry)) {
                    return Some(at);
                }
            }
            line = self.overflow_line(tags.link()?);
        }
    }
}

/// The bucket that another one was split from.
pub(super) fn parent_of(bucket: usize) -> usize {
    bucket - (1 << bucket.ilog2())
}
