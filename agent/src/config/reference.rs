//! The reference of all keys, written from the schema: `etc/reference.toml` and the tables of the manual.

use super::schema::{Key, Need, SECTIONS, Section};
use std::fmt::Write;

const WIDTH: usize = 100;

/// `etc/reference.toml`: every key with its meaning and default, as a configuration that is valid.
pub fn toml() -> String {
    let mut out = String::new();
    comment(
        &mut out,
        "Every key of Tandem's configuration, /etc/tandem/tandem.toml. The file is the same on both nodes; an agent knows \
         by its key which of them it is.",
    );
    comment(
        &mut out,
        "A key that says \"default\" shows it and can be left out. A key behind a # is optional, with an example. \
         `tandem check` reports every error of a file at once. This file is generated: `tandem generate reference`.",
    );
    for section in SECTIONS.iter().filter(|s| s.path != "node.link") {
        if section.path == "node" {
            nodes(&mut out);
        } else if section.path == "replica" {
            // The tree above is sent in sets, which no replica gets.
            table(&mut out, super::schema::section("tree"), 1, false);
            table(&mut out, section, 0, true);
        } else {
            table(&mut out, section, 0, true);
        }
    }
    out
}

/// The nodes are two, and each has two links.
fn nodes(out: &mut String) {
    let (node, link) = (
        super::schema::section("node"),
        super::schema::section("node.link"),
    );
    for number in 0..2 {
        table(out, node, number, number == 0);
        for link_number in 0..2 {
            let at = 2 * number + link_number;
            table(out, link, at, at == 0);
        }
    }
}

fn table(out: &mut String, section: &Section, number: usize, explain: bool) {
    out.push('\n');
    if explain {
        comment(out, section.help);
    }
    let _ = writeln!(out, "{}", section.header());
    for key in section.keys {
        let Some(text) = key.need.text(number) else {
            continue; // Tables below it.
        };
        let sign = if matches!(key.need, Need::Optional(_)) {
            "# "
        } else {
            ""
        };
        let line = format!("{sign}{} = {text}", key.name);
        if explain {
            comment(out, &format!("{} [{}; {}]", key.help, key.kind, need(key)));
        } else if matches!(key.need, Need::Optional(_) | Need::DefaultsTo(_)) {
            continue;
        }
        let _ = writeln!(out, "{line}");
    }
}

fn need(key: &Key) -> &'static str {
    match key.need {
        Need::Required(_) => "required",
        Need::DefaultsTo(_) => "default",
        Need::Optional(_) | Need::Depends(_) | Need::Below => "optional",
    }
}

/// The tables of docs/configuration.md.
pub fn markdown() -> String {
    let mut out = String::new();
    for section in SECTIONS {
        let _ = writeln!(out, "### `{}`\n\n{}\n", section.header(), section.help);
        out.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
        for key in section.keys {
            let default = match key.need {
                Need::Required(_) => "required".to_owned(),
                Need::DefaultsTo(text) => format!("`{text}`"),
                Need::Optional(_) | Need::Depends(_) | Need::Below => String::new(),
            };
            let cell = |text: &str| text.replace('|', "\\|");
            let _ = writeln!(
                out,
                "| `{}` | {} | {default} | {} |",
                key.name,
                cell(key.kind),
                cell(key.help)
            );
        }
        out.push('\n');
    }
    out
}

/// A comment, broken at blanks.
fn comment(out: &mut String, text: &str) {
    let mut line = "#".to_owned();
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(out, "{line}");
            "#".clone_into(&mut line);
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
}
