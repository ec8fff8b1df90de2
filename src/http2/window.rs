//! Flow control of what we receive (RFC 9113, 5.2): how much the client may still send, and when it is told to go on.

/// The window of a stream, or of the connection, for DATA frames that come.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    left: u32,
    /// What was taken, and not yet granted again.
    owed: u32,
    /// What both are together.
    size: u32,
}

/// The client has sent more than it might.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exceeded;

impl ReceiveWindow {
    pub fn new(size: u32) -> Self {
        Self {
            left: size,
            owed: 0,
            size,
        }
    }

    /// So many bytes have come, which the client may send again as far as we are concerned.
    pub fn take(&mut self, len: usize) -> Result<(), Exceeded> {
        let len = u32::try_from(len).map_err(|_| Exceeded)?;
        self.left = self.left.checked_sub(len).ok_or(Exceeded)?;
        self.owed += len;
        Ok(())
    }

    /// What to grant to the client: nothing before it is worth a frame.
    pub fn grant(&mut self) -> Option<u32> {
        if self.owed < self.size / 2 || self.owed == 0 {
            return None;
        }
        self.left += self.owed;
        Some(std::mem::take(&mut self.owed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_window_is_granted_at_a_time() {
        let mut window = ReceiveWindow::new(100);
        assert_eq!(window.grant(), None);
        window.take(49).expect("there is room");
        assert_eq!(window.grant(), None);
        window.take(11).expect("there is room");
        assert_eq!(window.grant(), Some(60));
        assert_eq!(window.take(101), Err(Exceeded));
        assert_eq!(window.take(100), Ok(()));
        assert_eq!(window.take(1), Err(Exceeded));
    }
}
