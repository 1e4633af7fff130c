//! Reading one table of the file by its section of the schema.

use super::problem::{Problem, did_you_mean};
use super::schema::{self, Key, Need};
use super::value::{Complaint, Read, found};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it stands. For a default that is the head of its table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// One table of the file, read against the schema. Every problem goes to the list that is handed to each call, so
/// that one run finds them all.
pub(super) struct Reader<'t> {
    pub schema: &'static schema::Section,
    pub span: Range<usize>,
    table: &'t DeTable<'t>,
}

impl<'t> Reader<'t> {
    /// Begins to read a table; reports the keys that the schema does not know.
    pub fn new(
        path: &str,
        table: &'t DeTable<'t>,
        span: Range<usize>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let schema = schema::section(path);
        for (key, _) in table {
            let name = key.get_ref().as_ref();
            if schema.key(name).is_none() {
                problems.push(unknown_key(schema, name, key.span()));
            }
        }
        Self {
            schema,
            span,
            table,
        }
    }

    /// The value of a key that is required or has a default. `None`: a problem was reported.
    pub fn get<T>(
        &self,
        name: &'static str,
        read: impl Read<T>,
        problems: &mut Vec<Problem>,
    ) -> Option<At<T>> {
        let key = self.key(name);
        if let Some(value) = self.table.get(name) {
            return self.convert(name, value, read, problems);
        }
        match key.need {
            Need::DefaultsTo(text) => Some(At {
                value: default_of(key, text, read),
                span: self.span.clone(),
            }),
            Need::Required(_) | Need::Optional(_) | Need::Depends(_) | Need::Below => {
                let message = format!("{} needs `{name}`", self.schema.header());
                let hint = format!("{name} ({}): {}", key.kind, key.help);
                problems.push(Problem::absent(self.span.clone(), message).hint(hint));
                None
            }
        }
    }

    /// The value of a key that may be absent. `None`: it is, or a problem was reported.
    pub fn optional<T>(
        &self,
        name: &'static str,
        read: impl Read<T>,
        problems: &mut Vec<Problem>,
    ) -> Option<At<T>> {
        debug_assert!(matches!(
            self.key(name).need,
            Need::Optional(_) | Need::Depends(_)
        ));
        let value = self.table.get(name)?;
        self.convert(name, value, read, problems)
    }

    /// Where a key stands, if it does.
    pub fn given(&self, name: &'static str) -> Option<Range<usize>> {
        self.table.get(name).map(Spanned::span)
    }

    /// Where a key's value stands, or else the table's head.
    pub fn span_of(&self, name: &'static str) -> Range<usize> {
        self.given(name).unwrap_or_else(|| self.span.clone())
    }

    /// The tables of an array of tables below this one.
    pub fn tables(
        &self,
        name: &'static str,
        path: &str,
        problems: &mut Vec<Problem>,
    ) -> Vec<Reader<'t>> {
        debug_assert!(self.schema.key(name).is_some());
        read_tables(self.table, name, path, problems)
    }

    /// The table below this one. `None`: it is absent, or a problem was reported.
    pub fn below(
        &self,
        name: &'static str,
        path: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Reader<'t>> {
        debug_assert!(matches!(self.key(name).need, Need::Below));
        let value = self.table.get(name)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Reader::new(path, table, value.span(), problems)),
            None => {
                let message = format!("`{name}` is one table, found {}", found(value.get_ref()));
                let header = schema::section(path).header();
                problems.push(Problem::new(value.span(), message).hint(format!("write {header}")));
                None
            }
        }
    }

    fn convert<T>(
        &self,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        read: impl Read<T>,
        problems: &mut Vec<Problem>,
    ) -> Option<At<T>> {
        match read(value) {
            Ok(converted) => Some(At {
                value: converted,
                span: value.span(),
            }),
            Err(mut complaint) => {
                let others = std::mem::take(&mut complaint.others);
                for complaint in std::iter::once(complaint).chain(others) {
                    problems.push(problem_of(name, value, complaint));
                }
                None
            }
        }
    }

    fn key(&self, name: &'static str) -> &'static Key {
        // The names are written in the decoder; a test decodes a file that has each of them.
        self.schema
            .key(name)
            .unwrap_or_else(|| panic!("no key {name} in the schema of {}", self.schema.header()))
    }
}

/// The tables of the array of tables `name`; none if it is absent.
pub(super) fn read_tables<'t>(
    parent: &'t DeTable<'t>,
    name: &str,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Reader<'t>> {
    let Some(value) = parent.get(name) else {
        return Vec::new();
    };
    let header = schema::section(path).header();
    let wrong = |at: &Spanned<DeValue<'_>>| {
        let message = format!(
            "`{name}` is a list of tables, found {}",
            found(at.get_ref())
        );
        Problem::new(at.span(), message)
            .hint(format!("write {header} and its keys in the lines below"))
    };
    let Some(array) = value.get_ref().as_array() else {
        problems.push(wrong(value));
        return Vec::new();
    };
    let mut readers = Vec::new();
    for item in array.iter() {
        match item.get_ref().as_table() {
            Some(table) => readers.push(Reader::new(path, table, item.span(), problems)),
            None => problems.push(wrong(item)),
        }
    }
    readers
}

fn problem_of(name: &str, value: &Spanned<DeValue<'_>>, complaint: Complaint) -> Problem {
    let place = complaint.place;
    let (span, what) = place.unwrap_or_else(|| (value.span(), found(value.get_ref())));
    let message = format!("`{name}` {}, found {what}", complaint.message);
    Problem {
        hint: complaint.hint,
        ..Problem::new(span, message)
    }
}

fn unknown_key(schema: &'static schema::Section, name: &str, span: Range<usize>) -> Problem {
    let problem = Problem::new(
        span,
        format!(
            "unknown key `{}` in {}",
            name.escape_debug(),
            schema.header()
        ),
    );
    if let Some(known) = did_you_mean(name, schema.keys.iter().map(|k| k.name)) {
        return problem.hint(format!("did you mean `{known}`?"));
    }
    if (schema.path, name) == ("tree", "cross_mounts") {
        let hint = "a file system that is mounted below the root of a tree is no part of it: make it a tree of its own";
        return problem.hint(hint);
    }
    let elsewhere = schema::SECTIONS.iter().find(|s| s.key(name).is_some());
    match elsewhere {
        Some(section) => problem.hint(format!("`{name}` belongs to {}", section.header())),
        None => {
            let names: Vec<_> = schema.keys.iter().map(|k| k.name).collect();
            problem.hint(format!("known here: {}", names.join(", ")))
        }
    }
}

/// The default of a key, read as if it were written in the file.
///
/// # Panics
/// If the schema's text is not valid: a test reads every default.
fn default_of<T>(key: &Key, text: &'static str, read: impl Read<T>) -> T {
    let value = DeValue::parse(text).unwrap_or_else(|e| panic!("default of {}: {e}", key.name));
    read(&value).unwrap_or_else(|c| panic!("default of {}: {}", key.name, c.message))
}
