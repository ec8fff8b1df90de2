//! Reads the fuzzer's bytes as messages between nodes: nothing is read that is not there, and what is read, written again,
//! is read as the same.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;

// The decoders alone: what is around them would need the gRPC C-core.
#[allow(dead_code)]
#[path = "../../src/server/wire.rs"]
mod fields;
#[allow(dead_code)]
#[path = "../../src/server/peer/wire.rs"]
mod messages;

/// Where the decoders look for what they share with the rest.
mod server {
    pub(crate) use crate::fields as wire;
}
mod cluster {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Epoch(pub u64);
}

use fields::{Head, Label, chunk, put_failure};
use messages::{
    Answer, Ask, HELLO_IN_ANSWER, HELLO_IN_ASK, NOTE_MAX_BYTES, Outcome, Part, Question, Reply,
    checksum, hasher, last_part, put_epoch, put_loading, put_news, put_refusal, put_too_large,
};

fn check_inside(message: &[u8], part: &[u8]) {
    let (message, part) = (message.as_ptr_range(), part.as_ptr_range());
    assert!(part.is_empty() || message.start <= part.start && part.end <= message.end);
}

fn check_ask(bytes: &[u8]) {
    let Ok(ask) = Ask::parse(bytes) else { return };
    let mut again = Vec::new();
    if let Some(hello) = &ask.hello {
        check_inside(bytes, hello.address);
        hello.put(HELLO_IN_ASK, &mut again);
    }
    let mut before: &[u8] = b"";
    for question in &ask.questions {
        check_inside(bytes, question.group);
        check_inside(bytes, question.key);
        question.put(before, &mut again);
        before = question.group;
    }
    put_news(&mut again, ask.epoch, ask.ping);
    let read = Ask::parse(&again).expect("what was written is read");
    assert_eq!(read.hello, ask.hello);
    assert_eq!(read.questions, ask.questions);
    assert_eq!((read.epoch, read.ping), (ask.epoch, ask.ping));
}

fn ms(lives: Option<Duration>) -> u64 {
    lives.map_or(0, |lives| lives.as_millis() as u64)
}

/// Writes a reply; false if no node would send it.
fn put(answer: &mut Vec<u8>, Reply { id, result }: &Reply<'_>) -> bool {
    let label = |checksum, lives_ms| Label::Checked { id: *id, checksum, lives_ms };
    let before = answer.len();
    match result {
        Outcome::Value(sent) => {
            let head = Head::of_value(label(sent.checksum, ms(sent.lives)), sent.frame);
            head.put_before(sent.frame, answer);
            assert_eq!(answer.len() - before, head.with(sent.frame));
            return true;
        }
        Outcome::Failure(code @ 0..=127, message) => {
            let Ok(message) = str::from_utf8(message) else { return false };
            put_failure(answer, label(0, 0), *code, message);
            return true;
        }
        Outcome::Failure(..) | Outcome::Nothing => return false,
        Outcome::Refusal(refusal) => put_refusal(answer, *id, *refusal),
        Outcome::TooLarge(value_bytes) => put_too_large(answer, *id, *value_bytes),
        Outcome::Loading => put_loading(answer, *id),
    }
    assert!(answer.len() - before <= NOTE_MAX_BYTES);
    true
}

fn check_answer(bytes: &[u8]) {
    let Ok(answer) = Answer::parse(bytes) else { return };
    let mut again = Vec::new();
    if let Some(hello) = &answer.hello {
        check_inside(bytes, hello.address);
        hello.put(HELLO_IN_ANSWER, &mut again);
    }
    if let Some(epoch) = answer.epoch {
        put_epoch(&mut again, epoch);
    }
    let mut sent = Vec::new();
    for reply in &answer.replies {
        if let Outcome::Value(messages::Sent { frame: part, .. }) | Outcome::Failure(_, part) = reply.result {
            check_inside(bytes, part);
        }
        if put(&mut again, reply) {
            sent.push(reply);
        }
    }
    let read = Answer::parse(&again).expect("what was written is read");
    assert_eq!((&read.hello, read.epoch), (&answer.hello, answer.epoch));
    assert_eq!(read.replies.iter().collect::<Vec<_>>(), sent);
}

fn check_question(bytes: &[u8]) {
    let Ok(question) = Question::parse_alone(bytes) else { return };
    check_inside(bytes, question.group);
    check_inside(bytes, question.key);
    assert_eq!(Question::parse_alone(&question.alone()), Ok(question));
}

fn check_part(bytes: &[u8]) {
    let Ok(part) = Part::parse(bytes) else { return };
    check_inside(bytes, part.data);
    let first = chunk(Some((part.value_bytes, 0)), part.data);
    let first = Part::parse(&first).expect("what was written is read");
    assert_eq!((first.data, first.value_bytes), (part.data, part.value_bytes));
    let last = last_part(part.checksum, ms(part.lives));
    let last = Part::parse(&last).expect("what was written is read");
    assert_eq!((last.checksum, last.lives), (part.checksum, part.lives));
}

fuzz_target!(|bytes: &[u8]| {
    check_ask(bytes);
    check_answer(bytes);
    check_question(bytes);
    check_part(bytes);
    let (key, frame) = bytes.split_at(bytes.len() / 2);
    let mut parts = hasher(key);
    frame.chunks(7).for_each(|part| parts.update(part));
    assert_eq!(parts.finalize(), checksum(key, frame));
});
