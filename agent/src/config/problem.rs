//! What is wrong with a configuration, and where.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Byte range in the text that it is about.
    pub span: Range<usize>,
    /// One sentence.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    // It is about something that is not there. Where the text cannot be read whole, that says nothing.
    pub(super) absence: bool,
}

impl Problem {
    /// A problem at `span`.
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
            hint: None,
            absence: false,
        }
    }

    /// Something is missing in what stands at `span`.
    pub(super) fn absent(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            absence: true,
            ..Self::new(span, message)
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// All that was found in one file, in the order of the text. Displays as `file:line:column: kind: message` with the
/// line and a mark under the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    text: String,
    kind: &'static str,
    list: Vec<Problem>,
}

impl std::error::Error for Problems {}

impl Problems {
    pub(super) fn new(file: &Path, text: &str, kind: &'static str, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|p| (p.span.start, p.span.end));
        Self {
            file: file.to_owned(),
            text: text.to_owned(),
            kind,
            list,
        }
    }

    /// Each problem.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// Nothing was found.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Line and column of a problem, both from 1; the column counts characters.
    pub fn position(&self, problem: &Problem) -> (usize, usize) {
        let start = floor_boundary(&self.text, problem.span.start);
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }

    /// The line of a problem, and how many of its characters the problem is about.
    fn excerpt(&self, problem: &Problem) -> (&str, usize) {
        let start = floor_boundary(&self.text, problem.span.start);
        let end = floor_boundary(&self.text, problem.span.end).max(start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..]
            .find('\n')
            .map_or(self.text.len(), |at| start + at);
        let line = self.text[line_start..line_end].trim_end_matches('\r');
        let marked = &self.text[start..end.min(line_start + line.len()).max(start)];
        (line, marked.chars().count().max(1))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            let (line, column) = self.position(problem);
            let (text, width) = self.excerpt(problem);
            let message = &problem.message;
            writeln!(
                f,
                "{}:{line}:{column}: {}: {message}",
                self.file.display(),
                self.kind
            )?;
            // A tab counts as one column, as in the position; shown as one blank the mark stands where it should.
            let text: String = text
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            writeln!(f, "{line:5} | {text}")?;
            writeln!(f, "      | {}{}", " ".repeat(column - 1), "^".repeat(width))?;
            if let Some(hint) = &problem.hint {
                writeln!(f, "      = hint: {hint}")?;
            }
        }
        Ok(())
    }
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The known word that `word` was probably meant to be.
pub(super) fn did_you_mean<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    // A third of the word may be wrong, so that a short one is not taken for any other.
    let limit = word.chars().count() / 3;
    known
        .into_iter()
        .map(|k| (distance(&word, k), k))
        .filter(|(d, k)| *d <= limit || (word.len() >= 3 && k.starts_with(&word)))
        .min()
        .map(|(_, k)| k)
}

/// Damerau-Levenshtein distance in its restricted form: inserts, deletes, changes, swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_points_at_its_place() {
        let text = "[pair]\nname = \"ä\" \tport = 0\n";
        let at = text.find("port").unwrap();
        let problem = Problem::new(at..at + 4, "bad").hint("better");
        let problems = Problems::new(Path::new("/f.toml"), text, "error", vec![problem]);
        let shown = problems.to_string();
        assert_eq!(
            shown,
            "/f.toml:2:13: error: bad\n    2 | name = \"ä\"  port = 0\n      |             ^^^^\n      = hint: better\n"
        );
    }

    #[test]
    fn a_place_of_several_lines_is_marked_on_the_first() {
        let problems = Problems::new(
            Path::new("f"),
            "a = [\n1,\n]\n",
            "error",
            vec![Problem::new(4..9, "x")],
        );
        assert_eq!(
            problems.to_string(),
            "f:1:5: error: x\n    1 | a = [\n      |     ^\n"
        );
    }

    #[test]
    fn a_place_behind_the_end_is_the_end() {
        let problems = Problems::new(
            Path::new("f"),
            "",
            "error",
            vec![Problem::new(0..0, "empty")],
        );
        assert_eq!(
            problems.to_string(),
            "f:1:1: error: empty\n    1 | \n      | ^\n"
        );
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let known = ["exclude", "protect", "path", "deletes"];
        assert_eq!(did_you_mean("exlcude", known), Some("exclude"));
        assert_eq!(did_you_mean("Delete", known), Some("deletes"));
        assert_eq!(did_you_mean("pth", known), Some("path"));
        assert_eq!(did_you_mean("frequency", known), None);
    }
}
