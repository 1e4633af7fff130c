//! The steps of the story. Each does something to the pair, measures what that meant, and checks it.

use super::copy::Copied;
use super::stage::{Stage, count, size, time};
use super::watch::{ready, status, tandem, wait, wait_agent, wait_ready};
use super::{DemoError, signals};
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tandem::api::types::{RescueItem, RescueList};
use tandem_lab::pair::{FLOATING, Node, Pair, WEB_PORT};
use tandem_lab::{Probe, compare_trees, summarize};

/// Bound of a step that copies nothing large.
const SOON: Duration = Duration::from_secs(30);
/// Bound of the first copy: `--full` may be large.
const FIRST_COPY: Duration = Duration::from_secs(3600);
/// The page that the client asks for all the time.
const PAGE: &str = "tandem-demo/index.html";
/// The write that cannot have been replicated.
const LATE: &str = "tandem-demo/written-too-late.txt";
const LATE_TEXT: &str = "written on mirror1 in the instant before its power was cut\n";
/// The private directory of a tree, which is in no tree.
const PRIVATE: &str = ".tandem";

/// The play: the pair, the audience, and the client that asks all the time.
pub(super) struct Play<'a> {
    pair: &'a Pair,
    stage: &'a mut Stage,
    probe: Option<Probe>,
}

impl<'a> Play<'a> {
    pub(super) fn new(pair: &'a Pair, stage: &'a mut Stage) -> Self {
        Self {
            pair,
            stage,
            probe: None,
        }
    }

