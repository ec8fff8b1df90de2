//! Bytes come as the network likes: where they are cut makes no difference.

use proptest::prelude::*;

use super::super::frame::{flag, kind, setting};
use super::bytes::{outcome, play, play_frames, play_frames_to_caller, play_to_caller};
use super::client::*;

/// A frame, or a few of them: most are right, where they stand or elsewhere. All answers fit the client's windows, as when
/// one that waits for them is sent depends on the cuts.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let stream = (0..8u32).prop_map(|number| 2 * number + 1);
    let text = prop_oneof![
        "[a-z]{0,12}",
        Just("later".to_owned()),
        Just("fail x".to_owned()),
    ];
    let path = prop_oneof![
        Just("/echo/Unary"),
        Just("/echo/Unary"),
        Just("/echo/Stream"),
        Just("/none")
    ];
    prop_oneof![
        4 => (stream.clone(), text.clone()).prop_map(|(stream, text)| call(stream, &text)),
        2 => (stream.clone(), path, any::<bool>()).prop_map(|(stream, path, is_end)| {
            let end = if is_end { flag::END_STREAM } else { 0 };
            frame(kind::HEADERS, flag::END_HEADERS | end, stream, &block(&head_of(path)))
        }),
        2 => (stream.clone(), text, 0..12usize, any::<bool>()).prop_map(|(stream, text, cut, is_end)| {
            let message = message(text.as_bytes());
            let end = if is_end { flag::END_STREAM } else { 0 };
            frame(kind::DATA, end, stream, &message[..message.len().saturating_sub(cut)])
        }),
        1 => stream.clone().prop_map(reset),
        1 => (stream.clone(), 0..100_000u32).prop_map(|(stream, increment)| window_update(stream / 3, increment)),
        1 => (1000..70_000u32).prop_map(|size| settings(&[(setting::INITIAL_WINDOW_SIZE, size)])),
        1 => (0..200u32).prop_map(|size| settings(&[(setting::HEADER_TABLE_SIZE, size)])),
        1 => any::<[u8; 8]>().prop_map(|data| frame(kind::PING, 0, 0, &data)),
        1 => (0..12u8, any::<u8>(), stream, prop::collection::vec(any::<u8>(), 0..30))
            .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload)),
    ]
}

proptest! {
    #[test]
    fn cuts_make_no_difference(
        parts in prop::collection::vec(part(), 1..30),
        cuts in prop::collection::vec(1..200usize, 1..50),
        calls_max in 1..5usize,
    ) {
        let all = [greeting(), parts.concat()].concat();
        let whole = outcome([&all[..]], usize::MAX);
        let mut rest = &all[..];
        let mut chunks = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*cut).min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        prop_assert_eq!(outcome(chunks, calls_max), whole);
    }

    #[test]
    fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        play(&bytes);
        play_to_caller(&bytes);
        play_frames(&bytes);
        play_frames_to_caller(&bytes);
    }
}
