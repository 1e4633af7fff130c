//! The driver on hosts in namespaces: with a script in the machine's place, and two whole ones.

mod pair;
mod script;

use super::*;
use crate::address;
use crate::effect::Effect;
use crate::health::Health;
use crate::heartbeat::{Body, Heartbeat, KeyId, MachineId, PairId};
use crate::iface::Netlink;
use crate::input::ProbeAnswers;
use crate::role::{Phase, Role};
use crate::slots::Durable;
use crate::testnet::{A4, B4, Host, Pair};
use crate::time::Instant;
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::sync::mpsc as channel;

const FLOATING: &str = "192.0.2.80";
const PORT: u16 = 7461;
const WAIT: Duration = Duration::from_secs(5);

type Play = Box<dyn FnMut(Instant, &Input) -> Vec<Effect> + Send>;

/// Plays what the test says: effects for inputs, a beat at fixed times.
struct Script {
    play: Play,
    every: Duration,
    next: Instant,
    told: channel::Sender<Input>,
}

impl Decide for Script {
    fn handle(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        if input == Input::Tick {
            self.next = now + self.every;
        }
        let effects = (self.play)(now, &input);
        // The test may have ended.
        let _ = self.told.send(input);
        effects
    }

    fn next_deadline(&self) -> Instant {
        self.next
    }

    fn view(&self, _now: Instant) -> View {
        View {
            role: Role::Joining,
            phase: Phase::Joining,
            term: 0,
            term_armed: 0,
            since: Instant::default(),
            waiting: vec![],
            eligible: Ok(()),
            maintenance: None,
            hold: false,
            addresses_held: false,
            fenced: false,
            solo: false,
            own_network: Health::Unknown,
            own_services: Health::Unknown,
            peer_services: Health::Unknown,
            config_equal: None,
            config_matters_equal: None,
            links: vec![],
            peer: None,
            last_decision: None,
            trouble: Default::default(),
        }
    }
}

fn key(seed: u8) -> (Ed25519KeyPair, [u8; 32]) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes are a seed");
    let public = pair.public_key().as_ref().try_into().expect("32 bytes");
    (pair, public)
}

fn pair_id() -> PairId {
    PairId::of("test", &key(1).1, &key(2).1)
}

pub(super) fn floating() -> FloatingAddress {
    FloatingAddress {
        address: FLOATING.parse().expect("literal"),
        prefix: 24,
        device: "eth0".into(),
        label: None,
    }
}

pub(super) fn setup() -> Setup {
    let (own, peer) = (KeyId::of(&key(1).1), KeyId::of(&key(2).1));
    Setup {
        policy: Policy::new(pair_id(), own, peer),
        links: vec![LinkConfig {
            device: "eth0".into(),
            own: A4.parse().expect("literal"),
            peer: B4.parse().expect("literal"),
        }],
        port: PORT,
        addresses: vec![floating()],
        monitors: vec![],
        peer_fence: None,
    }
}

/// A driver on host A that plays a script.
struct Driven {
    handle: Option<DriverHandle>,
    told: channel::Receiver<Input>,
    state: tempfile::TempDir,
}

impl Driven {
    fn start(
        host: &Host,
        every: Duration,
        play: impl FnMut(Instant, &Input) -> Vec<Effect> + Send + 'static,
    ) -> Self {
        let state = tempfile::tempdir().expect("a directory");
        let (tell, told) = channel::channel();
        let directory = state.path().to_owned();
        let handle = host.block_on(move || async move {
            let (store, durable) = Store::open(&directory, pair_id()).expect("opens");
            let boot = Boot {
                incarnation: identity::incarnation(&durable).expect("random numbers"),
                machine: MachineId::default(),
            };
            let script = Script {
                play: Box::new(play),
                every,
                next: clock::now() + every,
                told: tell,
            };
            let keys = Keys {
                pair: pair_id(),
                own: key(1).0,
                own_public: key(1).1,
                peer_public: key(2).1,
            };
            start(keys, setup(), store, script, boot).expect("starts")
        });
        Self {
            handle: Some(handle),
            told,
            state,
        }
    }

    fn handle(&mut self) -> &mut DriverHandle {
        self.handle.as_mut().expect("not yet joined")
    }

    /// Gives the script an input; it answers with effects.
    fn say(&mut self, input: Input) {
        self.handle()
            .inputs
            .blocking_send(input)
            .expect("the loop runs");
    }

    /// The first input that answers; those before it are passed over.
    fn wait<T>(&self, what: &str, mut pick: impl FnMut(Input) -> Option<T>) -> T {
        let deadline = std::time::Instant::now() + WAIT;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let input = self
                .told
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("not told: {what}"));
            if let Some(found) = pick(input) {
                return found;
            }
        }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.join();
        }
    }
}

fn held(host: &Host) -> bool {
    host.block_on(|| async {
        let netlink = Netlink::open().expect("netlink opens");
        !address::held(&netlink, &[floating()])
            .await
            .expect("listed")
            .is_empty()
    })
}

fn command(ticket: u64) -> Input {
    Input::Operator {
        ticket: Ticket(ticket),
        command: crate::input::Command::Switchover,
    }
}

/// Effects by the number of the command.
fn on_command(
    effects: impl Fn(u64) -> Vec<Effect> + Send + 'static,
) -> impl FnMut(Instant, &Input) -> Vec<Effect> + Send + 'static {
    move |_, input| match input {
        Input::Operator { ticket, .. } => effects(ticket.0),
        _ => vec![],
    }
}

fn beat(counter: u64) -> Effect {
    Effect::SendHeartbeat(Box::new(Heartbeat {
        incarnation: crate::heartbeat::Incarnation::default(),
        counter,
        link: 0,
        echo: None,
        body: Body {
            role: Role::Joining,
            phase: Phase::Joining,
            term: 0,
            term_seen: 0,
            holding: false,
            was_master: false,
            preferred: false,
            solo: false,
            grant: None,
            ceded: None,
            against: None,
            network: Health::Unknown,
            services: Health::Unknown,
            peer_services: Health::Unknown,
            maintenance: false,
            maintenance_left: None,
            hold: false,
            lag: None,
            born: false,
            epochs_digest: 0,
            seq: 0,
            config_digest: 0,
            config_matters: 0,
            machine: MachineId::default(),
            heads: vec![],
        },
    }))
}
