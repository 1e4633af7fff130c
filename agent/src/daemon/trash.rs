//! `tandem trash`: what the master deleted and this node keeps for a while.

use super::Daemon;
use super::backend::engine_error;
use super::restore::{Header, Tally, What};
use crate::api::server::{self, Lines};
use crate::api::types::{
    self, ApiError, ErrorCode, RestoreEvent, TrashEntry, TrashEvent, TrashKind,
};
use crate::journal::Journal;
use std::sync::Arc;
use std::time::Duration;
use tandem_sync::engine::{self, Engine, TrashContent, TrashItem};
use tandem_sync::path::RelPath;

/// The trash of this machine, whatever it is to the pair.
pub struct TrashSide<'a> {
    /// Has it.
    pub engine: &'a Engine,
    /// Where it is written down that it was emptied.
    pub journal: &'a Journal,
}

impl TrashSide<'_> {
    /// What is in it.
    pub async fn list(
        &self,
        request: types::TrashListRequest,
    ) -> Result<Lines<TrashEvent>, ApiError> {
        let below = request.path.as_deref().map_or(Ok(RelPath::root()), path)?;
        let listing = self.engine.trash_list(request.tree.as_deref(), below).await;
        let listing = listing.map_err(|e| engine_error(&e))?;
        let done = TrashEvent::Done {
            beyond: listing.beyond,
            bytes: listing.bytes,
            whole: listing.whole,
        };
        let entries = listing.items.into_iter();
        let entries = entries.map(|item| TrashEvent::Entry(shown(&item)));
        Ok(server::list(entries.chain([done])))
    }

    /// Removes all of it, or what is older.
    pub async fn empty(&self, request: types::TrashEmptyRequest) -> Result<types::Done, ApiError> {
        let older = request.older_ms.map(Duration::from_millis);
        let emptied = self.engine.trash_empty(&request.tree, older).await;
        let emptied = emptied.map_err(|e| engine_error(&e))?;
        if emptied.removed > 0 {
            self.journal.record("trash-empty", &request);
        }
        let (tree, removed) = (&request.tree, emptied.removed);
        if let Some(why) = emptied.stays {
            let text = format!(
                "{removed} entries of the trash of {tree} are gone, and not all can be: {why}"
            );
            return Err(ApiError::new(ErrorCode::Refused, text));
        }
        Ok(types::Done {
            message: match removed {
                0 => format!("nothing of the trash of {tree} was to go"),
                1 => format!("1 entry of the trash of {tree} is gone"),
                n => format!("{n} entries of the trash of {tree} are gone"),
            },
        })
    }
}

/// What is put back.
struct Order {
    tree: String,
    from: RelPath,
    to: RelPath,
    replace: bool,
}

impl Daemon {
    /// This node's trash.
    pub fn trash(&self) -> TrashSide<'_> {
        TrashSide {
            engine: &self.engine,
            journal: &self.journal,
        }
    }

    /// Puts a path back with all that is below it, on the master.
    pub async fn trash_restore(
        self: &Arc<Self>,
        request: types::TrashRestoreRequest,
    ) -> Result<Lines<RestoreEvent>, ApiError> {
        let from = path(&request.path)?;
        let to = request.to.as_deref().map_or(Ok(from.clone()), path)?;
        if from.is_root() || to.is_root() {
            let text = "say what to put back: a path below the root of the tree";
            return Err(ApiError::new(ErrorCode::Refused, text));
        }
        let found = self
            .engine
            .trash_find(&request.tree, from.clone(), request.at.as_deref());
        let items = found.await.map_err(|e| engine_error(&e))?;
        let order = Order {
            tree: request.tree,
            from,
            to,
            replace: request.replace,
        };
        let (mut tally, lines) = Tally::begin();
        let daemon = self.clone();
        tokio::spawn(async move {
            if let Some(first) = items.first().filter(|_| order.from == order.to) {
                daemon.put_above(&order, &first.hour).await;
            }
            for item in items {
                let path = item.path.to_string();
                let result = daemon.put_back(&order, item).await;
                tally.add(path, result).await;
            }
            tally.end().await;
        });
        Ok(lines)
    }

    /// The directories above, with their attributes, where they are missing. What cannot be made is said by what is to lie there.
    async fn put_above(self: &Arc<Self>, order: &Order, hour: &str) {
        let above: Vec<_> = order
            .from
            .ancestors()
            .filter(|dir| !dir.is_root())
            .collect();
        for dir in above.into_iter().rev() {
            let to = dir.clone();
            if let Err(why) = self.put_one(order, hour, dir, to).await {
                tracing::debug!(tree = order.tree, why, "a directory above what is put back");
            }
        }
    }

    async fn put_back(self: &Arc<Self>, order: &Order, item: TrashItem) -> Result<(), String> {
        let to = item.path.moved(&order.from, &order.to);
        let to = to.ok_or("its path would be too long")?;
        self.put_one(order, &item.hour, item.path, to).await
    }

    async fn put_one(
        self: &Arc<Self>,
        order: &Order,
        hour: &str,
        from: RelPath,
        to: RelPath,
    ) -> Result<(), String> {
        let opened = self.engine.trash_open(&order.tree, hour, from).await;
        let opened = opened.map_err(|e| e.to_string())?;
        let (what, file) = match opened.content {
            TrashContent::File(file) => (What::File { size: opened.size }, Some(file)),
            TrashContent::Directory => (What::Directory, None),
            TrashContent::Symlink(target) => (What::Symlink(target), None),
            TrashContent::Other => {
                let text = "only files, directories and symbolic links are put back; it lies in .tandem/trash below the root of the tree";
                return Err(text.to_owned());
            }
        };
        let header = Header {
            tree: order.tree.clone(),
            path: to,
            names: self.engine.names(&order.tree, &opened.meta),
            meta: opened.meta,
            replace: order.replace,
            what,
        };
        self.restore(header, file).await
    }
}

fn path(text: &str) -> Result<RelPath, ApiError> {
    RelPath::from_escaped(text)
        .map_err(|e| ApiError::new(ErrorCode::NotFound, format!("{text:?}: {e}")))
}

fn shown(item: &TrashItem) -> TrashEntry {
    TrashEntry {
        tree: item.tree.clone(),
        hour: item.hour.clone(),
        goes_in_ms: item
            .goes_in
            .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        path: item.path.to_string(),
        kind: match item.kind {
            engine::TrashKind::File => TrashKind::File,
            engine::TrashKind::Directory => TrashKind::Directory,
            engine::TrashKind::Symlink => TrashKind::Symlink,
            engine::TrashKind::Other => TrashKind::Other,
        },
        size: item.size,
        mtime_unix_ms: item.mtime_unix_ms,
    }
}
