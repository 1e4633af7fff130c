//! The pair, its machines and what joins them.

use super::Need::{DefaultsTo, Optional, Required};
use super::{Section, key};

/// Public keys of the reference, made for it; their private halves were thrown away.
const KEY_1: &str =
    "\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHGRTsnVrif9xjxJLPq1WK8wBgrk1PM9X66g9TT2uFfs mirror1\"";
const KEY_2: &str =
    "\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICfYDK0mx4nxIFZMCW+TUaxVKAiLFDb4u9l4JMSPpotD mirror2\"";

pub(super) const PAIR: Section = Section {
    path: "pair",
    repeated: false,
    help: "The pair and its policy of failover.",
    keys: &[
        key(
            "name",
            "name",
            Required(&["\"mirror\""]),
            "Name of the pair. It is part of every state file and heartbeat: two pairs on one network need two names.",
        ),
        key(
            "preferred",
            "node",
            Required(&["\"mirror1\""]),
            "The node that `tandem failback` moves the role to, and that becomes master when both start with equal data and neither was master last.",
        ),
        key(
            "port",
            "port",
            DefaultsTo("7461"),
            "UDP (heartbeats) and TCP (sessions) port on every link address. Nothing else is listened on.",
        ),
        key(
            "heartbeat",
            "duration, 10ms to 10s",
            DefaultsTo("\"200ms\""),
            "Interval of heartbeats on every link.",
        ),
        key(
            "dead_after",
            "duration, 3 x heartbeat to 1h",
            DefaultsTo("\"600ms\""),
            "Silence on every link after which the peer is questioned by ICMP, ARP or ND, and TCP.",
        ),
        key(
            "confirm",
            "duration, 10ms to 10s",
            DefaultsTo("\"200ms\""),
            "Bound of that questioning. Nothing answered: the peer is dead. The monitors with `counts_for = \"network\"` whose last good \
             answer took half of this time at most are asked in it too: if none is answered, this node is cut off itself and does not take over.",
        ),
        key(
            "max_stale",
            "duration, 1s to 7d",
            DefaultsTo("\"60s\""),
            "A standby that has not heard \"durable up to here\" from the master for longer than this is not promoted automatically.",
        ),
        key(
            "catching_up",
            "\"refuse\" or \"allow\"",
            DefaultsTo("\"refuse\""),
            "Whether a standby may take over by itself while a tree is catching up.",
        ),
        key(
            "boot_alone",
            "boolean",
            DefaultsTo("false"),
            "Become master alone at boot, without the peer's agreement. Risks promoting old data: leave it false unless being up matters more than being right.",
        ),
        key(
            "address_lifetime",
            "whole seconds, 3s to 1h",
            DefaultsTo("\"20s\""),
            "Lifetime of the floating addresses in the kernel. The agent refreshes it every third of it; without agent the kernel removes them by itself.",
        ),
        key(
            "move_timeout",
            "duration, 1s to 10m",
            DefaultsTo("\"10s\""),
            "Bound of a planned move up to its last point of return.",
        ),
    ],
};

pub(super) const AGENT: Section = Section {
    path: "agent",
    repeated: false,
    help: "Where an agent keeps its own things. They belong to no tree, whatever is configured below.",
    keys: &[
        key(
            "key",
            "absolute path",
            DefaultsTo("\"/etc/tandem/key\""),
            "Private key, made by `tandem keygen`. The agent knows by it which node it is.",
        ),
        key(
            "state_dir",
            "absolute path",
            DefaultsTo("\"/var/lib/tandem\""),
            "Durable state and index.",
        ),
        key(
            "socket",
            "absolute path",
            DefaultsTo("\"/run/tandem/tandem.sock\""),
            "Socket of the local API. Only root can open it.",
        ),
    ],
};

pub(super) const NODE: Section = Section {
    path: "node",
    repeated: true,
    help: "One machine of the pair. There are exactly two.",
    keys: &[
        key(
            "name",
            "name",
            Required(&["\"mirror1\"", "\"mirror2\""]),
            "Name of the node.",
        ),
        key(
            "key",
            "public key",
            Required(&[KEY_1, KEY_2]),
            "Its public key, as `tandem keygen` printed it. Nobody else gets past the handshake.",
        ),
        key(
            "link",
            "tables",
            Required(&[]),
            "Its ends of the links, see below.",
        ),
    ],
};

pub(super) const LINK: Section = Section {
    path: "node.link",
    repeated: true,
    help: "One end of a link: a path between the nodes. Both nodes have the same links, by name. Best is a private cable and, as a second witness, the public network.",
    keys: &[
        key(
            "name",
            "name",
            Required(&["\"private\"", "\"public\"", "\"private\"", "\"public\""]),
            "Name of the link, the same on both nodes.",
        ),
        key(
            "address",
            "IP address",
            Required(&[
                "\"192.168.1.1\"",
                "\"192.0.2.72\"",
                "\"192.168.1.2\"",
                "\"192.0.2.73\"",
            ]),
            "The node's own address on this link. Never a floating IP.",
        ),
        key(
            "device",
            "interface",
            Required(&["\"eth1\"", "\"eth0\"", "\"eth1\"", "\"eth0\""]),
            "The node's interface of this link.",
        ),
        key(
            "data",
            "boolean",
            Optional("true"),
            "Whether bulk data may use it. Default: true for the first link of the first node, false for the others. It counts for both ends.",
        ),
    ],
};

/// As [`KEY_1`].
const KEY_3: &str =
    "\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGP5ULXj1DQvlB45l1SGDQyN12HU5EIkIV0S+vdn38kR web1\"";

pub(super) const REPLICA: Section = Section {
    path: "replica",
    repeated: true,
    help: "A further machine that gets some trees from whichever node is master, read-only: a web server behind a director, for example. It runs the same agent with this same file, has no role, no floating IP and no service, and never takes over. At most 32.",
    keys: &[
        key(
            "name",
            "name",
            Required(&["\"web1\""]),
            "Name of the replica, unlike those of the nodes.",
        ),
        key(
            "key",
            "public key",
            Required(&[KEY_3]),
            "Its public key, as `tandem keygen` printed it there.",
        ),
        key(
            "address",
            "IP address",
            Required(&["\"192.0.2.81\""]),
            "Its own address. It listens there on the TCP port of the pair, and both nodes must reach it.",
        ),
        key(
            "trees",
            "list of names",
            Required(&["[\"www\"]"]),
            "The trees that it gets, at the same paths as on the nodes. Not those with [tree.freeze].",
        ),
    ],
};

pub(super) const FLOATING_IP: Section = Section {
    path: "floating_ip",
    repeated: true,
    help: "An address that moves with the master role.",
    keys: &[
        key(
            "address",
            "IP address/prefix",
            Required(&["\"192.0.2.74/24\""]),
            "Address and prefix length, IPv4 or IPv6.",
        ),
        key(
            "device",
            "interface",
            Required(&["\"eth0\""]),
            "Interface on both nodes.",
        ),
        key(
            "label",
            "text",
            Optional("\"eth0:1\""),
            "Label, IPv4 only: at most 15 bytes, begins with the name of the device.",
        ),
    ],
};
