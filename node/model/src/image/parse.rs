//! The scanner. Source: the grammar at the top of distribution/reference's `reference.go`, and `normalize.go` for what a
//! missing registry, path or tag stands for.
//!
//! ```text
//! reference  := name [":" tag] ["@" digest]          name      := [domain "/"] path
//! domain     := host [":" port]                      host      := label ("." label)* | "[" [0-9a-fA-F:]+ "]"
//! label      := [a-zA-Z0-9] with inner "-"           path      := component ("/" component)*
//! component  := [a-z0-9]+ (separator [a-z0-9]+)*     separator := "." | "_" | "__" | "-"+
//! tag        := [\w][\w.-]{0,127}                    digest    := algorithm ":" lower-case hex of the algorithm's length
//! ```
//!
//! The delimiters `@`, the first `/` and `:` cut the text into parts without ambiguity, so each part is then scanned by
//! itself, with the offset at which it began.
//!
//! One difference from the newest distribution/reference: there, a first component with capitals (`Foo/bar`) is a
//! registry; Engine 20.10 refuses it, and so does this.

use super::{
    DEFAULT_REGISTRY, DEFAULT_TAG, ImageReference, LEGACY_DEFAULT_REGISTRY, MAX_REFERENCE_LENGTH,
    MAX_TAG_LENGTH, OFFICIAL_PREFIX, Part, ReferenceError,
};

/// Longest text worth scanning: the longest reference spelt out in full. Bounds the work done, and the text repeated in
/// errors.
const MAX_TEXT_LENGTH: usize =
    MAX_REFERENCE_LENGTH + LEGACY_DEFAULT_REGISTRY.len() + 1 + OFFICIAL_PREFIX.len() + 1 + DEFAULT_TAG.len();

/// Hexadecimal digits of a content digest, by algorithm. Source: go-digest's `Algorithm`.
const DIGEST_ALGORITHMS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];

/// Digits of an image id written without its algorithm.
const IDENTIFIER_LENGTH: usize = 64;

/// A mistake in one part; the offset is in bytes from the start of the whole text.
struct Mistake {
    part: Part,
    offset: usize,
    reason: &'static str,
}

type Scanned = Result<(), Mistake>;

/// A slice of the text and the offset at which it began.
#[derive(Clone, Copy)]
struct Piece<'a> {
    part: Part,
    text: &'a str,
    offset: usize,
}

impl<'a> Piece<'a> {
    /// A mistake at byte `index` of this piece.
    fn mistake(self, index: usize, reason: &'static str) -> Scanned {
        Err(Mistake { part: self.part, offset: self.offset + index, reason })
    }

    /// The pieces between the delimiters, empty ones included.
    fn split(self, delimiter: char) -> impl Iterator<Item = Piece<'a>> {
        let mut offset = self.offset;
        self.text.split(delimiter).map(move |text| {
            let piece = Piece { text, offset, ..self };
            offset += text.len() + 1;
            piece
        })
    }
}

pub(super) fn reference(text: &str) -> Result<ImageReference, ReferenceError> {
    check_text(text)?;
    let (name_and_tag, digest) = match text.split_once('@') {
        Some((before, digest)) => (before, Some(digest)),
        None => (text, None),
    };
    let (domain, remainder) = split_domain(name_and_tag);
    let (path, tag) = match remainder.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (remainder, None),
    };
    let path_offset = domain.map_or(0, |domain| domain.len() + 1);

    check_case(text, path, path_offset)?;
    let scanned = (|| {
        if let Some(text) = domain {
            scan_domain(Piece { part: Part::Registry, text, offset: 0 })?;
        }
        scan_path(Piece { part: Part::Repository, text: path, offset: path_offset })?;
        if let Some(text) = tag {
            scan_tag(Piece { part: Part::Tag, text, offset: path_offset + path.len() + 1 })?;
        }
        if let Some(text) = digest {
            scan_digest(Piece { part: Part::Digest, text, offset: name_and_tag.len() + 1 })?;
        }
        Ok(())
    })();
    if let Err(Mistake { part, offset, reason }) = scanned {
        return Err(ReferenceError::Part { reference: text.to_owned(), part, at: offset + 1, reason });
    }

    let reference = normalise(domain, path, tag, digest);
    let length = reference.shortest_length();
    if length > MAX_REFERENCE_LENGTH { Err(ReferenceError::TooLong { length }) } else { Ok(reference) }
}

