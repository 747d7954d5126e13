//! PEM (RFC 7468), strictly one block of one kind. Owns no key longer than a call, and wipes what it held of one.

use zeroize::Zeroizing;

use super::pki::PkiError;

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const PRIVATE_KEY: &str = "PRIVATE KEY";

const LINE: usize = 64;

pub(super) fn encode(der: &[u8], label: &str) -> Zeroizing<String> {
    let base64 = Zeroizing::new(data_encoding::BASE64.encode(der));
    let mut text =
        Zeroizing::new(String::with_capacity(base64.len() + base64.len() / LINE + 64 + 2 * label.len()));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Decodes the one block labelled `label`; text around it is not allowed.
pub(super) fn decode(text: &[u8], label: &'static str) -> Result<Vec<u8>, PkiError> {
    let what = if label == CERTIFICATE { "PEM certificate" } else { "PEM private key" };
    let malformed = |detail: &str| PkiError::Malformed { what, detail: detail.into() };
    let text = std::str::from_utf8(text).map_err(|_| malformed("it is not text"))?.trim();
    let body = text
        .strip_prefix(&format!("-----BEGIN {label}-----"))
        .and_then(|t| t.strip_suffix(&format!("-----END {label}-----")))
        .ok_or_else(|| malformed("its first or last line is missing, or it holds something else"))?;
    let mut base64 = Zeroizing::new(Vec::with_capacity(body.len()));
    base64.extend(body.bytes().filter(|b| !b.is_ascii_whitespace()));
    data_encoding::BASE64.decode(&base64).map_err(|_| malformed("it is damaged (bad base64)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        for len in [0, 1, 47, 48, 49, 500] {
            let der: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let text = encode(&der, CERTIFICATE);
            assert!(text.lines().all(|l| l.len() <= LINE));
            assert_eq!(decode(text.as_bytes(), CERTIFICATE).unwrap(), der);
            assert!(decode(text.as_bytes(), PRIVATE_KEY).is_err());
        }
        let good = encode(b"some bytes that matter", CERTIFICATE);
        let cut = &good[..good.len() - 10];
        let damaged = good.replace("-----\n", "-----\n*");
        for bad in ["", "hello", cut, damaged.as_str(), &format!("{}{}", good.as_str(), good.as_str())] {
            assert!(decode(bad.as_bytes(), CERTIFICATE).is_err(), "{bad:?} was taken");
        }
        assert!(decode(&[0xff, 0xfe], CERTIFICATE).is_err());
    }
}
