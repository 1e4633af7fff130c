//! What the machine wants done, done to the model.

use super::event::{Event, Mutation};
use super::node::DataRole;
use super::reach::Class;
use super::world::{MS, World, name};
use tandem_failover::effect::{DataCommand, Effect, ServiceCommand, Ticket};
use tandem_failover::input::{DataReport, Input};

/// What the device that cuts off the other host does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceDevice {
    /// The other host is off, and it says so within a second.
    Works,
    /// It says that it could not.
    Fails,
    /// It says nothing.
    Hangs,
}

impl World {
    /// Carries out one effect of a node's machine.
    pub(super) fn carry_out(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::SendHeartbeat(heartbeat) => self.send(node, &heartbeat),
            Effect::Persist {
                generation,
                durable,
            } => {
                // One write after the other, as the driver does it.
                let took = MS + self.dice.roll(8 * MS);
                let done = self.nodes[node].slots_busy.max(self.now) + took;
                self.nodes[node].slots_busy = done;
                let event = Event::Written {
                    node,
                    life: self.nodes[node].life,
                    generation,
                    durable,
                };
                self.later(done - self.now, event);
            }
            Effect::AddAddresses { ticket } => {
                self.use_addresses(node);
                let result = Ok(());
                self.result(node, MS, Input::AddressesDone { ticket, result });
            }
            Effect::RefreshAddresses => self.use_addresses(node),
            Effect::RemoveAddresses { ticket } => {
                self.nodes[node].addresses = None;
                let result = Ok(());
                self.result(node, MS, Input::AddressesDone { ticket, result });
            }
            Effect::Announce { .. } => {
                self.must_act(node, "announces the floating address");
                if self.nodes[node].public && self.nodes[node].answers() {
                    self.arp = Some(node);
                }
            }
            Effect::Fence { ticket } => self.fence(node, ticket, true),
            Effect::Unfence { ticket } => self.fence(node, ticket, false),
            Effect::FencePeer { ticket } => self.fence_peer(node, ticket),
            Effect::ProbePeer { ticket, within } => self.probe_peer(node, ticket, within),
            Effect::ProbeConflict { ticket, within } => self.probe_conflict(node, ticket, within),
            Effect::Data { ticket, command } => self.data_command(node, ticket, &command),
            Effect::Services { ticket, command } => {
                match command {
                    ServiceCommand::Start => self.nodes[node].services = true,
                    ServiceCommand::Stop => self.nodes[node].services = false,
                    ServiceCommand::Freeze | ServiceCommand::Thaw => {}
                }
                let (delay, result) = (20 * MS + self.dice.roll(100 * MS), Ok(()));
                self.result(node, delay, Input::ServicesDone { ticket, result });
            }
            Effect::Notify(_) => {}
            Effect::Record(decision) => {
                let d = *decision;
                let line = format!(
                    "{} term {}: {} -> {}: {}",
                    name(node),
                    d.term,
                    d.from,
                    d.to,
                    d.why
                );
                self.tell(line);
            }
            Effect::Answer { result, .. } => {
                self.tell(format!("{} answers: {result:?}", name(node)));
            }
            Effect::Exit => self.kill_agent(node),
        }
    }

    fn use_addresses(&mut self, node: usize) {
        self.must_act(node, "uses the floating address");
        if self.nodes[node].role != DataRole::Source {
            let what = "uses the floating address before it began an epoch";
            self.blame(format!("{} {what}", name(node)));
        }
        let lifetime = self.policy[node].address_lifetime.as_nanos() as u64;
        self.nodes[node].addresses = Some(self.now + lifetime);
    }

    fn fence(&mut self, node: usize, ticket: Ticket, fenced: bool) {
        self.nodes[node].fenced = fenced;
        let result = Ok(());
        self.result(node, MS, Input::FenceDone { ticket, result });
    }

    fn fence_peer(&mut self, node: usize, ticket: Ticket) {
        let delay = MS + self.dice.roll(900 * MS);
        if self.fence_device != FenceDevice::Works {
            self.reached(Class::FenceFailed);
        }
        let result = match self.fence_device {
            FenceDevice::Works => {
                self.power_cut(1 - node);
                Ok(())
            }
            FenceDevice::Fails => Err("the power switch does not answer".to_owned()),
            FenceDevice::Hangs => return,
        };
        self.result(node, delay, Input::PeerFenced { ticket, result });
    }

    fn data_command(&mut self, node: usize, ticket: Ticket, command: &DataCommand) {
        let mut delay = 2 * MS + self.dice.roll(20 * MS);
        let mut result = Ok(());
        match command {
            DataCommand::EndHold { .. } => {
                self.nodes[node].hold = false;
                self.result(node, 0, Input::Hold { active: false });
            }
            DataCommand::RevokeApply { .. } if self.mutation == Some(Mutation::TokenKept) => {}
            DataCommand::RevokeApply { .. } | DataCommand::Idle => self.stop_data(node),
            DataCommand::BeginSource { term } => {
                if self.mutation != Some(Mutation::TokenKept) {
                    self.stop_data(node);
                }
                let epochs = [self.dice.wide(), self.dice.wide()];
                let n = &mut self.nodes[node];
                result = n.data.begin(*term, epochs);
                if result.is_ok() {
                    n.role = DataRole::Source;
                }
            }
            DataCommand::BeginReplica => {
                let n = &mut self.nodes[node];
                if n.role != DataRole::Replica {
                    n.role = DataRole::Replica;
                    n.fresh_at = None;
                    n.token += 1;
                }
            }
            DataCommand::Drain { within } | DataCommand::FinalFlush { within } => {
                if !self.flush(node) {
                    delay = within.as_nanos() as u64;
                    result = Err("the standby is not connected".to_owned());
                }
            }
            DataCommand::BearFirstEpoch => {
                let epochs = [self.dice.wide(), self.dice.wide()];
                self.nodes[node].data.init(epochs);
            }
        }
        let data = &self.nodes[node].data;
        let report = DataReport {
            epochs_digest: data.digest(),
            seq: data.last_seq,
        };
        self.tell_facts(node);
        let result = result.map(|()| report);
        self.result(node, delay, Input::DataDone { ticket, result });
    }

    fn stop_data(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        n.role = DataRole::Idle;
        n.token += 1;
        n.fresh_at = None;
        n.behind_since = None;
    }
}
