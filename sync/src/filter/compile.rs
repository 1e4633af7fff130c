//! From the text of a pattern to tokens.

use super::{End, MAX_PATTERN, Pattern, PatternError, Scope};

/// One step of a compiled pattern.
#[derive(Clone)]
pub(super) enum Token {
    /// This byte.
    Byte(u8),
    /// Any byte but `/`.
    AnyByte,
    /// A byte of this set (a bit per byte value), never `/`.
    Set(Box<[u64; 4]>),
    /// Any number of bytes but `/`.
    Star,
    /// Any number of bytes.
    StarStar,
}

/// Which bytes of ASCII belong to a class.
type Class = fn(&u8) -> bool;

const ANY: Class = |_| true;

/// The classes, as isalnum(3) has them in the C locale.
const CLASSES: [(&str, Class); 12] = [
    ("alnum", u8::is_ascii_alphanumeric),
    ("alpha", u8::is_ascii_alphabetic),
    ("blank", |byte| matches!(byte, b' ' | b'\t')),
    ("cntrl", u8::is_ascii_control),
    ("digit", u8::is_ascii_digit),
    ("graph", u8::is_ascii_graphic),
    ("lower", u8::is_ascii_lowercase),
    ("print", |byte| matches!(byte, b' '..=b'~')),
    ("punct", u8::is_ascii_punctuation),
    // With the vertical tab, which `is_ascii_whitespace` leaves out.
    ("space", |byte| matches!(byte, b' ' | b'\t'..=b'\r')),
    ("upper", u8::is_ascii_uppercase),
    ("xdigit", u8::is_ascii_hexdigit),
];

pub(super) fn compile(text: &str) -> Result<Pattern, PatternError> {
    let fail = |offset, what, hint| {
        Err(PatternError {
            pattern: text.to_owned(),
            offset,
            what,
            hint,
        })
    };
    if text.is_empty() {
        return fail(0, "it is empty", "remove it");
    }
    if text.len() > MAX_PATTERN {
        return fail(
            MAX_PATTERN,
            "it is longer than 1000 bytes",
            "use several shorter patterns",
        );
    }
    if text.starts_with("+ ") || text.starts_with("- ") || text == "!" {
        return fail(
            0,
            "it is an rsync rule",
            "write the pattern alone; there are no include rules",
        );
    }
    if let Some(offset) = text.bytes().position(|b| b == 0) {
        return fail(offset, "a NUL byte", "no file name has one");
    }
    if text.starts_with("./") {
        return fail(0, "`./` never matches", "write `/` for the tree's root");
    }
    let is_escaped = |b: &str| b.bytes().rev().take_while(|c| *c == b'\\').count() % 2 == 1;
    let body = text
        .strip_suffix('/')
        .filter(|b| !is_escaped(b))
        .unwrap_or(text);
    let only_dirs = body.len() < text.len();
    let anchored = body.starts_with('/');
    let start = usize::from(anchored);
    if body.len() == start {
        return fail(
            0,
            "it names the tree's root",
            "the root itself cannot match; leave the tree out of the configuration",
        );
    }
    let tokens = Compiler {
        text,
        bytes: body.as_bytes(),
        at: start,
        tokens: Vec::new(),
    }
    .run()?;
    let whole_path = tokens
        .iter()
        .any(|t| matches!(t, Token::StarStar | Token::Byte(b'/')));
    let (scope, tokens) = match tokens.as_slice() {
        _ if anchored => (Scope::Anchored, tokens),
        // Tails begin at every component, so a leading `**/` adds nothing.
        [Token::StarStar, Token::Byte(b'/'), rest @ ..] if !rest.is_empty() => {
            (Scope::AnyTail, rest.to_vec())
        }
        _ if whole_path => (Scope::AnyTail, tokens),
        _ => (Scope::Name, tokens),
    };
    Ok(Pattern {
        text: text.to_owned(),
        tokens,
        scope,
        only_dirs,
        end: match body.ends_with("***") {
            true => End::Slash,
            false => End::Open,
        },
    })
}

struct Compiler<'a> {
    text: &'a str,
    /// The text without its trailing `/`.
    bytes: &'a [u8],
    at: usize,
    tokens: Vec<Token>,
}

