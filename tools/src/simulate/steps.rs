//! Crashes at a step of a takeover or a planned move.

use super::reach::Class;
use super::world::{World, name};
use tandem_failover::effect::{DataCommand, Effect, ServiceCommand};

/// Steps of a planned move, in their order. The first five are the leaving node's, before the last point of return
/// (which is `Ceded`); the next five are the new master's; the last three are the leaving node's again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Step {
    Freeze,
    Drain,
    Fence,
    Flush,
    Ceded,
    Claim,
    Epoch,
    Addresses,
    Announce,
    Start,
    Remove,
    Unfence,
    Stop,
}

impl Step {
    /// Every step.
    pub const ALL: [Step; 13] = [
        Step::Freeze,
        Step::Drain,
        Step::Fence,
        Step::Flush,
        Step::Ceded,
        Step::Claim,
        Step::Epoch,
        Step::Addresses,
        Step::Announce,
        Step::Start,
        Step::Remove,
        Step::Unfence,
        Step::Stop,
    ];

    /// Whether the leaving node takes it.
    pub fn of_leaving(self) -> bool {
        self <= Step::Ceded || self >= Step::Remove
    }

    fn is(self, effect: &Effect) -> bool {
        match (self, effect) {
            (Step::Freeze, Effect::Services { command, .. }) => *command == ServiceCommand::Freeze,
            (Step::Start, Effect::Services { command, .. }) => *command == ServiceCommand::Start,
            (Step::Stop, Effect::Services { command, .. }) => *command == ServiceCommand::Stop,
            (Step::Drain, Effect::Data { command, .. }) => {
                matches!(command, DataCommand::Drain { .. })
            }
            (Step::Flush, Effect::Data { command, .. }) => {
                matches!(command, DataCommand::FinalFlush { .. })
            }
            (Step::Epoch, Effect::Data { command, .. }) => {
                matches!(command, DataCommand::BeginSource { .. })
            }
            (Step::Fence, Effect::Fence { .. }) | (Step::Unfence, Effect::Unfence { .. }) => true,
            (Step::Ceded, Effect::Persist { durable, .. }) => durable.ceded.is_some(),
            (Step::Claim, Effect::Persist { durable, .. }) => durable.was_master,
            (Step::Addresses, Effect::AddAddresses { .. }) => true,
            (Step::Announce, Effect::Announce { .. }) => true,
            (Step::Remove, Effect::RemoveAddresses { .. }) => true,
            _ => false,
        }
    }
}

/// A crash that waits for a step.
#[derive(Debug, Clone, Copy)]
pub struct Trap {
    /// Whose step.
    pub node: usize,
    /// Which.
    pub step: Step,
    /// Who crashes.
    pub victim: usize,
    /// The host loses its power, not only the agent.
    pub power: bool,
    /// The step is carried out first.
    pub after: bool,
}

impl World {
    /// Crashes a node if this is the step that the trap waits for. Answers whether the stepping node is gone.
    pub(super) fn sprung(&mut self, node: usize, effect: &Effect) -> bool {
        let Some(trap) = self.trap else { return false };
        if trap.node != node || !trap.step.is(effect) {
            return false;
        }
        self.trap = None;
        let order = if trap.after { "after" } else { "before" };
        let (who, victim) = (name(node), name(trap.victim));
        self.tell(format!(
            "{victim} crashes {order} {who}'s step {:?}",
            trap.step
        ));
        self.reached(Class::MoveCrash(trap.step));
        if trap.after {
            self.carry_out(node, effect.clone());
        }
        if trap.power {
            self.power_cut(trap.victim);
        } else {
            self.kill_agent(trap.victim);
        }
        // A step whose peer crashed goes on as it was.
        if trap.victim != node && !trap.after {
            self.carry_out(node, effect.clone());
        }
        // What stands behind the step in the same breath is dropped only with its node.
        self.nodes[node].machine.is_none()
    }
}
