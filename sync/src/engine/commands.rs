//! What the worker does with commands.

use super::command::Command;
use super::dirty::{Dirt, Missing};
use super::error::CommandError;
use super::prepare::Preparing;
use super::roles::REVOKE;
use super::status::Mode;
use super::tree::Tree;
use super::worker::Worker;
use crate::index::IndexError;
use crate::path::RelPath;
use crate::tree::TreeId;
use crate::wire::{LIST_BYTES, MAX_PATHS};

impl Worker {
    /// Carries out one command.
    pub(super) fn command(&mut self, command: Command) {
        // Whoever does not wait for an answer any more does not need it.
        match command {
            Command::Init(reply) => {
                let done = self.init();
                self.answer(reply, done);
            }
            Command::BeginSource { term, reply } => {
                let done = self.begin_source(term);
                self.answer(reply, done);
            }
            Command::BeginReplica(reply) => {
                let done = self.begin_replica();
                self.answer(reply, done);
            }
            Command::Idle(reply) => {
                self.shared.token.revoke(REVOKE);
                self.set_mode(Mode::Idle);
                self.answer(reply, Ok(()));
            }
            Command::Examine { tree, path, reply } => {
                if let Some(at) = self.position(tree).filter(|at| self.trees[*at].moves()) {
                    match self.trees[at].is_in_sets() {
                        true => {
                            if let Err(error) = self.set_is_lost(at, &path) {
                                self.index_failed(&error);
                            }
                        }
                        // It is looked at when it is its time.
                        false if self.trees[at].waits_restless(&path) => {}
                        false => self.look(at, vec![(path, Dirt::FORCED)], Missing::Waits),
                    }
                }
                let _ = reply.send(*self.shared.head.borrow());
            }
            Command::Barrier { only, reply } => self.barrier(only, reply),
            Command::Prepare {
                session,
                theirs,
                floors,
                reply,
            } => {
                self.receiving = Some(session);
                self.preparing = Some(Preparing {
                    theirs,
                    floors,
                    reply,
                })
            }
            Command::Apply {
                session,
                batch,
                ahead,
                reply,
            } => {
                drop(reply.send(self.in_order(session, |worker| worker.apply(*batch, ahead))));
            }
            Command::Fresh {
                session,
                idle,
                source,
                reply,
            } => {
                drop(reply.send(self.in_order(session, |worker| worker.fresh(idle, &source))));
            }
            Command::Unsettled { after, reply } => drop(reply.send(self.unsettled_after(after))),
            Command::Moved { tree, seq, done } => self.moved(tree, seq, done),
            Command::Move {
                session,
                one,
                source,
                reply,
            } => {
                let done = self.in_order(session, |worker| worker.apply_move(&one, &source));
                let follow = matches!(done, Ok(true));
                drop(reply.send(done));
                if follow {
                    self.follow_rename();
                }
            }
            Command::Fuzzy { session, list } => {
                let marked = self.in_order(session, |worker| {
                    worker.mark_fuzzy(list).map_err(|e| e.to_string())
                });
                if let Err(why) = marked {
                    tracing::debug!(why, "files that never rest are not marked");
                }
            }
            Command::PeerLost { kept } => self.peer_lost(kept),
            Command::Suspect { tree, paths } => self.suspect(tree, paths),
            Command::Compared => self.verify_unverified(),
            Command::Unverified(reply) => drop(reply.send(self.unverified())),
            Command::Verified { tree, paths } => self.verified_here(tree, &paths),
            Command::KeepVerified {
                tree,
                of,
                verified,
                reply,
            } => {
                let kept = self.keep_verified(tree, of, *verified);
                drop(reply.send(kept.map_err(index)));
            }
            Command::Hold(reply) => {
                let done = self.hold();
                self.answer(reply, done);
            }
            Command::Release(reply) => {
                let done = self.release();
                self.answer(reply, done);
            }
            Command::Adopt(reply) => {
                let done = self.adopt();
                self.answer(reply, done);
            }
            Command::SetTrees { trees, reply } => {
                let done = self.set_trees(trees);
                self.answer(reply, done);
            }
            Command::Accept { tree, most, reply } => {
                let done = self.accept(&tree, most);
                self.answer(reply, done);
            }
            Command::AcceptPrice { tree, reply } => drop(reply.send(self.accept_price(&tree))),
            Command::Set(pass) => self.end_pass(*pass),
            Command::EmptyTrash { tree, older, reply } => {
                let done = self.empty_trash(tree, older);
                self.answer(reply, done);
            }
            #[cfg(test)]
            Command::Show(reply) => self.answer(reply, ()),
            Command::ReadRestless(reply) => drop(reply.send(self.read_restless())),
            Command::Exceptions(reply) => drop(reply.send(self.exceptions())),
        }
        self.touch();
    }

