//! `[[node]]` and `[[node.link]]`.

use super::decode::Notes;
use super::problem::{Problem, did_you_mean};
use super::section::{At, Reader, read_tables};
use super::types::{Link, Node, PublicKey};
use super::value::{address, boolean, device, name, public_key};
use std::net::IpAddr;
use std::ops::Range;
use toml::de::DeTable;

/// Most links of a node: a heartbeat carries the number of its link in a byte, and more than a few cables say nothing
/// new.
const LINKS: usize = 8;

/// The nodes as they stand in the file. Parts with errors are absent.
pub(super) struct Nodes {
    list: Vec<RawNode>,
}

struct RawNode {
    name: Option<At<String>>,
    key: Option<At<PublicKey>>,
    links: Vec<RawLink>,
    span: Range<usize>,
}

struct RawLink {
    name: Option<At<String>>,
    address: Option<At<IpAddr>>,
    device: Option<At<String>>,
    data: Option<At<bool>>,
    span: Range<usize>,
}

pub(super) fn decode(root: &DeTable<'_>, notes: &mut Notes) -> Nodes {
    let list = read_tables(root, "node", "node", &mut notes.errors)
        .iter()
        .map(|reader| decode_node(reader, notes))
        .collect();
    let mut nodes = Nodes { list };
    nodes.check_count(notes);
    nodes.check_distinct(notes);
    for node in &nodes.list {
        check_links(node, notes);
    }
    nodes.check_addresses(notes);
    nodes.match_links(notes);
    nodes
}

fn decode_node(reader: &Reader<'_>, notes: &mut Notes) -> RawNode {
    let errors = &mut notes.errors;
    RawNode {
        name: reader.get("name", name, errors),
        key: reader.get("key", public_key, errors),
        links: reader
            .tables("link", "node.link", errors)
            .iter()
            .map(|link| RawLink {
                name: link.get("name", name, errors),
                address: link.get("address", address, errors),
                device: link.get("device", device, errors),
                data: link.optional("data", boolean, errors),
                span: link.span.clone(),
            })
            .collect(),
        span: reader.span.clone(),
    }
}

/// What an address cannot be if a machine is to be reached at it.
pub(super) fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("a link-local address, which needs a scope")
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 clothes"),
        _ => None,
    }
}

fn check_links(node: &RawNode, notes: &mut Notes) {
    if node.links.is_empty() {
        let problem = Problem::absent(node.span.clone(), "this node has no link");
        notes
            .errors
            .push(problem.hint("write [[node.link]] with name, address and device below it"));
    }
    if let Some(link) = node.links.get(LINKS) {
        notes.errors.push(Problem::new(
            link.span.clone(),
            format!("more than {LINKS} links"),
        ));
    }
    for (at, link) in node.links.iter().enumerate() {
        if let Some(address) = &link.address
            && let Some(what) = unusable(address.value)
        {
            notes.errors.push(Problem::new(
                address.span.clone(),
                format!("`address` cannot be {what}"),
            ));
        }
        for other in &node.links[..at] {
            if let (Some(a), Some(b)) = (&link.name, &other.name)
                && a.value == b.value
            {
                notes.errors.push(Problem::new(
                    a.span.clone(),
                    format!("this node has two links named `{}`", a.value),
                ));
            }
            if let (Some(a), Some(b)) = (&link.device, &other.device)
                && a.value == b.value
            {
                let message = format!(
                    "two links over `{}`: what breaks one breaks the other",
                    a.value
                );
                notes.warnings.push(Problem::new(a.span.clone(), message));
            }
        }
    }
}

impl Nodes {
    fn check_count(&self, notes: &mut Notes) {
        match self.list.as_slice() {
            [_, _] => {}
            [_, _, third, ..] => {
                let problem = Problem::new(
                    third.span.clone(),
                    "a pair has two nodes, this is one too many",
                );
                notes.errors.push(problem);
            }
            few => {
                let span = few.first().map_or(0..0, |n| n.span.clone());
                let message = format!("a pair has two nodes, found {}", few.len());
                let problem = Problem::absent(span, message);
                notes
                    .errors
                    .push(problem.hint(
                        "write [[node]] once for each machine; the file is the same on both",
                    ));
            }
        }
    }

    fn check_distinct(&self, notes: &mut Notes) {
        for (at, node) in self.list.iter().enumerate() {
            for other in &self.list[..at] {
                if let (Some(a), Some(b)) = (&node.name, &other.name)
                    && a.value == b.value
                {
                    notes.errors.push(Problem::new(
                        a.span.clone(),
                        format!("both nodes are named `{}`", a.value),
                    ));
                }
                if let (Some(a), Some(b)) = (&node.key, &other.key)
                    && a.value == b.value
                {
                    let problem = Problem::new(a.span.clone(), "both nodes have the same key");
                    notes.errors.push(problem.hint(
                        "run `tandem keygen` on each of them; a key never leaves its machine",
                    ));
                }
            }
        }
    }

    fn check_addresses(&self, notes: &mut Notes) {
        let all: Vec<_> = self.addresses().collect();
        for (at, address) in all.iter().enumerate() {
            if all[..at].iter().any(|other| other.value == address.value) {
                let message = format!("`address` {} stands at another link too", address.value);
                notes
                    .errors
                    .push(Problem::new(address.span.clone(), message));
            }
        }
    }