impl Compiler<'_> {
    fn fail<T>(
        &self,
        offset: usize,
        what: &'static str,
        hint: &'static str,
    ) -> Result<T, PatternError> {
        Err(PatternError {
            pattern: self.text.to_owned(),
            offset,
            what,
            hint,
        })
    }

    fn run(mut self) -> Result<Vec<Token>, PatternError> {
        let mut component = self.at;
        while let Some(&byte) = self.bytes.get(self.at) {
            let token = match byte {
                b'*' => self.stars(),
                b'?' => Token::AnyByte,
                b'[' => self.set()?,
                b'\\' => self.escaped()?,
                b'/' => {
                    self.check_component(component)?;
                    component = self.at + 1;
                    Token::Byte(b'/')
                }
                other => Token::Byte(other),
            };
            self.tokens.push(token);
            self.at += 1;
        }
        self.check_component(component)?;
        Ok(self.tokens)
    }

    /// The component from `start` to here must be able to match a name.
    fn check_component(&self, start: usize) -> Result<(), PatternError> {
        match &self.bytes[start..self.at] {
            b"" => self.fail(start, "a double `/`", "write one"),
            b"." | b".." => self.fail(
                start,
                "`.` and `..` never match",
                "write the path without them",
            ),
            _ => Ok(()),
        }
    }

    /// Three and more are two, but at the end of the pattern: see [`End`].
    fn stars(&mut self) -> Token {
        let count = self.bytes[self.at..]
            .iter()
            .take_while(|b| **b == b'*')
            .count();
        self.at += count - 1;
        match count {
            1 => Token::Star,
            _ => Token::StarStar,
        }
    }

    fn escaped(&mut self) -> Result<Token, PatternError> {
        self.at += 1;
        match self.bytes.get(self.at) {
            Some(b'/') => self.fail(self.at, "an escaped `/`", "no file name has one"),
            Some(&byte) => Ok(Token::Byte(byte)),
            None => self.fail(
                self.at - 1,
                "a backslash at the end",
                "write `\\\\` for a backslash",
            ),
        }
    }

    /// At `[`; leaves `at` on the closing `]`.
    fn set(&mut self) -> Result<Token, PatternError> {
        let open = self.at;
        let unclosed = "a `[` that is not closed";
        self.at += 1;
        let negated = matches!(self.bytes.get(self.at), Some(b'!' | b'^'));
        if negated {
            self.at += 1;
        }
        let mut bits = [0u64; 4];
        let first = self.at;
        loop {
            let Some(&byte) = self.bytes.get(self.at) else {
                return self.fail(open, unclosed, "write `\\[` for the character itself");
            };
            if byte == b']' && self.at > first {
                break;
            }
            let (low, high, class) = match self.class()? {
                Some(class) => (0, 127, class),
                None => {
                    let (low, high) = self.range(open)?;
                    (low, high, ANY)
                }
            };
            for value in (low..=high).filter(class) {
                bits[usize::from(value >> 6)] |= 1 << (value & 63);
            }
            self.at += 1;
        }
        if negated {
            bits = bits.map(|word| !word);
        }
        bits[usize::from(b'/' >> 6)] &= !(1 << (b'/' & 63));
        Ok(Token::Set(Box::new(bits)))
    }

    /// A class such as `[:alpha:]` inside a set, if one is here; leaves `at` on its last byte.
    fn class(&mut self) -> Result<Option<Class>, PatternError> {
        let Some(rest) = self.bytes[self.at..].strip_prefix(b"[:") else {
            return Ok(None);
        };
        let Some(end) = rest.iter().position(|byte| *byte == b']') else {
            return Ok(None);
        };
        let Some(name) = rest[..end].strip_suffix(b":") else {
            // An ordinary `[`, as for rsync.
            return Ok(None);
        };
        let Some((_, class)) = CLASSES.iter().find(|(known, _)| known.as_bytes() == name) else {
            return self.fail(
                self.at,
                "an unknown class",
                "those of isalnum(3): alnum, alpha, blank, cntrl, digit, graph, lower, print, punct, space, upper, xdigit",
            );
        };
        self.at += "[:".len() + end;
        Ok(Some(*class))
    }

    /// One byte or `a-z` inside a set; leaves `at` on its last byte.
    fn range(&mut self, open: usize) -> Result<(u8, u8), PatternError> {
        let low = self.set_byte(open)?;
        let is_range = self.bytes.get(self.at + 1) == Some(&b'-')
            && !matches!(self.bytes.get(self.at + 2), None | Some(b']'));
        if !is_range {
            return Ok((low, low));
        }
        let at = self.at;
        self.at += 2;
        let high = self.set_byte(open)?;
        if high < low {
            return self.fail(
                at,
                "a range that runs backwards",
                "write the lower end first",
            );
        }
        Ok((low, high))
    }

    fn set_byte(&mut self, open: usize) -> Result<u8, PatternError> {
        if self.bytes[self.at] == b'\\' {
            self.at += 1;
        }
        match self.bytes.get(self.at) {
            Some(&byte) if byte.is_ascii() => Ok(byte),
            Some(_) => self.fail(
                self.at,
                "a character beyond ASCII in a set",
                "write the alternatives as several patterns",
            ),
            None => self.fail(
                open,
                "a `[` that is not closed",
                "write `\\[` for the character itself",
            ),
        }
    }
}
