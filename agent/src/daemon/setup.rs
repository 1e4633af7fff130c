//! (pure) What the parts want to know, out of the one configuration.

use super::feeds::replicas;
use crate::config::facts::Facts;
use crate::config::own::{effective_exclude, own_paths};
use crate::config::types as config;
use crate::link::LinkPath;
use std::path::Path;
use tandem_failover::address::FloatingAddress;
use tandem_failover::driver::Setup;
use tandem_failover::heartbeat::{KeyId, PairId};
use tandem_failover::heartbeat_io::LinkConfig;
use tandem_failover::policy::Policy;
use tandem_failover::probe::command::CommandCheck;
use tandem_failover::probe::http::HttpCheck;
use tandem_failover::probe::monitor;
use tandem_sync::filter::{Filter, PatternError};
use tandem_sync::tree::{PairConfig, Part, TreeConfig};
use tandem_sync::watch::Detector;

/// The pair's id in every heartbeat.
pub fn pair_id(config: &config::Config) -> PairId {
    let [a, b] = &config.nodes;
    PairId::of(&config.pair.name, &a.key.0, &b.key.0)
}

/// The failover policy.
pub fn policy(config: &config::Config, own: usize) -> Policy {
    let mine = &config.nodes[own];
    let theirs = &config.nodes[1 - own];
    let facts = Facts::of(config);
    let pair = &config.pair;
    Policy {
        preferred: pair.preferred == mine.name,
        // The configuration allows at most Policy::MAX_LINKS links.
        links: u8::try_from(mine.links.len()).unwrap_or(Policy::MAX_LINKS),
        heartbeat: pair.heartbeat,
        dead_after: pair.dead_after,
        confirm: pair.confirm,
        max_stale: pair.max_stale,
        allow_catching_up: pair.catching_up == config::CatchingUp::Allow,
        boot_alone: pair.boot_alone,
        address_lifetime: pair.address_lifetime,
        move_timeout: pair.move_timeout,
        config_digest: short(facts.digest().0),
        config_matters: short(facts.matters().0),
        ..Policy::new(
            PairId::of_state(&pair.name),
            KeyId::of(&mine.key.0),
            KeyId::of(&theirs.key.0),
        )
    }
}

fn short(digest: [u8; 32]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(bytes)
}

/// The links as the control and data sessions use them.
pub fn link_paths(config: &config::Config, own: usize) -> Vec<LinkPath> {
    let theirs = &config.nodes[1 - own].links;
    config.nodes[own]
        .links
        .iter()
        .zip(theirs)
        .map(|(mine, theirs)| LinkPath {
            name: mine.name.clone(),
            local: mine.address,
            peer: theirs.address,
            data: mine.data && theirs.data,
        })
        .collect()
}

/// Everything that a reload may change in the failover half.
pub fn driver(config: &config::Config, own: usize) -> Setup {
    let theirs = &config.nodes[1 - own].links;
    let links = config.nodes[own].links.iter().zip(theirs);
    Setup {
        policy: policy(config, own),
        links: links
            .map(|(mine, theirs)| LinkConfig {
                device: mine.device.clone(),
                own: mine.address,
                peer: theirs.address,
            })
            .collect(),
        port: config.pair.port,
        addresses: floating(config),
        monitors: monitors(config),
        peer_fence: None,
    }
}

/// The floating addresses.
pub fn floating(config: &config::Config) -> Vec<FloatingAddress> {
    config
        .floating_ips
        .iter()
        .map(|ip| FloatingAddress {
            address: ip.address,
            prefix: ip.prefix,
            device: ip.device.clone(),
            label: ip.label.clone(),
        })
        .collect()
}

/// The monitors.
pub fn monitors(config: &config::Config) -> Vec<monitor::MonitorConfig> {
    config
        .monitors
        .iter()
        .map(|m| monitor::MonitorConfig {
            name: m.name.clone(),
            check: check(&m.check),
            counts_for: match m.counts_for {
                config::CountsFor::Service => monitor::CountsFor::Service,
                config::CountsFor::Network => monitor::CountsFor::Network,
            },
            interval: m.interval,
            timeout: m.timeout,
            fall: m.fall,
            rise: m.rise,
        })
        .collect()
}

fn check(check: &config::Check) -> monitor::Check {
    match check {
        config::Check::Ping { address } => monitor::Check::Ping(*address),
        config::Check::Http {
            address,
            port,
            path,
            host,
            status,
        } => monitor::Check::Http(HttpCheck {
            address: *address,
            port: *port,
            path: path.clone(),
            host: host.clone(),
            status: status.clone(),
        }),
        config::Check::Tcp { address, port } => monitor::Check::Tcp((*address, *port).into()),
        config::Check::Command { argv } => {
            monitor::Check::Command(CommandCheck { argv: argv.clone() })
        }
    }
}

/// The trees. What Tandem itself needs on this node belongs to none of them, whatever the file says.
pub fn trees(config: &config::Config, own: usize, file: &Path) -> Result<PairConfig, PatternError> {
    Ok(PairConfig {
        part: Part::Node {
            replicas: replicas(config),
        },
        ..everything(config, &config.nodes[own].name, file)?
    })
}

/// The same on a replica, which has some of the trees.
pub fn replica_trees(
    config: &config::Config,
    own: usize,
    file: &Path,
) -> Result<PairConfig, PatternError> {
    let replica = &config.replicas[own];
    let mut pair = everything(config, &replica.name, file)?;
    pair.trees.retain(|tree| replica.trees.contains(&tree.name));
    Ok(PairConfig {
        part: Part::Replica,
        ..pair
    })
}

fn everything(
    config: &config::Config,
    name: &str,
    file: &Path,
) -> Result<PairConfig, PatternError> {
    let private = own_paths(config, file);
    let trees = config.trees.iter().map(|tree| {
        Ok(TreeConfig {
            exclude: Filter::parse(effective_exclude(tree, &private).iter().map(String::as_str))?,
            protect: Filter::parse(tree.protect.iter().map(String::as_str))?,
            deletes: tree.deletes,
            trash_age: tree.trash_age,
            local_changes: tree.local_changes,
            update: tree.update,
            owners: tree.owners,
            flags: tree.flags,
            devices: tree.devices,
            freeze: tree.freeze.clone(),
            max_delete: tree.max_delete,
            poll: tree.poll,
            pass: tree.pass,
            compare_contents: tree.compare_contents,
            limits: tree.limits.clone(),
            verify: tree.verify,
            verify_rate: tree.verify_rate,
            ..TreeConfig::new(tree.name.clone(), tree.path.clone())
        })
    });
    Ok(PairConfig {
        etc: "/etc".into(),
        pair: config.pair.name.clone(),
        node: name.to_owned(),
        part: Part::node(),
        trees: trees.collect::<Result<_, _>>()?,
        state_dir: config.agent.state_dir.clone(),
        detector: Detector::Fanotify,
        max_stale: config.pair.max_stale,
    })
}
