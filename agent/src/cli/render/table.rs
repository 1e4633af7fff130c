//! Aligned columns.

use crate::cli::text::{Style, Tone, escape};

/// One cell. Its text is made safe for a terminal here.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn new(tone: Tone, text: impl AsRef<str>) -> Self {
        Self {
            text: escape(text.as_ref()).into_owned(),
            tone,
        }
    }
}

/// A cell without colour.
pub(super) fn plain(text: impl AsRef<str>) -> Cell {
    Cell::new(Tone::Plain, text)
}

/// A row, and lines of notes below it.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub cells: Vec<Cell>,
    pub notes: Vec<Cell>,
}

/// A table with a head; empty text if it has no rows. Columns whose head ends with `>` are aligned to the right.
pub(super) fn table(style: Style, heads: &[&str], rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = heads.iter().map(|h| h.trim_end_matches('>')).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|r| r.cells.get(column));
        let widest = cells.map(|c| c.text.chars().count()).max().unwrap_or(0);
        widest.max(names[column].chars().count())
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut out = String::new();
    let head: Vec<Cell> = names.iter().map(|n| Cell::new(Tone::Dim, n)).collect();
    push_line(&mut out, style, heads, &widths, &head);
    for row in rows {
        push_line(&mut out, style, heads, &widths, &row.cells);
        for note in &row.notes {
            out.push_str("    ");
            out.push_str(&style.paint(note.tone, &note.text));
            out.push('\n');
        }
    }
    out
}

fn push_line(out: &mut String, style: Style, heads: &[&str], widths: &[usize], cells: &[Cell]) {
    for (column, cell) in cells.iter().enumerate() {
        let fill = " ".repeat(widths[column].saturating_sub(cell.text.chars().count()));
        let text = style.paint(cell.tone, &cell.text);
        let last = column + 1 == cells.len();
        if heads[column].ends_with('>') {
            out.push_str(&fill);
            out.push_str(&text);
        } else {
            out.push_str(&text);
            if !last {
                out.push_str(&fill);
            }
        }
        if !last {
            out.push_str("  ");
        }
    }
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}
