//! `verify` by hand: whole trees are compared with a receiver's, part after part, and repaired there on request.

use super::compare::{Again, SETTLE, UNSETTLED, away};
use super::error::CommandError;
use super::handle::Engine;
use super::receivers::Receiver;
use super::report::{NotCovered, VerifyDifference, VerifyReport};
use super::rolling::unix_ms;
use super::status::{Mode, VerifyRound};
use super::verified::{Found, NAMED};
use crate::tree::TreeConfig;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

impl Engine {
    /// Compares the contents and metadata of one tree or all with what a receiver has, freshly read on both sides. With
    /// `repair` the receiver's differing versions go to its rescue and are replaced, with all names of the file; it returns
    /// when they are. Takes as long as reading everything, at `rate` bytes each second on each side if it is given, else at
    /// each tree's own. Other receivers take no part in it.
    ///
    /// # Errors
    /// This node is not the source, no such tree or replica, the receiver does not get the tree, no session, or the session
    /// ended. A replica that is far behind is not compared.
    pub async fn verify(
        &self,
        of: &Receiver,
        tree: Option<&str>,
        repair: bool,
        rate: Option<NonZeroU64>,
    ) -> Result<VerifyReport, CommandError> {
        let begun = Instant::now();
        if !matches!(*self.shared.mode.borrow(), Mode::Source { .. }) {
            return Err(CommandError::NotSource);
        }
        let trees = self.shared.trees();
        let wanted = self.wanted(&trees, of, tree)?;
        let is_replica = matches!(of, Receiver::Replica(_));
        if is_replica && self.shared.verifier(of).is_none() {
            return Err(away(of));
        }
        let mut report = VerifyReport {
            compared: 0,
            bytes: 0,
            differences: Vec::new(),
            found: 0,
            repaired: repair,
            not_covered: Vec::new(),
            took: Duration::ZERO,
        };
        for config in wanted {
            if let Some(why) = self.not_to_be_compared(config, of) {
                report.not_covered.push(not_covered(config, why));
                continue;
            }
            let rate = rate.or(config.verify_rate);
            self.whole_tree(of, config, rate, repair, &mut report)
                .await?;
        }
        report.repaired &= report.found > 0;
        report.took = begun.elapsed();
        Ok(report)
    }

    /// The trees of a receiver, or one of them.
    fn wanted<'t>(
        &self,
        trees: &'t [TreeConfig],
        of: &Receiver,
        tree: Option<&str>,
    ) -> Result<Vec<&'t TreeConfig>, CommandError> {
        if let Receiver::Replica(name) = of
            && !self.shared.receivers.has(name)
        {
            return Err(CommandError::NoSuchReplica(name.clone()));
        }
        let Some(name) = tree else {
            let gets = |config: &&TreeConfig| self.shared.receives(of, config.id());
            return Ok(trees.iter().filter(gets).collect());
        };
        let config = trees.iter().find(|config| config.name == name);
        let config = config.ok_or_else(|| CommandError::NoSuchTree(name.to_owned()))?;
        match self.shared.receives(of, config.id()) {
            true => Ok(vec![config]),
            false => Err(CommandError::NotReceived {
                tree: name.to_owned(),
                by: of.clone(),
            }),
        }
    }

    fn not_to_be_compared(&self, config: &TreeConfig, of: &Receiver) -> Option<&'static str> {
        let tree = config.id();
        if self.shared.roots.get(tree).is_none() {
            return Some("the tree is stopped");
        }
        match of {
            _ if config.freeze.is_some() => {
                Some("it is sent in sets, and what lies there now is of no set")
            }
            Receiver::Replica(name) if !self.shared.receivers.takes(name, tree) => {
                Some("the replica does not take it now: see its status")
            }
            _ => None,
        }
    }

    /// Compares a tree part by part; each is confirmed, and repaired if that is wanted, before the next one is read.
    async fn whole_tree(
        &self,
        of: &Receiver,
        config: &TreeConfig,
        rate: Option<NonZeroU64>,
        repair: bool,
        report: &mut VerifyReport,
    ) -> Result<(), CommandError> {
        let tree = config.id();
        let mut patience = SETTLE;
        if let Some(why) = self.settled(of, tree, SETTLE).await? {
            report.not_covered.push(not_covered(config, &why));
            patience = UNSETTLED;
        }
        if self.shared.verifier(of).is_none() {
            return Err(away(of));
        }
        let mut round = VerifyRound {
            begun_unix_ms: unix_ms(),
            ended_unix_ms: 0,
            entries: 0,
            bytes: 0,
            differ: 0,
            named: Vec::new(),
        };
        let mut mended = repair;
        let mut after = None;
        loop {
            let part = self.read_part(tree, after, rate).await?;
            let step = self.compare_part(of, part).await?;
            let again = Again {
                rate,
                repair,
                patience,
            };
            let found = self.confirmed(of, tree, step.found, again).await?;
            // What cannot be mended may be so in every part: it is waited for once.
            mended = mended && self.until_repaired(of, tree, &found).await?;
            round.entries += step.entries;
            round.bytes += step.bytes;
            if !mended {
                round.differ += found.len() as u64;
                let room = NAMED.saturating_sub(round.named.len());
                let named = found.iter().take(room).map(|(path, _)| path.to_string());
                round.named.extend(named);
            }
            list(report, config, found);
            match step.after {
                Some(path) => after = Some(path),
                None => break,
            }
        }
        report.compared += round.entries;
        report.bytes += round.bytes;
        round.ended_unix_ms = unix_ms();
        self.verified_whole(of, tree, round).await?;
        if repair && !mended {
            report.repaired = false;
            let why = format!("the repair was not done within {SETTLE:?}: see the status");
            report.not_covered.push(not_covered(config, &why));
        }
        Ok(())
    }
}

fn not_covered(config: &TreeConfig, why: &str) -> NotCovered {
    NotCovered {
        tree: Some(config.name.clone()),
        why: why.to_owned(),
    }
}

fn list(report: &mut VerifyReport, config: &TreeConfig, found: Found) {
    report.found += found.len() as u64;
    let room = VerifyReport::MAX_LISTED.saturating_sub(report.differences.len());
    let listed = found.into_iter().take(room);
    report
        .differences
        .extend(listed.map(|(path, what)| VerifyDifference {
            tree: config.name.clone(),
            path: path.to_string(),
            what,
        }));
}
