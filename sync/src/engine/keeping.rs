//! The rescue as operators use it, and the way back into a tree. None of it needs the worker: a set is never changed
//! after it was made but by dropping, and a file that is put back is a write like any other on the master.

mod put;

use super::error::CommandError;
use super::handle::Engine;
use super::report::{PutEntry, PutFile, PutReport, RescueSet};
use super::shared::Shared;
use super::status::Mode;
use super::tree::Open;
use crate::entry::Meta;
use crate::owners::Names;
use crate::private::Private;
use crate::rescue::{self, Item, RescueError};
use crate::tree::TreeId;
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Items that one listing may have. A set of more is listed up to here; its manifest has all.
const LISTED: usize = 1_000_000;

impl Engine {
    /// Every set of every tree whose root is open, in the order of the trees.
    ///
    /// # Errors
    /// A set cannot be read.
    pub async fn rescue_list(&self) -> Result<Vec<RescueSet>, CommandError> {
        self.keeping(|shared| {
            let mut sets = Vec::new();
            for tree in shared.trees().iter() {
                let Some(open) = shared.roots.get(tree.id()) else {
                    continue;
                };
                for set in rescue::list(&open.private).map_err(|e| failed(&e))? {
                    sets.push(RescueSet {
                        tree: tree.name.clone(),
                        directory: tree.root.join(".tandem/rescue").join(&set.header.id),
                        id: set.header.id,
                        made_unix_ms: set.header.made_unix_ms,
                        why: set.header.why,
                        base_unknown: set.header.base_unknown,
                        entries: set.items,
                        bytes: set.bytes,
                    });
                }
            }
            Ok(sets)
        })
        .await
    }

