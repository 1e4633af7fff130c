//! What of this machine does not fit its configuration. Nothing here is an error of the file: it may be a draft, or the
//! machine may not be ready yet.

use super::boot;
use crate::config::types::{Check, Config, MailVia, Node, ServiceControl, Tree};
use crate::config::{Loaded, Who, format_duration};
use crate::hooks::trust;
use crate::keys::{KeyError, NodeKey};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// All doubts, in words. Asks the file system and systemd.
pub(super) fn warnings(
    loaded: &Loaded,
    key: &Result<NodeKey, KeyError>,
    me: Option<Who>,
) -> Vec<String> {
    let config = &loaded.config;
    let mut all = Vec::new();
    match (key, me) {
        (Err(error), _) => all.push(error.to_string()),
        (Ok(_), None) => all.push(format!(
            "the key {} is of none of the nodes and replicas",
            config.agent.key.display()
        )),
        (Ok(_), Some(_)) => {}
    }
    file_of_others(&loaded.file, &mut all);
    match me {
        Some(Who::Node(at)) => {
            let me = &config.nodes[at];
            devices(config, me, &mut all);
            unseen(config, me, &mut all);
            roots(config.trees.iter(), &mut all);
            programs(config, &mut all);
            units(config, &mut all);
        }
        Some(Who::Replica(at)) => {
            let gets = |tree: &&Tree| config.replicas[at].trees.contains(&tree.name);
            roots(config.trees.iter().filter(gets), &mut all);
        }
        None => {}
    }
    all
}

/// Whoever can write the configuration can run programs as root.
pub(in crate::cli) fn file_of_others(file: &Path, all: &mut Vec<String>) {
    let Ok(meta) = std::fs::metadata(file) else {
        return;
    };
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != me {
        all.push(format!(
            "{} belongs to user {}, who can so run programs as root",
            file.display(),
            meta.uid()
        ));
    }
    if meta.mode() & 0o022 != 0 {
        all.push(format!(
            "{} can be written by others (mode {:04o})",
            file.display(),
            meta.mode() & 0o7777
        ));
    }
}

fn devices(config: &Config, me: &Node, all: &mut Vec<String>) {
    let links = me
        .links
        .iter()
        .map(|l| (&l.device, format!("link {}", l.name)));
    let floating = config
        .floating_ips
        .iter()
        .map(|f| (&f.device, format!("floating IP {}", f.address)));
    for (device, what) in links.chain(floating) {
        if !Path::new("/sys/class/net").join(device).exists() {
            all.push(format!(
                "there is no interface {device}, needed for the {what}"
            ));
        }
    }
}

/// The peer's hardware address is learned on a link. Without a link on the network of a floating IP, nobody can tell
/// there whose answers a monitor gets.
fn unseen(config: &Config, me: &Node, all: &mut Vec<String>) {
    for floating in &config.floating_ips {
        if !me.links.iter().any(|link| link.device == floating.device) {
            all.push(format!(
                "no link is on {}, the interface of the floating IP {}: a master that hangs there is not recognised; \
                 add a [[node.link]] on it",
                floating.device, floating.address
            ));
        }
    }
}

fn roots<'c>(trees: impl Iterator<Item = &'c Tree>, all: &mut Vec<String>) {
    for tree in trees {
        let root = tree.path.display();
        match std::fs::symlink_metadata(&tree.path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => all.push(format!(
                "the root {root} of the tree {} is no directory",
                tree.name
            )),
            Err(error) => all.push(format!(
                "the root {root} of the tree {}: {error}",
                tree.name
            )),
        }
    }
}

