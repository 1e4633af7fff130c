//! What belongs to the agent and therefore to no tree, whatever the configuration says (invariant 6); and of trees that lie in each
//! other, which path belongs to which.

use super::types::{Config, Tree};
use std::path::{Path, PathBuf};

/// Key, configuration file, state directory and socket of the agent, and the roots of the trees: what lies below one of these is no
/// part of any other tree. Each as written and, where it exists, with symlinks resolved. Asks the file system.
pub fn own_paths(config: &Config, file: &Path) -> Vec<PathBuf> {
    let agent = &config.agent;
    let agents = [&agent.key, &agent.state_dir, &agent.socket].map(PathBuf::as_path);
    let roots = config.trees.iter().map(|tree| tree.path.as_path());
    let mut all = Vec::new();
    for path in agents.into_iter().chain([file]).chain(roots) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        if let Ok(resolved) = path.canonicalize()
            && resolved != path
        {
            all.push(resolved);
        }
        all.push(path);
    }
    all.sort();
    all.dedup();
    all
}

/// The tree's exclude patterns and, anchored at its root, one for each own path below it. An excluded directory
/// excludes what is in it. Asks the file system where the tree's root leads.
pub fn effective_exclude(tree: &Tree, own: &[PathBuf]) -> Vec<String> {
    let mut patterns = Vec::new();
    let resolved = tree.path.canonicalize().ok();
    for root in std::iter::once(&tree.path).chain(&resolved) {
        for path in own {
            if let Ok(below) = path.strip_prefix(root)
                && !below.as_os_str().is_empty()
            {
                patterns.push(format!("/{}", literal(&below.to_string_lossy())));
            }
        }
    }
    patterns.sort();
    patterns.dedup();
    patterns.extend(tree.exclude.iter().cloned());
    patterns
}

/// A pattern that matches this text only.
fn literal(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::types::{Deletes, LocalChanges, MaxDelete, Update};

    fn tree(path: &str, exclude: &[&str]) -> Tree {
        Tree {
            name: "t".into(),
            path: path.into(),
            exclude: exclude.iter().map(|e| (*e).to_owned()).collect(),
            protect: vec![],
            deletes: Deletes::Mirror,
            trash_age: tandem_sync::tree::TRASH_AGE,
            local_changes: LocalChanges::Repair,
            update: Update::Atomic,
            owners: crate::config::types::Owners::Number,
            flags: false,
            devices: true,
            freeze: None,
            max_delete: MaxDelete::Percent(50),
            poll: None,
            pass: tandem_sync::tree::PASS,
            compare_contents: None,
            limits: vec![],
            verify: None,
            verify_rate: None,
        }
    }

    #[test]
    fn own_paths_below_a_tree_are_excluded_and_others_are_not() {
        let own = [
            "/etc/tandem/key",
            "/etc/tandem/a[1]*.toml",
            "/var/lib/tandem",
        ]
        .map(PathBuf::from);
        let patterns = effective_exclude(&tree("/etc", &["*.bak"]), &own);
        assert_eq!(
            patterns,
            ["/tandem/a\\[1\\]\\*.toml", "/tandem/key", "*.bak"]
        );
        assert_eq!(
            effective_exclude(&tree("/var/lib/tan", &[]), &own),
            Vec::<String>::new()
        );
        assert_eq!(effective_exclude(&tree("/var", &[]), &own), ["/lib/tandem"]);
    }

    #[test]
    fn a_symlink_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("key"), "").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let own = [real.join("key")];
        assert_eq!(
            effective_exclude(&tree(link.to_str().unwrap(), &[]), &own),
            ["/key"]
        );
    }
}
