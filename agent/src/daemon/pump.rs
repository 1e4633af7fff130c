//! From the role machine's effects to the parts of the agent, and from there back as inputs.

use super::Daemon;
use super::facts::data_facts;
use super::status::millis;
use crate::api::types::{ApiError, DecisionReport, ErrorCode, HoldEnd};
use crate::hooks::Context;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tandem_failover::driver::AgentEffect;
use tandem_failover::effect::{DataCommand, Decision, Inputs, ServiceCommand, Ticket};
use tandem_failover::health::Health;
use tandem_failover::input::{DataFacts, Input};
use tandem_failover::role::Role;

/// The facts are told again at least this often, so that an age in them is never older.
const FACTS_EVERY: Duration = Duration::from_secs(1);

impl Daemon {
    /// Carries out effects until the machine says that the agent may end.
    pub async fn pump(self: Arc<Self>, mut effects: super::Effects) {
        while let Some(effect) = effects.recv().await {
            if matches!(effect, AgentEffect::Exit) {
                self.stop.cancel();
                return;
            }
            self.effect(effect);
        }
        // The loop is gone without an exit: the agent must end too, so that the guardian removes the addresses.
        self.died.store(true, Ordering::Release);
        self.stop.cancel();
    }

    fn effect(self: &Arc<Self>, effect: AgentEffect) {
        match effect {
            AgentEffect::Data { ticket, command } => self.begin_data(ticket, command),
            AgentEffect::Services { ticket, command } => self.begin_services(ticket, command),
            AgentEffect::Notify(notice) => {
                self.journal.record("notice", &notice);
                self.notifier.notify(notice);
            }
            AgentEffect::Record(decision) => self.record(&decision),
            AgentEffect::Answer { ticket, result } => self.tickets.answer(ticket, result),
            // Handled by the pump.
            AgentEffect::Exit => {}
        }
    }

    /// A later command supersedes an earlier one: the earlier task ends with its turn, and its late result is
    /// ignored by its ticket.
    fn begin_data(self: &Arc<Self>, ticket: Ticket, command: DataCommand) {
        // The decision that it follows from is logged at INFO.
        tracing::debug!(command = ?command, "data");
        if matches!(
            command,
            DataCommand::EndHold { .. } | DataCommand::RevokeApply { .. }
        ) {
            self.end_hold(HoldEnd::Takeover);
        }
        let daemon = self.clone();
        tokio::spawn(async move {
            let result = daemon.data.carry_out(command.clone()).await;
            if let Err(error) = &result {
                tracing::warn!(command = ?command, error, "data command failed");
            }
            daemon.facts_changed();
            let _ = daemon.tell(Input::DataDone { ticket, result }).await;
        });
    }

    fn begin_services(self: &Arc<Self>, ticket: Ticket, command: ServiceCommand) {
        tracing::debug!(command = ?command, "services");
        let context = self.context(command);
        let daemon = self.clone();
        tokio::spawn(async move {
            let result = daemon.roles.carry_out(command, &context).await;
            let _ = daemon.tell(Input::ServicesDone { ticket, result }).await;
        });
    }

    pub(super) fn context(&self, command: ServiceCommand) -> Context {
        let event = match command {
            ServiceCommand::Start => "master",
            ServiceCommand::Stop => "standby",
            ServiceCommand::Freeze => "freeze",
            ServiceCommand::Thaw => "thaw",
        };
        Context {
            event,
            ..self.moment()
        }
    }

    /// What every command is told of this node now.
    pub(super) fn moment(&self) -> Context {
        let view = self.view();
        let loaded = self.config();
        Context {
            pair: loaded.config.pair.name.clone(),
            node: loaded.config.nodes[self.own].name.clone(),
            role: view.role,
            term: view.term,
            event: "",
            cause: view.last_decision.clone().unwrap_or_default(),
            lag: self.engine.status().lag,
        }
    }

