use protobuf::Message;

use super::super::super::pb::peer;
use super::super::super::wire::{Head, Label, chunk, put_failure};
use super::*;

fn encoded(message: &impl Message) -> Vec<u8> {
    message.write_to_bytes().unwrap()
}

fn question(id: u64, group: &'static str, key: &'static str) -> Question<'static> {
    Question {
        id,
        group: group.as_bytes(),
        key: key.as_bytes(),
        left_ms: 250,
        hops: 1,
        peek: id == 2,
    }
}

#[test]
fn questions_are_read_by_protobuf_and_by_us_as_they_were_written() {
    let questions = [
        question(0, "a", "x"),
        question(1, "a", "y"),
        question(2, "b", "z"),
    ];
    let mut bytes = Vec::new();
    let hello = Hello {
        major: MAJOR,
        minor: 3,
        address: b"host:1",
        message_max_bytes: 1 << 20,
    };
    hello.put(HELLO_IN_ASK, &mut bytes);
    put_news(&mut bytes, Epoch(u64::MAX), 7);
    let mut before: &[u8] = b"";
    for question in &questions {
        question.put(before, &mut bytes);
        before = question.group;
    }
    let ask = Ask::parse(&bytes).unwrap();
    assert_eq!(ask.questions, questions);
    assert_eq!((ask.epoch, ask.ping), (Epoch(u64::MAX), 7));
    assert_eq!(ask.hello, Some(hello));

    let message = peer::Ask::parse_from_bytes(&bytes).unwrap();
    assert_eq!(message.epoch, u64::MAX);
    assert_eq!(message.hello.minor, 3);
    let groups: Vec<_> = message.questions.iter().map(|q| &*q.group).collect();
    assert_eq!(groups, ["a", "", "b"], "a group is named once");
    assert_eq!(message.questions[2].key, "z");
    assert!(message.questions[2].peek);
    assert_eq!(
        encoded(&message).len(),
        bytes.len(),
        "nothing is said twice"
    );
}

#[test]
fn answers_are_read_by_protobuf_and_by_us_as_they_were_written() {
    let frame = [0x0a, 3, b'a', b'b', b'c'];
    let sum = checksum(b"key", &frame);
    let mut bytes = Vec::new();
    put_news(&mut bytes, Epoch(9), 0);
    let label = Label::Checked {
        id: 1 << 40,
        checksum: sum,
        lives_ms: 70_000,
        rate: 300,
    };
    let head = Head::of_value(label, &frame);
    head.put_before(&frame, &mut bytes);
    put_failure(
        &mut bytes,
        Label::Checked {
            id: 2,
            checksum: 0,
            lives_ms: 0,
            rate: 0,
        },
        5,
        "no such key",
    );
    put_too_large(&mut bytes, 3, u64::MAX);
    put_refusal(&mut bytes, u64::MAX, Refusal::NotHeld);
    put_loading(&mut bytes, 4);
    let answer = Answer::parse(&bytes).unwrap();
    let expected = [
        (
            1 << 40,
            Outcome::Value(Sent {
                frame: &frame,
                checksum: sum,
                lives: Some(Duration::from_secs(70)),
                rate: 300,
            }),
        ),
        (2, Outcome::Failure(5, b"no such key")),
        (3, Outcome::TooLarge(u64::MAX)),
        (u64::MAX, Outcome::Refusal(Refusal::NotHeld)),
        (4, Outcome::Loading),
    ];
    let expected = expected.map(|(id, result)| Reply { id, result });
    assert_eq!(answer.replies, expected);
    assert_eq!(answer.epoch, Some(Epoch(9)));

    let message = peer::Answer::parse_from_bytes(&bytes).unwrap();
    assert_eq!(message.replies[0].value(), frame);
    assert_eq!(message.replies[0].checksum, sum);
    assert_eq!(message.replies[1].failure().message, "no such key");
    assert_eq!(message.replies[2].refusal(), peer::Refusal::TOO_LARGE);
    assert_eq!(message.replies[2].value_bytes, u64::MAX);
    assert_eq!(message.replies[3].refusal(), peer::Refusal::NOT_HELD);
    assert!(message.replies[4].loading);
}

