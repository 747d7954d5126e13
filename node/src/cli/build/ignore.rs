//! `.dockerignore`: which files of a folder are not sent. Pure.
//!
//! Docker's rules: a pattern is one of Go's `filepath.Match`, with `**` for any number of folders; it holds for all that is below what it names;
//! `!` takes out again; of the patterns that match, the last one decides. What was found of a folder is kept for what is below it, and what the plain
//! text of a pattern rules out is not followed through: folders have 100,000s of files.

/// Largest file that is read, and most patterns in it.
pub(super) const IGNORE_BYTES_MAX: u64 = 1 << 20;

/// The patterns of a file, in order.
#[derive(Debug, Default, Clone)]
pub(super) struct Ignore {
    patterns: Vec<Pattern>,
    /// How often a pattern was followed through a path.
    #[cfg(test)]
    followed: std::cell::Cell<u64>,
}

/// What the patterns say of a folder, and so of all that is below it.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    /// Of each pattern: whether it matches the folder, or one above it.
    matched: Vec<bool>,
    leaves_out: bool,
}

impl Judged {
    /// Whether the folder itself is left out.
    pub(super) fn leaves_out(&self) -> bool {
        self.leaves_out
    }
}

#[derive(Debug, Clone)]
struct Pattern {
    tokens: Vec<Token>,
    takes_out: bool,
    /// As far as it is plain text, from its front and from its end.
    prefix: String,
    suffix: String,
    /// It is nothing else.
    is_plain: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`: any but a slash.
    One,
    /// `*`: any number of any but a slash.
    Star,
    /// `**/`: any number of folders.
    Folders,
    /// `**` at the end, or before a plain ending: anything.
    Rest,
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Which line is no pattern.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of .dockerignore is no pattern: {text:?}")]
pub(super) struct IgnoreError {
    line: usize,
    text: String,
}

impl Ignore {
    pub(super) fn parse(text: &str) -> Result<Self, IgnoreError> {
        let mut ignore = Self::default();
        for (line, text) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if text.starts_with('#') {
                continue;
            }
            let trimmed = text.trim();
            let (takes_out, pattern) = match trimmed.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, trimmed),
            };
            if trimmed.is_empty() {
                continue;
            }
            let cleaned = clean(pattern);
            let wrong = || IgnoreError { line: line + 1, text: text.to_owned() };
            let tokens = tokens(&cleaned).filter(|_| !pattern.is_empty()).ok_or_else(wrong)?;
            // The folder itself is always sent.
            if cleaned != "." {
                let plain = |token: &Token| match token {
                    Token::Char(c) => Some(*c),
                    _ => None,
                };
                let prefix: String = tokens.iter().map_while(plain).collect();
                let end: Vec<char> = tokens.iter().rev().map_while(plain).collect();
                let is_plain = end.len() == tokens.len();
                let suffix = end.into_iter().rev().collect();
                ignore.patterns.push(Pattern { tokens, takes_out, prefix, suffix, is_plain });
            }
        }
        Ok(ignore)
    }

    /// The folder that is sent: nothing matches it.
    pub(super) fn of_root(&self) -> Judged {
        Judged { matched: vec![false; self.patterns.len()], leaves_out: false }
    }

    /// Of a folder: its path, relative and with `/`, and what was found of the one that it is in.
    pub(super) fn of_folder(&self, above: &Judged, path: &str) -> Judged {
        let pairs = self.patterns.iter().zip(&above.matched);
        let matched: Vec<bool> =
            pairs.map(|(pattern, matched)| *matched || self.matches(pattern, path)).collect();
        let last = self.patterns.iter().zip(&matched).rev().find(|(_, matched)| **matched);
        let leaves_out = last.is_some_and(|(pattern, _)| !pattern.takes_out);
        Judged { matched, leaves_out }
    }

    /// Likewise, whether something else than a folder is left out.
    pub(super) fn leaves_out(&self, above: &Judged, path: &str) -> bool {
        let mut pairs = self.patterns.iter().zip(&above.matched).rev();
        let last = pairs.find(|(pattern, matched)| **matched || self.matches(pattern, path));
        last.is_some_and(|(pattern, _)| !pattern.takes_out)
    }

    fn matches(&self, pattern: &Pattern, path: &str) -> bool {
        if pattern.is_plain {
            return path == pattern.prefix;
        }
        if !path.starts_with(&pattern.prefix) || !path.ends_with(&pattern.suffix) {
            return false;
        }
        #[cfg(test)]
        self.followed.set(self.followed.get() + 1);
        pattern.matches(path)
    }

    /// Whether something below a folder that is left out may be taken out again.
    pub(super) fn may_take_out_below(&self, folder: &str) -> bool {
        let folder = format!("{folder}/");
        let may = |prefix: &str| folder.starts_with(prefix) || prefix.starts_with(&folder);
        self.patterns.iter().any(|pattern| pattern.takes_out && may(&pattern.prefix))
    }
}

/// As Go's `filepath.Clean`, without slashes at its ends.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// None if a bracket or a backslash is left open.
fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                let is_folders = chars.next_if_eq(&'/').is_some();
                let is_plain = |c: char| !"*?[]\\".contains(c);
                // Docker takes `**.pem` for all that ends so: at the front, with nothing but text behind it.
                let is_ending = tokens.is_empty() && !is_folders && chars.clone().all(is_plain);
                if chars.peek().is_none() || is_ending { Token::Rest } else { Token::Folders }
            }
            '*' => Token::Star,
            '?' => Token::One,
            '\\' => Token::Char(chars.next()?),
            '[' => {
                let not = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let mut next = || match chars.next()? {
                        '\\' => chars.next().map(|c| (c, false)),
                        c => Some((c, c == ']')),
                    };
                    let (low, is_end) = next()?;
                    if is_end && !ranges.is_empty() {
                        break;
                    }
                    let high = match chars.next_if_eq(&'-') {
                        Some(_) => chars.next()?,
                        None => low,
                    };
                    ranges.push((low, high));
                }
                Token::Class { not, ranges }
            }
            c => Token::Char(c),
        });
    }
    Some(tokens)
}

impl Pattern {
    /// Follows all ways through the pattern at once, so that no pattern takes long.
    fn matches(&self, path: &str) -> bool {
        let places = self.tokens.len();
        // Before each token; and within a `Folders` that has begun.
        let (mut before, mut within) = (vec![false; places + 1], vec![false; places]);
        let (mut next, mut next_within) = (before.clone(), within.clone());
        before[0] = true;
        self.skip_empty(&mut before);
        for c in path.chars() {
            next.fill(false);
            next_within.fill(false);
            for (at, token) in self.tokens.iter().enumerate() {
                match token {
                    Token::Folders if before[at] || within[at] => {
                        next_within[at] = true;
                        next[at + 1] |= c == '/';
                    }
                    Token::Rest if before[at] => next[at] = true,
                    Token::Star if before[at] && c != '/' => next[at] = true,
                    Token::One if before[at] => next[at + 1] |= c != '/',
                    Token::Char(wanted) if before[at] => next[at + 1] |= c == *wanted,
                    Token::Class { not, ranges } if before[at] && c != '/' => {
                        let is_in = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                        next[at + 1] |= is_in != *not;
                    }
                    _ => {}
                }
            }
            self.skip_empty(&mut next);
            std::mem::swap(&mut before, &mut next);
            std::mem::swap(&mut within, &mut next_within);
        }
        before[places]
    }

    /// What may stand for nothing is passed over.
    fn skip_empty(&self, before: &mut [bool]) {
        for (at, token) in self.tokens.iter().enumerate() {
            if before[at] && matches!(token, Token::Star | Token::Folders | Token::Rest) {
                before[at + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the root down.
    fn leaves_out(ignore: &Ignore, path: &str) -> bool {
        let mut judged = ignore.of_root();
        for (slash, _) in path.match_indices('/') {
            judged = ignore.of_folder(&judged, &path[..slash]);
        }
        let is_left_out = ignore.leaves_out(&judged, path);
        assert_eq!(ignore.of_folder(&judged, path).leaves_out(), is_left_out, "{path}: a folder or not");
        is_left_out
    }

    #[test]
    fn of_many_files_few_are_followed_through_many_patterns() {
        let patterns: Vec<String> = (0..100)
            .flat_map(|n| {
                [
                    format!("build{n}/*"),
                    format!("**/*.x{n}"),
                    format!("**/node_modules{n}"),
                    format!("plain{n}"),
                ]
            })
            .collect();
        let ignore = Ignore::parse(&patterns.join("\n")).unwrap();
        let mut above = ignore.of_root();
        let mut folder = String::from("src");
        for depth in 0..10 {
            above = ignore.of_folder(&above, &folder);
            for file in 0..1_000 {
                assert!(!ignore.leaves_out(&above, &format!("{folder}/file{file}.c")));
            }
            folder = format!("{folder}/{depth}");
        }
        assert_eq!(ignore.followed.get(), 0, "their plain text rules them out");

        // Where it does not, a path is followed once, not once more for each folder above it; and not at all below one that matches.
        let ignore = Ignore::parse("**/[a-f]*/**\n**/t?rget*\n").unwrap();
        let deep = "x/".repeat(50) + "target";
        let mut above = ignore.of_root();
        for (slash, _) in deep.match_indices('/') {
            above = ignore.of_folder(&above, &deep[..slash]);
        }
        above = ignore.of_folder(&above, &deep);
        assert!(above.leaves_out());
        let before = ignore.followed.get();
        assert_eq!(before, 2 * 51);
        for file in 0..1_000 {
            assert!(ignore.leaves_out(&above, &format!("{deep}/{file}")));
        }
        assert_eq!(ignore.followed.get(), before, "the last pattern matches the folder");
    }

    /// Cases of Docker's own tests (moby/patternmatcher), and some more.
    #[test]
    fn patterns_match_as_docker_s_do() {
        let cases = [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("**/dir", "dir", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**file", "myfile", true),
            ("**.pem", "key.pem", true),
            ("**.pem", "a/b/key.pem", true),
            ("**.pem", "key.pems", false),
            ("[!a]", "!", true),
            ("[!a]", "b", false),
            ("**/file", "dir/dir/file", true),
            ("**/*.txt", "dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("a**/*.txt", "a/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/b/*.txt", "a/dir/b/file.txt", false),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcdef", false),
            ("abc?def", "abcZdef", true),
            ("abc?def", "abc/def", false),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("a[^b-d]e", "aze", true),
            ("a[^b-d]e", "a/e", false),
            ("[]a]", "]", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("/a", "a", true),
            ("./a/", "a/b", true),
            ("a/../b", "b", true),
            ("a*b*c*d*e", "aXbXcXdXe", true),
            ("foo", "foobar", false),
            ("foo", "bar/foo", false),
            ("*", "a/b", true),
            (".", "a", false),
        ];
        for (pattern, path, expected) in cases {
            let ignore = Ignore::parse(pattern).unwrap();
            assert_eq!(leaves_out(&ignore, path), expected, "{pattern:?} {path:?}");
        }
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let ignore = Ignore::parse("\u{feff}# all but\n*\n\n!src\n  !*.md \nsrc/*.o\nREADME.md\n").unwrap();
        for (path, expected) in [
            ("target", true),
            ("target/debug/x", true),
            ("src", false),
            ("src/main.c", false),
            ("src/main.o", true),
            ("CHANGES.md", false),
            ("README.md", true),
            ("docs/x.md", true),
        ] {
            assert_eq!(leaves_out(&ignore, path), expected, "{path}");
        }
        assert!(ignore.may_take_out_below("src") && ignore.may_take_out_below("docs"));
        let ignore = Ignore::parse("node_modules\n!node_modules/own\n").unwrap();
        assert!(leaves_out(&ignore, "node_modules/x") && !leaves_out(&ignore, "node_modules/own/y"));
        assert!(ignore.may_take_out_below("node_modules") && !ignore.may_take_out_below("target"));
        assert!(!Ignore::default().may_take_out_below("a") && !leaves_out(&Ignore::default(), "a"));
    }

    #[test]
    fn what_is_no_pattern_is_named_with_its_line() {
        for bad in ["a\n[b", "a\n\\", "a\n[]", "a\n!", "a\n[a-"] {
            assert_eq!(Ignore::parse(bad).unwrap_err().line, 2, "{bad:?}");
        }
        assert!(Ignore::parse("!").unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn no_pattern_takes_long() {
        let ignore = Ignore::parse(&("**/*a".repeat(200) + "b")).unwrap();
        assert!(!leaves_out(&ignore, &"a/".repeat(500)));
    }
}
