//! The replica's side of the worker: a batch becomes visible in the trees and durable in the index.
//!
//! Order, per batch: what lies at each path is compared with what the index knows; a local version goes to the rescue;
//! the intent is durable; the plan is carried out under the role token; the result is durable. So a crash at any point
//! leaves each path whole, and the next start knows which paths it changed itself.

use super::ahead::Ahead;
use super::foreign::is_free;
use super::intent::{self, Intent};
use super::outcome::{Done, Here, Results};
use super::set_apply::Part;
use super::status::Mode;
use super::view::{IndexView, with_contents};
use super::worker::Worker;
use crate::commit::{self, Content, Target};
use crate::entry::Kind;
use crate::fault::Unput;
use crate::index::{Index, IndexError, Snapshot};
use crate::lineage::NodeHeads;
use crate::path::RelPath;
use crate::plan::{self, Action, Incoming, Plan, PlanError, Policy};
use crate::replica::machine::Ready;
use crate::tree::{TreeConfig, TreeId};
use crate::wire::{Commit, Record};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::oneshot;

/// Why a record is asked for again.
const TAKEN: &str = "the source sent it with the number of another path";

/// A batch with its contents, for the worker.
pub(crate) struct Batch {
    /// Records and commit.
    pub ready: Ready,
    /// Complete contents by record.
    pub contents: HashMap<u32, Content>,
    /// Trees in which no content could be put.
    pub unput: BTreeMap<TreeId, Unput>,
    /// The source's lineages.
    pub source: NodeHeads,
}

/// What came of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Durable, nothing unsettled below.
    pub acked: u64,
    /// Applied.
    pub applied: u64,
    /// Paths that are not settled yet.
    pub unsettled: usize,
}

/// One record that is to be applied.
pub(super) struct Item {
    pub number: u32,
    pub record: Record,
}

impl Worker {
    /// Applies one batch, or spools it while applying is held. Durable when it returns.
    /// `ahead` may hear before that it is.
    pub(super) fn apply(
        &mut self,
        batch: Batch,
        ahead: oneshot::Sender<Applied>,
    ) -> Result<Applied, String> {
        if self.shared.held() {
            return self.spool_batch(batch);
        }
        // What came before is applied before.
        self.apply_spool()?;
        self.apply_answered(batch, ahead)
    }

    /// Applies one batch. Durable when it returns.
    pub(super) fn apply_now(&mut self, batch: Batch) -> Result<Applied, String> {
        let applied = self.apply_batch(batch);
        if applied.is_err() {
            self.look_at_left();
        }
        applied
    }

    fn apply_batch(&mut self, batch: Batch) -> Result<Applied, String> {
        if self.mode != Mode::Replica || !self.shared.token.is_granted() {
            return Err("the role changed".into());
        }
        let Batch {
            ready,
            mut contents,
            unput,
            source,
        } = batch;
        let commit = ready.commit;
        self.awaited.withheld(&ready.withheld, &source);
        self.finish_sets()?;
        self.note_unput(&unput)?;
        let mut results = Results::default();
        let mut by_tree =
            self.acceptable(ready.records, &ready.given_up, &ready.failed, &mut results)?;
        let part = Part {
            commit,
            source: &source,
            totals: &ready.totals,
        };
        let ends = self.spool_sets(&part, &mut by_tree, &mut contents, &results)?;
        let mut intent = self.left.intent.clone();
        for (tree, items) in by_tree {
            let at = self
                .position(tree)
                .filter(|at| self.trees[*at].moves())
                .ok_or("a record for a tree that is stopped")?;
            self.apply_tree(at, items, &commit, &mut intent, &mut contents, &mut results)?;
        }
        crate::cut::here("before the result");
        // A tree that waits for the rest of a set stays where it is; one whose set is whole advances with that.
        let now = source.only(|tree| ends.moves_on(tree));
        self.write_results(commit, &now, results)
            .map_err(|e| e.to_string())?;
        if !ends.whole.is_empty() {
            self.finish_sets()?;
        }
        Ok(self.after_batch(commit))
    }

    /// The records that are to be applied here, by tree. What cannot be is noted.
    fn acceptable(
        &mut self,
        records: Vec<Record>,
        given_up: &[u32],
        failed: &[u32],
        results: &mut Results,
    ) -> Result<BTreeMap<TreeId, Vec<Item>>, String> {
        let given_up: BTreeSet<u32> = given_up.iter().copied().collect();
        let failed: BTreeSet<u32> = failed.iter().copied().collect();
        let mut numbers = Numbers::new(&self.shared.index).map_err(|e| e.to_string())?;
        let mut by_tree: BTreeMap<TreeId, Vec<Item>> = BTreeMap::new();
        for (number, record) in (0u32..).zip(records) {
            if failed.contains(&number) {
                results.fail(&record, Here::Open);
            } else if given_up.contains(&number) {
                // A newer version follows.
                self.awaited.given_up(&record);
            } else if let Some(why) = self.refused(&record) {
                self.path_error(record.tree, &record.path, why);
                results.fail(&record, Here::Open);
            } else if numbers.are_taken(&record).map_err(|e| e.to_string())? {
                self.path_error(record.tree, &record.path, TAKEN.into());
                results.fail(&record, Here::Open);
                self.ahead.iter_mut().for_each(Ahead::withdraw);
            } else {
                let items = by_tree.entry(record.tree).or_default();
                items.push(Item { number, record });
            }
        }
        Ok(by_tree)
    }

