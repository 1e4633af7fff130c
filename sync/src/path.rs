//! Paths inside a tree: relative, validated, bytes.
//!
//! A [`RelPath`] can only be made through validation, also when it comes from the wire or from the disk. It has no
//! empty, `.` or `..` component and no NUL byte, so it can never name anything outside its tree by spelling alone.
//! (Symbolic links are another matter: see the I/O side, which resolves beneath an open root.)

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// Longest path in bytes. Above `PATH_MAX` on purpose: a deep tree can hold longer paths, reached component by component.
pub const MAX_PATH: usize = 64 * 1024;
/// Longest component in bytes (`NAME_MAX` of Linux).
pub const MAX_COMPONENT: usize = 255;
/// Most components of a path: what is done for each directory above a path stays small beside the path, and the descriptors of a
/// descent are few. Deeper directories of a tree are errors of their paths.
pub const MAX_DEPTH: usize = 512;
/// The directory at a tree's root that belongs to Tandem: marker, staging, rescue. Never replicated, in no tree.
pub const PRIVATE_DIR: &[u8] = b".tandem";

/// Why bytes are not a path of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// No bytes at all. (The root is [`RelPath::root`], never spelled.)
    #[error("the path is empty")]
    Empty,
    /// Longer than [`MAX_PATH`].
    #[error("the path has {0} bytes, more than {MAX_PATH}")]
    TooLong(usize),
    /// More than [`MAX_DEPTH`] components.
    #[error("the path has more than {MAX_DEPTH} components")]
    TooDeep,
    /// A component longer than [`MAX_COMPONENT`].
    #[error("a path component has {0} bytes, more than {MAX_COMPONENT}")]
    ComponentTooLong(usize),
    /// Leading, trailing or double `/`.
    #[error("the path has an empty component (a leading, trailing or double `/`)")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("the path has a `.` or `..` component")]
    Dots,
    /// A NUL byte.
    #[error("the path has a NUL byte")]
    Nul,
    /// A wrong backslash escape in the printed form.
    #[error("the path has a wrong backslash escape")]
    Escape,
}

/// A path relative to a tree's root. Ordered by components, so a directory comes directly before what it contains.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RelPath(Box<[u8]>);

impl RelPath {
    /// The tree's root itself.
    pub fn root() -> Self {
        RelPath(Box::default())
    }

    /// Validates `bytes`: components separated by single `/`, none of them empty, `.` or `..`.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        if bytes.len() > MAX_PATH {
            return Err(PathError::TooLong(bytes.len()));
        }
        for (depth, component) in bytes.split(|b| *b == b'/').enumerate() {
            if depth == MAX_DEPTH {
                return Err(PathError::TooDeep);
            }
            check_component(component)?;
        }
        Ok(RelPath(bytes.into()))
    }

    /// Like [`RelPath::new`], but no bytes mean the root. What [`RelPath::as_bytes`] gave is accepted.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.is_empty() {
            Ok(RelPath::root())
        } else {
            RelPath::new(bytes)
        }
    }

    /// Reads the printed form (see `Display`): `.` is the root, `\xNN` a byte, `\\` a backslash.
    pub fn from_escaped(text: &str) -> Result<Self, PathError> {
        if text == "." {
            return Ok(RelPath::root());
        }
        RelPath::new(unescape(text)?)
    }

    /// True for the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same for the file calls of the standard library; empty for the root.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// This path with one more component.
    pub fn join(&self, component: &[u8]) -> Result<Self, PathError> {
        check_component(component)?;
        if self.is_root() {
            return Ok(RelPath(component.into()));
        }
        let length = self.0.len() + 1 + component.len();
        if length > MAX_PATH {
            return Err(PathError::TooLong(length));
        }
        if self.depth() >= MAX_DEPTH {
            return Err(PathError::TooDeep);
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(component);
        Ok(RelPath(bytes.into()))
    }

    /// Where this path is when `from` was renamed to `to`. `None`: it is not at or below `from`, or would be longer than a
    /// path may be.
    pub fn moved(&self, from: &RelPath, to: &RelPath) -> Option<RelPath> {
        if self == from {
            return Some(to.clone());
        }
        let rest = self.is_below(from).then(|| &self.0[from.0.len() + 1..])?;
        RelPath::from_bytes(&[&to.0, &b"/"[..], rest].concat()).ok()
    }

    /// The directory that holds this path. `None` for the root.
    pub fn parent(&self) -> Option<RelPath> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(RelPath(self.0[..cut].into()))
    }

    /// The last component. `None` for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The components in order; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// Number of components; 0 for the root.
    pub fn depth(&self) -> usize {
        if self.is_root() {
            0
        } else {
            1 + self.0.iter().filter(|b| **b == b'/').count()
        }
    }

    /// True if `self` is `ancestor` or lies anywhere beneath it. Everything is beneath the root.
    pub fn is_at_or_below(&self, ancestor: &RelPath) -> bool {
        ancestor.is_root() || self == ancestor || self.is_below(ancestor)
    }

    /// True if `self` lies beneath `ancestor` and is not `ancestor` itself.
    pub fn is_below(&self, ancestor: &RelPath) -> bool {
        if ancestor.is_root() {
            return !self.is_root();
        }
        let n = ancestor.0.len();
        self.0.len() > n && self.0[n] == b'/' && self.0[..n] == ancestor.0[..]
    }

    /// All directories above this path, nearest first, ending with the root. Empty for the root.
    pub fn ancestors(&self) -> impl Iterator<Item = RelPath> {
        std::iter::successors(self.parent(), RelPath::parent)
    }

    /// True for Tandem's own directory at the root and all beneath it. Such a path is refused wherever it comes from.
    pub fn is_private(&self) -> bool {
        self.components().next() == Some(PRIVATE_DIR)
    }

    /// The sort key as bytes: `/` becomes the byte 0, so that plain byte order is component order.
    pub fn sort_key(&self) -> Vec<u8> {
        self.0
            .iter()
            .map(|b| if *b == b'/' { 0 } else { *b })
            .collect()
    }

    /// Reads [`RelPath::sort_key`] back.
    pub fn from_sort_key(key: &[u8]) -> Result<Self, PathError> {
        if key.contains(&b'/') {
            return Err(PathError::EmptyComponent);
        }
        let bytes: Vec<u8> = key
            .iter()
            .map(|b| if *b == 0 { b'/' } else { *b })
            .collect();
        RelPath::from_bytes(&bytes)
    }
}

