//! The one event loop that feeds the role machine and carries out its effects.
//!
//! # Threads
//! | thread | does | may wait for |
//! |---|---|---|
//! | `tandem-failover` | the machine, heartbeats, timers | nothing but its own queue |
//! | `tandem-net` | addresses, announcements, fence, kernel events | the kernel's network lock |
//! | `tandem-probe` | questions to the network, monitors, fence device | other machines, bounded |
//! | `tandem-term` | durable writes ([`crate::store`]) | the disk |
//!
//! Every result comes back to the first as an input. The first gives orders through bounded queues and never waits: an order that
//! finds its queue full is answered as failed at once. What is for the agent leaves through a bounded outbox.
//!
//! All four threads belong to the network namespace of the thread that calls [`spawn`].

mod event_loop;
mod net;
mod outbox;
mod privileges;
mod questions;

use crate::address::{AddressState, FloatingAddress, Ledger};
use crate::effect::{DataCommand, Decision, Notice, ServiceCommand, Ticket};
use crate::heartbeat_io::{Keys, LinkConfig, LinkCounters};
use crate::iface::InterfaceTable;
use crate::input::Input;
use crate::machine::{Boot, Handover, Machine};
use crate::policy::Policy;
use crate::probe::monitor::{Board, MonitorConfig, Vantage};
use crate::store::{Store, StoreError};
use crate::view::View;
use crate::{clock, identity};
use std::io;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Room for inputs of the agent. It has a handful of things to say per second.
const INPUTS: usize = 256;

/// Room for effects on their way to the agent; more wait in the outbox.
const EFFECTS: usize = 64;

/// Room for results of the helper threads: more than all their orders together.
const RESULTS: usize = 256;

/// What a reload may change while the role is kept.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The machine's configuration.
    pub policy: Policy,
    /// Links, in the same order on both nodes, as many as `policy.links`.
    pub links: Vec<LinkConfig>,
    /// UDP port of heartbeats; the TCP port of the same number is asked in confirmation rounds.
    pub port: u16,
    /// Floating addresses.
    pub addresses: Vec<FloatingAddress>,
    /// Monitors.
    pub monitors: Vec<MonitorConfig>,
    /// Device that cuts off the peer.
    pub peer_fence: Option<PeerFence>,
}

/// A program that cuts off the peer's power or network, and succeeds only when that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFence {
    /// Program and arguments, no shell.
    pub argv: Vec<String>,
    /// Bound.
    pub timeout: Duration,
}

/// Everything that the driver needs.
pub struct DriverConfig {
    /// Keys; fixed for the life of the agent.
    pub keys: Keys,
    /// Holds the file `term`.
    pub state_directory: PathBuf,
    /// The rest.
    pub setup: Setup,
    /// The role that this process had before it executed itself again.
    pub handover: Option<Handover>,
}

/// What the machine wants of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEffect {
    /// For the data half; answered by [`Input::DataDone`].
    Data {
        /// Names the result.
        ticket: Ticket,
        /// What.
        command: DataCommand,
    },
    /// For services and hooks; answered by [`Input::ServicesDone`].
    Services {
        /// Names the result.
        ticket: Ticket,
        /// What.
        command: ServiceCommand,
    },
    /// A person should hear of this.
    Notify(Notice),
    /// Goes into the journal.
    Record(Box<Decision>),
    /// Answer of a command.
    Answer {
        /// Ticket of the command.
        ticket: Ticket,
        /// What was done, or why not.
        result: Result<String, String>,
    },
    /// The agent may end now: the role is handed over or the addresses are released.
    Exit,
}

/// Why the driver does not start.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The durable state cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread, a runtime or random numbers.
    #[error("starting: {0}")]
    Start(#[from] io::Error),
}