    /// The items of one set, at most a million.
    ///
    /// # Errors
    /// No such set, or it cannot be read.
    pub async fn rescue_show(&self, set: &str) -> Result<Vec<Item>, CommandError> {
        let set = set.to_owned();
        self.keeping(move |shared| {
            let private = find(shared, &set)?;
            let mut items = Vec::new();
            rescue::each_item(&private, &set, &mut |item| {
                items.push(item);
                if items.len() < LISTED {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
            .map_err(|e| failed(&e))?;
            Ok(items)
        })
        .await
    }

    /// The content of one item.
    ///
    /// # Errors
    /// No such set or item, or the item is no regular file.
    pub async fn rescue_open(&self, set: &str, item: u64) -> Result<File, CommandError> {
        let set = set.to_owned();
        self.keeping(move |shared| {
            let private = find(shared, &set)?;
            rescue::open(&private, &set, item).map_err(|e| failed(&e))
        })
        .await
    }

    /// Gives up items for good; with no numbers the whole set.
    ///
    /// # Errors
    /// No such set or item, or it cannot be changed. Nothing is dropped when one of the items is not there.
    pub async fn rescue_drop(&self, set: &str, items: &[u64]) -> Result<(), CommandError> {
        let (set, items) = (set.to_owned(), items.to_vec());
        self.keeping(move |shared| {
            let private = find(shared, &set)?;
            known(&private, &set, &items)?;
            rescue::drop_items(&private, &set, &items).map_err(|e| failed(&e))
        })
        .await
    }

    /// A file without a name beside the files of a tree, for what is to be put into it: that needs no room elsewhere, and
    /// [`Engine::put_file`] takes it as it is.
    ///
    /// # Errors
    /// No such tree, or it cannot be made.
    pub async fn nameless(&self, tree: &str) -> Result<File, CommandError> {
        let shown = tree.to_owned();
        self.keeping(move |shared| {
            let Some(open) = shared.roots.get(TreeId::of(&shown)) else {
                return Err(CommandError::NoSuchTree(shown));
            };
            open.private.nameless().map_err(|fault| CommandError::File {
                path: shown,
                source: put::io(fault),
            })
        })
        .await
    }

    /// Writes `content` to a path of a tree on the master, as a new file. From there it is replicated like any other
    /// write. Missing directories are made. A file with the same content is left alone.
    ///
    /// # Errors
    /// This node is not the source; no such tree; something else is there and is not to be replaced; the file cannot be
    /// written.
    pub async fn put_file(
        &self,
        tree: &str,
        file: PutFile,
        content: File,
    ) -> Result<PutReport, CommandError> {
        self.put(tree, file, false, move |open, file| {
            put::file(open, file, content)
        })
        .await
    }

    /// Makes a directory or a symbolic link at a path of a tree on the master, as [`Engine::put_file`] does with a file.
    ///
    /// # Errors
    /// Those of [`Engine::put_file`].
    pub async fn put_entry(
        &self,
        tree: &str,
        file: PutFile,
        entry: PutEntry,
    ) -> Result<PutReport, CommandError> {
        let is_dir = entry == PutEntry::Directory;
        self.put(tree, file, is_dir, move |open, file| match entry {
            PutEntry::Directory => put::directory(open, file),
            PutEntry::Symlink(target) => put::link(open, file, &target),
        })
        .await
    }

    /// The names of the numbers in `meta`, if the owners of the tree go by name.
    pub fn names(&self, tree: &str, meta: &Meta) -> Option<Names> {
        self.shared.names_in(TreeId::of(tree), meta)
    }

    async fn put(
        &self,
        tree: &str,
        mut file: PutFile,
        is_dir: bool,
        work: impl FnOnce(&Open, &PutFile) -> std::io::Result<PutReport> + Send + 'static,
    ) -> Result<PutReport, CommandError> {
        let tree = TreeId::of(tree);
        let shown = file.path.to_string();
        self.keeping(move |shared| {
            if !matches!(*shared.mode.borrow(), Mode::Source { .. }) {
                return Err(CommandError::NotSource);
            }
            let trees = shared.trees();
            let config = trees.iter().find(|t| t.id() == tree);
            let (Some(open), Some(config)) = (shared.roots.get(tree), config) else {
                return Err(CommandError::NoSuchTree(shown));
            };
            // The path may come from the other node: it gets no further than a record of its would.
            let path = &file.path;
            if path.is_root() || path.is_private() || config.exclude.covers(path, is_dir) {
                return Err(CommandError::File {
                    path: shown,
                    source: std::io::Error::other("it is no part of the tree"),
                });
            }
            let sent = file.names.take();
            if let Some(unknown) = shared.own_meta(tree, &mut file.meta, sent) {
                return Err(CommandError::File {
                    path: shown,
                    source: std::io::Error::other(unknown.to_string()),
                });
            }
            file.meta = put::harmless(&file.meta, is_dir);
            work(&open, &file).map_err(|source| match source.kind() {
                std::io::ErrorKind::AlreadyExists => CommandError::Occupied(shown),
                _ => CommandError::File {
                    path: shown,
                    source,
                },
            })
        })
        .await
    }

    pub(super) async fn keeping<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(|e| CommandError::Rescue(e.to_string()))?
    }
}

fn find(shared: &Shared, set: &str) -> Result<Arc<Private>, CommandError> {
    for tree in shared.trees().iter() {
        let Some(open) = shared.roots.get(tree.id()) else {
            continue;
        };
        if rescue::summary(&open.private, set).is_ok() {
            return Ok(open.private);
        }
    }
    Err(CommandError::NotInRescue(format!("set {set:?}")))
}

/// Refuses numbers that the set has no entry for.
fn known(private: &Private, set: &str, items: &[u64]) -> Result<(), CommandError> {
    let mut missing: BTreeSet<u64> = items.iter().copied().collect();
    rescue::each_item(private, set, &mut |item| {
        missing.remove(&item.number);
        if missing.is_empty() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .map_err(|e| failed(&e))?;
    match missing.first() {
        None => Ok(()),
        Some(number) => Err(CommandError::NotInRescue(format!(
            "entry {number} in set {set}"
        ))),
    }
}

fn failed(error: &RescueError) -> CommandError {
    match error {
        RescueError::Unknown(what) => CommandError::NotInRescue(what.clone()),
        error => CommandError::Rescue(error.to_string()),
    }
}
