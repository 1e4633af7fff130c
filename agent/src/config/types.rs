//! What a valid configuration says. [`super::parse`] is the only way to make one from text.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;
use tandem_sync::limit::Limit;
pub use tandem_sync::tree::{Deletes, Freeze, LocalChanges, MaxDelete, Owners, Snapshot, Update};

/// The whole configuration, the same on both nodes. Every value has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[pair]`.
    pub pair: Pair,
    /// `[agent]`: where this agent keeps its things.
    pub agent: Agent,
    /// `[[node]]`: exactly two.
    pub nodes: [Node; 2],
    /// `[[floating_ip]]`.
    pub floating_ips: Vec<FloatingIp>,
    /// `[[tree]]`: at most 32, so that all heads fit into one heartbeat.
    pub trees: Vec<Tree>,
    /// `[[replica]]`: at most [`tandem_sync::tree::MAX_REPLICAS`].
    pub replicas: Vec<Replica>,
    /// `[[monitor]]`.
    pub monitors: Vec<Monitor>,
    /// `[[service]]`.
    pub services: Vec<Service>,
    /// `[[hook]]`.
    pub hooks: Vec<Hook>,
    /// `[mail]`.
    pub mail: Option<Mail>,
}

/// The pair and its failover policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Name of the pair; part of every state file and heartbeat.
    pub name: String,
    /// The node that `tandem failback` moves to, and that wins between equal lineages.
    pub preferred: String,
    /// UDP and TCP port on every link address. Default 7461.
    pub port: u16,
    /// Interval of heartbeats. Default 200 ms.
    pub heartbeat: Duration,
    /// Silence on every link after which the peer is questioned. Default 600 ms.
    pub dead_after: Duration,
    /// Bound of the confirmation round (ICMP, ARP/NS, TCP). Default 200 ms.
    pub confirm: Duration,
    /// R3. Default 60 s.
    pub max_stale: Duration,
    /// Whether a `catching-up` standby may take over. Default: refuse.
    pub catching_up: CatchingUp,
    /// R4 override: become master alone at boot. Default false.
    pub boot_alone: bool,
    /// Lifetime of floating addresses in the kernel, refreshed every third of it. Default 20 s.
    pub address_lifetime: Duration,
    /// Bound of a planned move up to its last point of return. Default 10 s.
    pub move_timeout: Duration,
}

/// Policy for a standby that is catching up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchingUp {
    /// Not eligible.
    Refuse,
    /// Eligible.
    Allow,
}

/// Paths of this agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Private key. Default /etc/tandem/key.
    pub key: PathBuf,
    /// Durable state and index. Default /var/lib/tandem.
    pub state_dir: PathBuf,
    /// API socket. Default /run/tandem/tandem.sock.
    pub socket: PathBuf,
}

/// One machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its public key.
    pub key: PublicKey,
    /// Its ends of the links, in the same order on both nodes.
    pub links: Vec<Link>,
}

/// A further receiver of some trees, without a part in failover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its name.
    pub name: String,
    /// Its public key.
    pub key: PublicKey,
    /// Where it listens, and the nodes connect to.
    pub address: IpAddr,
    /// Names of the trees that it gets, at least one. None of them is sent in sets.
    pub trees: Vec<String>,
}

/// An ed25519 public key (RFC 8032), as in an OpenSSH public line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// One end of a link.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Name of the link, the same on both nodes.
    pub name: String,
    /// Address of this end.
    pub address: IpAddr,
    /// Device of this end.
    pub device: String,
    /// Whether bulk data may use it. Default: true for the first link, else false.
    pub data: bool,
}

/// An address that moves with the master role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FloatingIp {
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Device.
    pub device: String,
    /// Label, IPv4 only, such as `eth0:1` (at most 15 bytes, begins with the device's name).
    pub label: Option<String>,
}

