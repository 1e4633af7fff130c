//! `tandem rescue`: what this node put aside.

use super::Daemon;
use super::backend::engine_error;
use super::restore::{Header, Tally, What};
use crate::api::server::{self, Lines};
use crate::api::types::{
    self, ApiError, ErrorCode, RescueChange, RescueItem, RescueSelection, RestoreEvent,
};
use crate::journal::Journal;
use std::fs::File;
use std::sync::Arc;
use tandem_sync::engine::Engine;
use tandem_sync::entry::{Kind, State};
use tandem_sync::rescue::{Change, Item};

/// The rescue of this machine, whatever it is to the pair.
pub struct RescueSide<'a> {
    /// Has it.
    pub engine: &'a Engine,
    /// Where it is written down what was dropped.
    pub journal: &'a Journal,
}

impl RescueSide<'_> {
    /// All sets of all trees.
    pub async fn list(&self) -> Result<types::RescueList, ApiError> {
        let sets = self.engine.rescue_list().await;
        let sets = sets.map_err(|e| engine_error(&e))?;
        Ok(types::RescueList {
            sets: sets
                .into_iter()
                .map(|set| types::RescueSet {
                    id: set.id,
                    tree: set.tree,
                    made_unix_ms: set.made_unix_ms,
                    why: set.why,
                    items: set.entries,
                    bytes: set.bytes,
                    directory: set.directory.display().to_string(),
                    base_unknown: set.base_unknown,
                })
                .collect(),
        })
    }

    /// The items of one set.
    pub async fn show(
        &self,
        request: types::RescueShowRequest,
    ) -> Result<Lines<RescueItem>, ApiError> {
        let items = self.items(&request.set).await?;
        Ok(server::list(items.into_iter().map(|item| shown(&item))))
    }

    /// The bytes of one item.
    pub async fn file(&self, request: types::RescueFileRequest) -> Result<File, ApiError> {
        self.engine
            .rescue_open(&request.set, request.item)
            .await
            .map_err(|e| engine_error(&e))
    }

    /// Removes items, or the whole set.
    pub async fn drop(&self, request: RescueSelection) -> Result<types::Done, ApiError> {
        self.engine
            .rescue_drop(&request.set, &request.items)
            .await
            .map_err(|e| engine_error(&e))?;
        self.journal.record("rescue-drop", &request);
        Ok(types::Done {
            message: match request.items.len() {
                0 => format!("rescue set {} is gone", request.set),
                1 => format!("1 entry of rescue set {} is gone", request.set),
                n => format!("{n} entries of rescue set {} are gone", request.set),
            },
        })
    }

    async fn items(&self, set: &str) -> Result<Vec<Item>, ApiError> {
        let items = self.engine.rescue_show(set).await;
        items.map_err(|e| engine_error(&e))
    }
}

impl Daemon {
    /// This node's rescue.
    pub fn rescue(&self) -> RescueSide<'_> {
        RescueSide {
            engine: &self.engine,
            journal: &self.journal,
        }
    }

    /// Puts items back, on the master.
    pub async fn rescue_restore(
        self: &Arc<Self>,
        request: types::RestoreRequest,
    ) -> Result<Lines<RestoreEvent>, ApiError> {
        let types::RestoreRequest {
            selection: request,
            replace,
        } = request;
        let (tree, items) = self.selected(&request).await?;
        let (mut tally, lines) = Tally::begin();
        let daemon = self.clone();
        tokio::spawn(async move {
            for item in items {
                let path = item.path.to_string();
                let restored = daemon.restore_item(&request.set, &tree, item, replace);
                tally.add(path, restored.await).await;
            }
            tally.end().await;
        });
        Ok(lines)
    }

    async fn selected(&self, request: &RescueSelection) -> Result<(String, Vec<Item>), ApiError> {
        let sets = self.engine.rescue_list().await;
        let sets = sets.map_err(|e| engine_error(&e))?;
        let Some(set) = sets.into_iter().find(|set| set.id == request.set) else {
            let text = format!("the rescue has no set {:?}", request.set);
            return Err(ApiError::new(ErrorCode::NotFound, text));
        };
        let mut items = self.rescue().items(&request.set).await?;
        if !request.items.is_empty() {
            if let Some(missing) = request
                .items
                .iter()
                .find(|wanted| !items.iter().any(|item| item.number == **wanted))
            {
                let text = format!("the rescue has no entry {missing} in set {}", request.set);
                return Err(ApiError::new(ErrorCode::NotFound, text));
            }
            items.retain(|item| request.items.contains(&item.number));
        }
        Ok((set.tree, items))
    }

    async fn restore_item(
        self: &Arc<Self>,
        set: &str,
        tree: &str,
        item: Item,
        replace: bool,
    ) -> Result<(), String> {
        let is_file = |state: &State| matches!(state.kind, Kind::File { .. });
        let Some(state) = item.state.as_ref().filter(|s| item.taken && is_file(s)) else {
            return Err(match item.change {
                Change::Deleted => {
                    "it had been deleted here; if that is meant, delete it on the master"
                }
                Change::Metadata => {
                    "only its metadata had been changed here; set them on the master"
                }
                _ => "only files are put back; `tandem rescue list` shows where the rest lies",
            }
            .to_owned());
        };
        let meta = state.meta.clone();
        let file = self
            .engine
            .rescue_open(set, item.number)
            .await
            .map_err(|e| e.to_string())?;
        let header = Header {
            tree: tree.to_owned(),
            path: item.path,
            names: self.engine.names(tree, &meta),
            meta,
            replace,
            what: What::File { size: item.size },
        };
        self.restore(header, Some(file)).await
    }
}

fn shown(item: &Item) -> RescueItem {
    RescueItem {
        number: item.number,
        path: item.path.to_string(),
        change: match item.change {
            Change::Created => RescueChange::Created,
            Change::Changed => RescueChange::Changed,
            Change::Deleted => RescueChange::Deleted,
            Change::Renamed => RescueChange::Renamed,
            Change::Metadata => RescueChange::Metadata,
            Change::Differs => RescueChange::Differs,
        },
        size: item.size,
        mtime_unix_ms: item.mtime_unix_ms,
        other: item.other.as_ref().map(ToString::to_string),
    }
}