/// The agent refuses to run what others can write; better to hear of it before a takeover.
fn programs(config: &Config, all: &mut Vec<String>) {
    let mut check = |what: String, program: &str| {
        if let Err(error) = trust::resolve(program) {
            all.push(format!("{what}: {error}"));
        }
    };
    for (number, hook) in config.hooks.iter().enumerate() {
        check(format!("hook {}", number + 1), &hook.argv[0]);
    }
    for service in &config.services {
        if let ServiceControl::Argv { start, stop } = &service.control {
            check(format!("start of the service {}", service.name), &start[0]);
            check(format!("stop of the service {}", service.name), &stop[0]);
        }
    }
    for monitor in &config.monitors {
        if let Check::Command { argv } = &monitor.check {
            check(format!("monitor {}", monitor.name), &argv[0]);
        }
    }
    if let Some(mail) = &config.mail
        && let MailVia::Sendmail(program) = &mail.via
    {
        check("mail".to_owned(), &program.to_string_lossy());
    }
}

fn units(config: &Config, all: &mut Vec<String>) {
    for service in &config.services {
        let state = match &service.control {
            ServiceControl::Unit(unit) => systemctl(&["is-enabled", "--", unit]),
            ServiceControl::Argv { .. } => None,
        };
        all.extend(boot::doubt(service, state.as_deref(), Path::new("/")));
    }
    if let Some(text) = systemctl(&[
        "show",
        "--property=LoadState,TimeoutStopUSec",
        "--",
        "tandem.service",
    ]) && let Some(allowed) = stop_timeout(&text)
    {
        let bound = config.hand_over_bound();
        if allowed <= bound {
            all.push(format!(
                "systemd kills the agent {} after it was told to stop, and a hand-over may take {}: raise TimeoutStopSec of \
                 tandem.service",
                format_duration(allowed),
                format_duration(bound)
            ));
        }
    }
}

/// `TimeoutStopUSec` as systemctl prints it, if the unit is there and has a bound.
fn stop_timeout(text: &str) -> Option<Duration> {
    if !text.lines().any(|l| l == "LoadState=loaded") {
        return None;
    }
    let value = text
        .lines()
        .find_map(|l| l.strip_prefix("TimeoutStopUSec="))?;
    let mut total = Duration::ZERO;
    for part in value.split_whitespace() {
        // systemd.time(7): `1min 30s`. What is not understood gives no warning.
        let part = part.replace("min", "m");
        total += crate::config::parse_duration(&part).ok()?;
    }
    Some(total)
}

/// What systemctl prints, or nothing where there is none. It answers from files and from the manager's memory.
fn systemctl(args: &[&str]) -> Option<String> {
    let output = Command::new("systemctl")
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn example() -> Loaded {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc/mirror-pair.toml");
        config::load(&file).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn the_stop_timeout_is_read_as_systemd_prints_it() {
        let show =
            |value: &str| stop_timeout(&format!("LoadState=loaded\nTimeoutStopUSec={value}"));
        assert_eq!(show("3min"), Some(Duration::from_secs(180)));
        assert_eq!(show("1min 30s"), Some(Duration::from_secs(90)));
        assert_eq!(show("infinity"), None);
        assert_eq!(
            stop_timeout("LoadState=not-found\nTimeoutStopUSec=1min 30s"),
            None
        );
    }

    #[test]
    fn a_floating_ip_where_no_link_is_is_doubted() {
        let mut loaded = example();
        let mut all = Vec::new();
        unseen(&loaded.config, &loaded.config.nodes[0], &mut all);
        assert_eq!(all, Vec::<String>::new());
        loaded.config.floating_ips[0].device = "eth9".into();
        unseen(&loaded.config, &loaded.config.nodes[0], &mut all);
        assert!(all.len() == 1 && all[0].contains("eth9"), "{all:?}");
    }

    #[test]
    fn a_machine_without_the_key_and_the_programs_is_told() {
        let loaded = example();
        let key = NodeKey::load(Path::new("/nowhere/key"));
        let all = warnings(&loaded, &key, None);
        assert!(all.iter().any(|w| w.contains("tandem keygen")), "{all:?}");
        let me = Who::Node(0);
        let key = NodeKey::generate().map_err(|_| KeyError::Missing("x".into()));
        let all = warnings(&loaded, &key, Some(me)).join("\n");
        assert!(all.contains("/www/bin/apachectl"), "{all}");
        assert!(all.contains("/home6 of the tree home6"), "{all}");
    }
}