    /// Brings the second node's links into the first one's order, and settles `data` on both ends.
    fn match_links(&mut self, notes: &mut Notes) {
        let [first, second] = self.list.as_mut_slice() else {
            return;
        };
        let before = notes.errors.len();
        report_unmatched(first, second, notes);
        report_unmatched(second, first, notes);
        let named = |node: &RawNode| node.links.iter().all(|l| l.name.is_some());
        if notes.errors.len() != before || !named(first) || !named(second) {
            return;
        }
        let order = |name: &str| {
            first
                .links
                .iter()
                .position(|l| l.name.as_ref().is_some_and(|n| n.value == name))
        };
        second
            .links
            .sort_by_key(|l| l.name.as_ref().and_then(|n| order(&n.value)));
        for (at, (a, b)) in first.links.iter_mut().zip(&mut second.links).enumerate() {
            settle_link(at, a, b, notes);
        }
        let data = |l: &RawLink| l.data.as_ref().is_some_and(|d| d.value);
        if !first.links.is_empty() && !first.links.iter().any(data) {
            let problem = Problem::new(first.span.clone(), "no link may carry data");
            notes
                .errors
                .push(problem.hint("write data = true at one link"));
        }
        if let [only] = first.links.as_slice() {
            let problem = Problem::new(
                only.span.clone(),
                "there is one link only: while it is cut, nobody hears heartbeats, and only the floating IPs show whether the other node serves",
            );
            notes
                .warnings
                .push(problem.hint("add the public network as a second link"));
        }
    }

    fn addresses(&self) -> impl Iterator<Item = &At<IpAddr>> {
        self.list
            .iter()
            .flat_map(|n| &n.links)
            .filter_map(|l| l.address.as_ref())
    }

    /// Whether one of them has this name.
    pub fn has_name(&self, name: &str) -> bool {
        let mut names = self.list.iter().filter_map(|n| n.name.as_ref());
        names.any(|n| n.value == name)
    }

    /// Whether one of them has this key.
    pub fn has_key(&self, key: &PublicKey) -> bool {
        let mut keys = self.list.iter().filter_map(|n| n.key.as_ref());
        keys.any(|k| k.value == *key)
    }

    /// Whether `address` is one node's own.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses().any(|a| a.value == address)
    }

    /// Reports a preferred node that is none.
    pub fn check_preferred(&self, preferred: &At<String>, errors: &mut Vec<Problem>) {
        let names: Vec<_> = self
            .list
            .iter()
            .filter_map(|n| n.name.as_ref())
            .map(|n| n.value.as_str())
            .collect();
        if names.contains(&preferred.value.as_str())
            || names.len() < self.list.len()
            || names.is_empty()
        {
            return;
        }
        let problem = Problem::new(
            preferred.span.clone(),
            format!("`preferred` names no node: `{}`", preferred.value),
        );
        errors.push(
            match did_you_mean(&preferred.value, names.iter().copied()) {
                Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
                None => problem.hint(format!("the nodes are {}", names.join(" and "))),
            },
        );
    }

    /// The two nodes, if nothing was wrong with them.
    pub fn finish(self) -> Option<[Node; 2]> {
        let nodes: Option<Vec<Node>> = self.list.into_iter().map(RawNode::finish).collect();
        nodes?.try_into().ok()
    }
}

fn report_unmatched(node: &RawNode, other: &RawNode, notes: &mut Notes) {
    for name in node.links.iter().filter_map(|l| l.name.as_ref()) {
        let theirs = || {
            other
                .links
                .iter()
                .filter_map(|l| l.name.as_ref())
                .map(|n| n.value.as_str())
        };
        // A link without a readable name may be the one that is missed.
        if theirs().any(|n| n == name.value) || theirs().count() < other.links.len() {
            continue;
        }
        let problem = Problem::new(
            name.span.clone(),
            format!("the other node has no link named `{}`", name.value),
        );
        notes
            .errors
            .push(match did_you_mean(&name.value, theirs()) {
                Some(near) => problem.hint(format!(
                    "it has one named `{near}`; both ends of a link have one name"
                )),
                None => problem.hint("both ends of a link have one name"),
            });
    }
}

fn settle_link(at: usize, a: &mut RawLink, b: &mut RawLink, notes: &mut Notes) {
    if let (Some(x), Some(y)) = (&a.address, &b.address)
        && x.value.is_ipv4() != y.value.is_ipv4()
    {
        notes.errors.push(Problem::new(
            y.span.clone(),
            "one end of this link has an IPv4 address and the other an IPv6 address",
        ));
    }
    if let (Some(x), Some(y)) = (&a.data, &b.data)
        && x.value != y.value
    {
        notes.errors.push(Problem::new(
            y.span.clone(),
            "`data` is not the same at the other end of this link",
        ));
    }
    let data = a
        .data
        .clone()
        .or_else(|| b.data.clone())
        .unwrap_or_else(|| At {
            value: at == 0,
            span: a.span.clone(),
        });
    a.data = Some(data.clone());
    b.data = Some(data);
}

impl RawNode {
    fn finish(self) -> Option<Node> {
        let links = self.links.into_iter().map(|l| {
            Some(Link {
                name: l.name?.value,
                address: l.address?.value,
                device: l.device?.value,
                data: l.data?.value,
            })
        });
        Some(Node {
            name: self.name?.value,
            key: self.key?.value,
            links: links.collect::<Option<_>>()?,
        })
    }
}
