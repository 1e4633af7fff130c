//! `[[tree]]`.

use super::decode::{Notes, millis, seconds};
use super::limits;
use super::problem::Problem;
use super::rate::parse_rate;
use super::section::{At, Reader, read_tables};
use super::time::duration;
use super::types::{Agent, Deletes, Freeze, LocalChanges, Owners, Snapshot, Tree, Update};
use super::value::{Complaint, argv, boolean, choice, list, max_delete, name, path, text, within};
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tandem_sync::filter::Pattern;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Most trees: all their heads fit into one heartbeat.
pub(super) const LIMIT: usize = 32;
/// Most patterns of one list: each path is matched against each of them.
const PATTERNS: usize = 1000;
/// A poll stats every entry: more often than each second is not what it is for.
const POLL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// A pass of a million entries takes some seconds.
const PASS: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(7 * 86_400);
/// An hour is the unit in which the trash is emptied.
const TRASH_AGE: RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(3650 * 86_400);
/// What lies beyond a year is better said as never.
const COMPARE_CONTENTS: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(365 * 86_400);
/// As for the contents: both sides are read.
const VERIFY: RangeInclusive<Duration> = COMPARE_CONTENTS;
/// What the kernel makes is not data.
const NOT_DATA: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// Decodes all of them; those with errors are reported and left out.
pub(super) fn decode(root: &DeTable<'_>, agent: Option<&Agent>, notes: &mut Notes) -> Vec<Tree> {
    let readers = read_tables(root, "tree", "tree", &mut notes.errors);
    if let Some(reader) = readers.get(LIMIT) {
        notes.errors.push(Problem::new(
            reader.span.clone(),
            format!("more than {LIMIT} trees"),
        ));
    }
    let mut names: Vec<At<String>> = Vec::new();
    let mut paths: Vec<At<PathBuf>> = Vec::new();
    let mut list = Vec::new();
    for reader in &readers {
        let name = reader.get("name", name, &mut notes.errors);
        let path = reader.get("path", path, &mut notes.errors);
        if let Some(name) = &name
            && names.iter().any(|other| other.value == name.value)
        {
            notes.errors.push(Problem::new(
                name.span.clone(),
                format!("two trees named `{}`", name.value),
            ));
        }
        if let Some(path) = &path {
            check_path(path, &paths, agent, notes);
        }
        names.extend(name.clone());
        paths.extend(path.clone());
        list.extend(decode_one(reader, name, path, notes));
    }
    list
}

fn check_path(
    path: &At<PathBuf>,
    others: &[At<PathBuf>],
    agent: Option<&Agent>,
    notes: &mut Notes,
) {
    let shown = path.value.display();
    let mut report = |message: String, hint: &str| {
        notes
            .errors
            .push(Problem::new(path.span.clone(), message).hint(hint));
    };
    for other in others {
        if path.value == other.value {
            report(
                format!("two trees with the root {shown}"),
                "a path belongs to one tree",
            );
        }
    }
    if let Some(kernel) = NOT_DATA.iter().find(|k| within(&path.value, Path::new(k))) {
        report(
            format!("{shown} lies in {kernel}, which is not data"),
            "name a directory on a disk",
        );
    }
    if let Some(agent) = agent
        && within(&path.value, &agent.state_dir)
    {
        let message = format!("{shown} lies in the agent's own state directory");
        report(message, "keys, configuration and state belong to no tree");
    }
}

