//! Patterns of paths: what is excluded, what is protected. The semantics are those of rsync's exclude patterns, without
//! its include rules.
//!
//! | pattern | matches |
//! |---|---|
//! | `*.tmp` | no `/` inside: the last component of any path |
//! | `/cache` | leading `/`: only at the tree's root |
//! | `run/lock` | a `/` inside: the end of a path, from a component's start |
//! | `logs/` | trailing `/`: only directories |
//! | `*` | any bytes but `/`, also none |
//! | `**` | any bytes, `/` too; a pattern with it is matched with whole paths. `**/x` is also `x` at the root |
//! | `dir/***` | the directory and all that is in it. Anywhere else `***` is `**` |
//! | `?` | one byte but `/` |
//! | `[a-z_]`, `[!a]`, `[^a]` | one byte of the set, or not of it; never `/` |
//! | `[[:digit:]]` | one byte of the class: `alnum`, `alpha`, `blank`, `cntrl`, `digit`, `graph`, `lower`, `print`, `punct`, `space`, `upper`, `xdigit`, of ASCII |
//! | `\x` | the byte `x` itself |
//!
//! A directory that matches takes all its content with it. A pattern is compiled to a list of tokens and matched by
//! following all alternatives at once: time is at most (tokens * bytes of the path), whatever the pattern is.

use crate::path::RelPath;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

mod compile;
mod run;

use compile::Token;

/// Longest pattern in bytes. Bounds the work for one path: the set of alternatives is a fixed array.
pub const MAX_PATTERN: usize = 1000;

/// Why a text is not a pattern: which one, where in it, what is wrong, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern `{pattern}`, character {}: {what} ({hint})", .offset + 1)]
pub struct PatternError {
    /// The pattern as written.
    pub pattern: String,
    /// Byte offset of the fault in it.
    pub offset: usize,
    /// What is wrong.
    pub what: &'static str,
    /// What helps.
    pub hint: &'static str,
}

/// One compiled pattern.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    tokens: Vec<Token>,
    scope: Scope,
    only_dirs: bool,
    end: End,
}

/// What stands behind the name of a directory that a pattern is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing.
    Open,
    /// A `/`: the pattern ends with `***`, which takes the directory with what is in it.
    Slash,
}

/// What of a path a pattern is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// The last component.
    Name,
    /// The whole path.
    Anchored,
    /// The whole path, from the start of any of its components.
    AnyTail,
}

impl Pattern {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the path itself matches. Its directories are not looked at: see [`Filter::covers`]. Never the root.
    pub fn matches(&self, path: &RelPath, is_dir: bool) -> bool {
        self.matches_bytes(path.as_bytes(), is_dir)
    }

    /// The same for the bytes of a path.
    fn matches_bytes(&self, path: &[u8], is_dir: bool) -> bool {
        if path.is_empty() || (self.only_dirs && !is_dir) {
            return false;
        }
        let end: &[u8] = match self.end {
            End::Slash if is_dir => b"/",
            End::Slash | End::Open => b"",
        };
        match self.scope {
            Scope::Name => {
                let start = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
                run::matches(&self.tokens, &path[start..], end, false)
            }
            Scope::Anchored => run::matches(&self.tokens, path, end, false),
            Scope::AnyTail => run::matches(&self.tokens, path, end, true),
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        compile::compile(text)
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;
    fn try_from(text: String) -> Result<Self, PatternError> {
        compile::compile(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// A list of patterns; a path matches if one of them does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filter {
    patterns: Vec<Pattern>,
}

impl Filter {
    /// A filter of compiled patterns.
    pub fn new(patterns: Vec<Pattern>) -> Self {
        Filter { patterns }
    }

    /// Compiles `patterns`; the first bad one is the error. (The configuration compiles one by one to report all.)
    pub fn parse<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        Ok(Filter {
            patterns: patterns
                .into_iter()
                .map(str::parse)
                .collect::<Result<_, _>>()?,
        })
    }

    /// True if there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The patterns.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether the path itself matches. Enough for a walk that does not descend into what matches.
    pub fn matches(&self, path: &RelPath, is_dir: bool) -> bool {
        self.patterns.iter().any(|p| p.matches(path, is_dir))
    }

    /// Whether the path or any directory above it matches.
    pub fn covers(&self, path: &RelPath, is_dir: bool) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let bytes = path.as_bytes();
        let mut dirs = bytes
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(end, _)| &bytes[..end]);
        self.matches(path, is_dir)
            || dirs.any(|dir| {
                self.patterns
                    .iter()
                    .any(|pattern| pattern.matches_bytes(dir, true))
            })
    }
}

#[cfg(test)]
mod tests;
