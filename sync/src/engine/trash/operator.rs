//! The trash as operators use it. Looking needs no worker, which removes what is old meanwhile; emptying is the worker's, since
//! what it puts there must not lose its directory.

use super::STEP;
use super::ages::Ages;
use crate::commit::trash::{self, Found, Hour, TrashContent};
use crate::commit::{Purged, Which};
use crate::engine::command::Command;
use crate::engine::error::CommandError;
use crate::engine::handle::Engine;
use crate::engine::report::{TrashContent as Content, TrashEmptied, TrashItem, TrashListing};
use crate::engine::report::{TrashKind, Trashed};
use crate::engine::shared::Shared;
use crate::engine::tree::Open;
use crate::engine::worker::Worker;
use crate::fault::Fault;
use crate::meta::Seen;
use crate::path::RelPath;
use crate::private::Private;
use crate::tree::{TreeConfig, TreeId};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Entries of one listing: what a person can look through.
const LISTED: usize = 10_000;
/// Entries that a listing looks at: some seconds. What lies beyond is not counted any more.
const COUNTED: u64 = 1_000_000;
/// Entries that are put back by one command: they are kept in memory meanwhile.
const RESTORED: usize = 100_000;

impl Engine {
    /// What is in the trash at or below a path, of one tree or of all whose root is open: the newest hour first. Directories are
    /// listed only where nothing is in them.
    ///
    /// # Errors
    /// No such tree, or the trash cannot be read.
    pub async fn trash_list(
        &self,
        tree: Option<&str>,
        below: RelPath,
    ) -> Result<TrashListing, CommandError> {
        let tree = tree.map(str::to_owned);
        self.keeping(move |shared| {
            let mut listing = TrashListing {
                whole: true,
                ..TrashListing::default()
            };
            for (config, private) in opened(shared, tree.as_deref())? {
                let kept = Kept::of(shared, &config);
                let mut add = |found: Found| listing.add(&kept, &found);
                trash::each(&private, &below, &mut add).map_err(|f| failed(&config.name, &f))?;
                if !listing.whole {
                    break;
                }
            }
            Ok(listing)
        })
        .await
    }

    /// What can be put back of a path and of all below it, a directory before what it holds: from the directory of the trash
    /// that is named, else the newest versions of the newest hour that has the path.
    ///
    /// # Errors
    /// No such tree, nothing is there of the path, or too much to put back at once.
    pub async fn trash_find(
        &self,
        tree: &str,
        path: RelPath,
        at: Option<&str>,
    ) -> Result<Vec<TrashItem>, CommandError> {
        let (tree, at) = (tree.to_owned(), at.map(hour).transpose()?);
        self.keeping(move |shared| {
            let private = one(shared, &tree)?.private;
            let found = trash::newest(&private, &path, at, RESTORED);
            let Some(found) = found.map_err(|f| failed(&tree, &f))? else {
                return Err(CommandError::TooMuch(path.to_string(), RESTORED));
            };
            if found.is_empty() {
                let of = at.map(|at| format!(" of {at}")).unwrap_or_default();
                return Err(CommandError::NotInTrash(format!("{path}{of}")));
            }
            let trees = shared.trees();
            let config = trees.iter().find(|t| t.name == tree);
            let kept = config.map(|config| Kept::of(shared, config));
            let kept = kept.ok_or_else(|| CommandError::NoSuchTree(tree.clone()))?;
            Ok(found.iter().map(|found| item(&kept, found)).collect())
        })
        .await
    }

    /// Opens one entry of the trash.
    ///
    /// # Errors
    /// It is not there, or not any more.
    pub async fn trash_open(
        &self,
        tree: &str,
        at: &str,
        path: RelPath,
    ) -> Result<Trashed, CommandError> {
        let (tree, at) = (tree.to_owned(), hour(at)?);
        self.keeping(move |shared| {
            let Open { root, private, .. } = one(shared, &tree)?;
            match trash::open((&root, &private), at, &path) {
                Ok((seen, content)) => Ok(trashed(seen, content)),
                Err(Fault::Missing | Fault::NotBeneath) => {
                    let gone = format!(
                        "{path} of {at} any more: it went since it was looked up, for its age or because room was needed"
                    );
                    Err(CommandError::NotInTrash(gone))
                }
                Err(fault) => Err(failed(&tree, &fault)),
            }
        })
        .await
    }

    /// Removes for good what went to the trash of a tree: all of it, or whole hours that are older than `older`. Other work
    /// of the worker goes on between its steps.
    ///
    /// # Errors
    /// No such tree, its root is not open, or the trash cannot be read.
    pub async fn trash_empty(
        &self,
        tree: &str,
        older: Option<Duration>,
    ) -> Result<TrashEmptied, CommandError> {
        let id = TreeId::of(tree);
        let mut emptied = TrashEmptied::default();
        loop {
            let reply = |reply| Command::EmptyTrash {
                tree: id,
                older,
                reply,
            };
            let step = self.shared.ask(reply).await?;
            let step = step.ok_or_else(|| not_open(&self.shared, tree))?;
            let step = step.map_err(|f| failed(tree, &f))?;
            emptied.removed += step.removed as u64;
            // A step in which nothing could be removed would be followed by another one.
            if !step.more || step.removed == 0 {
                emptied.stays = step.stays.map(|fault| fault.to_string());
                return Ok(emptied);
            }
        }
    }
}

