//! Power cuts of the standby: what it acknowledged is there afterwards, whole, and its index agrees with the tree.
//!
//! A guest kernel (see `tandem_lab::Guest`) has both nodes, the standby's tree and its state on two disks that outlive it.
//! After the acknowledgement that a round is about the guest is killed, and its page cache with it: each disk has only
//! what somebody waited for, and either may be behind the other. The next guest opens the standby as an agent does, takes over,
//! and looks. Rounds that end `Anywhen` are killed at a moment given by the seed, with changes under way.
//!
//! With one disk for both, each of these was emptied once, alone, and these rounds found it: the write of the slot, the durable
//! commit of the index, the wait for a staged content, the `fsync` of parent directories and of both directories of a rename,
//! that of a file changed in place and of its journal's directory, the spool and its directory. Not found was what a later wait
//! hid, for ext4 commits all names with any: the first `syncfs` of a batch of many files (another comes before the answer), the
//! second one (the index committed on the same disk), the directories made at the start. Not tried, or not to be seen here: a file
//! that is shut before its owner changes, a journal that comes back after it was retired, the trash, the rescue.

mod work;

use super::cuts::items;
use super::pair::{Cable, Node, begin};
use crate::engine::FreezeHooks;
use crate::path::RelPath;
use crate::tree::{Freeze, MaxDelete, TreeConfig, TreeId, Update};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tandem_lab::{Guest, LastingDisk};
use work::{KINDS, Kind, Model};

/// What a guest is to do; see [`Orders`].
const ORDERS: &str = "TANDEM_POWER";
/// The test that a guest runs.
const IN_THE_GUEST: &str = "engine::tests::power::in_the_guest";
/// Longest life of a guest: one look and one round. That is some five seconds of a processor which the guest has only a share
/// of: a machine with sixteen others at work needs more than a minute. Reached only by a failing test.
const MOST: Duration = Duration::from_secs(300);
/// Longest wait in a guest, which says then what it waited for.
const PATIENCE: Duration = Duration::from_secs(240);
/// Operations of a round that ends: so many that the last one meets a standby which is no new one.
const OPERATIONS: usize = 4;

/// What is acknowledged last before the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// The first copy.
    FirstCopy,
    /// An operation of this kind, after some of others. The worker does nothing after its answer.
    After(Kind),
    /// A small change, answered from the slot: its worker comes only to this place.
    At(&'static str),
    /// Nothing: a large file is half changed in place, and the kernel has written that half.
    Torn,
    /// Some operations while the standby only spools.
    Held,
    /// A set of a tree that changes by sets.
    Set,
    /// Something, while the next thing is under way.
    Anywhen,
}

const ROUNDS: [Round; 16] = [
    Round::FirstCopy,
    Round::After(Kind::Staged),
    Round::After(Kind::Many),
    Round::After(Kind::MovedFile),
    Round::After(Kind::MovedDir),
    Round::After(Kind::Removed),
    Round::After(Kind::InPlace),
    Round::After(Kind::Grown),
    Round::After(Kind::All),
    Round::Torn,
    Round::At("after a batch was answered"),
    Round::At("before the result"),
    Round::Held,
    Round::Set,
    Round::Anywhen,
    Round::Anywhen,
];

impl Round {
    /// The operations of the `index`th round, in their order; those of `Anywhen` have no end.
    fn kinds(index: usize) -> Box<dyn Iterator<Item = Kind>> {
        let ends_with = |kind| {
            let at = KINDS.iter().position(|k| *k == kind).expect("of all kinds") + 1;
            let from = at + KINDS.len() - OPERATIONS;
            KINDS.into_iter().cycle().skip(from).take(OPERATIONS)
        };
        match ROUNDS[index] {
            Round::FirstCopy => Box::new(std::iter::empty()),
            Round::After(kind) => Box::new(ends_with(kind)),
            Round::At(_) => Box::new(ends_with(Kind::Small)),
            Round::Torn => Box::new(ends_with(Kind::InPlace)),
            Round::Held => Box::new(ends_with(Kind::Staged)),
            Round::Set => Box::new([Kind::All, Kind::Many, Kind::All].into_iter()),
            Round::Anywhen => Box::new(KINDS.into_iter().cycle().skip(index)),
        }
    }

