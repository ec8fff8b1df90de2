//! The examples of RFC 7541, appendix C, and what a decoder must refuse.

use proptest::prelude::*;

use super::*;

type Pair = (Vec<u8>, Vec<u8>);

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("a digit") as u8;
    digits
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Pair>, Unread> {
    let mut fields = Vec::new();
    decoder.decode(block, usize::MAX, |field| {
        fields.push((field.name.to_vec(), field.value.to_vec()))
    })?;
    Ok(fields)
}

fn pairs(fields: &[(&str, &str)]) -> Vec<Pair> {
    fields
        .iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

#[test]
fn single_fields() {
    for (block, name, value) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key",
            "custom-header",
        ),
        (
            "040c 2f73 616d 706c 652f 7061 7468",
            ":path",
            "/sample/path",
        ),
        (
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            "password",
            "secret",
        ),
        ("82", ":method", "GET"),
    ] {
        assert_eq!(
            decode(&mut Decoder::new(), &bytes(block)),
            Ok(pairs(&[(name, value)]))
        );
    }
}

const REQUESTS: [&[(&str, &str)]; 3] = [
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];

#[test]
fn requests_with_and_without_huffman() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let huffman = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::new();
        for ((block, fields), size_bytes) in blocks.iter().zip(REQUESTS).zip([57, 110, 164]) {
            assert_eq!(decode(&mut decoder, &bytes(block)), Ok(pairs(fields)));
            assert_eq!(decoder.table_bytes(), size_bytes);
        }
    }
}

#[test]
fn responses_with_eviction() {
    let blocks = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 \
         63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 \
         b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    let (date, later) = (
        "Mon, 21 Oct 2013 20:13:21 GMT",
        "Mon, 21 Oct 2013 20:13:22 GMT",
    );
    let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let place = ("location", "https://www.example.com");
    let fields: [&[(&str, &str)]; 3] = [
        &[
            (":status", "302"),
            ("cache-control", "private"),
            ("date", date),
            place,
        ],
        &[
            (":status", "307"),
            ("cache-control", "private"),
            ("date", date),
            place,
        ],
        &[
            (":status", "200"),
            ("cache-control", "private"),
            ("date", later),
            place,
            ("content-encoding", "gzip"),
            ("set-cookie", cookie),
        ],
    ];
    let mut decoder = Decoder::new();
    decoder.limit(256);
    decoder.resize_for_test(256);
    for ((block, fields), size_bytes) in blocks.iter().zip(fields).zip([222, 222, 215]) {
        assert_eq!(decode(&mut decoder, &bytes(block)), Ok(pairs(fields)));
        assert_eq!(decoder.table_bytes(), size_bytes);
    }
}

#[test]
fn what_is_no_block() {
    for (block, why) in [
        ("80", "index 0"),
        ("be", "an index that is not there"),
        ("ff ff ff ff ff ff", "an endless index"),
        ("7e 01 61", "a name that is not there"),
        ("82 3f e1 1f", "a size after a field"),
        ("3f e2 1f", "a size over the limit"),
        ("40", "no name"),
        ("40 01 61", "no value"),
        ("40 02 61", "a name that is cut off"),
        ("00 81 ff 01 61", "nothing but padding"),
    ] {
        assert_eq!(
            decode(&mut Decoder::new(), &bytes(block)),
            Err(Unread::Failed),
            "{why}"
        );
    }
}

#[test]
fn a_smaller_table_has_to_be_acknowledged() {
    let mut decoder = Decoder::new();
    decoder.limit(100);
    assert_eq!(decode(&mut decoder, &[0x82]), Err(Unread::Failed));
    assert_eq!(
        decode(&mut decoder, &[0x20, 0x82]),
        Ok(pairs(&[(":method", "GET")]))
    );
    assert_eq!(
        decode(&mut decoder, &[0x82]),
        Ok(pairs(&[(":method", "GET")]))
    );
}