impl Worker {
    /// Removes some of a tree's trash; `None`: the tree is not open.
    pub(in crate::engine) fn empty_trash(
        &mut self,
        tree: TreeId,
        older: Option<Duration>,
    ) -> Option<Result<Purged, Fault>> {
        let at = self.position(tree)?;
        let open = self.trees[at].open.as_ref()?;
        let which = older.map_or(Which::All, |age| Which::Older {
            now: super::now(),
            age: age.as_secs(),
        });
        Some(crate::commit::purge(&open.private, which, STEP))
    }
}

/// A tree, and how long what is in its trash has been there.
struct Kept<'a> {
    config: &'a TreeConfig,
    ages: Ages,
}

impl<'a> Kept<'a> {
    fn of(shared: &Shared, config: &'a TreeConfig) -> Kept<'a> {
        // An index that cannot be read is the worker's to say; the list does without.
        let ages = shared
            .index
            .snapshot()
            .and_then(|s| super::load(&s, config.id()));
        Kept {
            config,
            ages: ages.unwrap_or_default(),
        }
    }
}

impl TrashListing {
    fn add(&mut self, kept: &Kept<'_>, found: &Found) -> ControlFlow<()> {
        if found.stat.is_dir() && !found.bare {
            return ControlFlow::Continue(());
        }
        if self.items.len() as u64 + self.beyond == COUNTED {
            self.whole = false;
            return ControlFlow::Break(());
        }
        if found.stat.is_file() {
            self.bytes = self.bytes.saturating_add(found.stat.size);
        }
        if self.items.len() < LISTED {
            self.items.push(item(kept, found));
        } else {
            self.beyond += 1;
        }
        ControlFlow::Continue(())
    }
}

/// The trees that are open, in their order.
fn opened(
    shared: &Shared,
    tree: Option<&str>,
) -> Result<Vec<(TreeConfig, Arc<Private>)>, CommandError> {
    if let Some(tree) = tree {
        one(shared, tree)?;
    }
    let trees = shared.trees();
    let wanted = trees
        .iter()
        .filter(|t| tree.is_none_or(|name| t.name == name));
    let open = wanted.filter_map(|t| Some((t.clone(), shared.roots.get(t.id())?.private)));
    Ok(open.collect())
}

fn one(shared: &Shared, tree: &str) -> Result<Open, CommandError> {
    let open = shared.roots.get(TreeId::of(tree));
    open.ok_or_else(|| not_open(shared, tree))
}

fn not_open(shared: &Shared, tree: &str) -> CommandError {
    let tree = tree.to_owned();
    if shared.trees().iter().any(|t| t.name == tree) {
        let why = "its root is not open: `tandem status` says why".to_owned();
        return CommandError::Root { tree, why };
    }
    CommandError::NoSuchTree(tree)
}

fn hour(name: &str) -> Result<Hour, CommandError> {
    Hour::parse(name.as_bytes()).ok_or_else(|| {
        let text =
            format!("{name:?} is no hour of the trash, such as 2026-11-28T03 or 2026-11-28T03.1");
        CommandError::BadPath(text)
    })
}

fn failed(tree: &str, fault: &Fault) -> CommandError {
    CommandError::Trash {
        tree: tree.to_owned(),
        why: fault.to_string(),
    }
}

fn item(kept: &Kept<'_>, found: &Found) -> TrashItem {
    let stat = &found.stat;
    let kind = match stat {
        stat if stat.is_file() => TrashKind::File,
        stat if stat.is_dir() => TrashKind::Directory,
        stat if stat.is_symlink() => TrashKind::Symlink,
        _ => TrashKind::Other,
    };
    let age = kept.config.trash_age.as_secs();
    let left = kept.ages.left(found.hour.hour, age);
    TrashItem {
        tree: kept.config.name.clone(),
        hour: found.hour.to_string(),
        goes_in: left.map(Duration::from_secs),
        path: found.path.clone(),
        kind,
        size: if kind == TrashKind::File {
            stat.size
        } else {
            0
        },
        mtime_unix_ms: i64::try_from(stat.mtime_ns / 1_000_000).unwrap_or(0),
    }
}

fn trashed(seen: Seen, content: TrashContent) -> Trashed {
    Trashed {
        size: seen.stat.size,
        meta: seen.meta,
        content: match content {
            TrashContent::File(file) => Content::File(file),
            TrashContent::Directory => Content::Directory,
            TrashContent::Link(target) => Content::Symlink(target),
            TrashContent::Other => Content::Other,
        },
    }
}
