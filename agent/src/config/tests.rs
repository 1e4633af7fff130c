//! The configuration as a whole.

mod errors;
mod facts;
mod files;
mod reading;
mod replicas;

use super::{Loaded, Problems};
use std::path::Path;

/// The smallest useful configuration; tests change parts of it.
const SMALL: &str = r#"
[pair]
name = "p"
preferred = "a"

[[node]]
name = "a"
key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHGRTsnVrif9xjxJLPq1WK8wBgrk1PM9X66g9TT2uFfs a"
[[node.link]]
name = "private"
address = "192.168.1.1"
device = "eth1"
[[node.link]]
name = "public"
address = "192.0.2.72"
device = "eth0"

[[node]]
name = "b"
key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICfYDK0mx4nxIFZMCW+TUaxVKAiLFDb4u9l4JMSPpotD b"
[[node.link]]
name = "private"
address = "192.168.1.2"
device = "eth1"
[[node.link]]
name = "public"
address = "192.0.2.73"
device = "eth0"

[[floating_ip]]
address = "192.0.2.74/24"
device = "eth0"

[[tree]]
name = "home"
path = "/home"
"#;

fn parse(text: &str) -> Result<Loaded, Problems> {
    super::parse(Path::new("t.toml"), text)
}

/// `SMALL` with `old` replaced by `new` at its first occurrence.
fn changed(old: &str, new: &str) -> String {
    assert!(SMALL.contains(old), "{old}");
    SMALL.replacen(old, new, 1)
}

fn good(text: &str) -> super::types::Config {
    parse(text).unwrap_or_else(|e| panic!("{e}")).config
}
