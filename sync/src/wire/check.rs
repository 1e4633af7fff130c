//! What is acceptable of a decoded message: every number of things, every range and every path that the types do not bound.

use super::{
    Batch, Hello, INLINE_BATCH_BYTES, INLINE_FILE, MAX_DATA, MAX_HOLE, MAX_PATHS, MAX_RECORDS,
    MAX_SIGNATURE, MAX_SUMS, MAX_TEXT, MAX_WITHHELD, Message, Move, Record, VerifyPart, Want,
};
use crate::entry::Kind;
use crate::lineage::MAX_SEQ;
use crate::owners::Names;
use crate::path::RelPath;
use crate::tree::{MAX_TREES, TreeId};
use std::collections::HashSet;
use thiserror::Error;

/// Why a decoded message is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BadMessage(pub &'static str);

impl Message {
    /// Checks what the types cannot say. Called on every message from the wire, before it is acted on.
    pub fn check(&self) -> Result<(), BadMessage> {
        match self {
            Message::Hello(hello) => check_hello(hello),
            Message::Accept(accept) => {
                most(
                    accept.from.len(),
                    MAX_TREES,
                    "an Accept with too many trees",
                )?;
                check_seqs(&accept.from)
            }
            Message::Refuse(refuse) => {
                let what = "a Refuse with a text that is too long";
                most(refuse.why.len(), MAX_TEXT, what)
            }
            Message::Batch(batch) => check_batch(batch),
            Message::Need(need) => {
                most(need.items.len(), MAX_RECORDS, "a Need with too many items")?;
                need.items.iter().try_for_each(|(_, want)| check_want(want))
            }
            Message::Data { bytes, .. } => most(bytes.len(), MAX_DATA, "a Data that is too long"),
            Message::Sums { signature, .. } => {
                let what = "a signature that is too long";
                most(signature.len(), MAX_SIGNATURE, what)
            }
            Message::Copy { from, len, .. } | Message::SumsOf { from, len, .. } => {
                let ends = from.checked_add(*len).is_some();
                must(ends, "a range beyond the end of numbers")
            }
            Message::Fetch { paths, .. } => {
                most(paths.len(), MAX_PATHS, "a Fetch with too many paths")?;
                paths.iter().try_for_each(check_path)
            }
            Message::Verify(part) => check_verify(part),
            Message::Verified(answer) => {
                let differences = &answer.differences;
                let what = "a Verified with too many paths";
                most(differences.len(), 2 * MAX_PATHS, what)?;
                differences
                    .iter()
                    .try_for_each(|(path, _)| check_path(path))
            }
            Message::Commit(commit) => check_seq(commit.upto),
            Message::Idle(idle) => check_seq(idle.upto),
            Message::Durable(durable) => {
                check_seq(durable.upto.max(durable.acked).max(durable.applied))
            }
            Message::Move(one) => check_move(one),
            Message::Moved { seq, .. } => check_seq(*seq),
            Message::Outlook(trees) => {
                most(trees.len(), MAX_TREES, "an Outlook with too many trees")
            }
            Message::Fuzzy(list) => {
                most(list.paths.len(), MAX_PATHS, "a Fuzzy with too many paths")?;
                check_seq(list.upto)?;
                list.paths.iter().try_for_each(check_path)
            }
            Message::Hole { len, .. } => {
                let fits = (1..=MAX_HOLE).contains(len);
                must(fits, "a Hole of no bytes or that is too long")
            }
            Message::Wait | Message::GivenUp(_) | Message::Room { .. } => Ok(()),
        }
    }
}

fn must(be: bool, or: &'static str) -> Result<(), BadMessage> {
    be.then_some(()).ok_or(BadMessage(or))
}

fn most(n: usize, most: usize, what: &'static str) -> Result<(), BadMessage> {
    must(n <= most, what)
}

fn check_path(path: &RelPath) -> Result<(), BadMessage> {
    must(!path.is_private(), "a path inside Tandem's own directory")
}

fn check_seq(seq: u64) -> Result<(), BadMessage> {
    must(
        seq <= MAX_SEQ,
        "a sequence number that nobody can have reached",
    )
}

