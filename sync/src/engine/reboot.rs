//! After a machine that stopped without a clean end, a file may have its new times with its old blocks (ext4 with
//! delayed allocation): its key says that nothing changed. So what changed shortly before is read again.
//!
//! When the machine stopped is not known. What was written last was written before it stopped, so everything that
//! changed within [`BEFORE_NS`] before the newest change is read: that is never too little.

use super::tree::{Tree, Wrong};
use super::worker::Worker;
use crate::index::{IndexError, Snapshot};
use crate::path::RelPath;
use crate::tree::TreeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The kernel writes dirty blocks back after 30 s by default; four times that is on the safe side.
const BEFORE_NS: i128 = 120_000_000_000;
/// Since ever: all entries of a tree are read again, directories too.
pub(super) const EVERYTHING: i128 = i128::MIN;
/// Where the mark is kept in the index.
const KEY: &str = "boot";
/// A random number of each boot, see random(4).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is known of the last process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The boot in which it ran.
    pub boot: String,
    /// It ended by its own will, with everything durable.
    pub clean: bool,
    /// Trees of which files must be read again that changed since (nanoseconds of the wall clock).
    pub again: BTreeMap<TreeId, i128>,
}

/// Whether the machine may have stopped while changes were not on the disk.
pub(super) fn is_doubtful(mark: Option<&Mark>, boot: &str) -> bool {
    mark.is_some_and(|mark| !mark.clean && mark.boot != boot)
}

impl Worker {
    /// At the start: what must be read again is known, durably, before anything is taken for unchanged.
    pub(super) fn load_mark(&mut self) {
        let boot = match std::fs::read_to_string(BOOT_ID) {
            Ok(boot) => boot.trim().to_owned(),
            Err(error) => {
                // Without it every start counts as one after a reboot, which costs reading and loses nothing.
                tracing::warn!(%error, "the boot cannot be told from others");
                String::from("unknown")
            }
        };
        if let Err(error) = self.mark_boot(boot) {
            self.index_failed(&error);
        }
    }

    fn mark_boot(&mut self, boot: String) -> Result<(), IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        let before: Option<Mark> = snapshot.value(KEY)?;
        let doubtful = is_doubtful(before.as_ref(), &boot);
        let mut mark = before.unwrap_or_default();
        if doubtful {
            for tree in &self.trees {
                let Some(newest) = newest_change(&snapshot, tree.id)? else {
                    continue;
                };
                let since = newest - BEFORE_NS;
                let again = mark.again.entry(tree.id).or_insert(since);
                *again = since.min(*again);
            }
            tracing::warn!(
                "the machine stopped without a clean end: what changed shortly before is read again"
            );
        }
        (mark.boot, mark.clean) = (boot, false);
        self.shared.index.write(|w| w.put_value(KEY, &mark))?;
        self.load_read_since()
    }

    /// What must be read again, for trees that were there at the start or came later.
    pub(super) fn load_read_since(&mut self) -> Result<(), IndexError> {
        self.mark_flags()?;
        let mark: Option<Mark> = self.shared.index.snapshot()?.value(KEY)?;
        for tree in &mut self.trees {
            tree.read_from(mark.as_ref().and_then(|m| m.again.get(&tree.id).copied()));
        }
        Ok(())
    }

    /// What a scan is to read is durable before it begins: of what was too much to be named, nothing else tells.
    pub(super) fn keep_read_since(&mut self, at: usize) -> Result<(), IndexError> {
        let tree = &self.trees[at];
        let Some(since) = tree.read_since else {
            return Ok(());
        };
        let mark: Option<Mark> = self.shared.index.snapshot()?.value(KEY)?;
        let mut mark = mark.unwrap_or_default();
        if mark.again.get(&tree.id).is_some_and(|kept| *kept <= since) {
            return Ok(());
        }
        mark.again.insert(tree.id, since);
        self.shared.index.write(|w| w.put_value(KEY, &mark))
    }

    /// A tree carries flags from now on, or does no more: no key of an entry tells that.
    fn mark_flags(&self) -> Result<(), IndexError> {
        let snapshot = self.shared.index.snapshot()?;
        let key = |tree: TreeId| format!("carries-flags/{tree}");
        for tree in &self.trees {
            let (id, now) = (tree.id, tree.config.flags);
            if snapshot.value(&key(id))?.unwrap_or(false) == now {
                continue;
            }
            self.shared.index.write(|w| {
                let mut mark: Mark = w.value(KEY)?.unwrap_or_default();
                mark.again.insert(id, EVERYTHING);
                w.put_value(KEY, &mark)?;
                w.put_value(&key(id), &now)
            })?;
        }
        Ok(())
    }

    /// Where a whole pass has ended and nothing that it found is unread, what changed since was read. What had to be read from an
    /// earlier time on since it began is read by the next one.
    pub(super) fn read_again(&mut self) {
        let mut read = Vec::new();
        for tree in &mut self.trees {
            let fails = tree
                .errors
                .values()
                .any(|wrong| matches!(wrong, Wrong::Failed(_)));
            if tree.walked_since.is_none() || !tree.moves() || tree.is_scanned() || fails {
                continue;
            }
            let since = tree.walked_since.take();
            if tree.read_since.take_if(|now| Some(*now) == since).is_some() {
                read.push(tree.id);
            }
        }
        if !read.is_empty() {
            self.change_mark(|mark| mark.again.retain(|id, _| !read.contains(id)));
        }
    }

    /// The process ends by its own will. What was written so lately that its key proves nothing is read by the next one.
    pub(super) fn mark_clean(&mut self) {
        let young = |tree: &Tree| tree.later.values().filter_map(|again| again.young).min();
        let young = self
            .trees
            .iter()
            .filter_map(|tree| Some((tree.id, young(tree)?)));
        let young: Vec<(TreeId, i128)> = young.collect();
        self.change_mark(|mark| {
            mark.clean = true;
            for (tree, since) in young {
                let again = mark.again.entry(tree).or_insert(since);
                *again = since.min(*again);
            }
        });
        if let Err(error) = self.shared.index.rest_now() {
            self.index_failed(&error);
        }
    }

    fn change_mark(&mut self, change: impl FnOnce(&mut Mark)) {
        let written = self.shared.index.write(|w| {
            let mut mark: Mark = w.value(KEY)?.unwrap_or_default();
            change(&mut mark);
            w.put_value(KEY, &mark)
        });
        if let Err(error) = written {
            self.index_failed(&error);
        }
    }
}

