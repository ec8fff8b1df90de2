//! Which keys are asked for most, in bounded memory: Space-Saving.

/// Counts the most frequent items of a stream in a bounded number of places.
///
/// An item that has no place takes that of the one counted least, and its count with it as what may be too much. So with
/// `n` counted in `places` places, no count is off by more than `n / places`, and whatever was counted more often than
/// that has a place.
pub(crate) struct Sketch<T> {
    /// Looked through from one end to the other: they are apart from the items for that.
    hashes: Vec<u64>,
    counts: Vec<u32>,
    items: Vec<(T, u32)>,
    places: usize,
}

/// An item and how often it was counted, at least and at the most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted<T> {
    pub item: T,
    pub least: u32,
    pub most: u32,
}

impl<T> Sketch<T> {
    pub fn new(places: usize) -> Self {
        Self {
            hashes: Vec::with_capacity(places),
            counts: Vec::with_capacity(places),
            items: Vec::with_capacity(places),
            places,
        }
    }

    /// Counts an item by its hash; `item` makes it if it needs a place.
    pub fn count(&mut self, hash: u64, item: impl FnOnce() -> T) {
        if let Some(place) = self.hashes.iter().position(|&known| known == hash) {
            self.counts[place] = self.counts[place].saturating_add(1);
        } else if self.hashes.len() < self.places {
            self.hashes.push(hash);
            self.counts.push(1);
            self.items.push((item(), 0));
        } else if let Some((place, &least)) = self.counts.iter().enumerate().min_by_key(|at| at.1) {
            self.hashes[place] = hash;
            self.counts[place] = least.saturating_add(1);
            self.items[place] = (item(), least);
        }
    }

    /// What was counted since the last time, in no order.
    pub fn take(&mut self) -> Vec<(u64, Counted<T>)> {
        let hashes = self.hashes.drain(..);
        let counted = self.counts.drain(..).zip(self.items.drain(..));
        let counted = counted.map(|(most, (item, over))| Counted {
            item,
            least: most - over,
            most,
        });
        hashes.zip(counted).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const PLACES: usize = 256;
    const REQUESTS: usize = 200_000;

    /// Ranks of a Zipf distribution, by looking up evenly distributed numbers in its sums.
    fn zipf(exponent: f64, keys: usize) -> impl Iterator<Item = u64> {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=keys)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        let mut state = 7_u64;
        std::iter::repeat_with(move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = (state >> 11) as f64 / (1_u64 << 53) as f64 * sum;
            sums.partition_point(|&sum| sum <= at) as u64
        })
    }

    #[test]
    fn counts_are_within_their_bounds_and_the_frequent_have_a_place() {
        let (mut sketch, mut exact) = (Sketch::new(PLACES), HashMap::new());
        for key in zipf(1.2, 100_000).take(REQUESTS) {
            sketch.count(key, || key);
            *exact.entry(key).or_insert(0_u32) += 1;
        }
        let counted: HashMap<_, _> = sketch.take().into_iter().collect();
        let off = (REQUESTS / PLACES) as u32;
        for (key, counted) in &counted {
            assert_eq!(*key, counted.item);
            let exact = exact[key];
            assert!(
                counted.least <= exact && exact <= counted.most,
                "{counted:?} of {exact}"
            );
            assert!(counted.most - counted.least <= off, "{counted:?}");
        }
        let frequent = exact.iter().filter(|(_, count)| **count > off);
        for (key, count) in frequent.clone() {
            assert!(counted.contains_key(key), "{key} with {count}");
        }
        assert!(frequent.count() > 20);
    }

    #[test]
    fn it_has_no_more_places_than_it_was_given_and_is_empty_when_taken() {
        let mut sketch = Sketch::new(PLACES);
        for key in 0..100_000_u64 {
            sketch.count(key, || key);
            assert!(sketch.items.len() <= PLACES && sketch.items.capacity() == PLACES);
        }
        let counted = sketch.take();
        assert_eq!(counted.len(), PLACES);
        let sum: u32 = counted.iter().map(|(_, counted)| counted.most).sum();
        assert_eq!(sum, 100_000, "each is counted in some place");
        assert!(sketch.take().is_empty());
    }
}
