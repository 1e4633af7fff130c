//! The steps of the story. Each does something to the pair, measures what that meant, and checks it.

use super::DemoError;
use super::copy::Copied;
use super::stage::Stage;
use super::watch::{ready, status, tandem, wait, wait_agent, wait_ready};
use crate::signals;
use crate::text::{count, size, time};
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tandem::api::types::{RescueItem, RescueList};
use tandem_lab::pair::{FLOATING, Node, Pair, WEB_PORT};
use tandem_lab::{Probe, ProbeLog};

/// Bound of a step that copies nothing large.
const SOON: Duration = Duration::from_secs(30);
/// Bound of the first copy: `--full` may be large, and the disk slow.
const FIRST_COPY: Duration = Duration::from_secs(24 * 3600);
/// A first copy in which nothing at all goes on for so long has failed. Making gigabytes durable can be silent.
const STALLED: Duration = Duration::from_secs(180);
/// Where the demo's own files are in the tree.
const OWN: &str = "tandem-demo";
/// The page that the client asks for all the time.
pub(super) const PAGE: &str = "tandem-demo/index.html";
pub(super) const PAGE_TEXT: &str = "<h1>one service</h1>\n";
/// The write that cannot have been replicated.
const LATE: &str = "tandem-demo/written-too-late.txt";
const LATE_TEXT: &str = "written on mirror1 in the instant before its power was cut\n";
/// A file that is changed, and later deleted on the new master.
const NEWS: &str = "tandem-demo/news.txt";
/// The write after the fail-back.
pub(super) const BACK: &str = "tandem-demo/back.txt";
pub(super) const BACK_TEXT: &str = "written after the fail-back\n";
/// How the decision begins with which a node is master, addresses and all.
const SERVES: &str = "it serves: ";
/// How many files are written on the new master.
pub(super) const AFTER: u64 = 20;
/// The private directory of a tree, which is in no tree.
pub(super) const PRIVATE: &str = ".tandem";

/// The play: the pair, the audience, and the client that asks all the time.
pub(super) struct Play<'a> {
    pair: &'a Pair,
    pub(super) stage: &'a mut Stage,
    pub(super) copied: Copied,
    pub(super) probe: Option<Probe>,
}

impl<'a> Play<'a> {
    pub(super) fn new(pair: &'a Pair, stage: &'a mut Stage, copied: Copied) -> Self {
        Self {
            pair,
            stage,
            copied,
            probe: None,
        }
    }

    pub(super) fn node(&self, n: usize) -> &'a Node {
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
        wait(SOON, &format!("{name} answers at the floating IP"), || {
            let log = self.asked()?;
            let gap = log.longest_gap(since);
            Ok(log.first_from(name, since).and(gap))
        })
    }

    /// What the client saw until now.
    fn asked(&self) -> Result<ProbeLog, DemoError> {
        let probe = self.probe.as_ref().map(Probe::log);
        probe.ok_or_else(|| DemoError::Broken("the client does not ask yet".into()))
    }

    pub(super) fn first_copy(&mut self) -> Result<(), DemoError> {
        self.stage.step("The first copy");
        let own = self.node(0).www().join(OWN);
        fs::create_dir(&own)
            .and_then(|()| fs::write(self.node(0).www().join(PAGE), PAGE_TEXT))
            .map_err(DemoError::io(format!("make {OWN}, for the client's page")))?;
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
        self.wait_copied()?;
        let (took, copied) = (begin.elapsed(), self.copied);
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

    /// Waits until the second node has everything and could take over. An agent that ended or a copy that stands
    /// still is not waited for.
    fn wait_copied(&self) -> Result<(), DemoError> {
        let progress = self.stage.progress(Some(self.copied.bytes));
        let (mut last, mut moved) = (None, Instant::now());
        wait(
            FIRST_COPY,
            "mirror2 has everything and could take over",
            || {
                if let Some(node) = self.pair.nodes.iter().find(|node| !is_running(node)) {
                    return Ok(Some(Err(format!("the agent of {} ended", node.name()))));
                }
                let (m, s) = (status(self.node(0))?, status(self.node(1))?);
                if ready(&m, &s) {
                    return Ok(Some(Ok(())));
                }
                let now = s.trees.into_iter().next().and_then(|tree| tree.progress);
                if let Some(now) = &now {
                    progress.at(now.bytes_done.min(self.copied.bytes));
                }
                if now != last {
                    (last, moved) = (now, Instant::now());
                }
                let stalled = format!("the first copy stands still since {STALLED:?}");
                Ok((moved.elapsed() > STALLED).then_some(Err(stalled)))
            },
        )?
        .map_err(DemoError::Broken)
    }

    pub(super) fn changes(&mut self) -> Result<(), DemoError> {
        self.stage
            .step("A change, and how long until it is on the standby");
        let mut lags = Vec::new();
        for n in 0..20 {
            let text = format!("news number {n}\n");
            self.put(NEWS, &text)?;
            lags.push(self.wait_content(1, NEWS, &text)?);
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
        let why = wait(SOON, "mirror2 records why it took over", || {
            let status = status(self.node(1))?;
            let why = status.last_decision.map(|decision| decision.why);
            // The last of its decisions on the way says it all.
            Ok(why.and_then(|why| why.strip_prefix(SERVES).map(str::to_string)))
        })?;
        self.stage.event(&format!("why, as it recorded: {why}"));
        Ok(())
    }

    pub(super) fn new_master(&mut self) -> Result<(), DemoError> {
        self.stage.step("Life goes on on the new master");
        for n in 0..AFTER {
            let (path, text) = after(n);
            let node = self.put(&path, &text)?;
            if node != self.node(1).name() {
                return Err(DemoError::Broken(format!(
                    "{node} took a write, not mirror2"
                )));
            }
        }
        let removed = self.node(1).www().join(NEWS);
        fs::remove_file(&removed).map_err(DemoError::io("delete a file on mirror2"))?;
        self.stage.holds(&format!(
            "{AFTER} new files through the floating IP and one deleted, on mirror2"
        ));
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
            "its one unreplicated write is in the rescue: {} ({}, {} bytes), byte for byte",
            item.path,
            format!("{:?}", item.change).to_lowercase(),
            item.size
        ));
        let log = self.asked()?;
        if log.first_from(one.name(), begin).is_some()
            || log.last_node() != Some(self.node(1).name())
        {
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
        self.wait_served_by(0, begin)?;
        wait_ready(self.pair, 0, 1, SOON)?;
        // Only now: a gap after its first answer would count as well.
        let gap = self.asked()?.longest_gap(begin).unwrap_or_default();
        self.stage.holds(&format!(
            "`tandem failback`: mirror1 is master again ({}); the client saw a gap of {}",
            time(took),
            time(gap)
        ));
        let node = self.put(BACK, BACK_TEXT)?;
        if node != self.node(0).name() {
            return Err(DemoError::Broken(format!(
                "{node} took a write, not mirror1"
            )));
        }
        let lag = self.wait_content(1, BACK, BACK_TEXT)?;
        self.stage.holds(&format!(
            "a write through the floating IP is taken by {node} and on mirror2 after {}",
            time(lag)
        ));
        Ok(())
    }
}

/// A file that is written on the new master, and what is in it.
pub(super) fn after(n: u64) -> (String, String) {
    (
        format!("{OWN}/after/{n}.txt"),
        format!("written while mirror1 was dead: {n}\n"),
    )
}

fn is_running(node: &Node) -> bool {
    node.agent().is_some_and(|agent| agent.is_running())
}