#[test]
fn a_note_is_no_longer_than_there_is_room_for_it() {
    let mut bytes = Vec::new();
    put_too_large(&mut bytes, u64::MAX, u64::MAX);
    assert!(bytes.len() <= NOTE_MAX_BYTES, "{} bytes", bytes.len());
}

#[test]
fn parts_are_read_by_protobuf_and_by_us_as_they_were_written() {
    let first = chunk(Some((5 << 20, 0)), b"data");
    let part = Part::parse(&first).unwrap();
    assert_eq!((part.data, part.value_bytes), (&b"data"[..], 5 << 20));
    let last = last_part(7, 70_000);
    let part = Part::parse(&last).unwrap();
    assert_eq!((part.data, part.checksum), (&b""[..], 7));
    assert_eq!(part.lives, Some(Duration::from_secs(70)));
    let message = peer::Part::parse_from_bytes(&last).unwrap();
    assert_eq!((message.checksum, message.lives_ms), (7, 70_000));

    let alone = question(7, "a", "x");
    assert_eq!(Question::parse_alone(&alone.alone()), Ok(alone));
}

#[test]
fn what_a_newer_minor_version_adds_is_skipped() {
    let mut bytes = Vec::new();
    put_number(&mut bytes, 99, 1);
    put_bytes(&mut bytes, 98, b"news");
    put_refusal(&mut bytes, 3, Refusal::NotHeld);
    let at = bytes.len() - 1;
    bytes[at] = 77;
    let answer = Answer::parse(&bytes).unwrap();
    let result = &answer.replies[0].result;
    assert_eq!(*result, Outcome::Refusal(Refusal::LoadItYourself));
}

#[test]
fn another_major_version_is_refused_in_words_that_help() {
    let hello = |major| Hello {
        major,
        minor: 0,
        address: b"host:1",
        message_max_bytes: 0,
    };
    assert_eq!(hello(MAJOR).refusal(), None);
    let words = hello(MAJOR + 1).refusal().unwrap();
    for word in ["host:1", "2.0", "1.1", "major"] {
        assert!(words.contains(word), "{words}");
    }
}

#[test]
fn a_checksum_is_of_the_key_and_the_value() {
    let sum = checksum(b"key", b"value");
    assert_eq!(sum, crc32fast::hash(b"keyvalue"));
    assert_ne!(sum, checksum(b"kez", b"value"));
    assert_ne!(sum, checksum(b"key", b"valuf"));
}

proptest::proptest! {
    /// Whatever a peer sends is read or refused; and what is read is what was written, where that was cut or not.
    #[test]
    fn whatever_comes_is_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Ask::parse(&bytes);
        let _ = Answer::parse(&bytes);
        let _ = (Part::parse(&bytes), Question::parse_alone(&bytes));
    }

    #[test]
    fn a_message_that_was_changed_does_no_harm(at in 0_usize..100, byte in proptest::num::u8::ANY) {
        let frame = [0x0a, 3, b'a', b'b', b'c'];
        let mut bytes = Vec::new();
        put_news(&mut bytes, Epoch(9), 1);
        question(1, "group", "key").put(b"", &mut bytes);
        let label = Label::Checked { id: 300, checksum: checksum(b"key", &frame), lives_ms: 0, rate: 0 };
        Head::of_value(label, &frame).put_before(&frame, &mut bytes);
        put_loading(&mut bytes, 4);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = Ask::parse(&bytes);
        if let Ok(answer) = Answer::parse(&bytes) {
            for reply in answer.replies {
                if let Outcome::Value(sent) = reply.result {
                    let is_its = checksum(b"key", sent.frame) == sent.checksum;
                    proptest::prop_assert!(sent.frame == frame || !is_its);
                }
            }
        }
    }
}
