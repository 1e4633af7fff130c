//! One pass of a consistent set, on a thread of its own: the tree is held still, everything that changed in it is read and
//! kept, and the tree goes on.

use crate::beneath::Root;
use crate::engine::dirty::Dirt;
use crate::engine::linked::Names;
use crate::engine::look::{Looker, Rest, Sight, Sights};
use crate::engine::shared::Shared;
use crate::engine::tree::Open;
use crate::engine::walk::{Found, Walk};
use crate::entry::Kind;
use crate::hash::{Ends, now_ns};
use crate::identity::{self, RootFacts};
use crate::index::IndexError;
use crate::path::RelPath;
use crate::set;
use crate::subvolume;
use crate::tree::{Freeze, Snapshot, TreeConfig, TreeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Paths that are looked at between two looks at the clock. Of each 64 MiB are read before the reading asks by itself.
const SLICE: usize = 32;
/// A change just after the freeze must carry another stamp than what was read in it: two jiffies of the slowest clock, and
/// some more.
const STAMP: Duration = Duration::from_millis(25);
/// Bound of reading a snapshot, beside which the tree goes on: the longest time from one set to the next.
const SNAPSHOT_READ: Duration = Duration::from_secs(24 * 3600);

/// What a pass brought.
pub(crate) struct Pass {
    pub tree: TreeId,
    /// When the tree was held still, milliseconds since 1970.
    pub made_unix_ms: u64,
    pub found: Result<Vec<Sight>, String>,
    /// What was read for it whatever the index says.
    pub forced: BTreeSet<RelPath>,
    pub thawed: Result<(), String>,
}

/// One pass.
pub(super) struct Taking<'a> {
    pub shared: &'a Shared,
    pub config: &'a TreeConfig,
    pub freeze: &'a Freeze,
    /// Its root. `None`: it cannot be opened, and the tree is only let go.
    pub open: Option<&'a Open>,
    pub forced: &'a BTreeSet<RelPath>,
}