    /// Where the worker stands still in the last operation, the how manieth time that it comes there.
    fn place(self) -> Option<(&'static str, u32)> {
        match self {
            Round::At(place) => Some((place, 1)),
            Round::Torn => Some(("before an extent is written", 3)),
            _ => None,
        }
    }

    fn config(self) -> fn(&mut TreeConfig) {
        match self {
            Round::Set => |tree| {
                tree.max_delete = MaxDelete::Percent(200);
                tree.freeze = Some(Freeze {
                    before: vec!["true".into()],
                    after: vec!["true".into()],
                    timeout: Duration::from_secs(10),
                    // A flush wants one at once; nothing else does after the first one.
                    every: Duration::from_secs(3600),
                    snapshot: None,
                });
            },
            _ => |tree| {
                tree.max_delete = MaxDelete::Percent(200);
                tree.update = Update::InPlace;
            },
        }
    }
}

/// What was acknowledged of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acked {
    round: usize,
    /// Operations.
    n: u64,
    /// The sequence number.
    seq: u64,
}

/// A round whose end is to be looked at, and one that is to begin.
type Orders = (Option<Acked>, Option<usize>);

/// Holding the tree still needs nothing: it changes only when the test says so.
struct Still;

impl FreezeHooks for Still {
    fn run(&self, _: &str, _: &'static str, _: &[String], _: Duration) -> Result<(), String> {
        Ok(())
    }
}

fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    // The test harness has begun a line.
    writeln!(out, "\npower: {word}")
        .and_then(|()| out.flush())
        .unwrap();
}

/// Where a round has the standby's tree.
fn dir(round: usize) -> PathBuf {
    LastingDisk::at(0).join(round.to_string())
}

/// Where it has the standby's state: on a disk of its own.
fn state(round: usize) -> PathBuf {
    LastingDisk::at(1).join(round.to_string())
}

/// What a guest said last of the round, acknowledged.
fn acked(round: usize, said: &str) -> Option<Acked> {
    let lines = said.lines().rev();
    let mut words = lines.filter_map(|line| line.strip_prefix("power: acked "));
    let (n, seq) = words.next()?.split_once(' ')?;
    let (n, seq) = (n.parse().ok()?, seq.parse().ok()?);
    Some(Acked { round, n, seq })
}

fn orders(text: &str) -> Orders {
    let numbers: Vec<Option<u64>> = text.split(' ').map(|word| word.parse().ok()).collect();
    let round = |at: usize| numbers[at].map(|n| usize::try_from(n).unwrap());
    let acked = round(0).map(|round| Acked {
        round,
        n: numbers[1].unwrap(),
        seq: numbers[2].unwrap(),
    });
    (acked, round(3))
}