/// The newest change time of a tree's files that the clock has reached.
fn newest_change(index: &Snapshot, tree: TreeId) -> Result<Option<i128>, IndexError> {
    let now = crate::hash::now_ns();
    let mut newest = None;
    for row in index.entries(tree, &RelPath::root())? {
        let (_, entry) = row?;
        let at = entry.local.map(|key| key.ctime_ns);
        newest = newest.max(at.filter(|at| *at <= now));
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::engine::dirty::Dirt;
    use crate::engine::handle::open::prepare;
    use crate::engine::tests::between::number;
    use crate::engine::tests::compare::assert_equal;
    use crate::engine::tests::pair::{Cable, Node, flush, pair, recorded, write};
    use crate::engine::tests::reading::{LARGE, hold, sparse};
    use crate::engine::tests::unread::{has_walked, source};
    use crate::index::{Index, IndexIdentity};
    use crate::tree::TreeConfig;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::Ordering::SeqCst;

    /// Other blocks with the times of a write that the index knows.
    fn write_behind(node: &Node, name: &str, content: &str) -> Index {
        let file = File::options().write(true).open(node.tree().join(name));
        file.unwrap().write_all_at(content.as_bytes(), 0).unwrap();
        let identity = IndexIdentity {
            pair: "test".into(),
            node: node.name.into(),
        };
        let index = Index::open(&node.dir.path().join("state/index.redb"), &identity).unwrap();
        let root = crate::beneath::Root::open(&node.tree()).unwrap();
        let path = RelPath::new(name).unwrap();
        let key = root.stat(&path).unwrap().map(|stat| stat.key());
        let data = TreeId::of("data");
        index.write(|w| w.set_local(data, &path, key)).unwrap();
        index
    }

    /// What a machine leaves that lost its power.
    fn tear(node: &Node, name: &str, content: &str) {
        let lost = Mark {
            boot: "the boot before".into(),
            ..Mark::default()
        };
        let index = write_behind(node, name, content);
        index.write(|w| w.put_value(KEY, &lost)).unwrap();
    }

    fn mark(node: &Node) -> Mark {
        let snapshot = node.engine().shared.index.snapshot().unwrap();
        snapshot.value(KEY).unwrap().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn large_contents_are_to_be_read_again_until_they_are() {
        let mut a = Node::new("a", |_| {});
        sparse(&a.tree().join("large"), LARGE);
        a.engine().init_source().await.unwrap();
        a.engine().begin_source(1).await.unwrap();
        recorded(&a).await;
        a.stop().await;
        tear(&a, "large", "half of it");
        a.start();
        let known = number(&a, "data", "large");
        hold(&a, true);
        a.engine().begin_source(2).await.unwrap();
        a.until("walked", has_walked).await;
        assert_eq!(mark(&a).again.len(), 1);
        // It is restarted before it has read them.
        a.stop().await;
        a.start();
        a.engine().begin_source(3).await.unwrap();
        recorded(&a).await;
        assert!(number(&a, "data", "large") > known);
        a.shown().await;
        assert!(mark(&a).again.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_read_after_a_power_cut_is_read_when_it_can_be() {
        for restarts in [false, true] {
            let mut a = Node::new("a", |_| {});
            sparse(&a.tree().join("large"), LARGE);
            a.engine().init_source().await.unwrap();
            a.engine().begin_source(1).await.unwrap();
            recorded(&a).await;
            a.stop().await;
            tear(&a, "large", "half of it");
            a.start();
            let known = number(&a, "data", "large");
            let fail = |a: &Node, fail| a.engine().shared.readings.fail.store(fail, SeqCst);
            fail(&a, true);
            a.engine().begin_source(2).await.unwrap();
            a.until("named", |s| s.trees[0].errors == 1).await;
            a.until("walked", has_walked).await;
            assert_eq!(mark(&a).again.len(), 1);
            match restarts {
                true => {
                    a.stop().await;
                    a.start();
                    a.engine().begin_source(3).await.unwrap();
                    recorded(&a).await;
                }
                false => fail(&a, false),
            }
            a.until("read", |_| number(&a, "data", "large") > known)
                .await;
            a.until("settled", |_| mark(&a).again.is_empty()).await;
        }
    }

    /// What is written after the look carries the same stamp, on a kernel that stamps by the jiffy.
    #[tokio::test]
    async fn what_was_written_right_before_the_end_is_read_by_the_next_process() {
        let mut node = Node::new("a", |_| {});
        let mut worker = source(&mut node).await;
        write(&node.tree().join("db"), "one");
        let path = RelPath::new("db").unwrap();
        worker.trees[0].mark(path.clone(), Dirt::default());
        worker.look_at_dirty();
        // As a look does that is no slower than the jiffy.
        let root = &worker.trees[0].open.as_ref().unwrap().root;
        let written = root.stat(&path).unwrap().unwrap().ctime_ns;
        worker.trees[0].again(path.clone(), u64::MAX, Some(written));
        worker.mark_clean();
        drop(worker);
        write_behind(&node, "db", "two");
        node.start();
        let known = number(&node, "data", "db");
        node.engine().begin_source(2).await.unwrap();
        recorded(&node).await;
        assert!(number(&node, "data", "db") > known);
    }

    #[tokio::test]
    async fn a_pass_does_not_name_again_what_is_still_to_be_read() {
        let mut node = Node::new("a", |_| {});
        node.engine().init_source().await.unwrap();
        node.stop().await;
        let trees = vec![TreeConfig::new("data", node.tree())];
        let (mut worker, _commands) = prepare(node.config(trees)).unwrap();
        worker.begin_source(1).unwrap();
        let reads = |worker: &mut Worker, rescan: bool| {
            let tree = &mut worker.trees[0];
            (tree.rescan, tree.routine, tree.job) = (rescan, !rescan, None);
            (tree.read_since, tree.walked_since) = (Some(7), Some(7));
            worker.jobs();
            worker.trees[0].job.as_ref().unwrap().read_since
        };
        assert_eq!(reads(&mut worker, false), None);
        assert_eq!(reads(&mut worker, true), Some(7));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_machine_that_lost_its_power_reads_again_what_it_had_just_written() {
        let (mut a, mut b) = pair(|_| {}).await;
        write(&a.tree().join("torn"), "what was written");
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent).await;
        cable.cut().await;
        b.stop().await;
        tear(&b, "torn", "0000000000000000");
        b.start();
        b.engine().begin_replica().await.unwrap();
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        b.until("consistent", |s| s.consistent && s.trees[0].dirty == 0)
            .await;
        assert_equal(&a.tree(), &b.tree());
        // On the source it is a change like any other.
        cable.cut().await;
        a.stop().await;
        tear(&a, "torn", "half of it");
        a.start();
        a.engine().begin_source(1).await.unwrap();
        let cable = Cable::plug(&a, &b);
        flush(&a).await;
        assert_equal(&a.tree(), &b.tree());
        assert!(mark(&a).again.is_empty() && mark(&b).again.is_empty());
        b.stop().await;
        b.start();
        assert!(!mark(&b).clean, "it runs");
        cable.cut().await;
    }

    #[test]
    fn only_another_boot_without_a_clean_end_is_doubtful() {
        let mark = |boot: &str, clean| Mark {
            boot: boot.into(),
            clean,
            again: BTreeMap::new(),
        };
        let table = [
            (None, false),
            (Some(mark("a", true)), false),
            (Some(mark("a", false)), false),
            (Some(mark("b", true)), false),
            (Some(mark("b", false)), true),
        ];
        for (before, expected) in table {
            assert_eq!(is_doubtful(before.as_ref(), "a"), expected, "{before:?}");
        }
    }
}
