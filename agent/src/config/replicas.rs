//! `[[replica]]`.

use super::decode::Notes;
use super::nodes::{Nodes, unusable};
use super::problem::{Problem, did_you_mean};
use super::section::{At, Reader, read_tables};
use super::types::{FloatingIp, Replica, Tree};
use super::value::{address, list, name, public_key};
use std::net::IpAddr;
use tandem_sync::tree::MAX_REPLICAS;
use toml::de::DeTable;

/// What else the file says.
pub(super) struct Beside<'a> {
    pub nodes: &'a Nodes,
    pub floating_ips: &'a [FloatingIp],
    pub trees: &'a [Tree],
}

/// Decodes all of them; those with errors are reported and left out.
pub(super) fn decode(root: &DeTable<'_>, beside: &Beside<'_>, notes: &mut Notes) -> Vec<Replica> {
    let readers = read_tables(root, "replica", "replica", &mut notes.errors);
    if let Some(reader) = readers.get(MAX_REPLICAS) {
        notes.errors.push(Problem::new(
            reader.span.clone(),
            format!("more than {MAX_REPLICAS} replicas"),
        ));
    }
    // A tree with an error of its own is not in the list, and is not missing.
    let trees = root.get("tree").and_then(|t| t.get_ref().as_array());
    let all_trees = trees.map_or(0, |t| t.len()) == beside.trees.len();
    let mut replicas: Vec<Replica> = Vec::new();
    for reader in readers.iter().take(MAX_REPLICAS) {
        let before = notes.errors.len();
        let Some((replica, at)) = decode_one(reader, notes) else {
            continue;
        };
        check_distinct(&replica, &at, &replicas, beside, notes);
        if all_trees {
            check_trees(&replica, &at.trees, beside.trees, notes);
        }
        if notes.errors.len() == before {
            replicas.push(replica);
        }
    }
    replicas
}

/// Where the values stand.
struct Places {
    name: std::ops::Range<usize>,
    key: std::ops::Range<usize>,
    address: std::ops::Range<usize>,
    trees: std::ops::Range<usize>,
}

fn decode_one(reader: &Reader<'_>, notes: &mut Notes) -> Option<(Replica, Places)> {
    let errors = &mut notes.errors;
    let name = reader.get("name", self::name, errors);
    let key = reader.get("key", public_key, errors);
    let address: Option<At<IpAddr>> = reader.get("address", self::address, errors);
    let trees = reader.get("trees", list(self::name, super::trees::LIMIT), errors);
    let (name, key, address, trees) = (name?, key?, address?, trees?);
    let places = Places {
        name: name.span,
        key: key.span,
        address: address.span,
        trees: trees.span,
    };
    let replica = Replica {
        name: name.value,
        key: key.value,
        address: address.value,
        trees: trees.value,
    };
    Some((replica, places))
}

fn check_distinct(
    replica: &Replica,
    at: &Places,
    others: &[Replica],
    beside: &Beside<'_>,
    notes: &mut Notes,
) {
    let mut report = |span: &std::ops::Range<usize>, message: String, hint: &str| {
        let problem = Problem::new(span.clone(), message);
        notes.errors.push(problem.hint(hint));
    };
    let Replica { name, address, .. } = replica;
    if beside.nodes.has_name(name) || others.iter().any(|o| o.name == *name) {
        let message = format!("another machine is named `{name}` too");
        report(
            &at.name,
            message,
            "each node and replica has a name of its own",
        );
    }
    if beside.nodes.has_key(&replica.key) || others.iter().any(|o| o.key == replica.key) {
        let message = "another machine has this key too".to_owned();
        report(
            &at.key,
            message,
            "run `tandem keygen` on each of them; a key never leaves its machine",
        );
    }
    if let Some(what) = unusable(*address) {
        let message = format!("`address` cannot be {what}");
        report(&at.address, message, "the nodes connect to it");
    }
    let taken = beside.nodes.has_address(*address)
        || others.iter().any(|o| o.address == *address)
        || beside.floating_ips.iter().any(|f| f.address == *address);
    if taken {
        let message = format!("`address` {address} belongs to somebody else");
        report(&at.address, message, "it is the replica's own address");
    }
}

fn check_trees(replica: &Replica, at: &std::ops::Range<usize>, trees: &[Tree], notes: &mut Notes) {
    let mut report = |message: String, hint: String| {
        let problem = Problem::new(at.clone(), message);
        notes.errors.push(problem.hint(hint));
    };
    if replica.trees.is_empty() {
        report(
            "`trees` is empty: the replica gets nothing".to_owned(),
            "name the trees that it gets".to_owned(),
        );
    }
    for (number, name) in replica.trees.iter().enumerate() {
        if replica.trees[..number].contains(name) {
            let hint = "name each tree once".to_owned();
            report(format!("`trees` names `{name}` twice"), hint);
        }
        let names = || trees.iter().map(|t| t.name.as_str());
        match trees.iter().find(|t| t.name == *name) {
            Some(tree) if tree.freeze.is_some() => report(
                format!("`trees` names `{name}`, which is sent in sets ([tree.freeze])"),
                "sets go to the standby only: a replica cannot have this tree".to_owned(),
            ),
            Some(_) => {}
            None => {
                let hint = match did_you_mean(name, names()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("the trees are {}", names().collect::<Vec<_>>().join(", ")),
                };
                report(format!("`trees` names no tree: `{name}`"), hint);
            }
        }
    }
}
