//! A configuration as a set of facts: digests that both nodes compare, and differences for a reload.
//!
//! A fact is one key that says something else than its default, in canonical form. Formatting, comments, the order of
//! keys, of trees, of nodes and of monitors do not count; the order of services and hooks does, because they run in it.
//! A default that is written out is no fact, so that a newer version's new keys change no digest until they are used.

use super::limits::format_pace;
use super::rate::format_rate;
use super::schema::{self, Need};
use super::time::format_duration;
use super::types::{
    CatchingUp, Check, Config, CountsFor, Deletes, HookEvent, LocalChanges, MailVia, MaxDelete,
    Owners, ServiceControl, Snapshot, Update,
};
use crate::keys::public_line;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// One table of the file: its section and its name, empty for a section that occurs once.
type Table = (&'static str, String);

/// The facts of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts(BTreeMap<Table, BTreeMap<&'static str, String>>);

/// What stands for a set of facts: BLAKE3 over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    /// The first 16 hexadecimal digits, enough for an eye to compare.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// When a change can be in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Applies {
    /// At once, by `tandem reload`.
    InPlace,
    /// After `tandem restart`, which keeps role and addresses.
    AfterRestart,
}

/// One difference between two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Section of the table that changed.
    pub section: &'static str,
    /// When it can be in force.
    pub applies: Applies,
    /// In words.
    pub text: String,
}

impl Facts {
    /// The facts of `config`.
    pub fn of(config: &Config) -> Self {
        let mut facts = Self(BTreeMap::new());
        facts.add_pair(config);
        facts.add_nodes(config);
        facts.add_work(config);
        facts.add_actions(config);
        facts
    }

    /// Digest of all facts.
    pub fn digest(&self) -> Digest {
        self.digest_of(|_, _| true)
    }

    /// Digest of what makes a standby not eligible when it differs (R7): floating IPs, trees, and by what the two nodes
    /// decide who serves.
    pub fn matters(&self) -> Digest {
        self.digest_of(matters)
    }

