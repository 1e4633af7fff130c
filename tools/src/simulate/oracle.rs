//! What must hold after every step, and at the end.

use super::reach::Class;
use super::world::{MS, SECOND, World, name};
use tandem_failover::machine::Machine;
use tandem_failover::role::Phase;

impl World {
    /// A node acts at the kernel: it must be master.
    pub(super) fn must_act(&mut self, node: usize, what: &str) {
        if !self.nodes[node].acted {
            let phase = self.nodes[node].phase;
            self.blame(format!("{} {what} in phase {phase:?}", name(node)));
        }
    }

    /// A machine went from one phase to another.
    pub(super) fn phase_changed(&mut self, node: usize, before: Phase, after: Phase) {
        if before == after {
            return;
        }
        match (before, after) {
            (_, Phase::Standby | Phase::Joining) => {
                self.nodes[node].forced = false;
                if after == Phase::Standby && self.fallen[node] && self.nodes[1 - node].acts() {
                    self.fallen[node] = false;
                    self.reached(Class::CrashAndReturn);
                }
            }
            (Phase::Standby, Phase::Preparing) => {
                self.reached(Class::Takeover);
                self.may_be_promoted(node);
            }
            (_, Phase::Claiming) => self.may_claim(node),
            (_, Phase::Master) => self.nodes[node].forced = false,
            _ => {}
        }
        if Machine::acts(after) && !Machine::acts(before) {
            if !self.nodes[node].data.born() {
                self.blame(format!("{} is unborn and becomes master", name(node)));
            }
            if self.nodes[1 - node].acts() {
                self.reached(Class::TwoMasters);
            }
        }
    }

    /// R3, by what the model knows: no stale, half-copied or unproven standby takes over by itself.
    fn may_be_promoted(&mut self, node: usize) {
        let n = &self.nodes[node];
        let stale = self.policy[node].max_stale.as_nanos() as u64;
        let fresh = n.fresh_at.is_some_and(|at| at + stale >= self.now);
        let (born, whole) = (n.data.born(), n.data.consistent());
        if !(born && whole && fresh) {
            self.blame(format!(
                "{} takes over by itself: born {born}, complete {whole}, fresh {fresh}",
                name(node)
            ));
        }
    }

    /// R4, R5: an agreed or lonely master has complete data.
    fn may_claim(&mut self, node: usize) {
        let n = &self.nodes[node];
        let (born, whole) = (n.data.born(), n.data.consistent());
        let forced = n.forced;
        let fit = forced || (born && whole);
        if !fit {
            self.blame(format!(
                "{} claims the role: born {born}, complete {whole}",
                name(node)
            ));
        }
        if forced {
            self.reached(Class::ForcedAgainstAdvice);
        }
    }

    /// After every event.
    pub(super) fn check(&mut self) {
        for node in 0..2 {
            self.check_term(node);
            self.check_addresses(node);
        }
        self.check_masters();
    }

    fn check_term(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let (Some(machine), true) = (&n.machine, n.phase.is_some_and(Machine::acts)) else {
            return;
        };
        let used = machine.term();
        let durable = n.slots.term_used.max(n.slots.term_armed);
        let highest = n.highest_used;
        n.highest_used = highest.max(used);
        if used < highest {
            self.blame(format!(
                "{} acts with term {used} after {highest}",
                name(node)
            ));
        } else if durable < used {
            let who = name(node);
            self.blame(format!("{who} acts with term {used}, durable is {durable}"));
        }
    }

    fn check_addresses(&mut self, node: usize) {
        let n = &self.nodes[node];
        let held = n.addresses.is_some() && n.powered;
        match n.phase {
            Some(Phase::Standby) if held => {
                self.blame(format!("{} is standby with addresses", name(node)));
            }
            Some(Phase::Standby) if n.services => {
                self.blame(format!("{} is standby with services", name(node)));
            }
            Some(Phase::Ceded) if n.answers() => {
                self.blame(format!("{} ceded and answers", name(node)));
            }
            // The kernel's lifetime bounds what an agent left behind; the pulse looks ten times a second.
            _ if n.addresses.is_some_and(|at| at + SECOND < self.now) && n.awake() => {
                self.blame(format!(
                    "{} holds addresses past their lifetime",
                    name(node)
                ));
            }
            _ => {}
        }
    }

    /// Nodes in contact: two do not serve for longer than one heartbeat and the dead time, and what it takes to
    /// prove two new lives and to take the addresses off.
    fn check_masters(&mut self) {
        let both = self.nodes.iter().all(super::node::Node::answers)
            && self.nodes.iter().all(super::node::Node::acts);
        let bound = |node: usize| {
            let policy = &self.policy[node];
            (policy.heartbeat * 3 + policy.dead_after).as_nanos() as u64 + 100 * MS
        };
        let late = self
            .contact
            .is_some_and(|since| self.now.saturating_sub(since) > bound(0).max(bound(1)));
        if both && late {
            // Both may just have begun; the clock counts from the later of contact and second master.
            let since = self.two_since.get_or_insert(self.now);
            let since = *since;
            if self.now - since > bound(0) {
                self.blame("two masters that can talk to each other");
            }
        } else {
            self.two_since = None;
        }
    }

    /// Every confirmed write is at the master, in a rescue, or its loss has a name.
    pub fn check_writes(&mut self, master: usize) {
        let kept = |id: &u64| {
            self.nodes[master].data.holds(*id)
                || self.nodes.iter().any(|n| n.data.rescue.contains(id))
                || self.excused.contains_key(id)
        };
        let lost: Vec<u64> = self
            .acknowledged
            .iter()
            .copied()
            .filter(|id| !kept(id))
            .collect();
        if !lost.is_empty() {
            self.blame(format!("confirmed writes are lost: {lost:?}"));
        }
    }

    /// One master, one follower that is its equal.
    pub fn is_pair(&self) -> bool {
        let Some(master) = self.master() else {
            return false;
        };
        let (m, s) = (&self.nodes[master], &self.nodes[1 - master]);
        let roles = m.phase == Some(Phase::Master) && s.phase == Some(Phase::Standby);
        let newest = m.data.last_seq;
        let level = s.data.consistent() && s.data.trees.iter().all(|t| t.head.seq == newest);
        let level = level && s.data.same_files(&m.data);
        roles && m.answers() && m.data.consistent() && level && s.data.digest() == m.data.digest()
    }

    /// At the end: writes, and equal trees.
    pub fn check_end(&mut self) {
        let Some(master) = self.master() else {
            return self.blame("nobody is master at the end");
        };
        self.check_writes(master);
        if !self.nodes[0].data.same_files(&self.nodes[1].data) {
            self.blame("the trees differ at the end");
        }
        if self.nodes[1 - master].addresses.is_some() {
            self.blame("the standby holds addresses at the end");
        }
    }
}