/// Whether the first of several path components is a registry rather than a name on the default one.
pub(super) fn names_a_registry(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost"
}

/// What is wrong with the text as a whole. Afterwards it is printable ASCII, so bytes are characters.
fn check_text(text: &str) -> Result<(), ReferenceError> {
    if text.is_empty() {
        return Err(ReferenceError::Empty);
    }
    if text.len() > MAX_TEXT_LENGTH {
        return Err(ReferenceError::TooLong { length: text.chars().count() });
    }
    let owned = || text.to_owned();
    if let Some((index, found)) = text.chars().enumerate().find(|(_, c)| !c.is_ascii_graphic()) {
        return Err(ReferenceError::Character { reference: owned(), at: index + 1, found });
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(ReferenceError::Scheme { reference: owned(), scheme: format!("{scheme}://") });
    }
    if text.len() == IDENTIFIER_LENGTH && text.bytes().all(is_lower_hex) {
        return Err(ReferenceError::Identifier { reference: owned() });
    }
    Ok(())
}

fn split_domain(name_and_tag: &str) -> (Option<&str>, &str) {
    match name_and_tag.split_once('/') {
        Some((first, rest)) if names_a_registry(first) => (Some(first), rest),
        _ => (None, name_and_tag),
    }
}

/// Capitals in the repository are the commonest mistake, and the cure is known.
fn check_case(text: &str, path: &str, offset: usize) -> Result<(), ReferenceError> {
    if !path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(());
    }
    let end = offset + path.len();
    let suggestion = format!("{}{}{}", &text[..offset], path.to_ascii_lowercase(), &text[end..]);
    Err(ReferenceError::Uppercase { reference: text.to_owned(), suggestion })
}

fn scan_domain(domain: Piece<'_>) -> Scanned {
    let host_length = match domain.text.strip_prefix('[') {
        Some(rest) => {
            let Some(close) = rest.find(']') else {
                return domain.mistake(0, "the IPv6 address has no closing bracket");
            };
            if close == 0 {
                return domain.mistake(1, "the IPv6 address is empty");
            }
            if let Some(bad) = rest[..close].find(|c: char| !c.is_ascii_hexdigit() && c != ':') {
                return domain.mistake(1 + bad, "an IPv6 address has only hexadecimal digits and colons");
            }
            1 + close + 1
        }
        None => {
            let length = domain.text.find(':').unwrap_or(domain.text.len());
            for label in (Piece { text: &domain.text[..length], ..domain }).split('.') {
                scan_label(label)?;
            }
            length
        }
    };
    let Some(port) = domain.text[host_length..].strip_prefix(':') else {
        return if host_length == domain.text.len() {
            Ok(())
        } else {
            domain.mistake(host_length, "only a port may follow the address")
        };
    };
    if port.is_empty() {
        return domain.mistake(host_length, "the port is missing");
    }
    match port.find(|c: char| !c.is_ascii_digit()) {
        Some(bad) => domain.mistake(host_length + 1 + bad, "a port has only digits"),
        None => Ok(()),
    }
}

fn scan_label(label: Piece<'_>) -> Scanned {
    let bytes = label.text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return label.mistake(0, "a part of the host name is empty");
    };
    if let Some(bad) = bytes.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-') {
        return label.mistake(bad, "a host name has only letters, digits, dots and inner hyphens");
    }
    if *first == b'-' {
        return label.mistake(0, "a part of a host name does not begin with a hyphen");
    }
    if *last == b'-' {
        return label.mistake(bytes.len() - 1, "a part of a host name does not end with a hyphen");
    }
    Ok(())
}

fn scan_path(path: Piece<'_>) -> Scanned {
    if path.text.is_empty() {
        return path.mistake(0, "it is missing");
    }
    path.split('/').try_for_each(scan_component)
}

