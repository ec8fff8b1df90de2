//! Lists of tokens in the order in which they came, in blocks. A token can be taken out anywhere.
//!
//! ```text
//! item    | token, 48 bits | time since the block was begun, 16 bits |
//! block   | newer | older | begun | live | the oldest item | ... | the newest |     61 items in 512 bytes
//! spot    | number of the block, 25 bits | index of the item, 6 bits |
//! ```
//!
//! A block's bits in `live` say which items are there. A token that leaves in the middle of a list leaves a hole, and a
//! block goes when it has holes only. Two neighbours that have become so empty that both fit in half a block are made
//! one. That moves no more than half a block for one that goes, and a block is only begun after half a block of tokens
//! at the least, or after as many admissions as the time in an item counts: so a token costs the same few steps on the
//! mean, whatever leaves.

use super::Token;
use crate::engine::table::prefetch;

/// Items in a block. Few under test, so that blocks begin and end all the time.
const ITEMS: usize = if cfg!(test) { 4 } else { 61 };
/// An item comes no later than this after its block was begun.
const TIME_MAX: u32 = if cfg!(test) { 20 } else { (1 << TIME_BITS) - 1 };

const TIME_BITS: u32 = 16;
const INDEX_BITS: u32 = 6;
/// Spots have 31 bits.
const BLOCKS_MAX: usize = 1 << (31 - INDEX_BITS);
const NONE: u32 = u32::MAX;

/// A token, and when it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    pub token: Token,
    pub since: u32,
}

struct Block {
    /// Towards the end where tokens come in.
    newer: u32,
    /// Towards the end where they leave.
    older: u32,
    begun: u32,
    live: u64,
    items: [u64; ITEMS],
}

impl Default for Block {
    fn default() -> Self {
        Self {
            newer: NONE,
            older: NONE,
            begun: 0,
            live: 0,
            items: [0; ITEMS],
        }
    }
}

impl Block {
    fn begin(&mut self, now: u32) {
        (self.newer, self.older) = (NONE, NONE);
        (self.begun, self.live) = (now, 0);
    }

    /// Puts an item after the newest, and returns its index; none if it comes too late, or there is no room.
    fn push(&mut self, Item { token, since }: Item) -> Option<u32> {
        let index = u64::BITS - self.live.leading_zeros();
        let time = since.wrapping_sub(self.begun);
        if time > TIME_MAX {
            return None;
        }
        *self.items.get_mut(index as usize)? = token << TIME_BITS | u64::from(time);
        self.live |= 1 << index;
        Some(index)
    }

    #[inline]
    fn item(&self, index: u32) -> Item {
        let item = self.items[index as usize];
        let time = (item & ((1 << TIME_BITS) - 1)) as u32;
        Item {
            token: item >> TIME_BITS,
            since: self.begun.wrapping_add(time),
        }
    }

    fn oldest(&self) -> Item {
        self.item(self.live.trailing_zeros())
    }

    fn newest(&self) -> Item {
        self.item(self.live.ilog2())
    }

    /// Its items, the oldest first.
    fn iter(&self) -> impl Iterator<Item = Item> {
        let mut live = self.live;
        std::iter::from_fn(move || {
            let index = live.trailing_zeros();
            live &= live.wrapping_sub(1);
            (index < u64::BITS).then(|| self.item(index))
        })
    }

    #[inline]
    fn holds(&self, token: Token, index: u32) -> bool {
        self.live >> index & 1 == 1 && self.item(index).token == token
    }
}

/// Both ends of a list.
#[derive(Clone, Copy)]
pub struct List {
    newest: u32,
    oldest: u32,
}

impl List {
    pub const EMPTY: Self = Self {
        newest: NONE,
        oldest: NONE,
    };
}

/// A token that is to stand where another one does.
#[derive(Clone, Copy)]
struct Late {
    spot: u32,
    old: Token,
    new: Token,
}

/// The blocks of some lists.
#[derive(Default)]
pub struct Blocks {
    /// The last replacement. It is made when the next change comes: where it is to be written was looked at long ago, and
    /// the memory comes meanwhile.
    late: Option<Late>,
    /// By number.
    blocks: Vec<Option<Box<Block>>>,
    /// Numbers that are not in use.
    free: Vec<u32>,
    /// The last block that ended, for the next that is begun: mostly a queue begins one for each that ends.
    spare: Option<Box<Block>>,
}