fn decode_one(
    reader: &Reader<'_>,
    name: Option<At<String>>,
    path: Option<At<PathBuf>>,
    notes: &mut Notes,
) -> Option<Tree> {
    const DELETES: &[(&str, Deletes)] = &[
        ("mirror", Deletes::Mirror),
        ("keep", Deletes::Keep),
        ("trash", Deletes::Trash),
    ];
    const LOCAL: &[(&str, LocalChanges)] = &[
        ("repair", LocalChanges::Repair),
        ("keep", LocalChanges::Keep),
        ("report", LocalChanges::Report),
    ];
    const UPDATE: &[(&str, Update)] = &[("atomic", Update::Atomic), ("in-place", Update::InPlace)];
    const OWNERS: &[(&str, Owners)] = &[("number", Owners::Number), ("name", Owners::Name)];
    let errors = &mut notes.errors;
    let exclude = reader.get("exclude", list(pattern, PATTERNS), errors);
    let protect = reader.get("protect", list(pattern, PATTERNS), errors);
    let deletes = reader.get("deletes", choice(DELETES), errors);
    let trash_age = reader.get("trash_age", duration(TRASH_AGE), errors);
    let local_changes = reader.get("local_changes", choice(LOCAL), errors);
    let max_delete = reader.get("max_delete", max_delete, errors);
    let update = reader.get("update", choice(UPDATE), errors);
    let owners = reader.get("owners", choice(OWNERS), errors);
    let flags = reader.get("flags", boolean, errors);
    let devices = reader.get("devices", boolean, errors);
    let root = path.as_ref().map(|at| at.value.as_path());
    let freeze = reader.given("freeze").map(|_| freeze(reader, root, errors));
    let poll = reader.optional("poll", duration(POLL), errors);
    let pass = reader.get("pass", duration(PASS), errors);
    let compare_contents = reader.get("compare_contents", period, errors);
    let limits = limits::decode(reader, errors);
    let verify = reader.optional("verify", duration(VERIFY), errors);
    let verify_rate = reader.optional("verify_rate", rate, errors);
    Some(Tree {
        name: name?.value,
        path: path?.value,
        exclude: exclude?.value,
        protect: protect?.value,
        deletes: deletes?.value,
        trash_age: trash_age?.value,
        local_changes: local_changes?.value,
        update: update?.value,
        owners: owners?.value,
        flags: flags?.value,
        devices: devices?.value,
        freeze: match freeze {
            Some(freeze) => Some(freeze?),
            None => None,
        },
        max_delete: max_delete?.value,
        poll: poll.map(|at| at.value),
        pass: pass?.value,
        compare_contents: compare_contents?.value,
        limits: limits?,
        verify: verify.map(|at| at.value),
        verify_rate: verify_rate.map(|at| at.value),
    })
}

fn freeze(tree: &Reader<'_>, root: Option<&Path>, errors: &mut Vec<Problem>) -> Option<Freeze> {
    let reader = tree.below("freeze", "tree.freeze", errors)?;
    let before = reader.get("before", argv, errors);
    let after = reader.get("after", argv, errors);
    let timeout = reader.get("timeout", duration(millis(100)..=seconds(3600)), errors);
    let every = reader.get("every", duration(seconds(1)..=seconds(24 * 3600)), errors);
    let source = reader.optional("snapshot", snapshot, errors);
    if let (Some(At { value, span }), Some(root)) = (&source, root)
        && let Snapshot::At(path) = value
        && (within(path, root) || within(root, path))
    {
        let message = format!("the snapshot {} and its tree are nested", path.display());
        errors.push(
            Problem::new(span.clone(), message)
                .hint("name the directory that the tree is in the mounted snapshot"),
        );
    }
    Some(Freeze {
        before: before?.value,
        after: after?.value,
        timeout: timeout?.value,
        every: every?.value,
        snapshot: source.map(|at| at.value),
    })
}

/// What a set is read from.
fn snapshot(value: &Spanned<DeValue<'_>>) -> Result<Snapshot, Complaint> {
    match value.get_ref().as_str() {
        Some("btrfs") => Ok(Snapshot::Btrfs),
        _ => super::value::path(value)
            .map(Snapshot::At)
            .map_err(|complaint| {
                complaint.hint("\"btrfs\", or where the tree lies in a mounted snapshot")
            }),
    }
}

/// Bytes each second.
fn rate(value: &Spanned<DeValue<'_>>) -> Result<NonZeroU64, Complaint> {
    let why = match value.get_ref().as_str() {
        Some(text) => match parse_rate(text) {
            Ok(rate) => return Ok(rate),
            Err(why) => why,
        },
        None => "must be text in quotes".to_owned(),
    };
    Err(Complaint::new(why).hint("for example \"50MB/s\""))
}

/// A duration, or never.
fn period(value: &Spanned<DeValue<'_>>) -> Result<Option<Duration>, Complaint> {
    match value.get_ref().as_str() {
        Some("never") => Ok(None),
        _ => duration(COMPARE_CONTENTS)(value)
            .map(Some)
            .map_err(|complaint| complaint.hint("or \"never\"")),
    }
}

fn pattern(value: &Spanned<DeValue<'_>>) -> Result<String, Complaint> {
    let text = text(value)?;
    match text.parse::<Pattern>() {
        Ok(_) => Ok(text.to_owned()),
        Err(e) => {
            let message = format!("is no pattern: {} at character {}", e.what, e.offset + 1);
            Err(Complaint::new(message).hint(e.hint))
        }
    }
}
