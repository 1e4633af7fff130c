//! The rescue as operators use it, and the way back into a tree. None of it needs the worker: a set is never changed
//! after it was made but by dropping, and a file that is put back is a write like any other on the master.

use super::command::Shared;
use super::error::CommandError;
use super::handle::Engine;
use super::report::{PutReport, RescueSet};
use super::status::Mode;
use super::tree::Open;
use crate::fault::Fault;
use crate::path::RelPath;
use crate::private::Private;
use crate::rescue::{self, Item, RescueError};
use crate::tree::TreeId;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
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
            for tree in &shared.config.trees {
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
    /// No such set, or it cannot be changed.
    pub async fn rescue_drop(&self, set: &str, items: &[u64]) -> Result<(), CommandError> {
        let (set, items) = (set.to_owned(), items.to_vec());
        self.keeping(move |shared| {
            let private = find(shared, &set)?;
            rescue::drop_items(&private, &set, &items).map_err(|e| failed(&e))
        })
        .await
    }

    /// Writes `content` to `path` of a tree on the master, as a new file that replaces what is there. From there it is
    /// replicated like any other write. Missing directories are made.
    ///
    /// # Errors
    /// This node is not the source; no such tree; the file cannot be written.
    pub async fn put_file(
        &self,
        tree: &str,
        path: RelPath,
        mode: u32,
        content: File,
    ) -> Result<PutReport, CommandError> {
        let tree = TreeId::of(tree);
        let shown = path.to_string();
        self.keeping(move |shared| {
            if !matches!(*shared.mode.borrow(), Mode::Source { .. }) {
                return Err(CommandError::NotSource);
            }
            let config = shared.config.trees.iter().find(|t| t.id() == tree);
            let (Some(open), Some(config)) = (shared.roots.get(tree), config) else {
                return Err(CommandError::NoSuchTree(shown));
            };
            // The path may come from the other node: it gets no further than a record of its would.
            if path.is_root() || path.is_private() || config.exclude.covers(&path, false) {
                return Err(CommandError::File {
                    path: shown,
                    source: std::io::Error::other("it is no part of the tree"),
                });
            }
            put(&open, &path, mode, content).map_err(|source| CommandError::File {
                path: shown,
                source,
            })
        })
        .await
    }

    async fn keeping<T: Send + 'static>(
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
    for tree in &shared.config.trees {
        let Some(open) = shared.roots.get(tree.id()) else {
            continue;
        };
        if rescue::summary(&open.private, set).is_ok() {
            return Ok(open.private);
        }
    }
    Err(CommandError::Rescue(format!("there is no set {set:?}")))
}

fn failed(error: &RescueError) -> CommandError {
    CommandError::Rescue(error.to_string())
}

fn io(fault: Fault) -> std::io::Error {
    std::io::Error::other(fault.to_string())
}

/// Durable when it returns.
fn put(open: &Open, path: &RelPath, mode: u32, mut content: File) -> std::io::Result<PutReport> {
    use std::io::{Seek, SeekFrom};
    make_parents(open, path)?;
    let staged = open.private.staging_place().map_err(io)?;
    let mut file = staged.create_new().map_err(io)?;
    content.seek(SeekFrom::Start(0))?;
    let bytes = std::io::copy(&mut content, &mut file)?;
    // Only permission bits: whose file it is, is the administrator's to say.
    file.set_permissions(std::fs::Permissions::from_mode(mode & 0o777))?;
    file.sync_all()?;
    let place = open.root.place(path).map_err(io)?;
    if let Some(stat) = place.stat().map_err(io)?
        && (stat.is_dir() || !open.root.opened_as().same_mount(&stat))
    {
        return Err(std::io::Error::other("something else than a file is there"));
    }
    staged.rename_over(&place).map_err(io)?;
    place.sync_dir().map_err(io)?;
    Ok(PutReport { bytes })
}

fn make_parents(open: &Open, path: &RelPath) -> std::io::Result<()> {
    let mut missing = Vec::new();
    let mut parent = path.parent();
    while let Some(dir) = parent {
        if dir.is_root() || open.root.stat(&dir).map_err(io)?.is_some() {
            break;
        }
        parent = dir.parent();
        missing.push(dir);
    }
    for dir in missing.iter().rev() {
        open.root.place(dir).map_err(io)?.mkdir().map_err(io)?;
    }
    Ok(())
}
