//! A bare grpcio echo as it comes: default channel arguments, and the system's malloc under the C-core. `front_door`
//! builds it, runs it and measures it; it is a program of its own, as an allocator is linked in and not chosen.

mod support;

use grpcio::ChannelBuilder;

fn main() {
    support::echo::serve(|env| ChannelBuilder::new(env.clone()));
}