    pub(super) fn apply_tree(
        &mut self,
        at: usize,
        items: Vec<Item>,
        commit: &Commit,
        intent: &mut Intent,
        contents: &mut HashMap<u32, Content>,
        results: &mut Results,
    ) -> Result<(), String> {
        let open = self.trees[at]
            .open
            .clone()
            .ok_or("a record for a tree that is stopped")?;
        let all = items.len();
        let kept = self.keep_awaited(at, items, results);
        let items = kept.map_err(|e| e.to_string())?;
        let items = self.settle_local_versions(at, &open, items, results)?;
        if let Some(ahead) = self.ahead.as_mut().filter(|_| items.len() < all) {
            ahead.withdraw();
        }
        if items.is_empty() {
            return Ok(());
        }
        let snapshot = self.shared.index.snapshot().map_err(|e| e.to_string())?;
        let config = self.trees[at].config.clone();
        let tree = self.trees[at].id;
        crate::cut::here("before the plan");
        let plan = plan_of(tree, &config, &items, &snapshot)?;
        let whole = commit.caught_up && items.len() == 1;
        intent
            .add(tree, &items, &plan, &snapshot)
            .map_err(|e| e.to_string())?;
        let numbers: HashMap<&RelPath, u32> =
            items.iter().map(|i| (&i.record.path, i.number)).collect();
        let grown: BTreeSet<RelPath> = items
            .iter()
            .filter(|i| contents.get(&i.number).is_some_and(Content::only_grows))
            .map(|i| i.record.path.clone())
            .collect();
        let (work, lacking) = with_contents(&plan, &numbers, contents);
        let actions: Vec<(RelPath, Action)> = work
            .iter()
            .map(|w| (w.step.path.clone(), w.step.action.clone()))
            .collect();
        let protect = |path: &RelPath, is_dir: bool| {
            config.protect.covers(path, is_dir) || config.exclude.covers(path, is_dir)
        };
        let trash = self.trash_takes(at).map_err(|e| e.to_string())?;
        let target = Target {
            root: &open.root,
            private: &open.private,
            protect: &protect,
            trash,
        };
        if let Some(ahead) = &mut self.ahead
            && !(lacking.is_empty() && plan.skipped.is_empty() && plan.kept.is_empty())
        {
            ahead.withdraw();
        }
        let ahead = RefCell::new(&mut self.ahead);
        let known = || {
            let kept = ahead.borrow_mut().as_mut().is_some_and(Ahead::keep);
            intent::write(&self.shared.index, tree, intent, whole, kept)?;
            crate::cut::here("after the intent");
            Ok::<(), IndexError>(())
        };
        let visible = || {
            if let Some(ahead) = ahead.borrow_mut().as_mut() {
                ahead.answer(&self.shared);
            }
        };
        let report = commit::apply(&target, work, &self.shared.token, known, visible);
        let report = report.map_err(|e| e.to_string())?;
        self.ended_early(at, &report)?;
        let done = Done {
            index: &snapshot,
            items: &items,
            plan: &plan,
            actions: &actions,
            lacking: &lacking,
        };
        self.collect(at, &done, report, results)
            .map_err(|e| e.to_string())?;
        self.note_applied(at, &actions, &grown, results);
        Ok(())
    }

    /// Why a record is not applied on this node, whatever lies there.
    pub(super) fn refused(&self, record: &Record) -> Option<String> {
        if let Some(unknown) = &record.names {
            return Some(unknown.to_string());
        }
        let kind = record.state.as_ref().map(|state| &state.kind);
        let device = matches!(
            kind,
            Some(Kind::CharDevice { .. } | Kind::BlockDevice { .. })
        );
        let at = self.position(record.tree).filter(|_| device)?;
        let allowed = self.trees[at].config.devices;
        (!allowed).then(|| "a device node, which `devices = false` forbids".to_owned())
    }

    fn path_error(&mut self, tree: TreeId, path: &RelPath, why: String) {
        if let Some(at) = self.position(tree) {
            self.trees[at].error(path, why);
        }
    }
}

/// The steps that make the tree as the records say.
fn plan_of(
    tree: TreeId,
    config: &TreeConfig,
    items: &[Item],
    index: &Snapshot,
) -> Result<Plan, String> {
    let incoming = items.iter().map(|item| Incoming {
        path: &item.record.path,
        state: item.record.state.as_ref(),
    });
    let incoming: Vec<Incoming<'_>> = incoming.collect();
    let policy = Policy {
        deletes: config.deletes,
        protect: &config.protect,
        exclude: &config.exclude,
    };
    plan::plan(&incoming, policy, &IndexView { tree, index }).map_err(|e| match e {
        PlanError::Known(error) => error.to_string(),
        other => other.to_string(),
    })
}

/// The numbers of the records of a batch.
pub(super) struct Numbers {
    index: Snapshot,
    seen: BTreeSet<u64>,
}

impl Numbers {
    pub fn new(index: &Index) -> Result<Numbers, IndexError> {
        Ok(Numbers {
            index: index.snapshot()?,
            seen: BTreeSet::new(),
        })
    }

    /// The number of a record is another path's. Such a record could not be written down: it is asked for again, so that
    /// nothing that was spooled or answered stands in the way for ever.
    pub fn are_taken(&mut self, record: &Record) -> Result<bool, IndexError> {
        let Record {
            tree, path, seq, ..
        } = record;
        // What was never known has none.
        Ok(*seq != 0 && !(self.seen.insert(*seq) && is_free(&self.index, *tree, path, *seq)?))
    }
}