/// One replicated directory hierarchy.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// Name.
    pub name: String,
    /// Absolute root, the same on both nodes.
    pub path: PathBuf,
    /// Patterns of what is not replicated.
    pub exclude: Vec<String>,
    /// Patterns of what is never changed or removed on the receiver.
    pub protect: Vec<String>,
    /// What a delete on the master does on the standby.
    pub deletes: Deletes,
    /// How long the trash keeps what is in it.
    pub trash_age: Duration,
    /// What becomes of local changes on the standby.
    pub local_changes: LocalChanges,
    /// How a changed file takes the place of its old version.
    pub update: Update,
    /// What says who owns an entry on the other node.
    pub owners: Owners,
    /// Whether the flags of chattr are replicated. Default false.
    pub flags: bool,
    /// Whether device nodes are made on the standby. Default true.
    pub devices: bool,
    /// How it is held still for consistent sets.
    pub freeze: Option<Freeze>,
    /// Guard of invariant 4.
    pub max_delete: MaxDelete,
    /// Pause between two looks at everything, for writers that cause no events.
    pub poll: Option<Duration>,
    /// Pause between two slow passes.
    pub pass: Duration,
    /// Within how long all contents are compared once. `None`: never.
    pub compare_contents: Option<Duration>,
    /// How fast its contents may be sent: the first one that applies counts.
    pub limits: Vec<Limit>,
    /// Within how long it is compared with the standby's once. `None`: only by hand.
    pub verify: Option<Duration>,
    /// Bytes each second that such a comparison reads.
    pub verify_rate: Option<NonZeroU64>,
}

/// Something watched.
#[derive(Debug, Clone, PartialEq)]
pub struct Monitor {
    /// Name.
    pub name: String,
    /// How.
    pub check: Check,
    /// What its failure says.
    pub counts_for: CountsFor,
    /// Default 1 s.
    pub interval: Duration,
    /// Default 1 s.
    pub timeout: Duration,
    /// Failures in a row until `bad`. Default 3.
    pub fall: u32,
    /// Successes in a row until `good`. Default 1.
    pub rise: u32,
}

/// What a monitor's failure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountsFor {
    /// The service at the floating IP: asked by the standby at the floating IP, by the master locally.
    Service,
    /// This node's own public network (for example a gateway ping).
    Network,
}

/// How a monitor asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// ICMP echo.
    Ping {
        /// Target.
        address: IpAddr,
    },
    /// HTTP GET at an address.
    Http {
        /// Address asked: usually a floating IP.
        address: IpAddr,
        /// Port. Default 80.
        port: u16,
        /// Path with query. Default `/`.
        path: String,
        /// Host header. Default: the address.
        host: String,
        /// Accepted status codes. Default 200..=399.
        status: std::ops::RangeInclusive<u16>,
    },
    /// TCP connect.
    Tcp {
        /// Address.
        address: IpAddr,
        /// Port.
        port: u16,
    },
    /// A command: argv, success is exit code 0.
    Command {
        /// Program and arguments, no shell.
        argv: Vec<String>,
    },
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ping { address } => write!(f, "ping {address}"),
            Self::Http {
                address,
                port,
                path,
                ..
            } => write!(f, "http://{}{path}", SocketAddr::new(*address, *port)),
            Self::Tcp { address, port } => write!(f, "tcp {}", SocketAddr::new(*address, *port)),
            Self::Command { argv } => f.write_str(&argv.join(" ")),
        }
    }
}

/// A service that follows the role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Name.
    pub name: String,
    /// How it is started and stopped.
    pub control: ServiceControl,
    /// Bound of each start or stop. Default 30 s.
    pub timeout: Duration,
}

/// How a service is driven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceControl {
    /// A systemd unit.
    Unit(String),
    /// Argument vectors, no shell.
    Argv {
        /// Starts it.
        start: Vec<String>,
        /// Stops it.
        stop: Vec<String>,
    },
}

/// A command at a role change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// When.
    pub on: HookEvent,
    /// Program and arguments, no shell.
    pub argv: Vec<String>,
    /// Bound. Default 30 s.
    pub timeout: Duration,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookEvent {
    /// After this node became master and its services were started.
    Master,
    /// After this node stopped being master and its services were stopped.
    Standby,
    /// Before a planned move: stop writers.
    Freeze,
    /// A planned move was given up: let writers go on.
    Thaw,
}

/// Where notices go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Recipients.
    pub to: Vec<String>,
    /// Sender.
    pub from: String,
    /// How.
    pub via: MailVia,
}

/// How mail leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailVia {
    /// A sendmail program.
    Sendmail(PathBuf),
    /// An SMTP server, host and port, unencrypted on a trusted network or loopback.
    Smtp(String, u16),
}
