//! The last step: both trees, compared with each other and with what they have to be.

use super::DemoError;
use super::steps::{AFTER, BACK, BACK_TEXT, PAGE, PAGE_TEXT, PRIVATE, Play, after};
use super::watch::tandem;
use crate::text::{count, size, time};
use std::fs;
use std::time::Instant;
use tandem_lab::{Probe, TreeSummary, compare_trees, summarize};

impl Play<'_> {
    pub(super) fn comparison(&mut self) -> Result<(), DemoError> {
        self.stage.step("Both trees, compared");
        tandem(self.node(0), &["flush", "--timeout", "20s"])?;
        let begin = Instant::now();
        let (left, right) = (self.node(0).www(), self.node(1).www());
        let failed = || DemoError::io("compare the trees");
        let differences = compare_trees(&left, &right, &[PRIVATE]).map_err(failed())?;
        if !differences.is_empty() {
            let list: Vec<String> = differences.iter().map(ToString::to_string).collect();
            return Err(DemoError::Broken(format!(
                "the trees differ:\n  {}",
                list.join("\n  ")
            )));
        }
        let sum = summarize(&left, &[PRIVATE]).map_err(failed())?;
        self.check_expected(&sum)?;
        self.stage.holds(&format!(
            "{} files, {} directories, {} links, {}: equal in every byte, mode, owner, nanosecond, \
             attribute and link ({})",
            count(sum.files),
            count(sum.dirs),
            count(sum.symlinks),
            size(sum.bytes),
            time(begin.elapsed())
        ));
        let log = self.probe.take().map(Probe::stop).unwrap_or_default();
        let longest = log.good.first().and_then(|(at, _)| log.longest_gap(*at));
        self.stage.event(&format!(
            "the client asked {} times and got {} answers; the longest time without one was {}",
            count(log.good.len() as u64 + log.failed),
            count(log.good.len() as u64),
            time(longest.unwrap_or_default())
        ));
        Ok(())
    }

    /// Equal trees could both have lost something: everything that was copied and written must be there, and nothing
    /// else.
    fn check_expected(&self, sum: &TreeSummary) -> Result<(), DemoError> {
        let copied = &self.copied;
        // The page, the writes of the new master, the one after the fail-back; the directories that they are in.
        let expected = (copied.files + 1 + AFTER + 1, copied.dirs + 2);
        if (sum.files, sum.dirs) != expected || sum.symlinks != copied.symlinks {
            return Err(DemoError::Broken(format!(
                "the trees are equal, but not what they have to be: {sum:?}, of {copied:?} and the demo's own"
            )));
        }
        let own = [
            (PAGE.to_string(), PAGE_TEXT.to_string()),
            (BACK.to_string(), BACK_TEXT.to_string()),
        ];
        for (path, text) in own.into_iter().chain((0..AFTER).map(after)) {
            let found = fs::read(self.node(0).www().join(&path));
            if !found.is_ok_and(|bytes| bytes == text.as_bytes()) {
                return Err(DemoError::Broken(format!("{path} is not what was written")));
            }
        }
        Ok(())
    }
}