impl Blocks {
    /// With the block's address and its number, which may be a free one later; rounded up.
    pub const BYTES_A_TOKEN: usize = (size_of::<Block>() + 2 * size_of::<u64>()).div_ceil(ITEMS);

    /// The heap memory that they take.
    pub fn bytes(&self) -> usize {
        let blocks = self.blocks.len() - self.free.len() + usize::from(self.spare.is_some());
        blocks * size_of::<Block>()
            + self.blocks.capacity() * size_of::<Option<Box<Block>>>()
            + self.free.capacity() * size_of::<u32>()
    }

    /// Adds the newest token of a list, and returns its spot.
    ///
    /// # Panics
    /// If `token` has more than 48 bits.
    pub fn push(&mut self, list: &mut List, token: Token, now: u32) -> u32 {
        assert!(token >> (u64::BITS - TIME_BITS) == 0, "a token has 48 bits");
        self.catch_up();
        let item = Item { token, since: now };
        let newest = self.blocks.get_mut(list.newest as usize);
        if let Some(index) = newest.and_then(|block| block.as_mut()?.push(item)) {
            return spot(list.newest, index);
        }
        self.begin_block(list, now);
        let index = self.block_mut(list.newest).push(item);
        spot(list.newest, index.expect("a new block has room"))
    }

    /// Takes the oldest token out of a list that is not empty; returns the next.
    pub fn pop(&mut self, list: &mut List) -> Option<Item> {
        self.catch_up();
        let number = list.oldest;
        let block = self.block_mut(number);
        block.live &= block.live - 1;
        if block.live != 0 {
            return Some(block.oldest());
        }
        self.end_block(list, number);
        (list.oldest != NONE).then(|| self.block(list.oldest).oldest())
    }

    /// The token behind the oldest of a list that is not empty, where it stands in the same block.
    pub fn second(&self, list: &List) -> Option<Token> {
        let block = self.block(list.oldest);
        let behind = block.live & (block.live - 1);
        (behind != 0).then(|| block.item(behind.trailing_zeros()).token)
    }

    /// Takes a token out of its list.
    ///
    /// # Panics
    /// If it does not stand at `spot`.
    pub fn take(&mut self, list: &mut List, token: Token, spot: u32) {
        self.catch_up();
        let (number, index) = parts(spot);
        let block = self.holder_mut(token, spot);
        block.live &= !(1 << index);
        if block.live == 0 {
            self.end_block(list, number);
        }
    }

    /// Puts a token in another's place.
    ///
    /// # Panics
    /// If `old` does not stand at `spot`; perhaps by the next change only.
    #[inline]
    pub fn replace(&mut self, old: Token, new: Token, spot: u32) {
        assert!(new >> (u64::BITS - TIME_BITS) == 0, "a token has 48 bits");
        self.catch_up();
        let (number, index) = parts(spot);
        prefetch(&raw const self.block(number).items[index as usize]);
        self.late = Some(Late { spot, old, new });
    }

    /// Makes the replacement that has not been made yet.
    #[inline]
    fn catch_up(&mut self) {
        let Some(Late { spot, old, new }) = self.late.take() else {
            return;
        };
        let (number, index) = parts(spot);
        let item = &mut self.block_mut(number).items[index as usize];
        // Whether it is live stands on a line of its own, which nothing else here needs.
        assert!(*item >> TIME_BITS == old, "a token is where its place says");
        *item ^= (old ^ new) << TIME_BITS;
    }

    /// Makes one of two blocks, if `spot` was left in one of them, and both fit in half a block. `moved` is told the new
    /// spots.
    pub fn close_hole(&mut self, list: &mut List, spot: u32, moved: impl FnMut(Token, u32)) {
        let (number, _) = parts(spot);
        let Some(block) = &self.blocks[number as usize] else {
            return;
        };
        if block.live.count_ones() as usize > ITEMS / 2 {
            return;
        }
        let (older, newer) = (block.older, block.newer);
        if self.are_mergeable(older, number) {
            self.merge(list, older, number, moved);
        } else if self.are_mergeable(number, newer) {
            self.merge(list, number, newer, moved);
        }
    }

    /// An item as it is once all replacements are made.
    fn up_to_date(&self, item: Item) -> Item {
        let late = self.late.filter(|late| late.old == item.token);
        late.map_or(item, |late| Item {
            token: late.new,
            ..item
        })
    }

    /// All tokens of all lists, in no order.
    pub fn for_each(&self, mut f: impl FnMut(Token)) {
        let blocks = self.blocks.iter().flatten();
        blocks.for_each(|block| block.iter().for_each(|item| f(self.up_to_date(item).token)));
    }