impl Taking<'_> {
    /// `look` false: only lets the tree go on.
    pub fn pass(&self, look: bool) -> Pass {
        let begun = Instant::now();
        self.clear_snapshot();
        let held = match look {
            true => self
                .hook("freeze", &self.freeze.before)
                .and_then(|()| self.held()),
            false => Err("the agent ended while it was taken".into()),
        };
        let thaw = || self.hook("thaw", &self.freeze.after);
        let within = match &self.freeze.snapshot {
            None => self.freeze.timeout,
            Some(_) => SNAPSHOT_READ,
        };
        let collect =
            |held: Result<Open, String>| held.and_then(|o| self.collect(&o, begun + within));
        let moment = || now_ns() / 1_000_000;
        let (found, made, thawed) = match &self.freeze.snapshot {
            // It holds still by itself.
            Some(Snapshot::Btrfs) => {
                let (made, thawed) = (moment(), thaw());
                (collect(held), made, thawed)
            }
            Some(Snapshot::At(_)) => {
                let made = moment();
                (collect(held), made, thaw())
            }
            None => {
                let found = collect(held);
                (found, moment(), thaw())
            }
        };
        self.clear_snapshot();
        Pass {
            tree: self.config.id(),
            made_unix_ms: u64::try_from(made).unwrap_or(0),
            found,
            forced: self.forced.clone(),
            thawed,
        }
    }

    fn hook(&self, event: &'static str, argv: &[String]) -> Result<(), String> {
        if argv.is_empty() {
            return Ok(());
        }
        let hooks = self.shared.freeze_hooks();
        let hooks = hooks.ok_or("nothing here runs its commands")?;
        hooks.run(&self.config.name, event, argv, self.freeze.timeout)
    }

    /// What is read: the tree, or a snapshot in its place.
    fn held(&self) -> Result<Open, String> {
        let open = self.open.ok_or("its root is not open")?;
        let root = match &self.freeze.snapshot {
            None => return Ok(open.clone()),
            Some(Snapshot::Btrfs) => {
                let taken = subvolume::take(&open.root, &open.private);
                let dir = taken.map_err(|error| error.to_string())?;
                // The tree goes on at once: what changes in it then must carry another stamp.
                std::thread::sleep(STAMP);
                Root::of(dir, open.root.path())
            }
            Some(Snapshot::At(path)) => {
                let shown = path.display();
                let root = Root::open(path).map_err(|e| format!("{shown}: {e}"))?;
                self.is_snapshot(&root, &open.root)
                    .map_err(|why| format!("{shown} {why}"))?;
                Ok(root)
            }
        };
        let root = root.map_err(|fault| fault.to_string())?;
        Ok(Open {
            root: Arc::new(root.standing_for(&open.root)),
            ..open.clone()
        })
    }

    /// What is mounted there is a snapshot of this very tree; else its emptiness would be taken for the tree's.
    fn is_snapshot(&self, root: &Root, tree: &Root) -> Result<(), String> {
        let facts = |root| identity::facts(root).map_err(|fault| fault.to_string());
        let (there, here) = (facts(root)?, facts(tree)?);
        let id = |facts: &RootFacts| facts.marker.as_ref().map(|marker| marker.id.clone());
        let (is, of) = (root.opened_as(), tree.opened_as());
        if id(&there).is_none() || id(&there) != id(&here) || is.ino != of.ino {
            return Err("is no snapshot of the tree: did `before` mount it?".into());
        }
        match is.dev == of.dev {
            true => Err("is the tree itself".into()),
            false => Ok(()),
        }
    }

    /// Nothing is left of a snapshot of Tandem's, of one that a crash left behind neither.
    fn clear_snapshot(&self) {
        if let Some(open) = self.open
            && let Err(error) = subvolume::remove(&open.private)
        {
            tracing::warn!(tree = self.config.name, %error, "a snapshot cannot be removed");
        }
    }

    /// Everything that differs from the index, with the contents kept.
    fn collect(&self, open: &Open, deadline: Instant) -> Result<Vec<Sight>, String> {
        let text = |e: IndexError| e.to_string();
        let snapshot = self.shared.index.snapshot().map_err(text)?;
        // The writers of the tree wait: neither a long walk nor a long content is gone on with.
        let late = || self.in_time(deadline).is_err();
        let looker = Looker {
            tree: self.config.id(),
            config: self.config,
            open,
            index: &snapshot,
            source: &self.shared.index,
            read_since: None,
            receiver: false,
            // What a set holds was read whole.
            tails: None,
            chunks: &self.shared.chunks,
            restless: None,
            ends: &late,
            most: None,
        };
        let mut changed = Vec::new();
        let mut found = |found: Found| {
            changed.push(found.path);
            std::ops::ControlFlow::Continue(())
        };
        let root = RelPath::root();
        let walk = Walk::of(looker.source, looker.tree, self.config, open, &root)
            .while_so(&|| !late())
            .run(&mut found)
            .map_err(text)?;
        self.in_time(deadline)?;
        if let Some((path, why)) = walk.errors.first() {
            return Err(format!("{path}: {why}"));
        }
        let changed = changed.into_iter().chain(walk.gone.iter());
        let changed = changed.chain(self.forced.iter().cloned());
        let paths: BTreeSet<RelPath> = changed.chain([root]).collect();
        let sights = self.look(&looker, paths, deadline)?;
        if let Some((path, why)) = sights.errors.first() {
            return Err(format!("{path}: {why}"));
        }
        if let Some((path, _)) = sights.again.iter().find(|(_, rest)| *rest == Rest::Moving) {
            return Err(format!("{path} changed while the tree was held still"));
        }
        for sight in &sights.seen {
            let kept = self.keep(open, sight, &late);
            self.in_time(deadline)?;
            kept?;
        }
        if !sights.again.is_empty() {
            std::thread::sleep(STAMP);
        }
        Ok(sights.seen)
    }

    /// Looks at all paths as at one: names of a file can be anywhere among them.
    fn look(
        &self,
        looker: &Looker<'_>,
        mut paths: BTreeSet<RelPath>,
        deadline: Instant,
    ) -> Result<Sights, String> {
        let text = |e: IndexError| e.to_string();
        let mut names = Names::default();
        let mut sights = Sights::default();
        let dirt = |path: &RelPath| match self.forced.contains(path) {
            true => Dirt::FORCED,
            false => Dirt::WALKED,
        };
        let mut todo: Vec<_> = paths.iter().map(|p| (p.clone(), dirt(p))).collect();
        while !todo.is_empty() {
            for some in todo.chunks(SLICE) {
                self.in_time(deadline)?;
                looker
                    .look_some(some, &mut names, &mut sights)
                    .map_err(text)?;
            }
            self.in_time(deadline)?;
            todo = std::mem::take(&mut sights.more);
            todo.retain(|(path, _)| paths.insert(path.clone()));
        }
        looker.tell_names(names, &mut sights).map_err(text)?;
        self.in_time(deadline)?;
        Ok(sights)
    }

    fn in_time(&self, deadline: Instant) -> Result<(), String> {
        if self.shared.end.is_cancelled() {
            return Err("the agent ends".into());
        }
        match Instant::now() < deadline {
            true => Ok(()),
            false => Err("it was not read in time".into()),
        }
    }

    fn keep(&self, open: &Open, sight: &Sight, ends: Ends<'_>) -> Result<(), String> {
        let kind = sight.state.as_ref().map(|state| &state.kind);
        let (Some(Kind::File { hash, .. }), Some(key)) = (kind, sight.local) else {
            return Ok(());
        };
        set::keep(&open.root, &open.private, &sight.path, (*hash, key), ends)
            .map_err(|fault| format!("{}: {fault}", sight.path))
    }
}