/// Checks one name: 1 to [`MAX_COMPONENT`] bytes, no `/`, no NUL, not `.` or `..`.
pub fn check_component(component: &[u8]) -> Result<(), PathError> {
    match component {
        b"" => return Err(PathError::EmptyComponent),
        b"." | b".." => return Err(PathError::Dots),
        c if c.len() > MAX_COMPONENT => return Err(PathError::ComponentTooLong(c.len())),
        _ => {}
    }
    if component.contains(&0) {
        return Err(PathError::Nul);
    }
    if component.contains(&b'/') {
        return Err(PathError::EmptyComponent);
    }
    Ok(())
}

/// Writes `bytes` so that a terminal or a log cannot be harmed: control characters, backslashes and bytes that are
/// not UTF-8 become `\xNN` (a backslash `\\`). The form can be read back.
pub fn escape(bytes: &[u8], out: &mut impl fmt::Write) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.write_str("\\\\")?,
                c if c.is_control() || is_hidden(c) => {
                    let mut buffer = [0; 4];
                    for byte in c.encode_utf8(&mut buffer).bytes() {
                        write!(out, "\\x{byte:02x}")?;
                    }
                }
                c => out.write_char(c)?,
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// Characters that change the direction of text or are invisible: they let one name look like another.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn unescape(text: &str) -> Result<Vec<u8>, PathError> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => out.push(b'\\'),
            Some(b'x') => {
                let mut digit = || {
                    bytes
                        .next()
                        .and_then(|d| char::from(d).to_digit(16))
                        .ok_or(PathError::Escape)
                };
                let value = digit()? * 16 + digit()?;
                // Two hexadecimal digits are at most 255.
                out.push(u8::try_from(value).map_err(|_| PathError::Escape)?);
            }
            _ => return Err(PathError::Escape),
        }
    }
    Ok(out)
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // Most paths that are compared begin alike, and words are compared faster than bytes.
        let (words, others) = (self.0.as_chunks::<8>().0, other.0.as_chunks::<8>().0);
        let alike = words.iter().zip(others).take_while(|(a, b)| a == b).count();
        let rest = alike * 8;
        let key = |b: &u8| if *b == b'/' { 0 } else { *b };
        self.0[rest..]
            .iter()
            .map(key)
            .cmp(other.0[rest..].iter().map(key))
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            f.write_str(".")
        } else {
            escape(&self.0, f)
        }
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl AsRef<OsStr> for RelPath {
    fn as_ref(&self) -> &OsStr {
        self.as_os_str()
    }
}

impl AsRef<std::path::Path> for RelPath {
    fn as_ref(&self) -> &std::path::Path {
        std::path::Path::new(self.as_os_str())
    }
}

impl TryFrom<&[u8]> for RelPath {
    type Error = PathError;
    fn try_from(bytes: &[u8]) -> Result<Self, PathError> {
        RelPath::from_bytes(bytes)
    }
}

impl std::str::FromStr for RelPath {
    type Err = PathError;
    /// Takes the bytes as they are, without escapes.
    fn from_str(text: &str) -> Result<Self, PathError> {
        RelPath::new(text)
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            return RelPath::from_escaped(&text).map_err(D::Error::custom);
        }
        deserializer.deserialize_bytes(PathVisitor)
    }
}

struct PathVisitor;

impl<'de> Visitor<'de> for PathVisitor {
    type Value = RelPath;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes of a relative path")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<RelPath, E> {
        RelPath::from_bytes(bytes).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RelPath, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element::<u8>()? {
            if bytes.len() == MAX_PATH {
                return Err(A::Error::custom(PathError::TooLong(MAX_PATH + 1)));
            }
            bytes.push(byte);
        }
        self.visit_bytes(&bytes)
    }
}

#[cfg(test)]
mod tests;
