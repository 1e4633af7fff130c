//! The end of a history: everything is repaired, a person does what the pair asks for, and one pair must stand.

use super::reach::Class;
use super::world::{MS, SECOND, World, name};
use tandem_failover::input::{Command, Input, Relation};
use tandem_failover::time::Instant;
use tandem_failover::view::{PeerIdentity, View};

/// Longest time in which a pair stands by itself once nothing is broken.
const BY_ITSELF: u64 = 30 * SECOND;
/// What a person may have to do one after the other: accept the peer, prove a root, give a history up, decide.
const VISITS: usize = 6;

impl World {
    /// Repairs everything that is not data.
    pub(super) fn repair(&mut self) {
        self.tell("everything is repaired, nobody writes any more");
        self.trap = None;
        self.open = [[true; 2]; 2];
        self.loss = 0;
        self.wild = false;
        self.quiet = true;
        for node in 0..2 {
            let matters = self.policy[0]
                .config_matters
                .max(self.policy[1].config_matters);
            self.set_config(node, matters);
            let n = &mut self.nodes[node];
            n.public = true;
            n.service_broken = false;
            n.slots_broken = false;
            n.paused = false;
            n.hold = false;
            self.feed(node, Input::Hold { active: false });
            self.boot(node);
            self.start_agent(node);
            self.command(node, Command::MaintenanceOff);
        }
    }

    /// Runs to the end and looks at it.
    pub fn peace(&mut self) {
        self.repair();
        for _ in 0..VISITS {
            let stands = self.run_until(BY_ITSELF, World::is_pair);
            if self.violation.is_some() {
                return;
            }
            if stands {
                self.run(2 * SECOND);
                return self.check_end();
            }
            if !self.visit() {
                return self.blame("no pair, and nobody says why");
            }
        }
        self.blame("no pair in spite of a person");
    }

    fn views(&self) -> [Option<View>; 2] {
        let now = Instant::from_nanos(self.now);
        [0, 1].map(|n: usize| self.nodes[n].machine.as_ref().map(|m| m.view(now)))
    }

    fn relation(&self, node: usize) -> Relation {
        let told = self.nodes[node].told.as_ref();
        told.map_or(Relation::Unknown, |facts| facts.relation)
    }

    /// A person looks at both nodes and does the first thing that one of them asks for.
    fn visit(&mut self) -> bool {
        let stopped = (0..2).find(|n| self.nodes[*n].machine.is_none());
        if let Some(node) = stopped {
            // A stop that was asked for earlier was done meanwhile.
            self.boot(node);
            self.start_agent(node);
            return true;
        }
        self.reached(Class::WaitsForPerson);
        let views = self.views();
        let strange = |view: &View| {
            let peer = view.peer.as_ref();
            peer.is_some_and(|peer| peer.identity != PeerIdentity::Same)
        };
        let asks: Vec<usize> = (0..2)
            .filter(|n| views[*n].as_ref().is_some_and(strange))
            .collect();
        for node in &asks {
            self.command(*node, Command::AcceptPeer);
        }
        if !asks.is_empty() {
            return true;
        }
        let unproven = |n: usize| self.nodes[n].data.trees.iter().any(|t| !t.proven);
        if let Some(node) = (0..2).find(|n| unproven(*n)) {
            // What lies in a restored tree is older. The other node's data are better, if it has them whole.
            if self.nodes[1 - node].data.consistent() && !self.nodes[node].acts() {
                self.nodes[node]
                    .data
                    .trees
                    .iter_mut()
                    .for_each(|t| t.proven = true);
                self.adopt(node);
            } else {
                self.accept_trees(node);
            }
            return true;
        }
        // Whose data are kept: the master's, else those of the node with more of them.
        let weight = |n: usize| {
            let data = &self.nodes[n].data;
            let files: usize = data.trees.iter().map(|t| t.files.len()).sum();
            (self.nodes[n].acts(), data.consistent(), data.born(), files)
        };
        let keeper = usize::from(weight(1) > weight(0));
        match self.relation(keeper) {
            Relation::Unrelated => self.adopt(1 - keeper),
            Relation::BothUnborn => self.init(keeper),
            _ if self.master().is_none()
                && views.iter().flatten().any(|v| !v.waiting.is_empty()) =>
            {
                self.command(keeper, Command::ForceTakeover);
            }
            _ => return false,
        }
        true
    }

    /// `tandem tree accept`: what is missing in the trees counts as deleted, on both nodes if this one sends.
    pub(super) fn accept_trees(&mut self, node: usize) {
        self.tell(format!("operator at {}: tree accept", name(node)));
        for id in self.nodes[node].data.missing() {
            self.excused.insert(id, "deleted by `tree accept`");
        }
        for tree in &mut self.nodes[node].data.trees {
            tree.proven = true;
        }
    }

    /// `tandem adopt`: this node gives its own history up.
    fn adopt(&mut self, node: usize) {
        self.tell(format!("operator at {}: adopt", name(node)));
        self.reached(Class::Adopted);
        self.nodes[node].data.forget();
        self.command(node, Command::AcceptPeer);
        self.run(100 * MS);
    }

    /// `tandem init --source`.
    pub(super) fn init(&mut self, node: usize) {
        let epochs = [self.dice.wide(), self.dice.wide()];
        self.nodes[node].data.init(epochs);
        self.command(node, Command::Initialised);
    }

    /// The configuration of a node, with the role kept.
    pub(super) fn set_config(&mut self, node: usize, matters: u64) {
        if self.policy[node].config_matters == matters {
            return;
        }
        self.policy[node].config_matters = matters;
        self.policy[node].config_digest = matters;
        self.tell(format!("{} has configuration {matters}", name(node)));
        let policy = Box::new(self.policy[node].clone());
        self.feed(node, Input::Policy(policy));
    }
}
