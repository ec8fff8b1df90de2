//! The static table (RFC 7541, appendix A), and the names that mean something to a gRPC server.

/// What a field is, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Name {
    Authority,
    Method,
    Path,
    Scheme,
    ContentLength,
    ContentType,
    GrpcEncoding,
    GrpcTimeout,
    Te,
    /// A pseudo-header that no request has.
    OtherPseudo,
    /// About the connection, which HTTP/2 says otherwise (RFC 9113, 8.2.2).
    OfConnection,
    /// With bytes in its name or value that RFC 9113, 8.2.1, forbids.
    Malformed,
    Other,
}

impl Name {
    pub fn of(name: &[u8], value: &[u8]) -> Self {
        if !is_value(value) {
            return Self::Malformed;
        }
        match name {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":scheme" => Self::Scheme,
            b"content-length" => Self::ContentLength,
            b"content-type" => Self::ContentType,
            b"grpc-encoding" => Self::GrpcEncoding,
            b"grpc-timeout" => Self::GrpcTimeout,
            b"te" => Self::Te,
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => Self::OfConnection,
            [b':', ..] => Self::OtherPseudo,
            _ if is_name(name) => Self::Other,
            _ => Self::Malformed,
        }
    }
}

fn is_name(name: &[u8]) -> bool {
    let is_wrong = |byte: &u8| matches!(byte, 0..=0x20 | b'A'..=b'Z' | b':' | 0x7f..);
    !name.is_empty() && !name.iter().any(is_wrong)
}

fn is_value(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_wrong = |byte: &u8| matches!(byte, 0 | b'\r' | b'\n');
    !is_blank(value.first()) && !is_blank(value.last()) && !value.iter().any(is_wrong)
}

pub(super) const LEN: usize = FIELDS.len();

/// The field at an index, which counts from 1.
pub(super) fn get(index: usize) -> (Name, &'static [u8], &'static [u8]) {
    let (name, value) = FIELDS[index - 1];
    (KINDS[index - 1], name.as_bytes(), value.as_bytes())
}

/// What each of the fields is.
static KINDS: [Name; LEN] = {
    let mut kinds = [Name::Other; LEN];
    let mut place = 0;
    while place < LEN {
        kinds[place] = match place + 1 {
            1 => Name::Authority,
            2 | 3 => Name::Method,
            4 | 5 => Name::Path,
            6 | 7 => Name::Scheme,
            8..=14 => Name::OtherPseudo,
            28 => Name::ContentLength,
            31 => Name::ContentType,
            57 => Name::OfConnection,
            _ => Name::Other,
        };
        place += 1;
    }
    kinds
};

#[rustfmt::skip]
static FIELDS: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""),
    ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""),
    ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""),
    ("last-modified", ""), ("link", ""), ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""),
    ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""), ("retry-after", ""),
    ("server", ""), ("set-cookie", ""), ("strict-transport-security", ""), ("transfer-encoding", ""),
    ("user-agent", ""), ("vary", ""), ("via", ""), ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_static_field_is_is_what_its_name_says() {
        for index in 1..=LEN {
            let (kind, name, value) = get(index);
            assert_eq!(kind, Name::of(name, value), "{index}");
        }
    }

    #[test]
    fn names_and_values_that_are_forbidden() {
        for name in [&b""[..], b"Te", b"a b", b"a:b", b"a\x7f", b"a\xff", b"\0"] {
            assert_eq!(Name::of(name, b"x"), Name::Malformed, "{name:?}");
        }
        for value in [&b" x"[..], b"x\t", b"a\0b", b"a\nb", b"a\rb"] {
            assert_eq!(Name::of(b"x-name", value), Name::Malformed, "{value:?}");
        }
        assert_eq!(Name::of(b"x-name", b"a b\xff"), Name::Other);
        assert_eq!(Name::of(b":status", b"200"), Name::OtherPseudo);
    }
}
