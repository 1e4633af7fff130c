//! Opening a tree's root, and proving that it is the one that the index was made for (invariant 4).

use super::read_only::Needs;
use super::room::Room;
use super::tree::{Open, Roots, Stop, Tree};
use crate::beneath::Root;
use crate::commit::finish_journals;
use crate::fault::Fault;
use crate::guard::{RootRecord, Verdict, judge};
use crate::identity::{self, IdentityError, RootFacts};
use crate::index::{Index, IndexError, Snapshot};
use crate::private::Private;
use crate::tree::TreeId;
use std::sync::Arc;

/// Where the record of a root is kept in the index.
fn record_key(tree: TreeId) -> String {
    format!("root/{tree}")
}

pub(super) fn broken(what: &str, error: &dyn std::fmt::Display) -> Stop {
    Stop::Fault(format!("{what}: {error}"))
}

impl Tree {
    /// Opens the root and proves it against the index. On success the tree moves again.
    pub fn prove(&mut self, needs: Needs, pair: &str, index: &Index, roots: &Roots) {
        match self.try_open(needs, pair, index) {
            Ok(open) => {
                self.clean(&open);
                roots.set(self.id, Some(open.clone()));
                self.open = Some(open);
                let ends = |stop: &Stop| !matches!(stop, Stop::Deletes(_));
                if self.stop.as_ref().is_some_and(ends) {
                    if matches!(self.stop, Some(Stop::Full(_) | Stop::ReadOnly(_))) {
                        self.room = Room::default();
                    }
                    // After another stop what lacked room is judged as before: its alarm is open.
                    self.stop = None;
                    self.rescan = true;
                }
            }
            Err(stop) => {
                if matches!(stop, Stop::ReadOnly(_)) {
                    self.room.lacks();
                }
                self.close(stop, roots);
            }
        }
    }

    /// Removes what an apply left in staging that was cut by a crash. Only once: sessions of this process stage there.
    fn clean(&mut self, open: &Open) {
        if self.cleaned {
            return;
        }
        if !open.in_sets
            && let Err(fault) = crate::set::clear(&open.private)
        {
            tracing::debug!(%fault, "copies of files that never rest cannot be removed");
        }
        match open.private.clean_staging() {
            Ok(entries) => {
                self.cleaned = true;
                if entries > 0 {
                    tracing::info!(
                        tree = self.config.name,
                        entries,
                        "left-overs were removed from staging"
                    );
                }
            }
            // They take room and are in nobody's way: their names are not given out again.
            Err(fault) => {
                tracing::warn!(tree = self.config.name, %fault, "staging cannot be cleaned");
            }
        }
    }

    /// Stops the tree and lets go of its root.
    pub fn close(&mut self, stop: Stop, roots: &Roots) {
        if self.stop.as_ref() != Some(&stop) {
            tracing::error!(
                tree = self.config.name,
                why = stop.why(),
                "the tree is stopped"
            );
        }
        roots.set(self.id, None);
        self.open = None;
        self.job = None;
        self.reading = None;
        self.contents.end();
        self.stop = Some(stop);
    }

    /// The root as it is now: opened, its facts, and what the index remembers of it.
    fn root_now(&self, index: &Index) -> Result<(Root, RootFacts, Option<RootRecord>), Stop> {
        let path = self.config.root.display();
        let root = Root::open(&self.config.root)
            .map_err(|e| Stop::Identity(format!("the root {path} cannot be opened: {e}")))?
            .with_flags(self.config.flags);
        let facts = identity::facts(&root).map_err(|e| broken("the root", &e))?;
        let snapshot = index.snapshot().map_err(|e| broken("index", &e))?;
        let record = snapshot
            .value(&record_key(self.id))
            .map_err(|e| broken("index", &e))?;
        Ok((root, facts, record))
    }