    fn digest_of(&self, take: impl Fn(&str, &str) -> bool) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("tandem configuration facts 1");
        for ((section, name), keys) in &self.0 {
            let keys: Vec<_> = keys.iter().filter(|(key, _)| take(section, key)).collect();
            if keys.is_empty() {
                continue;
            }
            for part in [section, name.as_str()] {
                hash_text(&mut hasher, part);
            }
            hasher.update(&(keys.len() as u64).to_le_bytes());
            for (key, value) in keys {
                hash_text(&mut hasher, key);
                hash_text(&mut hasher, value);
            }
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// What has to change to come from `self` to `new`.
    pub fn changes_to(&self, new: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let tables: std::collections::BTreeSet<&Table> =
            self.0.keys().chain(new.0.keys()).collect();
        for table in tables {
            let mut push = |key: Option<&str>, text: String| {
                changes.push(Change {
                    section: table.0,
                    applies: applies(table.0, key),
                    text: format!("{}: {text}", title(table)),
                });
            };
            match (self.0.get(table), new.0.get(table)) {
                (None, Some(_)) if !table.1.is_empty() => push(None, "added".to_owned()),
                (Some(_), None) if !table.1.is_empty() => push(None, "removed".to_owned()),
                (old, new) => {
                    let empty = BTreeMap::new();
                    let (old, new) = (old.unwrap_or(&empty), new.unwrap_or(&empty));
                    let keys: std::collections::BTreeSet<_> =
                        old.keys().chain(new.keys()).collect();
                    for key in keys {
                        let (a, b) = (old.get(key), new.get(key));
                        if a != b {
                            let or_default = |v: Option<&String>| {
                                v.cloned().unwrap_or_else(|| default_text(table.0, key))
                            };
                            push(
                                Some(key),
                                format!("{key} was {}, is {}", or_default(a), or_default(b)),
                            );
                        }
                    }
                }
            }
        }
        changes
    }

    fn put(&mut self, section: &'static str, name: &str, key: &'static str, value: String) {
        debug_assert!(
            key == "order" || schema::section(section).key(key).is_some(),
            "{section} {key}"
        );
        if default_text(section, key) != value {
            let keys = self.0.entry((section, name.to_owned())).or_default();
            keys.insert(key, value);
        }
    }

    fn add_pair(&mut self, config: &Config) {
        let pair = &config.pair;
        let mut put = |key, value| self.put("pair", "", key, value);
        put("name", quoted(&pair.name));
        put("preferred", quoted(&pair.preferred));
        put("port", pair.port.to_string());
        put("heartbeat", time(pair.heartbeat));
        put("dead_after", time(pair.dead_after));
        put("confirm", time(pair.confirm));
        put("max_stale", time(pair.max_stale));
        let catching_up = match pair.catching_up {
            CatchingUp::Refuse => "refuse",
            CatchingUp::Allow => "allow",
        };
        put("catching_up", quoted(catching_up));
        put("boot_alone", pair.boot_alone.to_string());
        put("address_lifetime", time(pair.address_lifetime));
        put("move_timeout", time(pair.move_timeout));
        let agent = &config.agent;
        let mut put = |key, path: &std::path::Path| {
            self.put("agent", "", key, quoted(&path.to_string_lossy()))
        };
        put("key", &agent.key);
        put("state_dir", &agent.state_dir);
        put("socket", &agent.socket);
    }

    fn add_nodes(&mut self, config: &Config) {
        for node in &config.nodes {
            self.put("node", &node.name, "name", quoted(&node.name));
            self.put(
                "node",
                &node.name,
                "key",
                quoted(&public_line(&node.key, "")),
            );
            for link in &node.links {
                let name = format!("{} {}", node.name, link.name);
                let mut put = |key, value| self.put("node.link", &name, key, value);
                put("name", quoted(&link.name));
                put("address", quoted(&link.address.to_string()));
                put("device", quoted(&link.device));
                put("data", link.data.to_string());
            }
        }
        for replica in &config.replicas {
            let mut put = |key, value| self.put("replica", &replica.name, key, value);
            put("name", quoted(&replica.name));
            put("key", quoted(&public_line(&replica.key, "")));
            put("address", quoted(&replica.address.to_string()));
            put("trees", words(&replica.trees));
        }
        for floating in &config.floating_ips {
            let name = floating.address.to_string();
            let mut put = |key, value| self.put("floating_ip", &name, key, value);
            put(
                "address",
                quoted(&format!("{}/{}", floating.address, floating.prefix)),
            );
            put("device", quoted(&floating.device));
            if let Some(label) = &floating.label {
                put("label", quoted(label));
            }
        }
    }

    fn add_work(&mut self, config: &Config) {
        for tree in &config.trees {
            let mut put = |key, value| self.put("tree", &tree.name, key, value);
            put("name", quoted(&tree.name));
            put("path", quoted(&tree.path.to_string_lossy()));
            put("exclude", words(&tree.exclude));
            put("protect", words(&tree.protect));
            let deletes = match tree.deletes {
                Deletes::Mirror => "mirror",
                Deletes::Keep => "keep",
                Deletes::Trash => "trash",
            };
            put("deletes", quoted(deletes));
            put("trash_age", time(tree.trash_age));
            let local = match tree.local_changes {
                LocalChanges::Repair => "repair",
                LocalChanges::Keep => "keep",
                LocalChanges::Report => "report",
            };
            put("local_changes", quoted(local));
            let update = match tree.update {
                Update::Atomic => "atomic",
                Update::InPlace => "in-place",
            };
            put("update", quoted(update));
            let owners = match tree.owners {
                Owners::Number => "number",
                Owners::Name => "name",
            };
            put("owners", quoted(owners));
            put("flags", tree.flags.to_string());
            put("devices", tree.devices.to_string());
            let max_delete = match tree.max_delete {
                MaxDelete::Percent(percent) => quoted(&format!("{percent}%")),
                MaxDelete::Count(count) => count.to_string(),
            };
            put("max_delete", max_delete);
            if let Some(poll) = tree.poll {
                put("poll", time(poll));
            }
            put("pass", time(tree.pass));
            let compare = tree.compare_contents.map_or(quoted("never"), time);
            put("compare_contents", compare);
            if let Some(verify) = tree.verify {
                put("verify", time(verify));
            }
            if let Some(rate) = tree.verify_rate {
                put("verify_rate", quoted(&format_rate(rate)));
            }
            if let Some(freeze) = &tree.freeze {
                let mut put = |key, value| self.put("tree.freeze", &tree.name, key, value);
                put("before", words(&freeze.before));
                put("after", words(&freeze.after));
                put("timeout", time(freeze.timeout));
                put("every", time(freeze.every));
                match &freeze.snapshot {
                    Some(Snapshot::Btrfs) => put("snapshot", quoted("btrfs")),
                    Some(Snapshot::At(path)) => {
                        put("snapshot", quoted(&path.display().to_string()))
                    }
                    None => {}
                }
            }
            for (number, limit) in tree.limits.iter().enumerate() {
                // Their order counts.
                let name = format!("{} {}", tree.name, number + 1);
                let mut put = |key, value| self.put("tree.limit", &name, key, value);
                put("rate", quoted(&format_pace(limit.pace)));
                if let Some(between) = limit.between {
                    put("between", quoted(&between.to_string()));
                }
            }
        }
        for monitor in &config.monitors {
            let mut put = |key, value| self.put("monitor", &monitor.name, key, value);
            put("name", quoted(&monitor.name));
            let counts_for = match monitor.counts_for {
                CountsFor::Service => "service",
                CountsFor::Network => "network",
            };
            put("counts_for", quoted(counts_for));
            put("interval", time(monitor.interval));
            put("timeout", time(monitor.timeout));
            put("fall", monitor.fall.to_string());
            put("rise", monitor.rise.to_string());
            put_check(&monitor.check, put);
        }
    }

    fn add_actions(&mut self, config: &Config) {
        for (order, service) in config.services.iter().enumerate() {
            let mut put = |key, value| self.put("service", &service.name, key, value);
            put("name", quoted(&service.name));
            put("order", order.to_string());
            match &service.control {
                ServiceControl::Unit(unit) => put("unit", quoted(unit)),
                ServiceControl::Argv { start, stop } => {
                    put("start", words(start));
                    put("stop", words(stop));
                }
            }
            put("timeout", time(service.timeout));
        }
        for (order, hook) in config.hooks.iter().enumerate() {
            // Hooks have no names: their place is what tells them apart.
            let name = format!("{}", order + 1);
            let mut put = |key, value| self.put("hook", &name, key, value);
            let on = match hook.on {
                HookEvent::Master => "master",
                HookEvent::Standby => "standby",
                HookEvent::Freeze => "freeze",
                HookEvent::Thaw => "thaw",
            };
            put("on", quoted(on));
            put("command", words(&hook.argv));
            put("timeout", time(hook.timeout));
        }
        if let Some(mail) = &config.mail {
            let mut put = |key, value| self.put("mail", "", key, value);
            put("to", words(&mail.to));
            put("from", quoted(&mail.from));
            match &mail.via {
                MailVia::Sendmail(program) => put("sendmail", quoted(&program.to_string_lossy())),
                MailVia::Smtp(host, port) if host.contains(':') => {
                    put("smtp", quoted(&format!("[{host}]:{port}")))
                }
                MailVia::Smtp(host, port) => put("smtp", quoted(&format!("{host}:{port}"))),
            }
        }
    }
}

fn put_check(check: &Check, mut put: impl FnMut(&'static str, String)) {
    let method = match check {
        Check::Ping { address } => {
            put("address", quoted(&address.to_string()));
            "ping"
        }
        Check::Http {
            address,
            port,
            path,
            host,
            status,
        } => {
            put("address", quoted(&address.to_string()));
            put("port", port.to_string());
            put("path", quoted(path));
            put("host", quoted(host));
            put(
                "status",
                quoted(&format!("{}-{}", status.start(), status.end())),
            );
            "http"
        }
        Check::Tcp { address, port } => {
            put("address", quoted(&address.to_string()));
            put("port", port.to_string());
            "tcp"
        }
        Check::Command { argv } => {
            put("command", words(argv));
            "command"
        }
    };
    put("check", quoted(method));
}

/// R7: a difference here makes the standby not eligible. Of `[pair]` what R3 and R4 reckon with on both sides: a master that counts on
/// its own `max_stale` when it starts alone must not have a peer that takes over by a longer one.
fn matters(section: &str, key: &str) -> bool {
    match section {
        "floating_ip" | "tree" | "tree.freeze" => true,
        "pair" => matches!(
            key,
            "preferred" | "dead_after" | "confirm" | "max_stale" | "catching_up" | "boot_alone"
        ),
        _ => false,
    }
}

/// What can be changed in a running agent. Who the nodes are and how they reach each other is built at its start.
fn applies(section: &str, key: Option<&str>) -> Applies {
    match (section, key) {
        ("agent" | "node" | "node.link", _) | ("pair", Some("name" | "port")) => {
            Applies::AfterRestart
        }
        _ => Applies::InPlace,
    }
}

fn title((section, name): &Table) -> String {
    if name.is_empty() {
        format!("[{section}]")
    } else {
        format!("[[{section}]] {name}")
    }
}

/// The canonical text of a default; for a key without one, what stands for absence in a list of changes.
fn default_text(section: &str, key: &str) -> String {
    match schema::section(section).key(key).map(|k| &k.need) {
        Some(Need::DefaultsTo(text)) => (*text).to_owned(),
        _ => "absent".to_owned(),
    }
}

fn hash_text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn words(list: &[String]) -> String {
    serde_json::Value::from(list).to_string()
}

fn time(duration: Duration) -> String {
    quoted(&format_duration(duration))
}