/// The running driver, seen from the agent.
///
/// It ends after [`AgentEffect::Exit`], or by [`DriverHandle::join`], which leaves the addresses as they are: they stay until the
/// end of their lifetime, which is what a re-executed agent needs. When `effects` is closed without an exit, the loop
/// has died: the agent must end too, so that the guardian removes the addresses.
pub struct DriverHandle {
    /// Facts and commands for the machine.
    pub inputs: mpsc::Sender<Input>,
    /// What the machine wants. Must be read: what is not read for long is dropped, the newest of each kind kept.
    pub effects: mpsc::Receiver<AgentEffect>,
    /// What the machine shows.
    pub view: watch::Receiver<View>,
    /// What the monitors show.
    pub monitors: watch::Receiver<Board>,
    /// Each floating address on this node.
    pub addresses: watch::Receiver<Vec<AddressState>>,
    /// Counters of each link, about every second.
    pub counters: watch::Receiver<Vec<LinkCounters>>,
    /// A changed configuration.
    setup: mpsc::Sender<Setup>,
    /// This life of the agent.
    pub boot: Boot,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl DriverHandle {
    /// Applies a changed configuration, whole; the role is kept. Answers false when the driver has ended.
    ///
    /// Floating addresses that are no longer configured are removed, new ones are added by a master at its next refresh.
    pub async fn reconfigure(&self, setup: Setup) -> bool {
        self.setup.send(setup).await.is_ok()
    }

    /// For [`Self::reconfigure`] without the handle.
    pub fn reconfigure_sender(&self) -> mpsc::Sender<Setup> {
        self.setup.clone()
    }

    /// A sender for inputs that outlives the handle's borrow.
    pub fn sender(&self) -> mpsc::Sender<Input> {
        self.inputs.clone()
    }

    /// Ends the loop without a change of addresses or role, and waits for its threads. Blocks: at most some seconds for
    /// requests that are under way.
    pub fn join(self) {
        let Self {
            effects,
            stop,
            thread,
            ..
        } = self;
        stop.cancel();
        drop(effects);
        // A panic there was reported by the panic hook already.
        let _ = thread.join();
    }
}

/// Opens the durable state, counts up the incarnation durably and starts the threads. Blocks on the disk.
pub fn spawn(config: DriverConfig) -> Result<DriverHandle, DriverError> {
    let DriverConfig {
        keys,
        state_directory,
        setup,
        handover,
    } = config;
    let (mut store, durable) = Store::open(&state_directory, setup.policy.pair)?;
    let durable = durable.started();
    store.write(&durable)?;
    let boot = Boot {
        incarnation: identity::incarnation(&durable)?,
        machine: identity::machine_id(&state_directory),
    };
    let machine = Machine::restarted(setup.policy.clone(), durable, boot, clock::now(), handover);
    start(keys, setup, store, machine, boot)
}

fn start<D: Decide + Send + 'static>(
    keys: Keys,
    setup: Setup,
    store: Store,
    machine: D,
    boot: Boot,
) -> Result<DriverHandle, DriverError> {
    let (inputs, inputs_in) = mpsc::channel(INPUTS);
    let (effects_out, effects) = mpsc::channel(EFFECTS);
    let (results, results_in) = mpsc::channel(RESULTS);
    let (setup_out, setup_in) = mpsc::channel(1);
    let (view_out, view) = watch::channel(machine.view(clock::now()));
    let (counters_out, counters) = watch::channel(Vec::new());
    let (vantage_out, vantage) = watch::channel(Vantage::Watcher);
    let ledger = Ledger::new(&setup.addresses);
    let addresses = ledger.subscribe();
    let interfaces = InterfaceTable::default();
    let stop = CancellationToken::new();
    let writer = store.into_writer(results.clone())?;
    let net = net::spawn(
        &setup,
        ledger.clone(),
        interfaces.clone(),
        vantage_out,
        results.clone(),
    )?;
    let questions = questions::spawn(&setup, ledger, interfaces, vantage, results)?;
    let monitors = questions.board.clone();
    let event_loop = event_loop::EventLoop {
        machine,
        keys,
        setup,
        boot,
        inputs: inputs_in,
        results: results_in,
        reloads: setup_in,
        outbox: outbox::Outbox::new(effects_out),
        view: view_out,
        counters: counters_out,
        net,
        questions,
        writer,
        stop: stop.clone(),
    };
    let thread = event_loop::spawn(event_loop)?;
    Ok(DriverHandle {
        inputs,
        effects,
        view,
        monitors,
        addresses,
        counters,
        setup: setup_out,
        boot,
        stop,
        thread,
    })
}

/// What the loop needs of the machine; tests put a script in its place.
trait Decide {
    fn handle(&mut self, now: crate::time::Instant, input: Input) -> Vec<crate::effect::Effect>;
    fn next_deadline(&self) -> crate::time::Instant;
    fn view(&self, now: crate::time::Instant) -> View;
}

impl Decide for Machine {
    fn handle(&mut self, now: crate::time::Instant, input: Input) -> Vec<crate::effect::Effect> {
        Machine::handle(self, now, input)
    }

    fn next_deadline(&self) -> crate::time::Instant {
        Machine::next_deadline(self)
    }

    fn view(&self, now: crate::time::Instant) -> View {
        Machine::view(self, now)
    }
}

#[cfg(test)]
mod tests;
