//! A closed loop over several connections, a thread for each.

use std::io;
use std::thread;

/// A connection that requests are sent on.
pub trait Client {
    /// Puts a request into the pipeline; false if it has to wait for replies.
    fn send(&mut self, request: &[u8]) -> bool;
    fn flush(&mut self) -> io::Result<()>;
    /// Waits for something, and tells how many replies are complete with it.
    fn receive(&mut self) -> io::Result<usize>;
}

/// How much is under way: connections, and requests on each.
#[derive(Clone, Copy)]
pub struct Shape {
    pub connections: usize,
    pub depth: usize,
}

/// Makes so many calls, all of which are answered.
pub fn drive<C: Client>(
    shape: Shape,
    open: impl Fn() -> io::Result<C> + Sync,
    requests: &[Vec<u8>],
    calls: usize,
) {
    let calls = calls / shape.connections;
    let run = |number: usize| -> io::Result<()> {
        let mut client = open()?;
        let first = number * requests.len() / shape.connections;
        let (mut sent, mut done) = (0, 0);
        while done < calls {
            while sent < calls
                && sent - done < shape.depth
                && client.send(&requests[(first + sent) % requests.len()])
            {
                sent += 1;
            }
            client.flush()?;
            done += client.receive()?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let run = &run;
        for number in 0..shape.connections {
            scope.spawn(move || run(number).expect("all calls are answered"));
        }
    });
}