    fn node(&self, n: usize) -> &'a Node {
        &self.pair.nodes[n]
    }

    /// Writes a file through the floating IP; says who took it.
    fn put(&self, path: &str, text: &str) -> Result<String, DemoError> {
        let answer = self
            .pair
            .http()
            .put(&format!("/{path}"), text)
            .map_err(DemoError::io(format!("PUT {path} at the floating IP")))?;
        if answer.status == 200 {
            Ok(answer.node)
        } else {
            Err(DemoError::Broken(format!(
                "PUT {path}: status {}",
                answer.status
            )))
        }
    }

    /// Waits until a file on a node has this content.
    fn wait_content(&self, n: usize, path: &str, text: &str) -> Result<Duration, DemoError> {
        let (file, begin) = (self.node(n).www().join(path), Instant::now());
        while !fs::read(&file).is_ok_and(|bytes| bytes == text.as_bytes()) {
            signals::check()?;
            if begin.elapsed() > SOON {
                let why = format!("{path} does not arrive on {}", self.node(n).name());
                return Err(DemoError::Broken(why));
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(begin.elapsed())
    }

    /// Waits until the client gets answers from a node; returns the longest gap since.
    fn wait_served_by(&self, n: usize, since: Instant) -> Result<Duration, DemoError> {
        let name = self.node(n).name();
        let probe = self
            .probe
            .as_ref()
            .ok_or_else(|| DemoError::Broken("the client does not ask yet".into()))?;
        wait(SOON, &format!("{name} answers at the floating IP"), || {
            let log = probe.log();
            let gap = log.longest_gap(since);
            Ok(log.first_from(name, since).and(gap))
        })
    }

    pub(super) fn first_copy(&mut self, copied: &Copied) -> Result<(), DemoError> {
        self.stage.step("The first copy");
        let page = self.node(0).www().join(PAGE);
        let dir = page.parent().unwrap_or(&page).to_path_buf();
        fs::create_dir_all(&dir)
            .and_then(|()| fs::write(&page, "<h1>one service</h1>\n"))
            .map_err(DemoError::io("write the client's page"))?;
        let begin = Instant::now();
        for node in &self.pair.nodes {
            node.start_agent()?;
        }
        for node in &self.pair.nodes {
            wait_agent(node, SOON)?;
        }
        tandem(self.node(0), &["init", "--source"])?;
        self.stage
            .event("both agents run; `tandem init --source` on mirror1 gave the direction");
        let bar = self.stage.bar(copied.bytes);
        wait(
            FIRST_COPY,
            "mirror2 has everything and could take over",
            || {
                let (m, s) = (status(self.node(0))?, status(self.node(1))?);
                if let Some(progress) = s.trees.first().and_then(|t| t.progress.as_ref()) {
                    bar.set_position(progress.bytes_done.min(copied.bytes));
                }
                Ok(ready(&m, &s).then_some(()))
            },
        )
        .inspect_err(|_| bar.abandon())?;
        bar.finish_and_clear();
        let took = begin.elapsed();
        let rate = copied.bytes as f64 / took.as_secs_f64();
        self.stage.holds(&format!(
            "{} files, {} are on mirror2 after {} ({}/s with scan, checksums and fsync); it could take over now",
            count(copied.files),
            size(copied.bytes),
            time(took),
            size(rate as u64)
        ));
        let target = SocketAddr::new(FLOATING, WEB_PORT);
        self.probe = Some(Probe::start(
            &self.pair.client,
            target,
            &format!("/{PAGE}"),
        )?);
        self.wait_served_by(0, begin)?;
        self.stage.holds(&format!(
            "mirror1 serves {FLOATING}; the client asks it all the time"
        ));
        Ok(())
    }

    pub(super) fn changes(&mut self) -> Result<(), DemoError> {
        self.stage
            .step("A change, and how long until it is on the standby");
        let mut lags = Vec::new();
        for n in 0..20 {
            let (path, text) = ("tandem-demo/news.txt", format!("news number {n}\n"));
            self.put(path, &text)?;
            lags.push(self.wait_content(1, path, &text)?);
        }
        lags.sort();
        self.stage.holds(&format!(
            "20 changes through the floating IP: on mirror2 after {} (median), {} (slowest)",
            time(lags[lags.len() / 2]),
            time(lags[lags.len() - 1])
        ));
        let begin = Instant::now();
        tandem(self.node(0), &["flush", "--timeout", "20s"])?;
        self.stage.holds(&format!(
            "`tandem flush`: everything written before is durable on mirror2 ({})",
            time(begin.elapsed())
        ));
        Ok(())
    }

    pub(super) fn power_cut(&mut self) -> Result<(), DemoError> {
        self.stage.step("The master loses its power");
        let one = self.node(0);
        one.host.cable("eth1").cut()?;
        fs::write(one.www().join(LATE), LATE_TEXT).map_err(DemoError::io("write on mirror1"))?;
        self.stage.event(
            "the private cable breaks, and mirror1 writes one more file: it cannot be replicated",
        );
        let cut = Instant::now();
        one.power_cut()?;
        self.stage
            .event("power cut on mirror1: every process is gone, nothing was said");
        let gap = self.wait_served_by(1, cut)?;
        self.stage.holds(&format!(
            "mirror2 took the floating IP over; the client saw a gap of {}",
            time(gap)
        ));
        let status = status(self.node(1))?;
        if let Some(decision) = status.last_decision {
            self.stage
                .event(&format!("why, as it recorded: {}", decision.why));
        }
        Ok(())
    }

    pub(super) fn new_master(&mut self) -> Result<(), DemoError> {
        self.stage.step("Life goes on on the new master");
        for n in 0..20 {
            let path = format!("tandem-demo/after/{n}.txt");
            let node = self.put(&path, &format!("written while mirror1 was dead: {n}\n"))?;
            if node != self.node(1).name() {
                return Err(DemoError::Broken(format!(
                    "{node} took a write, not mirror2"
                )));
            }
        }
        let removed = self.node(1).www().join("tandem-demo/news.txt");
        fs::remove_file(&removed).map_err(DemoError::io("delete a file on mirror2"))?;
        self.stage
            .holds("20 new files through the floating IP and one deleted, on mirror2");
        Ok(())
    }

    pub(super) fn the_return(&mut self) -> Result<(), DemoError> {
        self.stage.step("The old master returns");
        let one = self.node(0);
        one.host.cable("eth1").heal()?;
        let begin = Instant::now();
        one.power_on()?;
        self.stage
            .event("power and cable are back; mirror1 boots with its old data");
        wait_ready(self.pair, 1, 0, Duration::from_secs(120))?;
        self.stage.holds(&format!(
            "mirror1 was brought up to date and could take over, {} after the power came back",
            time(begin.elapsed())
        ));
        if one.www().join(LATE).exists() {
            return Err(DemoError::Broken(
                "the unreplicated write is still in the tree".into(),
            ));
        }
        let item = self.find_rescued()?;
        self.stage.holds(&format!(
            "its one unreplicated write is in the rescue: {} ({:?}, {} bytes), byte for byte",
            item.path, item.change, item.size
        ));
        let log = self.probe.as_ref().map(Probe::log).unwrap_or_default();
        if log.last_node() != Some(self.node(1).name()) {
            return Err(DemoError::Broken("the service moved by itself".into()));
        }
        self.stage
            .holds("the service did not move: mirror2 still answers");
        Ok(())
    }

    /// The late write, alone in the rescue of the first node, with its bytes.
    fn find_rescued(&self) -> Result<RescueItem, DemoError> {
        let broken = |why: String| DemoError::Broken(format!("rescue: {why}"));
        let list = tandem(self.node(0), &["rescue", "list", "--json"])?;
        let list: RescueList = serde_json::from_str(&list).map_err(|e| broken(e.to_string()))?;
        let mut items = Vec::new();
        for set in &list.sets {
            let lines = tandem(self.node(0), &["rescue", "show", &set.id, "--json"])?;
            for line in lines.lines() {
                let item: RescueItem =
                    serde_json::from_str(line).map_err(|e| broken(e.to_string()))?;
                items.push((set, item));
            }
        }
        let [(set, item)] = items.as_slice() else {
            return Err(broken(format!("one entry was expected: {items:?}")));
        };
        let dir = self.node(0).host.outside_path(&set.directory);
        let kept = walkdir::WalkDir::new(&dir)
            .into_iter()
            .flatten()
            .filter(|entry| entry.file_type().is_file())
            .any(|entry| fs::read(entry.path()).is_ok_and(|b| b == LATE_TEXT.as_bytes()));
        if item.path != LATE || !kept {
            return Err(broken(format!("{item:?} in {}", dir.display())));
        }
        Ok(item.clone())
    }

    pub(super) fn fail_back(&mut self) -> Result<(), DemoError> {
        self.stage.step("Fail-back");
        let begin = Instant::now();
        tandem(self.node(0), &["failback"])?;
        let took = begin.elapsed();
        let gap = self.wait_served_by(0, begin)?;
        self.stage.holds(&format!(
            "`tandem failback`: mirror1 is master again ({}); the client saw a gap of {}",
            time(took),
            time(gap)
        ));
        wait_ready(self.pair, 0, 1, SOON)?;
        let text = "written after the fail-back\n";
        let node = self.put("tandem-demo/back.txt", text)?;
        let lag = self.wait_content(1, "tandem-demo/back.txt", text)?;
        self.stage.holds(&format!(
            "a write through the floating IP is taken by {node} and on mirror2 after {}",
            time(lag)
        ));
        Ok(())
    }

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
        self.stage.event(&format!(
            "the client asked {} times and got {} answers",
            count(log.good.len() as u64 + log.failed),
            count(log.good.len() as u64)
        ));
        Ok(())
    }
}