    fn are_mergeable(&self, older: u32, newer: u32) -> bool {
        if older == NONE || newer == NONE {
            return false;
        }
        let (older, newer) = (self.block(older), self.block(newer));
        let (first, last) = (older.oldest().since, newer.newest().since);
        let len = older.live.count_ones() + newer.live.count_ones();
        len as usize <= ITEMS / 2 && last.wrapping_sub(first) <= TIME_MAX
    }

    fn merge(
        &mut self,
        list: &mut List,
        older: u32,
        newer: u32,
        mut moved: impl FnMut(Token, u32),
    ) {
        let (first, second) = (self.block(older), self.block(newer));
        let mut merged = Block {
            newer: first.newer,
            older: first.older,
            begun: first.oldest().since,
            ..Block::default()
        };
        for item in first.iter().chain(second.iter()) {
            let index = merged.push(item).expect("both fit in half a block");
            moved(item.token, spot(older, index));
        }
        *self.block_mut(older) = merged;
        self.end_block(list, newer);
    }

    fn begin_block(&mut self, list: &mut List, now: u32) {
        let mut block = self.spare.take().unwrap_or_default();
        block.begin(now);
        block.older = list.newest;
        let number = if let Some(number) = self.free.pop() {
            self.blocks[number as usize] = Some(block);
            number
        } else {
            assert!(
                self.blocks.len() < BLOCKS_MAX,
                "a queue has 2^25 blocks at the most"
            );
            self.blocks.push(Some(block));
            (self.blocks.len() - 1) as u32
        };
        match std::mem::replace(&mut list.newest, number) {
            NONE => list.oldest = number,
            older => self.block_mut(older).newer = number,
        }
    }

    fn end_block(&mut self, list: &mut List, number: u32) {
        let Block { newer, older, .. } = *self.block(number);
        match newer {
            NONE => list.newest = older,
            newer => self.block_mut(newer).older = older,
        }
        match older {
            NONE => list.oldest = newer,
            older => self.block_mut(older).newer = newer,
        }
        self.spare = self.blocks[number as usize].take();
        self.free.push(number);
    }

    fn block(&self, number: u32) -> &Block {
        let block = self.blocks[number as usize].as_deref();
        block.expect("a block in a list is in use")
    }

    #[inline]
    fn block_mut(&mut self, number: u32) -> &mut Block {
        let block = self.blocks[number as usize].as_deref_mut();
        block.expect("a block in a list is in use")
    }

    #[inline]
    fn holder_mut(&mut self, token: Token, spot: u32) -> &mut Block {
        let (number, index) = parts(spot);
        let block = self.blocks.get_mut(number as usize);
        let block = block.and_then(Option::as_deref_mut);
        block
            .filter(|block| block.holds(token, index))
            .expect("a token is where its place says")
    }
}

#[inline]
fn spot(number: u32, index: u32) -> u32 {
    number << INDEX_BITS | index
}

/// Number and index.
#[inline]
fn parts(spot: u32) -> (u32, u32) {
    (spot >> INDEX_BITS, spot & ((1 << INDEX_BITS) - 1))
}

#[cfg(test)]
impl Blocks {
    /// Checks every invariant of the blocks of a list; returns its items with their spots, the oldest first.
    pub fn validate(&self, list: &List) -> Vec<(Item, u32)> {
        let (mut older, mut at) = (NONE, list.oldest);
        let mut items = Vec::new();
        while at != NONE {
            let block = self.block(at);
            assert_eq!(block.older, older);
            assert!(block.live != 0 && block.live >> ITEMS == 0);
            let indices = (0..ITEMS as u32).filter(|index| block.live >> index & 1 == 1);
            items
                .extend(indices.map(|index| (self.up_to_date(block.item(index)), spot(at, index))));
            (older, at) = (at, block.newer);
        }
        assert_eq!(list.newest, older);
        items
    }

    /// Checks that `tokens` are all there are, and that no block is lost.
    pub fn validate_all(&self, tokens: usize) {
        let mut found = 0;
        self.for_each(|_| found += 1);
        assert_eq!(found, tokens);
        let mut free = self.free.clone();
        free.sort_unstable();
        let unused = self.blocks.iter().enumerate();
        let unused = unused.filter_map(|(number, block)| block.is_none().then_some(number as u32));
        assert_eq!(free, unused.collect::<Vec<_>>());
    }

    pub fn len(&self) -> usize {
        self.blocks.len() - self.free.len()
    }
}
