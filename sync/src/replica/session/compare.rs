//! A part of a tree compared for `verify`.

use super::Session;
use super::worker::Answer;
use crate::engine::command::Command;
use crate::path::RelPath;
use crate::wire::{VerifyAnswer, VerifyPart};
use std::sync::Arc;

impl Session<'_> {
    /// Compares in a thread of its own: a part may hold a huge file.
    pub(super) fn verify(&mut self, part: VerifyPart) {
        let (shared, applied) = (Arc::clone(self.shared), self.applied.clone());
        tokio::task::spawn_blocking(move || {
            // A thread that outlived its session would be one more with each session that a source makes.
            let ended = || applied.is_closed();
            let answer = crate::verify::compare(&shared, &part, &ended);
            if ended() {
                return;
            }
            let paths: Vec<RelPath> = answer.differences.iter().map(|(p, _)| p.clone()).collect();
            if part.repair && !paths.is_empty() {
                let command = Command::Suspect {
                    tree: part.tree,
                    paths,
                };
                // An engine that ended repairs nothing.
                let _ = shared.commands.blocking_send(command);
            }
            if *shared.unverified.borrow() > 0 {
                let same = part.entries.iter().map(|entry| entry.path.clone());
                let command = Command::Verified {
                    tree: part.tree,
                    paths: same.filter(|path| !differ(&answer, path)).collect(),
                };
                // An engine that ended has nothing to verify.
                let _ = shared.commands.blocking_send(command);
            }
            // The session may have ended.
            let _ = applied.blocking_send(Answer::Verified(answer));
        });
    }
}

fn differ(answer: &VerifyAnswer, path: &RelPath) -> bool {
    answer.differences.iter().any(|(other, _)| other == path)
}
