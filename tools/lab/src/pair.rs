//! The scene of all stories: two nodes with a public and a private interface each, a client, and a gateway on
//! the public network. Addresses are those for documentation (RFC 5737, RFC 3849).

mod node;

pub use node::{Node, Output};

use crate::{Disk, Host, HostSpec, HttpClient, Lab, LabError, Network, Nic};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Names of the nodes; the first one is preferred.
pub const NODES: [&str; 2] = ["mirror1", "mirror2"];
/// The floating IPv4 address.
pub const FLOATING: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 74));
/// The floating IPv6 address.
pub const FLOATING6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x74));
/// The gateway of the public network; it answers pings.
pub const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Root of the tree that the web servers serve.
pub const WWW: &str = "/srv/www";
/// Port of the web servers.
pub const WEB_PORT: u16 = 80;
/// Configuration file on both nodes.
pub const CONFIG: &str = "/etc/tandem/tandem.toml";

/// The nodes' own public addresses.
pub fn public_address(node: usize) -> IpAddr {
    // Two nodes: 0 and 1.
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 72 + node as u8))
}

/// The replicas' addresses.
pub fn replica_address(replica: usize) -> IpAddr {
    // Few: they end below the broadcast address.
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 81 + replica as u8))
}

/// The nodes' addresses on the private cable.
pub fn private_address(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1 + node as u8))
}

/// The default part of the configuration after nodes and addresses: one tree, the web and the gateway watched.
pub const DEFAULT_BODY: &str = r#"
[[tree]]
name = "www"
path = "/srv/www"

[[monitor]]
name = "web"
check = "http"
counts_for = "service"
address = "192.0.2.74"
interval = "200ms"
timeout = "500ms"

[[monitor]]
name = "gateway"
check = "ping"
counts_for = "network"
address = "192.0.2.1"
interval = "200ms"
timeout = "500ms"
"#;

/// What a pair is made of.
#[derive(Debug, Clone)]
pub struct PairSpec {
    /// The program that is `tandem`.
    pub tandem: PathBuf,
    /// Where the nodes' disks are.
    pub disk: Disk,
    /// Where the lab's work directory is made.
    pub parent: PathBuf,
    /// Lines for `[pair]` after name and preferred node.
    pub policy: String,
    /// More `[[floating_ip]]` sections.
    pub floating: String,
    /// Trees, monitors, services, hooks and mail.
    pub body: String,
    /// Replicas of the tree `www`.
    pub replicas: usize,
}

impl PairSpec {
    /// The defaults, with disks in memory.
    pub fn new(tandem: impl Into<PathBuf>) -> Self {
        Self {
            tandem: tandem.into(),
            disk: Disk::Memory,
            parent: std::env::temp_dir(),
            policy: String::new(),
            floating: String::new(),
            body: DEFAULT_BODY.to_string(),
            replicas: 0,
        }
    }
}

/// Two nodes and a client.
pub struct Pair {
    /// The nodes.
    pub nodes: [Node; 2],
    /// The replicas, on the public network only: `web1` and so on.
    pub replicas: Vec<Node>,
    /// The client, on the public network only.
    pub client: Host,
    /// Their room.
    pub lab: Lab,
    spec: PairSpec,
    keys: [String; 2],
    replica_keys: Vec<String>,
    networks: [Network; 2],
}

impl Pair {
    /// Makes the scene: hosts on, keys made, the same configuration on both nodes, web servers running. The
    /// agents are not started.
    ///
    /// # Errors
    /// When a host does not come up, or `tandem keygen` fails.
    pub fn new(spec: PairSpec) -> Result<Self, LabError> {
        let lab = Lab::new_in(&spec.parent)?;
        let public = lab.network("public")?;
        public.add_gateway(GATEWAY, 24)?;
        let private = lab.network("private")?;
        let client_addresses = [(ip4(10), 24), (ip6(0x10), 64)];
        let client =
            lab.host(HostSpec::new("client").nic(Nic::new("eth0", &public, &client_addresses)))?;
        client.boot()?;
        let networks = [public, private];
        let nodes = [
            Node::make(&lab, &spec, 0, NODES[0], &networks)?,
            Node::make(&lab, &spec, 1, NODES[1], &networks)?,
        ];
        let keys = [nodes[0].keygen()?, nodes[1].keygen()?];
        let replicas = (0..spec.replicas)
            .map(|n| Node::replica(&lab, &spec, n, &networks[0]))
            .collect::<Result<Vec<_>, _>>()?;
        let replica_keys = replicas.iter().map(Node::keygen);
        let replica_keys = replica_keys.collect::<Result<Vec<_>, _>>()?;
        let pair = Self {
            nodes,
            replicas,
            replica_keys,
            client,
            lab,
            spec,
            keys,
            networks,
        };
        pair.configure(&pair.config())?;
        for node in &pair.nodes {
            node.start_web()?;
        }
        Ok(pair)
    }

    /// The configuration made from the pair's parts.
    pub fn config(&self) -> String {
        let mut text = format!(
            "[pair]\nname = \"lab\"\npreferred = \"{}\"\n{}\n",
            NODES[0], self.spec.policy
        );
        for (n, name) in NODES.iter().enumerate() {
            text += &format!(
                "\n[[node]]\nname = \"{name}\"\nkey = \"{}\"\n",
                self.keys[n]
            );
            for (link, address, device) in [
                ("private", private_address(n), "eth1"),
                ("public", public_address(n), "eth0"),
            ] {
                text += &format!(
                    "[[node.link]]\nname = \"{link}\"\naddress = \"{address}\"\ndevice = \"{device}\"\n"
                );
            }
        }
        text += &format!(
            "\n[[floating_ip]]\naddress = \"{FLOATING}/24\"\ndevice = \"eth0\"\nlabel = \"eth0:1\"\n\
             [[floating_ip]]\naddress = \"{FLOATING6}/64\"\ndevice = \"eth0\"\n{}\n{}",
            self.spec.floating, self.spec.body
        );
        for (n, (replica, key)) in self.replicas.iter().zip(&self.replica_keys).enumerate() {
            text += &format!(
                "\n[[replica]]\nname = \"{}\"\nkey = \"{key}\"\naddress = \"{}\"\ntrees = [\"www\"]\n",
                replica.name(),
                replica_address(n)
            );
        }
        text
    }

    /// The public line of a node's key.
    pub fn key(&self, node: usize) -> &str {
        &self.keys[node]
    }

    /// Another machine, switched off, with a copy of a node's disk and the node's cables: same key, same state,
    /// same addresses. The node must be off.
    ///
    /// # Errors
    /// When the disk cannot be copied.
    pub fn clone_of(&self, node: usize) -> Result<Node, LabError> {
        self.nodes[node].clone_machine(&self.lab, &self.spec, node, &self.networks)
    }

    /// Puts one configuration on all machines.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, text: &str) -> Result<(), LabError> {
        let mut all = self.nodes.iter().chain(&self.replicas);
        all.try_for_each(|node| node.configure(text))
    }

    /// A client of the web server at the floating IP.
    pub fn http(&self) -> HttpClient {
        let server = SocketAddr::new(FLOATING, WEB_PORT);
        HttpClient::new(&self.client, server, Duration::from_secs(2))
    }
}

fn ip4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

fn ip6(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last))
}
