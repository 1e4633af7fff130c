//! The files of etc/, and the reference against the decoder.

use super::super::schema::{Need, SECTIONS};
use super::super::types::{Deletes, LocalChanges};
use super::super::{load, reference};
use super::parse;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn etc() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc")
}

#[test]
fn every_configuration_in_etc_loads_without_a_warning() {
    let mut seen = 0;
    for entry in std::fs::read_dir(etc()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let loaded = load(&path).unwrap_or_else(|e| panic!("{e}"));
            assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
            seen += 1;
        }
    }
    assert!(seen >= 2, "mirror-pair.toml and reference.toml are there");
}

#[test]
fn the_mirror_pair_is_whole() {
    let config = load(&etc().join("mirror-pair.toml")).unwrap().config;
    let trees: Vec<_> = config.trees.iter().map(|t| t.name.as_str()).collect();
    let expected = [
        "etc",
        "home",
        "home2",
        "home3",
        "home4",
        "home5",
        "home6",
        "tmp",
        "mysql",
        "spool",
        "log",
        "www_conf",
        "www_cgibin",
    ];
    assert_eq!(trees, expected);
    for tree in &config.trees {
        assert_eq!(
            (tree.deletes, tree.local_changes),
            (Deletes::Keep, LocalChanges::Keep)
        );
    }
    let paths: Vec<_> = config.trees.iter().map(|t| t.path.to_str()).collect();
    let expected = [
        "/etc",
        "/home",
        "/home2",
        "/home3",
        "/home4",
        "/home5",
        "/home6",
        "/tmp",
        "/usr/local/mysql/var",
        "/var/spool/mail",
        "/var/log",
        "/www/conf",
        "/www/cgi-bin",
    ];
    assert_eq!(paths, expected.map(Some));
    // Every file that the old pair made immutable by chattr, those of one node only included.
    let immutable = [
        "/HOSTNAME",
        "/sysconfig/network",
        "/sysconfig/network-scripts/ifcfg-eth0",
        "/sysconfig/network-scripts/ifcfg-eth1",
        "/sysconfig/network-scripts/ifcfg-lo",
        "/rsyncd.conf",
        "/crontab",
        "/lilo.conf",
        "/fstab",
        "/inetd.conf",
        "/inetd2.conf",
        "/hosts",
        "/rc.d/rc.local",
        "/mtab",
        "/rc.d/rc.sysinit",
        "/cron.hourly/rsyncd",
        "/cron.backup/backup",
    ];
    for name in immutable {
        assert!(config.trees[0].protect.iter().any(|p| p == name), "{name}");
    }
    let services: Vec<_> = config.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(services, ["database", "web"]);
    let checks: Vec<_> = config.monitors.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(checks, ["http", "ping"]);
    assert!(config.mail.is_some());
    // The move 10 s, the database 60 s, the web server 30 s.
    assert_eq!(config.hand_over_bound(), Duration::from_secs(100));
    assert_eq!(config.floating_ips[0].label.as_deref(), Some("eth0:1"));
    let data: Vec<_> = config.nodes[1]
        .links
        .iter()
        .map(|l| (l.name.as_str(), l.data))
        .collect();
    assert_eq!(data, [("private", true), ("public", false)]);
}

#[test]
fn the_reference_is_what_the_schema_writes() {
    let file = std::fs::read_to_string(etc().join("reference.toml")).unwrap();
    assert!(
        file == reference::toml(),
        "run `tandem generate reference --out etc/reference.toml`"
    );
}

#[test]
fn the_manual_has_the_tables_of_the_schema() {
    let file = etc().join("../docs/configuration.md");
    let manual = std::fs::read_to_string(&file).unwrap();
    assert!(
        manual.contains(&reference::markdown()),
        "replace the tables of docs/configuration.md by the output of `tandem generate tables`"
    );
}

/// The keys that [`reference::toml`] has in use, made wrong one by one: whatever the decoder does not read would pass.
#[test]
fn every_key_of_the_schema_is_read_by_the_decoder() {
    let text = reference::toml();
    for section in SECTIONS {
        for key in section.keys {
            let Some(example) = key.need.text(0) else {
                continue; // Tables below it.
            };
            let start = text.find(&format!("\n{}\n", section.header())).unwrap();
            let line = format!("\n{} = {example}\n", key.name);
            let commented = format!("\n# {} = {example}\n", key.name);
            let (at, length) = match (text[start..].find(&line), text[start..].find(&commented)) {
                (Some(at), _) => (start + at, line.len()),
                (None, Some(at)) => (start + at, commented.len()),
                (None, None) => panic!("{} {} is not in the reference", section.path, key.name),
            };
            let wrong = format!(
                "{}\n{} = 1979-05-27\n{}",
                &text[..at],
                key.name,
                &text[at + length..]
            );
            let problems = parse(&wrong).expect_err(key.name).to_string();
            let complaint = format!("`{}` ", key.name);
            assert!(
                problems.contains(&complaint),
                "{} {}: {problems}",
                section.path,
                key.name
            );
        }
    }
}

/// A default that is written out, as in the reference, means the same as one that is left out.
#[test]
fn the_defaults_of_the_reference_are_those_of_the_decoder() {
    let text = reference::toml();
    let mut bare = text.clone();
    for section in SECTIONS {
        for key in section.keys {
            if let Need::DefaultsTo(value) = key.need {
                bare = bare.replace(&format!("\n{} = {value}\n", key.name), "\n");
            }
        }
    }
    assert_ne!(bare, text);
    let (with, without) = (parse(&text).unwrap(), parse(&bare).unwrap());
    assert_eq!(with.config, without.config);
}

#[test]
fn the_service_unit_runs_the_guardian_and_orders_itself_behind_services() {
    let unit = std::fs::read_to_string(etc().join("tandem.service")).unwrap();
    for line in [
        "Type=notify",
        "ExecStart=/usr/bin/tandem agent",
        "ExecReload=/usr/bin/tandem reload",
        "ExecStopPost=/usr/bin/tandem release",
        "Restart=always",
    ] {
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
    let seconds = |key: &str| -> u64 {
        let line = unit.lines().find_map(|l| l.strip_prefix(key)).unwrap();
        line.trim_start_matches('=').parse().unwrap()
    };
    // The defaults of a planned move and, of services and hooks, four.
    assert!(seconds("TimeoutStopSec") > 10 + 4 * 30);
    assert!(seconds("WatchdogSec") >= 5);
}