#[test]
fn a_list_is_shown_as_far_as_it_is_allowed() {
    let mut decoder = Decoder::new();
    let block = [0x82, 0x86, 0x84, 0x40, 1, b'a', 1, b'b'];
    let mut seen = 0;
    let size_bytes = decoder.decode(&block, 90, |_| seen += 1);
    assert_eq!((size_bytes, seen), (Ok(42 + 43 + 38 + 34), 2));
    assert_eq!(
        decode(&mut decoder, &[0xbe]),
        Ok(pairs(&[("a", "b")])),
        "it was added still"
    );
}

#[test]
fn an_answer_becomes_four_bytes() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let headers = pairs(&[(":status", "200"), ("content-type", "application/grpc")]);
    let trailers = pairs(&[("grpc-status", "0")]);
    let mut lens = Vec::new();
    for limit in [
        None,
        None,
        Some(65_536),
        None,
        Some(0),
        None,
        Some(4096),
        None,
        Some(104),
        None,
        Some(103),
    ] {
        if let Some(max_bytes) = limit {
            encoder.limit(max_bytes);
            decoder.limit(max_bytes);
        }
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        encoder.put_headers(&mut head);
        encoder.put_trailers(&mut tail);
        assert_eq!(decode(&mut decoder, &head), Ok(headers.clone()));
        assert_eq!(decode(&mut decoder, &tail), Ok(trailers.clone()));
        lens.push((head.len(), tail.len(), encoder.is_settled()));
    }
    assert_eq!(lens[1], (2, 1, true));
    assert_eq!(lens[3], (2, 1, true));
    assert_eq!(lens[7], (2, 1, true));
    assert_eq!(lens[9], (2, 1, true));
}

#[test]
fn sizes_between_two_blocks_are_told_by_the_least_and_the_last() {
    let mut encoder = Encoder::new();
    let mut out = Vec::new();
    encoder.put_headers(&mut out);
    for max_bytes in [200, 20, 4096] {
        encoder.limit(max_bytes);
    }
    out.clear();
    encoder.put_headers(&mut out);
    assert_eq!(out[..4], [0x20, 0x3f, 0xe1, 0x1f]);
    assert_eq!(out[5], 0x40 | 31, "it is added anew");
}

#[test]
fn a_block_that_says_far_more_than_it_has_bytes_is_given_up() {
    let name = [b'a'; 4000];
    let literal = |pattern: u8, index: usize, value: &[u8]| {
        let mut out = Vec::new();
        integer::put(&mut out, pattern, if pattern == 0 { 4 } else { 6 }, index);
        if index == 0 {
            integer::put(&mut out, 0, 7, name.len());
            out.extend_from_slice(&name);
        }
        integer::put(&mut out, 0, 7, value.len());
        out.extend_from_slice(value);
        out
    };
    let mut decoder = Decoder::new();
    decode(&mut decoder, &literal(0x40, 0, b"")).expect("a long name");
    // The name again, in a literal and as a whole field, each a few bytes.
    let few = literal(0, 62, b"x").repeat(15);
    assert_eq!(
        decode(&mut decoder, &few).map(|fields| fields.len()),
        Ok(15)
    );
    let many = literal(0, 62, b"x").repeat(10_000);
    assert_eq!(decode(&mut decoder, &many), Err(Unread::BlownUp));
    assert_eq!(decode(&mut decoder, &[0xbe; 1000]), Err(Unread::BlownUp));
    assert_eq!(
        decode(&mut decoder, &literal(0, 62, &[b'v'; 50_000])).map(|_| ()),
        Ok(())
    );
    assert!(decoder.memory_bytes() < 10_000, "nothing large is kept");
}

proptest! {
    #[test]
    fn fields_come_back(fields in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..300)), 0..20)) {
        let mut block = Vec::new();
        for (name, value) in &fields {
            field_without_index(&mut block, name, value);
        }
        prop_assert_eq!(decode(&mut Decoder::new(), &block), Ok(fields));
    }

    #[test]
    fn no_bytes_break_it(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..10)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            if decode(&mut decoder, &block).is_err() {
                break;
            }
            prop_assert!(decoder.table_bytes() <= 4096);
        }
    }
}
