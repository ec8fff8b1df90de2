//! Bytes that no budget counts yet: those of values that are being loaded, and of values that were loaded, could not be
//! stored, and are still held. An account bounds them. A charge goes with its entry: it ends when the budget counts the
//! entry, or when the entry is freed.

use std::sync::Arc;

use super::sync::{AtomicUsize, Ordering};

pub(crate) struct Account {
    limit_bytes: usize,
    bytes: AtomicUsize,
}

/// There is no room for more; `bytes` are charged already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub bytes: usize,
    pub limit_bytes: usize,
}

impl Account {
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            bytes: AtomicUsize::new(0),
        })
    }

    #[cfg(any(test, feature = "server"))]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A charge of nothing yet.
    pub fn open(self: &Arc<Self>) -> Box<Charge> {
        Box::new(Charge {
            account: self.clone(),
            bytes: AtomicUsize::new(0),
        })
    }

    fn take(&self, more_bytes: usize) -> Result<(), Full> {
        let before = self.bytes.fetch_add(more_bytes, Ordering::Relaxed);
        if before.saturating_add(more_bytes) <= self.limit_bytes {
            return Ok(());
        }
        self.bytes.fetch_sub(more_bytes, Ordering::Relaxed);
        Err(Full {
            bytes: before,
            limit_bytes: self.limit_bytes,
        })
    }
}

pub(crate) struct Charge {
    account: Arc<Account>,
    bytes: AtomicUsize,
}

impl Charge {
    /// Charges so many bytes in all, more or less than before.
    pub fn set(&mut self, bytes: usize) -> Result<(), Full> {
        let charged = self.bytes.get_mut();
        if bytes > *charged {
            self.account.take(bytes - *charged)?;
        } else {
            let less_bytes = *charged - bytes;
            self.account.bytes.fetch_sub(less_bytes, Ordering::Relaxed);
        }
        *charged = bytes;
        Ok(())
    }

    /// Ends the charge: the bytes are counted elsewhere, or free.
    pub fn settle(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.account.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(all(test, not(corecache_model)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_stays_within_the_limit_and_comes_back() {
        let account = Account::new(100);
        let mut first = account.open();
        first.set(60).unwrap();
        let mut second = account.open();
        let full = Full {
            bytes: 60,
            limit_bytes: 100,
        };
        assert_eq!(second.set(41), Err(full));
        second.set(40).unwrap();
        first.set(10).unwrap();
        assert_eq!(account.bytes(), 50);
        second.settle();
        second.settle();
        assert_eq!(account.bytes(), 10);
        drop((first, second));
        assert_eq!(account.bytes(), 0);
    }
}
