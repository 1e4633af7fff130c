//! A pair of nodes in the lab, with Tandem's own words for what is waited for.

use super::{LONG, ONE, SOON, TWO, assert_equal_trees, eventually, holds_for};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tandem::api::client::Client;
use tandem::api::types::{RescueItem, RescueList, Role, StatusReport, TreeState};
use tandem_lab::pair::{FLOATING, Node, Pair, PairSpec, WEB_PORT};
use tandem_lab::{HttpClient, Probe};

/// A starting node listens this long for its peer (5 s), and then asks for conflicts of addresses.
const BOOT_WAIT: Duration = Duration::from_millis(5500);

/// The pair, and on a panic all that both nodes know.
pub struct Scene {
    pub pair: Pair,
}

/// What a scene differs in from the usual one.
pub struct SceneOptions {
    spec: PairSpec,
}

impl SceneOptions {
    pub fn new() -> Self {
        Self {
            spec: PairSpec::new(env!("CARGO_BIN_EXE_tandem")),
        }
    }

    /// Adds lines to `[pair]`.
    pub fn policy(mut self, lines: &str) -> Self {
        self.spec.policy += lines;
        self.spec.policy.push('\n');
        self
    }

    /// Adds floating addresses.
    pub fn floating(mut self, sections: &str) -> Self {
        self.spec.floating += sections;
        self
    }

    /// Adds replicas of the tree `www`.
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.spec.replicas = replicas;
        self
    }

    /// Replaces trees, monitors, services, hooks and mail.
    pub fn body(mut self, body: &str) -> Self {
        self.spec.body = body.to_string();
        self
    }

    /// Hosts on, configured, no agent started.
    pub fn make(self) -> Scene {
        Scene {
            pair: Pair::new(self.spec).expect("the pair is set up"),
        }
    }
}

impl Scene {
    /// The usual scene in its usual state: some files in the tree of the first node, which is master; the
    /// second has everything and could take over.
    pub fn replicated() -> Self {
        let scene = SceneOptions::new().make();
        scene.fill();
        scene.start();
        scene
    }

    /// A node, or behind them the replicas.
    pub fn node(&self, n: usize) -> &Node {
        let mut all = self.pair.nodes.iter().chain(&self.pair.replicas);
        all.nth(n).expect("there are as many machines")
    }

    /// A file in the served tree of a node.
    pub fn file(&self, n: usize, name: &str) -> PathBuf {
        self.node(n).www().join(name)
    }

    pub fn write(&self, n: usize, name: &str, content: impl AsRef<[u8]>) {
        let path = self.file(n, name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("the directory is made");
        }
        fs::write(path, content).expect("the file is written");
    }

