//! Percent-encoding of bytes in paths and query strings (RFC 3986, section 2.1).
//!
//! Keys are bytes, so they are encoded and decoded here and never taken for text on the way.

/// Encodes everything but unreserved characters (section 2.3). A lone `.` or `..` would be a step in the path, so dots are
/// encoded as well.
pub(crate) fn encode(segment: impl AsRef<[u8]>) -> String {
    let segment = segment.as_ref();
    let mut encoded = String::with_capacity(segment.len());
    for &byte in segment {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The bytes of a path segment; `None` if a `%` is not followed by two hexadecimal digits.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => (hex(*high)? << 4 | hex(*low)?, after),
            (b'%', _) => return None,
            _ => (first, after),
        };
        bytes.push(byte);
        rest = after;
    }
    Some(bytes)
}

/// The pairs of a query string, in order; a `+` in a value is a space, as HTML forms have it. A name without `=` has the
/// empty value.
pub(super) fn query_pairs(query: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((String::from_utf8(decode(name)?).ok()?, decode(&value.replace('+', " "))?))
    };
    pairs.map(pair).collect()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn segments() {
        for (segment, encoded) in
            [("n3", "n3"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("é?", "%C3%A9%3F"), ("100%", "100%25")]
        {
            assert_eq!(encode(segment), encoded);
        }
        for (text, bytes) in [("a+b", Some(&b"a+b"[..])), ("%fF%00", Some(b"\xff\0")), ("", Some(b""))] {
            assert_eq!(decode(text).as_deref(), bytes);
        }
        for bad in ["%", "%1", "%1g", "x%%41"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn pairs_of_a_query() {
        let pair = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
        let pairs = query_pairs("add=a%3A1&add=b&&x&prefix=%ff+%2B").unwrap();
        let expected = [pair("add", b"a:1"), pair("add", b"b"), pair("x", b""), pair("prefix", b"\xff +")];
        assert_eq!(pairs, expected);
        assert_eq!((query_pairs(""), query_pairs("a=%f")), (Some(vec![]), None));
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_comes_back(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes.clone()));
            let pairs = query_pairs(&format!("k={}", encode(&bytes))).unwrap();
            prop_assert_eq!(&pairs[0].1, &bytes);
        }
    }
}