fn check_seqs(trees: &[(TreeId, u64)]) -> Result<(), BadMessage> {
    trees.iter().try_for_each(|(_, seq)| check_seq(*seq))
}

fn check_names(names: Option<&Names>) -> Result<(), BadMessage> {
    let fit = names.is_none_or(Names::fit);
    must(fit, "too many names of owners, or too long ones")
}

fn check_hello(hello: &Hello) -> Result<(), BadMessage> {
    let what = "a Hello with a name that is too long";
    most(hello.pair.len(), MAX_TEXT, what)?;
    most(
        hello.floors.len(),
        MAX_TREES,
        "a Hello with too many floors",
    )?;
    check_seqs(&hello.floors)
}

fn check_batch(batch: &Batch) -> Result<(), BadMessage> {
    let records = &batch.records;
    most(records.len(), MAX_RECORDS, "a Batch with too many records")?;
    most(batch.totals.len(), MAX_TREES, "a Batch with too many trees")?;
    most(
        batch.withheld.len(),
        MAX_TREES,
        "a Batch that withholds of too many trees",
    )?;
    let withheld = batch.withheld.iter().map(|list| list.contents.len());
    most(
        withheld.sum(),
        MAX_WITHHELD,
        "a Batch that withholds too much",
    )?;
    let sets = batch.totals.iter().filter_map(|total| total.set);
    sets.map(|set| set.upto).try_for_each(check_seq)?;
    records.iter().try_for_each(check_record)?;
    // What lies nowhere and was never known has none.
    let mut numbers = records.iter().map(|r| r.seq).filter(|seq| *seq != 0);
    let mut seen = HashSet::with_capacity(records.len());
    must(
        numbers.all(|seq| seen.insert(seq)),
        "two records of one number",
    )?;
    let inline = records.iter().filter(|r| r.inline);
    // Each is at most INLINE_FILE, and there are at most MAX_RECORDS: no overflow.
    let inline: u64 = inline.map(Record::size).sum();
    let fits = inline <= INLINE_BATCH_BYTES + INLINE_FILE;
    must(fits, "a Batch with too much inline content")
}

fn check_record(record: &Record) -> Result<(), BadMessage> {
    check_path(&record.path)?;
    check_seq(record.seq)?;
    check_names(record.names.as_ref())?;
    let kind = record.state.as_ref().map(|s| &s.kind);
    if record.path.is_root() && !matches!(kind, Some(Kind::Dir)) {
        return Err(BadMessage(
            "a record that makes the root anything but a directory",
        ));
    }
    if let Some(Kind::HardLink { to }) = kind
        && (to.is_private() || to.is_root() || *to == record.path)
    {
        return Err(BadMessage("a hard link to what cannot be linked"));
    }
    if record.inline && !matches!(kind, Some(Kind::File { size, .. }) if *size <= INLINE_FILE) {
        return Err(BadMessage("inline content of what is not a small file"));
    }
    Ok(())
}

fn check_want(want: &Want) -> Result<(), BadMessage> {
    let Want::Against(sums) = want else {
        return Ok(());
    };
    let (chunk, number) = (sums.chunk, sums.sums.len());
    let fits = chunk.is_power_of_two() && (64 << 10..=1 << 30).contains(&chunk);
    must(
        fits,
        "a chunk size that is not a power of two from 64 KiB to 1 GiB",
    )?;
    let fits = number <= MAX_SUMS && number as u64 == sums.size.div_ceil(u64::from(chunk));
    must(fits, "a number of chunk sums that does not fit the size")
}

fn check_verify(part: &VerifyPart) -> Result<(), BadMessage> {
    let longest = part.entries.len().max(part.absent.len());
    most(longest, MAX_PATHS, "a Verify with too many entries")?;
    part.absent.iter().try_for_each(check_path)?;
    part.entries.iter().try_for_each(|entry| {
        check_names(entry.names.as_ref())?;
        check_path(&entry.path)
    })
}

fn check_move(one: &Move) -> Result<(), BadMessage> {
    check_seq(one.seq)?;
    check_path(&one.from)?;
    check_path(&one.to)?;
    let apart = !one.from.is_at_or_below(&one.to) && !one.to.is_at_or_below(&one.from);
    must(apart, "a Move into itself")
}