    fn try_open(&self, needs: Needs, pair: &str, index: &Index) -> Result<Open, Stop> {
        let (root, facts, record) = self.root_now(index)?;
        let verdict = judge(record.as_ref(), &facts, pair, &self.config.name);
        let new = matches!(verdict, Verdict::New | Verdict::StateLost);
        if !verdict.is_proven() && !new {
            return Err(Stop::Identity(verdict.explain().to_owned()));
        }
        let private = Private::open(&root).map_err(|e| self.unopened(".tandem", &e))?;
        if needs == Needs::Changing && private.is_read_only() {
            return Err(self.unopened(".tandem", &Fault::ReadOnly));
        }
        if new {
            let marker = match facts.marker {
                Some(marker) => marker,
                None => identity::create_marker(&private, pair, &self.config.name).map_err(
                    |e| match e {
                        IdentityError::Fault(fault) => self.unopened("marker", &fault),
                        other => broken("marker", &other),
                    },
                )?,
            };
            let record = RootRecord {
                marker: marker.id,
                fs: facts.fs,
                was_mount_point: facts.is_mount_point,
            };
            let key = record_key(self.id);
            index
                .write(|w| w.put_value(&key, &record))
                .map_err(|e: IndexError| broken("index", &e))?;
        }
        // Before anything reads, applies or sends: what a crash left in part becomes whole.
        for path in
            finish_journals(&root, &private).map_err(|fault| Stop::Unfinished(fault.to_string()))?
        {
            tracing::info!(tree = self.config.name, %path, "a file was completed from its redo journal");
        }
        Ok(Open {
            root: Arc::new(root),
            private: Arc::new(private),
            update: self.config.update,
            in_sets: self.is_in_sets(),
        })
    }

    /// Whether the held root is still what the configured path leads to and still is the recorded one. Asked before
    /// deletions are recorded.
    pub fn still_proven(&self, pair: &str, index: &Snapshot) -> Result<(), Stop> {
        let path = self.config.root.display();
        let gone = || Stop::Identity(format!("{path} no longer leads to the recorded root"));
        let open = self.open.as_ref().ok_or_else(gone)?;
        if !open.root.still_there() {
            return Err(gone());
        }
        let facts = identity::facts(&open.root).map_err(|e| broken("the root", &e))?;
        let record: Option<RootRecord> = index
            .value(&record_key(self.id))
            .map_err(|e| broken("index", &e))?;
        let verdict = judge(record.as_ref(), &facts, pair, &self.config.name);
        match verdict.is_proven() {
            true => Ok(()),
            false => Err(Stop::Identity(verdict.explain().to_owned())),
        }
    }

    /// A receiver whose root was replaced by an empty one has nothing to lose: the tree begins anew.
    pub fn begin_anew_if_replaced(
        &mut self,
        needs: Needs,
        pair: &str,
        index: &Index,
        roots: &Roots,
    ) {
        if !matches!(self.stop, Some(Stop::Identity(_))) {
            return;
        }
        let Ok((_, facts, record)) = self.root_now(index) else {
            return;
        };
        if judge(record.as_ref(), &facts, pair, &self.config.name) == Verdict::ReplacedEmpty {
            tracing::warn!(
                tree = self.config.name,
                "the root was replaced by an empty one: it receives everything anew"
            );
            self.forget_root(index, true);
            self.prove(needs, pair, index, roots);
        }
    }

    /// `tandem tree accept` for a root that is another one: a person says that it is right.
    pub fn accept_root(&mut self, needs: Needs, pair: &str, index: &Index, roots: &Roots) {
        let Ok((root, facts, _)) = self.root_now(index) else {
            return;
        };
        self.forget_root(index, false);
        let foreign = facts
            .marker
            .is_none_or(|m| m.pair != pair || m.tree != self.config.name);
        if foreign
            && let Ok(private) = Private::open(&root)
            && let Err(error) = identity::create_marker(&private, pair, &self.config.name)
        {
            tracing::error!(tree = self.config.name, %error, "no marker can be made");
        }
        self.prove(needs, pair, index, roots);
    }

    fn forget_root(&mut self, index: &Index, with_history: bool) {
        let key = record_key(self.id);
        let unsettled = match with_history {
            true => std::mem::take(&mut self.unsettled),
            false => Default::default(),
        };
        let written = index.write(|w| {
            if with_history {
                w.forget_tree(self.id)?;
            }
            for path in &unsettled {
                w.settle(self.id, path)?;
            }
            w.remove_value(&key)
        });
        if let Err(error) = written {
            tracing::error!(%error, "the index failed");
        }
    }
}
