//! Single paths that a flush cannot speak for. The worker says so with the barrier, and not the status, which is shown a
//! moment later.

use super::command::Command;
use super::error::CommandError;
use super::handle::Engine;
use super::report::NotCovered;
use super::status::Mode;
use super::tree::{Tree, Wrong};
use super::worker::Worker;
use crate::path::RelPath;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Most paths of a tree and a kind that are named by themselves; then their number is said.
const NAMED: usize = 10;

impl Engine {
    /// Paths that this node could not read (source), or must not change although the source did (replica).
    ///
    /// # Errors
    /// The worker does not answer `within`.
    pub async fn exceptions(&self, within: Duration) -> Result<Vec<NotCovered>, CommandError> {
        tokio::time::timeout(within, self.shared.ask(Command::Exceptions))
            .await
            .map_err(|_| CommandError::Timeout(within, "asking what is not covered".into()))?
    }
}

impl Worker {
    /// Whether there is none, as replica. Told before anything is answered that could be one.
    pub(super) fn tell_follows(&self) {
        let follows = self.mode == Mode::Replica && self.trees.iter().all(Tree::follows);
        self.shared.follows.store(follows, Ordering::Release);
    }

    pub(super) fn exceptions(&self) -> Vec<NotCovered> {
        let mut except = Vec::new();
        for tree in &self.trees {
            let whys = if self.mode == Mode::Replica {
                let kept = tree.flagged.iter().map(|path| {
                    let why = tree.errors.get(path).map_or("it has a flag", Wrong::why);
                    format!("{path} is not followed on the standby: {why}")
                });
                // A path of those may be counted twice.
                let others = tree.flagged_others.times();
                let mut whys = named(kept, others, "are not followed on the standby");
                let lacking = tree.lacking.iter();
                let lacking = lacking
                    .map(|(path, why)| format!("{path} is not complete on the standby: {why}"));
                let others = tree.lacking.others.times();
                whys.extend(named(lacking, others, "are not complete on the standby"));
                whys
            } else {
                let failed = |(path, wrong): (&RelPath, &Wrong)| match wrong {
                    Wrong::Failed(why) => Some(format!("{path} cannot be read: {why}")),
                    // It was, and what it lacks is no change that is to be sent.
                    Wrong::Incomplete(_) => None,
                };
                let unread: Vec<String> = tree.errors.iter().filter_map(failed).collect();
                let fuzzy = tree.fuzzy.iter();
                let fuzzy = fuzzy.map(|path| format!("{path} changes faster than it can be read"));
                let mut whys = named(unread.into_iter(), 0, "cannot be read");
                let beyond = tree.fuzzy_beyond();
                whys.extend(named(fuzzy, beyond, "change faster than they can be read"));
                whys
            };
            except.extend(whys.into_iter().map(|why| NotCovered {
                tree: Some(tree.config.name.clone()),
                why,
            }));
        }
        except
    }
}

impl Tree {
    /// No path is kept as it is against the source's word, because of a flag, and none lacks what cannot be set here.
    fn follows(&self) -> bool {
        self.flagged.is_empty() && self.flagged_others.is_empty() && self.lacking.is_empty()
    }
}

impl Worker {
    /// Files that have grown and were not compared whole since.
    pub(super) fn unverified(&self) -> Vec<NotCovered> {
        let mut all = Vec::new();
        for tree in &self.trees {
            let paths: Vec<&RelPath> = tree.unverified.paths().collect();
            let why = paths
                .into_iter()
                .map(|path| format!("{path} has grown and was not compared whole since"));
            let why = named(why, 0, "have grown and were not compared whole since");
            all.extend(why.into_iter().map(|why| NotCovered {
                tree: Some(tree.config.name.clone()),
                why,
            }));
        }
        all
    }
}

/// The first of them, and how many more there are, with those beyond.
fn named(mut whys: impl ExactSizeIterator<Item = String>, beyond: u64, what: &str) -> Vec<String> {
    let mut out: Vec<String> = whys.by_ref().take(NAMED).collect();
    let more = whys.len() as u64 + beyond;
    if more > 0 {
        out.push(format!("{more} more paths {what}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn ten_are_named_and_the_others_counted() {
        let whys = |n: usize| named((0..n).map(|n| format!("f{n}")), 0, "cannot be read");
        assert_eq!(whys(0), [""; 0]);
        assert_eq!(whys(10).last().unwrap(), "f9");
        assert_eq!(whys(13).len(), 11);
        assert_eq!(whys(13)[10], "3 more paths cannot be read");
    }
}
