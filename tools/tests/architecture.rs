//! The map of the house, ARCHITECTURE.md, against the house.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Rust files below a directory, with their paths below the repository.
fn sources(below: &str) -> Vec<(String, String)> {
    let root = root();
    let files = WalkDir::new(root.join(below))
        .into_iter()
        .map(|e| e.expect("walked"));
    files
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "rs"))
        .map(|entry| {
            let path = entry.path().strip_prefix(&root).expect("below the root");
            let text = fs::read_to_string(entry.path()).expect("read");
            (path.display().to_string(), text)
        })
        .collect()
}

/// The packages of this workspace that a package uses, tests included.
fn uses(package: &str) -> BTreeSet<String> {
    read(&format!("{package}/Cargo.toml"))
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| *name == "tandem" || name.starts_with("tandem-"))
        .map(str::to_string)
        .collect()
}

#[test]
fn failover_and_sync_know_nothing_of_each_other_and_nothing_imports_the_agent_but_tools() {
    let none = BTreeSet::new();
    assert_eq!(uses("failover"), none);
    assert_eq!(uses("sync"), ["tandem-lab".to_string()].into());
    assert!(sources("sync/src").iter().all(|(path, text)| {
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        path.contains("/tests/") || path.ends_with("/tests.rs") || !product.contains("tandem_lab")
    }));
    assert_eq!(uses("tools/lab"), none);
    let agent = ["tandem-failover", "tandem-lab", "tandem-sync"];
    assert_eq!(uses("agent"), agent.map(str::to_string).into());
}

/// Commands that work without an agent, or are the agent.
const WITHOUT_AGENT: [&str; 6] = ["agent", "check", "generate", "keygen", "release", "tests"];

#[test]
fn commands_that_ask_the_agent_know_only_its_api() {
    let mut looked_at = 0;
    for (path, text) in sources("agent/src/cli") {
        let name = path.trim_start_matches("agent/src/cli/");
        let name = name.split(['/', '.']).next().unwrap_or(name);
        if WITHOUT_AGENT.contains(&name) {
            continue;
        }
        looked_at += 1;
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            for (at, _) in code.match_indices("crate::") {
                let module = &code[at + "crate::".len()..];
                assert!(
                    module.starts_with("api::") || module.starts_with("cli"),
                    "{path}:{}: {line}",
                    n + 1
                );
            }
            let pieces = ["tandem_failover", "tandem_sync"];
            assert!(!pieces.iter().any(|p| code.contains(p)), "{path}: {line}");
        }
    }
    assert!(looked_at > 15, "{looked_at} files");
}

#[test]
fn every_module_of_the_map_is_there_and_every_module_is_on_the_map() {
    let map = read("ARCHITECTURE.md");
    let map = map.split("```").nth(1).expect("the map");
    for (package, from, to) in [
        ("failover", "failover/src/", "sync/src/"),
        ("sync", "sync/src/", "agent/src/"),
        ("agent", "agent/src/", "tools/"),
    ] {
        let part = map.split(from).nth(1).expect("its part");
        let part = part.split(to).next().expect("its end");
        // What is named stands before the explanation, which begins after three spaces.
        let named: BTreeSet<String> = part
            .lines()
            .skip(1)
            .filter_map(|line| line.trim_start().split("   ").next())
            .flat_map(str::split_whitespace)
            .map(|word| {
                word.trim_end_matches(".rs")
                    .trim_end_matches('/')
                    .to_string()
            })
            .collect();
        let there: BTreeSet<String> = fs::read_dir(root().join(package).join("src"))
            .expect("read")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().trim_end_matches(".rs").to_string())
            .filter(|name| name != "lib")
            .collect();
        assert_eq!(
            named, there,
            "{package}: left on the map, right in the tree"
        );
    }
}

#[test]
fn only_lib_rs_shows_where_the_ban_on_io_is_lifted() {
    // A module that is both lifts it on the `mod` lines of its own I/O parts; a test that measures time says why.
    let allowed = [
        "sync/src/engine.rs",
        "sync/src/filter/tests.rs",
        "sync/src/replica.rs",
        "sync/src/source.rs",
    ];
    for (path, text) in sources("failover/src")
        .into_iter()
        .chain(sources("sync/src"))
    {
        let lifts =
            text.contains("allow(clippy::disallowed") || text.contains("expect(clippy::disallowed");
        if lifts && !path.ends_with("src/lib.rs") {
            assert!(allowed.contains(&path.as_str()), "{path} lifts the ban");
        }
    }
}