fn scan_component(component: Piece<'_>) -> Scanned {
    const EDGES: &str = "a name begins and ends with a lower-case letter or a digit";
    let bytes = component.text.as_bytes();
    if bytes.is_empty() {
        return component.mistake(0, "there is an empty name between slashes");
    }
    let mut index = 0;
    loop {
        let word = bytes[index..].iter().take_while(|byte| is_path_alphanumeric(**byte)).count();
        if word == 0 {
            return match bytes.get(index) {
                Some(byte) if !is_separator(*byte) => component.mistake(index, PATH_CHARACTERS),
                // After the first word, `separator` below has consumed a valid separator already.
                Some(_) if index > 0 => component.mistake(index, SEPARATORS),
                _ => component.mistake(index.min(bytes.len() - 1), EDGES),
            };
        }
        index += word;
        if index == bytes.len() {
            return Ok(());
        }
        match separator_length(&bytes[index..]) {
            Some(length) => index += length,
            None => return component.mistake(index, PATH_CHARACTERS),
        }
    }
}

const PATH_CHARACTERS: &str = "a name has only lower-case letters, digits and the separators . _ __ -";
const SEPARATORS: &str = "names are joined by one dot, one or two underscores, or hyphens, never a mixture";

/// Length of the separator that `bytes` begins with, `None` if it begins with something else.
fn separator_length(bytes: &[u8]) -> Option<usize> {
    match bytes.first()? {
        b'.' => Some(1),
        b'_' if bytes.get(1) == Some(&b'_') => Some(2),
        b'_' => Some(1),
        b'-' => Some(bytes.iter().take_while(|byte| **byte == b'-').count()),
        _ => None,
    }
}

fn scan_tag(tag: Piece<'_>) -> Scanned {
    let bytes = tag.text.as_bytes();
    let Some(first) = bytes.first() else {
        return tag.mistake(0, "nothing follows the colon");
    };
    if matches!(first, b'.' | b'-') {
        return tag.mistake(0, "a tag begins with a letter, a digit or an underscore");
    }
    let is_tag_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if let Some(bad) = bytes.iter().position(|byte| !is_tag_byte(*byte)) {
        return tag.mistake(bad, "a tag has only letters, digits, underscores, dots and hyphens");
    }
    if bytes.len() > MAX_TAG_LENGTH {
        return tag.mistake(MAX_TAG_LENGTH, "a tag has at most 128 characters");
    }
    Ok(())
}

fn scan_digest(digest: Piece<'_>) -> Scanned {
    let Some((algorithm, hex)) = digest.text.split_once(':') else {
        return digest.mistake(0, "a digest is written algorithm:hex, such as sha256:6c3c...");
    };
    let known = DIGEST_ALGORITHMS.iter().find(|(name, _)| *name == algorithm);
    let Some((_, length)) = known else {
        return digest.mistake(0, "the algorithm must be sha256, sha384 or sha512");
    };
    let hex_offset = algorithm.len() + 1;
    if let Some(bad) = hex.bytes().position(|byte| !is_lower_hex(byte)) {
        return digest.mistake(hex_offset + bad, "a digest has only lower-case hexadecimal digits");
    }
    if hex.len() != *length {
        return digest.mistake(
            hex_offset + hex.len().min(*length),
            "the digest has the wrong length: sha256 has 64 digits, sha384 96, sha512 128",
        );
    }
    Ok(())
}

fn normalise(domain: Option<&str>, path: &str, tag: Option<&str>, digest: Option<&str>) -> ImageReference {
    let registry = match domain {
        None | Some(LEGACY_DEFAULT_REGISTRY) => DEFAULT_REGISTRY,
        Some(domain) => domain,
    };
    let official = registry == DEFAULT_REGISTRY && !path.contains('/');
    let repository = if official { format!("{OFFICIAL_PREFIX}{path}") } else { path.to_owned() };
    let tag = tag.or(if digest.is_none() { Some(DEFAULT_TAG) } else { None });
    ImageReference {
        registry: registry.to_owned(),
        repository,
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    }
}

fn is_path_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'.' | b'_' | b'-')
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}
