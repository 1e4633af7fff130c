//! (pure) What needs a person, out of one status: one sentence each, most important first.
//!
//! An alarm stands for as long as its cause does. What is on its way by itself, as a first copy, is one too: until
//! it is done, the pair is not what it was configured to be.

use super::facts::STOPPED;
use crate::api::types::{AddressStatus, Health, Role, StatusReport};
use tandem_failover::heartbeat::TreeHead;
use tandem_failover::role::{Phase, Reason};
use tandem_failover::view::{PeerIdentity, View};
use tandem_sync::engine::{Counted, EngineStatus, Inexact, Mode};
use tandem_sync::tree::TreeId;

/// All alarms. `report` needs everything but its own alarms.
pub fn alarms(report: &StatusReport, view: &View, engine: &EngineStatus) -> Vec<String> {
    let facts = Facts {
        report,
        view,
        engine,
    };
    let groups = [
        facts.identity(),
        facts.mastership(),
        facts.data(),
        facts.silence(),
        facts.waiting(),
        facts.takeover(),
        facts.connections(),
        facts.configuration(),
        facts.health(),
    ];
    let mut alarms = Vec::new();
    for alarm in groups.into_iter().flatten() {
        // Two sources may say the same, as the reasons of waiting and of a takeover that is not possible.
        if !alarms.contains(&alarm) {
            alarms.push(alarm);
        }
    }
    alarms
}

/// What the engine says of this machine's own data.
pub fn data_alarms(engine: &EngineStatus) -> Vec<String> {
    let of_engine = engine.alarms.iter().map(|alarm| match &alarm.tree {
        Some(tree) => format!("tree {tree}: {}", alarm.text),
        None => alarm.text.clone(),
    });
    let failing = engine.trees.iter().filter(|t| t.errors > 0);
    let of_trees = failing.map(|tree| {
        let last = tree.last_error.as_deref().unwrap_or("no reason is known");
        let (name, errors) = (&tree.name, tree.errors);
        let about = match tree.inexact.get(&Counted::Errors) {
            Some(Inexact::AtLeast) => "at least ",
            Some(Inexact::About) => "about ",
            None => "",
        };
        format!("tree {name}: {about}{errors} paths fail, the last one: {last}")
    });
    of_engine.chain(of_trees).collect()
}

struct Facts<'a> {
    report: &'a StatusReport,
    view: &'a View,
    engine: &'a EngineStatus,
}

