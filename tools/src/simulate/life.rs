//! What happens to hosts: power, agents, disks, images.

use super::reach::Class;
use super::world::{World, name};
use tandem_failover::heartbeat::{Incarnation, MachineId, PairId};
use tandem_failover::input::Input;
use tandem_failover::machine::{Boot, Machine};
use tandem_failover::slots::Durable;
use tandem_failover::time::Instant;
use tandem_sync::lineage::CopyState;

impl World {
    /// Power comes back; the agent starts with the host.
    pub fn boot(&mut self, node: usize) {
        if self.nodes[node].powered {
            return;
        }
        self.nodes[node].powered = true;
        self.tell(format!("{} boots", name(node)));
        self.start_agent(node);
    }

    /// The agent starts.
    pub fn start_agent(&mut self, node: usize) {
        if !self.nodes[node].powered || self.nodes[node].machine.is_some() {
            return;
        }
        let nonce = self.dice.wide().to_le_bytes();
        // A new connection: everything is said anew.
        self.nodes[1 - node].peer.sent = None;
        let n = &mut self.nodes[node];
        n.agent_begins();
        let boot = Boot {
            incarnation: Incarnation {
                counter: n.slots.incarnation,
                nonce,
            },
            machine: MachineId {
                machine: node as u64 + 1,
                root: n.root,
                boot: n.life,
            },
        };
        let (policy, now) = (self.policy[node].clone(), Instant::from_nanos(self.now));
        n.machine = Some(Machine::new(policy, n.slots.clone(), boot, now));
        self.tell(format!("{}: the agent starts", name(node)));
        self.feed(node, Input::Tick);
        self.tell_facts(node);
    }

    /// The agent dies; addresses, services and the kernel stay.
    pub fn kill_agent(&mut self, node: usize) {
        if self.nodes[node].machine.is_none() {
            return;
        }
        self.tell(format!("{}: the agent dies", name(node)));
        self.see_fall(node, false);
        // What the disk had begun to write is there, or not.
        let pending = self.drop_events_of(node);
        let upto = self.dice.roll(pending.len() as u64 + 1) as usize;
        let n = &mut self.nodes[node];
        if let (Some(last), false) = (pending.into_iter().take(upto).next_back(), n.slots_broken) {
            n.slots = last;
        }
        n.agent_gone();
    }

    /// The host loses its power: what was not synced is lost.
    pub fn power_cut(&mut self, node: usize) {
        if !self.nodes[node].powered {
            return;
        }
        self.tell(format!("{} loses its power", name(node)));
        self.see_fall(node, true);
        self.kill_agent(node);
        let n = &mut self.nodes[node];
        n.powered = false;
        n.addresses = None;
        n.fenced = false;
        n.services = false;
        n.service_broken = false;
        n.slots_busy = 0;
        for id in n.data.power_cut() {
            self.excused.insert(id, "not synced before a power cut");
        }
    }

    /// What class of history a crash belongs to.
    fn see_fall(&mut self, node: usize, power: bool) {
        if !self.nodes[node].acts() {
            return;
        }
        self.fallen[node] = true;
        let peer = &self.nodes[1 - node];
        let state = |s| peer.data.trees.iter().any(|t| t.head.state == s);
        let (copying, catching_up) = (state(CopyState::Copying), state(CopyState::CatchingUp));
        let rescuing = peer.data.to_rescue();
        let receives = peer.role == super::node::DataRole::Replica;
        if power && receives {
            if copying {
                self.reached(Class::FailoverInFirstCopy);
            }
            if catching_up && self.reach.has(Class::CrashAndReturn) {
                self.reached(Class::FailoverInReversal);
            }
            if rescuing {
                self.reached(Class::FailoverInRescue);
            }
        }
    }

    /// Everything on a host that is off is gone with its disk.
    pub fn replace_disk(&mut self, node: usize) {
        self.tell(format!("{} gets a new disk", name(node)));
        self.excuse_all(node, "on a disk that was replaced");
        let n = &mut self.nodes[node];
        n.slots = Durable::new(PairId([1; 16]));
        n.data = super::data::Data::new(n.data.node.clone());
        n.root += 10;
        n.image = None;
        n.highest_used = 0;
        self.fallen[node] = false;
    }

    /// The state directory (slots and index) is lost; the trees are not.
    pub fn lose_state(&mut self, node: usize) {
        self.tell(format!("{} loses its state directory", name(node)));
        let n = &mut self.nodes[node];
        n.slots = Durable::new(PairId([1; 16]));
        n.data.forget();
        n.data.last_seq = 0;
        n.highest_used = 0;
    }

    /// An older image of the whole machine is started instead of it.
    pub fn restore_image(&mut self, node: usize) -> bool {
        self.excuse_all(node, "on a machine whose image was put back");
        let done = self.nodes[node].restore_image();
        if done {
            self.tell(format!("{} is put back to an earlier image", name(node)));
        }
        done
    }

    /// The trees are put back from a backup, on a fresh file system.
    pub fn restore_trees(&mut self, node: usize) -> bool {
        self.excuse_all(node, "in trees that were restored from a backup");
        let done = self.nodes[node].restore_trees();
        if done {
            self.tell(format!("{}'s trees are restored from a backup", name(node)));
        }
        done
    }

    /// What only this host had may be gone by what people do to it.
    fn excuse_all(&mut self, node: usize, why: &'static str) {
        for id in self.nodes[node].writes() {
            if !self.nodes[1 - node].data.holds(id) {
                self.excused.insert(id, why);
            }
        }
    }
}