fn words((acked, next): Orders) -> String {
    let next = next.map_or("-".into(), |round| round.to_string());
    match acked {
        Some(Acked { round, n, seq }) => format!("{round} {n} {seq} {next}"),
        None => format!("- - - {next}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "loses its machine: what_was_acknowledged_outlives_a_power_cut runs it in a guest"]
async fn in_the_guest() {
    let (before, next) = orders(&std::env::var(ORDERS).unwrap());
    if let Some(acked) = before {
        let looked = tokio::time::timeout(PATIENCE, look(acked)).await;
        looked.expect("a standby that was cut is opened, and takes over");
        say("whole");
    }
    if let Some(round) = next {
        run(round).await;
    }
    std::future::pending::<()>().await;
}

/// Everything so far is durable on the standby, as the source hears it.
async fn acknowledged(a: &Node, n: u64) {
    let report = a.engine().flush(PATIENCE).await.unwrap();
    assert!(report.not_covered.is_empty(), "{report:?}");
    say(&format!("acked {n} {}", report.seq));
}

async fn run(index: usize) {
    let round = ROUNDS[index];
    std::fs::create_dir(dir(index)).unwrap();
    let a = Node::new("a", round.config());
    let b = Node::new_at(&dir(index).join("node"), state(index), "b", round.config());
    a.engine().run_freeze_hooks_by(Arc::new(Still));
    let (a, b) = begin(a, b).await;
    // What the test itself made.
    rustix::fs::sync();
    let (aside, tree) = (a.dir.path().join("aside"), a.tree());
    let mut model = work::first();
    work::put(&model, &tree);
    std::fs::create_dir(&aside).unwrap();
    let _cable = Cable::plug(&a, &b);
    a.until("a session", |_| a.engine().shared.peer.borrow().session)
        .await;
    acknowledged(&a, 0).await;
    let mut kinds = (1..).zip(Round::kinds(index)).peekable();
    while let Some((n, kind)) = kinds.next() {
        let place = round.place().filter(|_| kinds.peek().is_none());
        if let Some((place, nth)) = place {
            b.until("consistent", |s| s.consistent).await;
            b.engine().shared.cuts.stand_at(place, nth);
        }
        if round == Round::Held && n == 2 {
            b.engine().hold().await.unwrap();
        }
        work::step(kind, n, &mut model, Some((&aside, &tree)));
        if round != Round::Torn || place.is_none() {
            acknowledged(&a, n).await;
        }
        if let Some((place, _)) = place {
            stands(&b, place).await;
        }
    }
    if round == Round::Torn {
        let file = std::fs::File::open(b.tree().join("db")).unwrap();
        // Its bytes alone: none of its attributes changed that lead to them.
        rustix::fs::fdatasync(file).unwrap();
    }
    say("done");
    std::future::pending::<()>().await;
}

/// Returns when the worker has come to that place.
async fn stands(b: &Node, place: &'static str) {
    let begun = Instant::now();
    while b.engine().shared.cuts.place() != Some(place) {
        assert!(begun.elapsed() < PATIENCE, "{place} was not reached");
        tokio::task::yield_now().await;
    }
}

/// Opens the standby of a round whose machine was cut, takes over, and looks at what it has.
async fn look(acked: Acked) {
    let Acked { round, n, seq } = acked;
    let node = dir(round).join("node");
    let b = Node::after_a_cut(&node, state(round), "b", ROUNDS[round].config());
    say("opened");
    b.engine().begin_source(2).await.unwrap();
    say("is source");
    let mut old = work::first();
    let mut kinds = (1..).zip(Round::kinds(round));
    for (n, kind) in kinds.by_ref().take(usize::try_from(n).unwrap()) {
        work::step(kind, n, &mut old, None);
    }
    let mut new = old.clone();
    if let Some((n, kind)) = kinds.next() {
        work::step(kind, n, &mut new, None);
    }
    let found = files(&b.tree());
    let mut faults = work::faults(&found, &old, &new);
    if ROUNDS[round] == Round::Set {
        let of_one = [&old, &new].map(|model| work::faults(&found, model, model));
        if of_one.iter().all(|faults| !faults.is_empty()) {
            faults.push(format!("not one set: {of_one:?}"));
        }
    }
    faults.extend(index_faults(&b, &found, &old, &new, seq));
    if items(&b) > 0 {
        faults.push("something of the pair's own is in the rescue".into());
    }
    assert!(
        faults.is_empty(),
        "{acked:?} {:?}: {faults:#?}",
        ROUNDS[round]
    );
}

/// What the index has otherwise than the tree. What was acknowledged and is not under way has a number of the source's: this
/// node has not found it anew.
fn index_faults(
    b: &Node,
    found: &BTreeMap<String, Vec<u8>>,
    old: &Model,
    new: &Model,
    seq: u64,
) -> Vec<String> {
    let index = b.engine().shared.index.snapshot().unwrap();
    let mut faults = Vec::new();
    // What has grown is known by its parts until it rests.
    let rests = |path: &str| path != work::LOG && old.get(path) == new.get(path);
    for (path, bytes) in found.iter().filter(|(path, _)| rests(path)) {
        let entry = index.get(TreeId::of("data"), &RelPath::new(path).unwrap());
        let entry = entry.unwrap();
        let state = entry.as_ref().and_then(|e| e.current.as_ref());
        let hash = crate::entry::ContentHash::of(bytes);
        let size = bytes.len() as u64;
        if state.map(|s| &s.kind) != Some(&crate::entry::Kind::File { size, hash }) {
            faults.push(format!("{path}: the index has {entry:?}"));
        } else if entry.is_some_and(|e| e.seq > seq) {
            faults.push(format!("{path}: the index has it from this node"));
        }
    }
    for row in index.entries(TreeId::of("data"), &RelPath::root()).unwrap() {
        let (path, entry) = row.unwrap();
        let is_file = |s: &crate::entry::State| matches!(s.kind, crate::entry::Kind::File { .. });
        let is_there = found.contains_key(&path.to_string());
        if rests(&path.to_string()) && !is_there && entry.current.as_ref().is_some_and(is_file) {
            faults.push(format!("{path}: only the index has it"));
        }
    }
    faults
}

/// Each file of the tree, without what is the standby's own.
fn files(tree: &Path) -> BTreeMap<String, Vec<u8>> {
    let walk = walkdir::WalkDir::new(tree).into_iter();
    let walk = walk.filter_entry(|entry| entry.file_name() != ".tandem");
    let files = walk.map(Result::unwrap).filter(|e| e.file_type().is_file());
    let named = files.map(|entry| {
        let path = entry.path().strip_prefix(tree).unwrap();
        (
            path.to_str().unwrap().to_owned(),
            std::fs::read(entry.path()).unwrap(),
        )
    });
    named.collect()
}

/// The rounds of one chain of guests on the same disks: each guest looks at what the one before left, and begins the next round.
fn chain(guest: &Guest, rounds: &[usize]) {
    let disks = [LastingDisk::make().unwrap(), LastingDisk::make().unwrap()];
    let own = std::env::current_exe().unwrap();
    let mut before = None;
    for next in rounds.iter().copied().map(Some).chain([None]) {
        let orders = format!("{ORDERS}={}", words((before, next)));
        let own = own.to_str().unwrap();
        let test = ["--exact", IN_THE_GUEST, "--ignored", "--nocapture"];
        let arguments: Vec<&str> = [orders.as_str(), own].into_iter().chain(test).collect();
        let env = Path::new("/usr/bin/env");
        let done = |said: &str| match next.map(|round| (round, ROUNDS[round])) {
            None => said.contains("power: whole"),
            Some((round, Round::Anywhen)) => acked(round, said).is_some_and(|a| a.n >= 5),
            Some(_) => said.contains("power: done"),
        };
        let mut running = guest.start(env, &arguments, &disks, MOST).unwrap();
        running.wait(done).unwrap();
        if let Some((round, Round::Anywhen)) = next.map(|round| (round, ROUNDS[round])) {
            std::thread::sleep(moment(round));
        }
        let said = running.cut().unwrap();
        assert!(before.is_none() || said.contains("power: whole"), "{said}");
        before = next.and_then(|round| acked(round, &said));
    }
}

/// When the power goes after the fifth acknowledgement: within about what the next operations take.
fn moment(round: usize) -> Duration {
    let seed = std::env::var("TANDEM_POWER_SEED").unwrap_or_default();
    let of = blake3::hash(format!("{seed} {round}").as_bytes());
    Duration::from_millis(u64::from(of.as_bytes()[0]))
}

#[test]
fn what_was_acknowledged_outlives_a_power_cut() {
    let guest = match Guest::find() {
        Ok(guest) => guest,
        Err(why) => return tandem_lab::skipped(why),
    };
    let (even, odd): (Vec<usize>, Vec<usize>) = (0..ROUNDS.len()).partition(|n| n % 2 == 0);
    std::thread::scope(|scope| {
        for rounds in [even, odd] {
            scope.spawn(|| chain(&guest, &{ rounds }));
        }
    });
}
