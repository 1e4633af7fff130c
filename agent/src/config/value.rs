//! Reading single values.

use super::problem::did_you_mean;
use super::types::{MaxDelete, PublicKey};
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::DeValue;

/// What is wrong with a value: completes the sentence "`key` ...".
#[derive(Debug)]
pub(super) struct Complaint {
    pub message: String,
    pub hint: Option<String>,
    /// The part of the value that is wrong, and what it is.
    pub place: Option<(Range<usize>, String)>,
    /// What else is wrong with it: the other entries of a list.
    pub others: Vec<Complaint>,
}

impl Complaint {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            place: None,
            others: Vec::new(),
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Converts a value of the file.
pub(super) trait Read<T>: Fn(&Spanned<DeValue<'_>>) -> Result<T, Complaint> {}
impl<T, F: Fn(&Spanned<DeValue<'_>>) -> Result<T, Complaint>> Read<T> for F {}

type Value<'a> = Spanned<DeValue<'a>>;

/// A value in words, for a message.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{}\"", shorten(text)),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(b) => format!("{b}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(items) if items.is_empty() => "an empty list".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().count() > 60 {
        short.push_str("...");
    }
    short
}

pub(super) fn text<'a>(value: &'a Value<'_>) -> Result<&'a str, Complaint> {
    let Some(text) = value.get_ref().as_str() else {
        return Err(Complaint::new("must be text in quotes"));
    };
    if text.is_empty() {
        return Err(Complaint::new("must not be empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(Complaint::new("must not have control characters in it"));
    }
    Ok(text)
}

pub(super) fn string(value: &Value<'_>) -> Result<String, Complaint> {
    text(value).map(str::to_owned)
}

/// A name of ours: it stands in file names, paths of the API and messages.
pub(super) fn name(value: &Value<'_>) -> Result<String, Complaint> {
    let text = text(value)?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !text.chars().all(good)
        || text.len() > 63
    {
        return Err(Complaint::new("must be a name")
            .hint("a name has letters, digits, '-', '_' and '.', begins with a letter or digit, and has at most 63 characters"));
    }
    Ok(text.to_owned())
}

pub(super) fn boolean(value: &Value<'_>) -> Result<bool, Complaint> {
    value
        .get_ref()
        .as_bool()
        .ok_or_else(|| Complaint::new("must be true or false, without quotes"))
}

/// One of a few words, by the table of them.
pub(super) fn choice<T: Copy>(
    words: &'static [(&'static str, T)],
) -> impl Fn(&Value<'_>) -> Result<T, Complaint> {
    move |value| {
        let word = value.get_ref().as_str().unwrap_or_default();
        if let Some((_, meaning)) = words.iter().find(|(w, _)| *w == word) {
            return Ok(*meaning);
        }
        let all: Vec<_> = words.iter().map(|(w, _)| format!("\"{w}\"")).collect();
        let complaint = Complaint::new(format!("must be one of {}", all.join(", ")));
        Err(match did_you_mean(word, words.iter().map(|(w, _)| *w)) {
            Some(near) => complaint.hint(format!("did you mean \"{near}\"?")),
            None => complaint,
        })
    }
}

pub(super) fn number(range: RangeInclusive<u64>) -> impl Fn(&Value<'_>) -> Result<u64, Complaint> {
    move |value| {
        let wrong = || {
            Complaint::new(format!(
                "must be a whole number from {} to {}",
                range.start(),
                range.end()
            ))
        };
        let number = value.get_ref().as_integer().ok_or_else(wrong)?;
        let number = u64::from_str_radix(number.as_str(), number.radix()).map_err(|_| wrong())?;
        if range.contains(&number) {
            Ok(number)
        } else {
            Err(wrong())
        }
    }
}

/// A port number: 1 to 65535.
pub(super) fn port(value: &Value<'_>) -> Result<u16, Complaint> {
    let number = number(1..=u64::from(u16::MAX))(value)?;
    // In the range just checked.
    Ok(number as u16)
}

/// An absolute path in its plain form, not the root directory.
pub(super) fn path(value: &Value<'_>) -> Result<PathBuf, Complaint> {
    let text = text(value)?;
    if !text.starts_with('/') {
        return Err(Complaint::new("must be an absolute path").hint("begin it with /"));
    }
    let plain = format!(
        "/{}",
        text.split('/')
            .filter(|c| !c.is_empty())
            .collect::<Vec<_>>()
            .join("/")
    );
    if text.split('/').any(|c| c == "." || c == "..") {
        return Err(Complaint::new("must not have . or .. in it"));
    }
    if plain == "/" {
        return Err(Complaint::new("must not be the root directory"));
    }
    if plain != text {
        return Err(Complaint::new("must be written plainly").hint(format!("write \"{plain}\"")));
    }
    Ok(PathBuf::from(text))
}

pub(super) fn address(value: &Value<'_>) -> Result<IpAddr, Complaint> {
    let text = text(value)?;
    text.parse().map_err(|_| {
        let complaint = Complaint::new("must be an IP address");
        if text.contains('/') {
            complaint.hint("without prefix length here")
        } else if text.parse::<f64>().is_err()
            && text.contains(char::is_alphabetic)
            && !text.contains(':')
        {
            complaint
                .hint("names are not looked up: name service may be what is broken at a takeover")
        } else {
            complaint
        }
    })
}

/// Name of a network interface.
pub(super) fn device(value: &Value<'_>) -> Result<String, Complaint> {
    let text = text(value)?;
    if text.len() > 15
        || text.contains(|c: char| c == '/' || c.is_whitespace())
        || text == "."
        || text == ".."
    {
        return Err(Complaint::new("must be the name of an interface")
            .hint("at most 15 bytes, without / and blanks"));
    }
    if text.contains(':') {
        return Err(Complaint::new("must be the name of an interface").hint(
            "a name with a colon is a label: write device = \"eth0\" and label = \"eth0:1\"",
        ));
    }
    Ok(text.to_owned())
}

/// A list; each item is read by `item`.
pub(super) fn list<T>(
    item: impl Read<T>,
    limit: usize,
) -> impl Fn(&Value<'_>) -> Result<Vec<T>, Complaint> {
    move |value| {
        let items = value.get_ref().as_array().ok_or_else(|| {
            Complaint::new("must be a list").hint("for example [\"one\", \"two\"]")
        })?;
        if items.len() > limit {
            return Err(Complaint::new(format!("must have at most {limit} entries")));
        }
        let read = |(number, value): (usize, &Value<'_>)| {
            item(value).map_err(|mut complaint| {
                complaint.message = format!("entry {} {}", number + 1, complaint.message);
                complaint
                    .place
                    .get_or_insert_with(|| (value.span(), found(value.get_ref())));
                complaint
            })
        };
        let mut good = Vec::with_capacity(items.len());
        let mut bad: Vec<Complaint> = Vec::new();
        for entry in items.iter().enumerate().map(read) {
            match entry {
                Ok(entry) => good.push(entry),
                Err(complaint) => bad.push(complaint),
            }
        }
        let mut bad = bad.into_iter();
        match bad.next() {
            None => Ok(good),
            Some(mut first) => {
                first.others.extend(bad);
                Err(first)
            }
        }
    }
}

/// An argument list: an absolute program and its arguments.
pub(super) fn argv(value: &Value<'_>) -> Result<Vec<String>, Complaint> {
    if value.get_ref().is_str() {
        return Err(
            Complaint::new("must be a list of arguments: there is no shell")
                .hint("for example [\"/usr/sbin/apachectl\", \"restart\"]"),
        );
    }
    // 256 arguments: far more than a command in a configuration has.
    let argv = list(argument, 256)(value)?;
    let Some(program) = argv.first() else {
        return Err(Complaint::new("must name a program"));
    };
    if !program.starts_with('/') {
        return Err(
            Complaint::new("must begin with the absolute path of a program")
                .hint("the search path of the agent is not the one of your shell"),
        );
    }
    Ok(argv)
}

fn argument(value: &Value<'_>) -> Result<String, Complaint> {
    let text = value
        .get_ref()
        .as_str()
        .ok_or_else(|| Complaint::new("must be text in quotes"))?;
    if text.contains('\0') {
        return Err(Complaint::new("must not have a zero byte in it"));
    }
    Ok(text.to_owned())
}

/// `"50%"` or a count.
pub(super) fn max_delete(value: &Value<'_>) -> Result<MaxDelete, Complaint> {
    let wrong = || Complaint::new("must be \"N%\" with N from 1 to 100, or a number of entries");
    if value.get_ref().is_integer() {
        return number(1..=u64::from(u32::MAX))(value)
            .map(MaxDelete::Count)
            .map_err(|_| wrong());
    }
    let percent = value
        .get_ref()
        .as_str()
        .and_then(|t| t.strip_suffix('%'))
        .ok_or_else(wrong)?;
    match percent.parse::<u8>() {
        Ok(percent @ 1..=100) => Ok(MaxDelete::Percent(percent)),
        _ => Err(wrong()),
    }
}

/// An OpenSSH public line.
pub(super) fn public_key(value: &Value<'_>) -> Result<PublicKey, Complaint> {
    let text = text(value)?;
    crate::keys::parse_public(text).map_err(|why| {
        Complaint::new(format!("must be a public key line: {why}"))
            .hint("`tandem keygen` on that node prints it: ssh-ed25519 AAAA...")
    })
}

/// Whether `inner` is `outer` or lies below it.
pub(super) fn within(inner: &Path, outer: &Path) -> bool {
    inner.starts_with(outer)
}