    /// Does what a session sent, unless something that it sent before could not be done, or another one came after it:
    /// each batch moves the trees' positions past all that was sent before it, and what is missing would never come.
    /// The next session begins where the trees are.
    fn in_order<T>(
        &mut self,
        session: u64,
        work: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        if self.receiving != Some(session) {
            return Err("what came before in this session was not applied".into());
        }
        let done = work(self);
        if done.is_err() {
            self.receiving = None;
        }
        done
    }

    /// The next unsettled paths, of one tree, after `after`; from the beginning when there are none.
    pub(super) fn unsettled_after(
        &self,
        after: Option<(TreeId, RelPath)>,
    ) -> Option<(TreeId, Vec<RelPath>)> {
        let page = |tree: &Tree, after: Option<&RelPath>| {
            let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let paths = tree
                .unsettled
                .range::<RelPath, _>((from, std::ops::Bound::Unbounded));
            let mut bytes = 0;
            let fit = |path: &&RelPath| {
                let before = bytes;
                bytes += path.as_bytes().len();
                before < LIST_BYTES
            };
            let paths: Vec<RelPath> = paths.take(MAX_PATHS).take_while(fit).cloned().collect();
            (!paths.is_empty()).then_some((tree.id, paths))
        };
        if let Some((id, path)) = &after
            && let Some(at) = self.position(*id)
        {
            let rest = self.trees[at + 1..].iter().find_map(|t| page(t, None));
            if let Some(found) = page(&self.trees[at], Some(path)).or(rest) {
                return Some(found);
            }
        }
        self.trees.iter().find_map(|t| page(t, None))
    }

    /// A change got this number at this time.
    pub(super) fn changed(&mut self, seq: u64, noticed: u64) {
        self.lag.push(seq, noticed);
        self.shared.receivers.changed(seq, noticed);
    }

    /// What the peer acknowledged past `kept` is lost there.
    pub(super) fn peer_lost(&mut self, kept: u64) {
        tracing::warn!(kept, "the peer holds less than it had acknowledged");
        let written = self.shared.index.write(|w| {
            w.forget_peer();
            w.ack(kept);
            Ok::<_, IndexError>(())
        });
        if let Err(error) = written {
            self.index_failed(&error);
        }
    }

    /// Keeps what the peer acknowledged, and forgets the ages of those changes.
    pub(super) fn keep_acked(&mut self) {
        let acked = self.shared.peer.borrow().acked;
        if !matches!(self.mode, Mode::Source { .. }) {
            return;
        }
        let kept = self.shared.index.snapshot().map(|s| s.acked().upto);
        if kept.is_ok_and(|kept| kept < acked)
            && let Err(error) = self.shared.index.write(|w| {
                w.ack(acked);
                Ok::<_, IndexError>(())
            })
        {
            self.index_failed(&error);
        }
    }
}

pub(super) fn index(error: IndexError) -> CommandError {
    CommandError::Index(error.to_string())
}