    pub fn read(&self, n: usize, name: &str) -> Result<String, String> {
        let bytes = fs::read(self.file(n, name)).map_err(|e| format!("{name}: {e}"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A small tree with some of everything.
    pub fn fill(&self) {
        self.write(ONE, "index.html", "first page");
        for n in 0..40 {
            self.write(
                ONE,
                &format!("d{}/f{n}", n % 5),
                format!("content {n}").repeat(n * 20),
            );
        }
        let big: Vec<u8> = (0..3_000_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        self.write(ONE, "big", big);
        std::os::unix::fs::symlink("index.html", self.file(ONE, "home")).expect("linked");
        fs::hard_link(self.file(ONE, "big"), self.file(ONE, "same")).expect("linked");
    }

    /// Starts both agents, gives the first node's data the first word, and waits for the usual state.
    pub fn start(&self) {
        self.start_agent(ONE);
        self.start_agent(TWO);
        self.init(ONE);
        self.wait_ready(ONE, TWO);
    }

    pub fn init(&self, n: usize) {
        let output = self.tandem(n, &["init", "--source"]);
        assert!(output.success(), "init --source: {output:?}");
    }

    /// Starts an agent and waits until it answers.
    pub fn start_agent(&self, n: usize) {
        self.node(n).start_agent().expect("the agent is started");
        self.wait_agent(n);
    }

    pub fn wait_agent(&self, n: usize) {
        eventually(SOON, "the agent answers", || {
            let agent = self.node(n).agent();
            if let Some(agent) = agent.filter(|agent| !agent.is_running()) {
                panic!(
                    "the agent of {} {}",
                    self.node(n).name(),
                    agent.describe_end()
                );
            }
            self.status(n).map(drop)
        });
    }

    /// Power on, web server and agent started, the agent answers.
    pub fn power_on(&self, n: usize) {
        self.node(n).power_on().expect("it boots");
        self.wait_agent(n);
    }

    pub fn power_cut(&self, n: usize) {
        self.node(n).power_cut().expect("the power is cut");
    }

    pub fn tandem(&self, n: usize, args: &[&str]) -> tandem_lab::pair::Output {
        self.node(n).tandem(args).expect("tandem runs and ends")
    }

    /// `tandem status --json`.
    pub fn status(&self, n: usize) -> Result<StatusReport, String> {
        let output = self
            .node(n)
            .tandem(&["status", "--json"])
            .map_err(|e| e.to_string())?;
        if !output.success() {
            return Err(format!("status: {}", output.stderr.trim()));
        }
        serde_json::from_str(&output.stdout).map_err(|e| format!("status: {e}: {}", output.stdout))
    }

    /// The agent's own interface, without the command line between. Its socket is seen through the agent's root.
    pub fn api(&self, n: usize) -> Client {
        let pid = self.node(n).agent().expect("it runs").pid();
        Client::new(format!("/proc/{pid}/root/run/tandem/tandem.sock"))
    }

    /// Waits until the status of a node is as it should be.
    #[track_caller]
    pub fn wait_status(
        &self,
        n: usize,
        what: &str,
        good: impl Fn(&StatusReport) -> bool,
    ) -> StatusReport {
        eventually(SOON, &format!("{}: {what}", self.node(n).name()), || {
            let status = self.status(n)?;
            if good(&status) {
                Ok(status)
            } else {
                Err(brief(&status))
            }
        })
    }

    #[track_caller]
    pub fn wait_role(&self, n: usize, role: Role) -> StatusReport {
        self.wait_status(n, &format!("is {}", role.as_str()), |s| s.role == role)
    }

    /// The usual state: one is master with the addresses, the other is a standby that could take over.
    #[track_caller]
    pub fn wait_ready(&self, master: usize, standby: usize) {
        eventually(LONG, "a master, and a standby that could take over", || {
            let (m, s) = (self.status(master)?, self.status(standby)?);
            is_ready(&m, &s)
                .then_some(())
                .ok_or_else(|| format!("{}\n  and {}", brief(&m), brief(&s)))
        });
    }

    /// As [`Scene::wait_ready`], whoever is master; says who it is.
    #[track_caller]
    pub fn settled(&self) -> usize {
        eventually(LONG, "one master and a ready standby", || {
            let both = [self.status(ONE)?, self.status(TWO)?];
            let found = [ONE, TWO]
                .into_iter()
                .find(|n| is_ready(&both[*n], &both[1 - n]));
            found.ok_or_else(|| format!("{}\n  and {}", brief(&both[ONE]), brief(&both[TWO])))
        })
    }

    /// Waits until all that was written is durable on the other side, by `tandem flush`.
    #[track_caller]
    pub fn flush(&self, master: usize) {
        let output = self.tandem(master, &["flush", "--timeout", "20s"]);
        assert!(output.success(), "flush: {output:?}");
    }

    /// Everything is durable on the other side, and the trees are equal.
    #[track_caller]
    pub fn flush_and_compare(&self, master: usize) {
        self.flush(master);
        assert_equal_trees(self);
    }

    pub fn rescue_list(&self, n: usize) -> RescueList {
        let output = self.tandem(n, &["rescue", "list", "--json"]);
        assert!(output.success(), "rescue list: {output:?}");
        serde_json::from_str(&output.stdout).expect("rescue list is JSON")
    }

    /// All that is in the rescue of a node.
    pub fn rescued(&self, n: usize) -> Vec<RescueItem> {
        let mut items = Vec::new();
        for set in self.rescue_list(n).sets {
            let output = self.tandem(n, &["rescue", "show", &set.id, "--json"]);
            assert!(output.success(), "rescue show: {output:?}");
            let lines = output.stdout.lines();
            items.extend(lines.map(|l| serde_json::from_str::<RescueItem>(l).expect("an item")));
        }
        items
    }

    /// Asks through the floating IP all the time.
    pub fn probe(&self) -> Probe {
        Probe::start(
            &self.pair.client,
            SocketAddr::new(FLOATING, WEB_PORT),
            "/index.html",
        )
        .expect("the client is on")
    }

    /// Waits until the probe gets answers from a node.
    #[track_caller]
    pub fn wait_served_by(&self, probe: &Probe, n: usize) {
        let name = self.node(n).name();
        eventually(
            SOON,
            &format!("{name} serves the floating IP"),
            || match probe.log().last_node() {
                Some(node) if node == name => Ok(()),
                other => Err(format!("last answer from {other:?}")),
            },
        );
    }

    pub fn http(&self) -> HttpClient {
        self.pair.http()
    }

    /// The node could become master by itself, and does not. It is watched for longer than a starting node listens
    /// for its peer before it looks whether it may start alone.
    #[track_caller]
    pub fn never_master(&self, n: usize) {
        let what = format!("{} does not become master", self.node(n).name());
        holds_for(BOOT_WAIT, &what, || match self.status(n)? {
            s if s.role == Role::Master => Err(format!("{} is master", s.node)),
            s if s.addresses.iter().any(|a| a.held) => Err(format!("{} holds an address", s.node)),
            _ => Ok(()),
        });
    }

    /// The paths in the rescue of a node.
    pub fn rescued_paths(&self, n: usize) -> Vec<String> {
        self.rescued(n).into_iter().map(|item| item.path).collect()
    }

    fn dump(&self) {
        for n in 0..2 + self.pair.replicas.len() {
            let node = self.node(n);
            let state = if node.host.is_on() { "on" } else { "off" };
            eprintln!("\n======== {} ({state}) status", node.name());
            match node.tandem_for(&["status", "--json"], Duration::from_secs(5)) {
                Ok(output) => eprintln!("{}{}", output.stdout, output.stderr),
                Err(e) => eprintln!("{e}"),
            }
            eprintln!("-------- {} log", node.name());
            eprintln!("{}", node.log_tail(250));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dump();
        }
    }
}

/// A status in one line, for messages.
pub fn brief(status: &StatusReport) -> String {
    let trees: Vec<String> = status
        .trees
        .iter()
        .map(|t| {
            format!(
                "{} {:?} seq {} acked {} {:?}",
                t.name, t.state, t.seq, t.acked, t.last_error
            )
        })
        .collect();
    format!(
        "{} {} ({}) term {} relation {} takeover {:?} held {:?} trees {trees:?} alarms {:?}",
        status.node,
        status.role.as_str(),
        status.phase,
        status.term,
        status.relation,
        status.takeover,
        status.addresses.iter().map(|a| a.held).collect::<Vec<_>>(),
        status.alarms,
    )
}

/// Whether a path exists, without following a link.
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn is_ready(m: &StatusReport, s: &StatusReport) -> bool {
    m.role == Role::Master
        && m.addresses.iter().all(|a| a.held)
        && s.role == Role::Standby
        && s.addresses.iter().all(|a| !a.held)
        && s.takeover.possible
        && m.session.up
        && m.trees
            .iter()
            .chain(&s.trees)
            .all(|t| t.state == TreeState::Consistent)
}
