use super::{Cache, NONE, Request};

/// Stored keys in the order in which they were last asked for, linked by key.
pub struct Lru {
    links: Vec<Link>,
    newest: u32,
    oldest: u32,
    weight: u64,
    size: u64,
}

#[derive(Clone, Copy)]
struct Link {
    newer: u32,
    older: u32,
    weight: u32,
    is_stored: bool,
}

impl Lru {
    pub fn new(keys: usize, size: u64) -> Self {
        let link = Link {
            newer: NONE,
            older: NONE,
            weight: 0,
            is_stored: false,
        };
        Self {
            links: vec![link; keys],
            newest: NONE,
            oldest: NONE,
            weight: 0,
            size,
        }
    }

    fn unlink(&mut self, key: u32) {
        let Link { newer, older, .. } = self.links[key as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
    }

    fn push(&mut self, key: u32) {
        let older = self.newest;
        match older {
            NONE => self.oldest = key,
            older => self.links[older as usize].newer = key,
        }
        let link = &mut self.links[key as usize];
        (link.newer, link.older) = (NONE, older);
        self.newest = key;
    }
}

impl Cache for Lru {
    fn request(&mut self, Request { key, weight }: Request) -> bool {
        if self.links[key as usize].is_stored {
            self.unlink(key);
            self.push(key);
            return true;
        }
        if u64::from(weight) > self.size {
            return false;
        }
        while self.weight + u64::from(weight) > self.size {
            let victim = self.oldest;
            self.unlink(victim);
            let link = &mut self.links[victim as usize];
            link.is_stored = false;
            self.weight -= u64::from(link.weight);
        }
        self.weight += u64::from(weight);
        let link = &mut self.links[key as usize];
        (link.weight, link.is_stored) = (weight, true);
        self.push(key);
        false
    }
}