    fn record(&self, decision: &Decision) {
        tracing::info!(from = %decision.from, to = %decision.to, term = decision.term, why = decision.why, "decision");
        self.journal.record("decision", decision);
        let report = DecisionReport {
            at_unix_ms: super::roles::unix_ms(),
            why: decision.why.clone(),
            inputs: input_lines(&decision.inputs),
        };
        *self
            .last_decision
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    /// Gives a fact to the role machine. Waits for room: the driver takes inputs all the time.
    pub async fn tell(&self, input: Input) -> Result<(), ApiError> {
        let sent = self.inputs.send(input).await;
        sent.map_err(|_| ApiError::new(ErrorCode::Stopping, "the agent is stopping"))
    }

    /// Something changed that the facts are made of.
    pub fn facts_changed(&self) {
        self.facts_wake.notify_one();
    }

    /// Tells the machine and the peer what is known of the data, whenever it changes.
    pub async fn follow_data(self: Arc<Self>) {
        let mut status = self.engine.status_changes();
        let mut told: Option<DataFacts> = None;
        let mut sent = None;
        loop {
            if let Some(facts) = self.facts()
                && told.as_ref() != Some(&facts)
            {
                told = Some(facts.clone());
                if self.tell(Input::Data(Box::new(facts))).await.is_err() {
                    return;
                }
            }
            self.tell_peer(&mut sent).await;
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return },
                () = self.facts_wake.notified() => {}
                () = tokio::time::sleep(FACTS_EVERY) => {}
            }
            status.borrow_and_update();
        }
    }

    fn facts(&self) -> Option<DataFacts> {
        let mine = match self.engine.lineages() {
            Ok(mine) => mine,
            Err(error) => {
                tracing::warn!(error = %error, "lineages cannot be read");
                return None;
            }
        };
        let status = self.engine.status();
        let peer = self.peer();
        let max_stale = self.config().config.pair.max_stale;
        Some(data_facts(
            &status,
            &mine,
            peer.heads.as_ref().map(|heads| (heads, peer.restored)),
            max_stale,
        ))
    }

    /// The lineages go to the peer when they changed, and once on each connection: its hello may have been made before
    /// the last change.
    async fn tell_peer(&self, sent: &mut Option<(u64, Vec<u8>)>) {
        let connection = self.peer().connections;
        let Some(rpc) = self.rpc.borrow().clone() else {
            *sent = None;
            return;
        };
        let now = (connection, self.encoded_heads());
        if sent.as_ref() == Some(&now) || now.1.is_empty() {
            return;
        }
        let message = crate::link::message::OneWay::Lineages(now.1.clone());
        if rpc.send(&message).await.is_ok() {
            *sent = Some(now);
        }
    }

    /// Whether this node serves, for the watchdog's line.
    pub fn line(&self) -> String {
        let view = self.view();
        let state = if self.engine.status().consistent {
            "consistent"
        } else {
            "not consistent"
        };
        match view.role {
            Role::Master => format!("master, term {}", view.term),
            role => format!("{role}, term {}, data {state}", view.term),
        }
    }
}

/// What was known at a decision, a fact a line.
fn input_lines(inputs: &Inputs) -> Vec<String> {
    let mut lines = vec![
        match inputs.silence {
            Some(silence) => format!("peer silent for {} ms", millis(silence)),
            None => "peer never heard since the start".to_owned(),
        },
        format!("own network {}", health(inputs.own_network)),
        format!("own services {}", health(inputs.own_services)),
        format!("peer services {}", health(inputs.peer_services)),
    ];
    if let Some(probes) = inputs.probes {
        let answer = |answered| match (answered, probes.asked) {
            (true, _) => "answers",
            (false, true) => "silent",
            (false, false) => "not asked",
        };
        lines.push(format!(
            "peer's host: ICMP {}, ARP/NS {}, TCP {}; floating IPs {}; its service {}; own network, asked just then, {}",
            answer(probes.icmp),
            answer(probes.arp),
            answer(probes.tcp),
            answer(probes.floating),
            answer(probes.service),
            health(probes.network)
        ));
    }
    if let Some((phase, term)) = inputs.peer {
        lines.push(format!("peer was {phase}, term {term}"));
    }
    if let Some(data) = &inputs.data {
        let reason = data.reason.as_deref().unwrap_or("none");
        lines.push(format!(
            "data {}, {}, seq {}, against it: {reason}",
            super::kebab(&format!("{:?}", data.relation)),
            if data.consistent {
                "consistent"
            } else {
                "not consistent"
            },
            data.seq
        ));
    }
    lines.extend(inputs.against.iter().map(|r| format!("against: {r}")));
    lines
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Good => "good",
        Health::Bad => "bad",
        Health::Unknown => "unknown",
    }
}