impl Facts<'_> {
    fn peer(&self) -> &str {
        &self.report.peer.node
    }

    fn is_master(&self) -> bool {
        self.report.role == Role::Master
    }

    /// R6, with the remedy.
    fn identity(&self) -> Vec<String> {
        let peer = self.peer();
        let mut alarms = Vec::new();
        if self.view.trouble.own_key_elsewhere {
            alarms.push(
                "another machine uses this node's key: stop that copy, or give one of the two a new key \
                 (`tandem keygen`), then run `tandem adopt`"
                    .to_owned(),
            );
        }
        match self.view.trouble.identity {
            PeerIdentity::Same => {}
            PeerIdentity::Cloned => alarms.push(format!(
                "the key of {peer} is used by two machines: stop the copy or give it a new key (`tandem keygen`), \
                 then accept {peer} with `tandem adopt`; until then it gets neither role nor data"
            )),
            PeerIdentity::Regressed => alarms.push(format!(
                "{peer} is not what it was: restored, rolled back or another machine; look at its data, then accept \
                 it with `tandem adopt`; until then it gets neither role nor data"
            )),
        }
        alarms
    }

    fn mastership(&self) -> Vec<String> {
        let mut alarms = Vec::new();
        let peer = &self.report.peer;
        if self.view.trouble.write_failed {
            alarms.push(
                "the term cannot be written to the state directory, so this node cannot take or give the role: \
                 the log says why"
                    .to_owned(),
            );
        }
        if self.is_master() && peer.alive && peer.role == Some(Role::Master) {
            alarms.push(format!("{} is master too", peer.node));
        }
        // While it takes or gives the role, addresses come and go.
        let serves = self.is_master() && self.view.phase == Phase::Master;
        if serves && self.view.fenced {
            alarms.push(
                "the floating addresses of this master are fenced: nobody is answered".to_owned(),
            );
        }
        for address in &self.report.addresses {
            alarms.extend(self.of_address(address, serves));
        }
        alarms
    }

    fn of_address(&self, a: &AddressStatus, serves: bool) -> Option<String> {
        let (address, device) = (&a.address, &a.device);
        if let Some(conflict) = a.conflict.as_ref().filter(|_| self.is_master()) {
            return Some(format!("the floating address {address}: {conflict}"));
        }
        if serves && !a.held {
            let why = a.error.as_ref().map(|why| format!(": {why}"));
            let why = why.unwrap_or_default();
            return Some(format!(
                "the floating address {address} is not on this master's {device}{why}"
            ));
        }
        let rests = matches!(self.view.phase, Phase::Standby | Phase::Joining);
        (rests && a.held).then(|| {
            format!(
                "the floating address {address} is on {device} of this node, which is not master"
            )
        })
    }

    fn data(&self) -> Vec<String> {
        let mut alarms = data_alarms(self.engine);
        alarms.extend(self.stopped_there());
        alarms.extend(self.engine.peer_keeps.then(|| {
            let peer = self.peer();
            format!("{peer} keeps paths as they are for their flags, or cannot set all attributes: `tandem status` there names them")
        }));
        alarms
    }

    /// Trees that are stopped on the other node: nothing of them moves to here.
    fn stopped_there(&self) -> impl Iterator<Item = String> {
        let view = self.view.peer.as_ref().filter(|peer| peer.heard);
        let heads = view.map_or(&[][..], |peer| peer.heads.as_slice());
        let stopped = |name: &str| {
            let id = TreeId::of(name).0;
            let of_tree = |head: &&TreeHead| head.tree[..] == id[..4];
            let head = heads.iter().find(of_tree);
            head.is_some_and(|head| head.state & STOPPED != 0)
        };
        let trees = self.report.trees.iter().map(|tree| tree.name.as_str());
        trees.filter(move |name| stopped(name)).map(|name| {
            let peer = self.peer();
            format!("tree {name}: stopped on {peer}, whose status says why")
        })
    }

    /// The peer's agent is not heard on any link.
    fn silence(&self) -> Vec<String> {
        let peer = &self.report.peer;
        let mut alarms = Vec::new();
        if !peer.alive {
            alarms.push(self.silence_text());
        }
        alarms.extend(self.view.trouble.refused.clone());
        alarms
    }

    fn silence_text(&self) -> String {
        let peer = self.peer();
        if self.is_master() {
            return format!("the agent on {peer} is silent: this master has no standby");
        }
        let serves = self.report.role != Role::Joining
            && self.view.peer_services == tandem_failover::health::Health::Good;
        match self.view.trouble.probes {
            Some(answers) if answers.service || (answers.any() && serves) => {
                format!("the agent on {peer} is silent, its service still answers")
            }
            Some(answers) if answers.any() => {
                format!("the agent on {peer} is silent, its machine still answers")
            }
            Some(answers) if !answers.asked => {
                format!("the agent on {peer} is silent, and no question to it leaves this node")
            }
            Some(_) => format!("{peer} is silent: nothing of it answers"),
            None => format!("the agent on {peer} is silent"),
        }
    }

    fn waiting(&self) -> Vec<String> {
        let begin = match self.report.role {
            Role::Joining => "this node waits to join",
            _ => "this node waits",
        };
        let text = |reason: &Reason| match reason {
            Reason::NoDirection => format!("{begin}: {}", self.direction()),
            reason => format!("{begin}: {reason}"),
        };
        self.view.waiting.iter().map(text).collect()
    }

    /// R2 leaves the direction to a person: what to do.
    fn direction(&self) -> String {
        let remedy = match self.report.relation.as_str() {
            "unrelated" => {
                "they have no common history; run `tandem adopt` on the node that shall receive, what only it has goes \
                 to its rescue"
            }
            _ => {
                "both wrote, and none is master; run `tandem takeover --force` on the node whose data shall count, the \
                 other one's writes go to its rescue"
            }
        };
        format!("{}: {remedy}", Reason::NoDirection)
    }

    /// R3: that a standby could not take over is said before it is needed.
    fn takeover(&self) -> Vec<String> {
        let takeover = &self.report.takeover;
        // A silent peer, and a node that joins, have their own alarms.
        let silent_standby = self.is_master() && !self.report.peer.alive;
        if takeover.possible || silent_standby || self.report.role == Role::Joining {
            return Vec::new();
        }
        let who = takeover.node.as_deref().unwrap_or("the standby");
        let why = takeover.reasons.join("; ");
        vec![format!("{who} could not take over: {why}")]
    }

    fn connections(&self) -> Vec<String> {
        let peer = self.peer();
        let alive = self.report.peer.alive;
        let mut alarms = Vec::new();
        for link in &self.report.links {
            let name = &link.name;
            if link.carrier == Some(false) {
                alarms.push(format!(
                    "link {name} is down: no carrier on {}",
                    link.device
                ));
            } else if alive && !link.up {
                alarms.push(format!(
                    "link {name} is down: nothing is heard of {peer} on it"
                ));
            } else if alive && !link.heard_by_peer {
                alarms.push(format!("link {name}: {peer} does not hear this node on it"));
            }
        }
        if !alive || self.view.trouble.identity != PeerIdentity::Same {
            return alarms;
        }
        let session = &self.report.session;
        let why = session.why.as_deref().unwrap_or("no reason is known");
        match self.engine.mode {
            Mode::Source { .. } if !session.up => alarms.push(format!(
                "no data session with {peer}, changes stay on this node: {why}"
            )),
            Mode::Replica if !session.up => alarms.push(format!(
                "no data session with {peer}, its changes do not arrive: {why}"
            )),
            _ if session.why.is_some() => alarms.push(format!("{peer}: {why}")),
            _ => {}
        }
        alarms
    }

    fn configuration(&self) -> Vec<String> {
        let mut alarms = Vec::new();
        if self.report.config.matters_equal == Some(false) {
            alarms.push(format!(
                "the configuration differs from that of {} in floating addresses, trees or the policy of [pair]",
                self.peer()
            ));
        }
        if self.view.solo {
            alarms.push(
                "this node has been master alone for so long that it may start alone (solo)"
                    .to_owned(),
            );
        }
        alarms
    }

    fn health(&self) -> Vec<String> {
        let monitors = self.report.monitors.iter();
        let failing = monitors.filter(|m| m.health == Health::Bad).map(|m| {
            let last = m.last_error.as_deref().unwrap_or("no reason is known");
            format!("monitor {} fails: {last}", m.name)
        });
        let services = self.report.services.iter();
        let failed = services.filter(|s| s.state == "failed").map(|s| {
            let last = s.last_error.as_deref().unwrap_or("no reason is known");
            format!("service {} failed: {last}", s.name)
        });
        failing.chain(failed).collect()
    }
}

#[cfg(test)]
mod tests;
