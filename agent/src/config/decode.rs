//! From the text to the configuration: the whole, and the sections that occur once.

use super::problem::{Problem, did_you_mean};
use super::schema;
use super::section::Reader;
use super::time::{duration, format_duration};
use super::types::{Agent, CatchingUp, Config, Pair};
use super::value::{boolean, choice, found, name, path, port};
use super::{actions, network, nodes, replicas, trees, watching};
use std::time::Duration;
use toml::de::DeTable;

/// What was found on the way.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

pub(super) const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Decodes all sections, each on its own, so that an error in one hides none in another. `None`: there are errors.
pub(super) fn decode(text: &str, notes: &mut Notes) -> Option<Config> {
    let (root, syntax) = DeTable::parse_recoverable(text);
    let root = root.get_ref();
    report_unknown_sections(root, notes);
    let empty = DeTable::new();

    let agent = single(root, "agent", notes)
        .unwrap_or_else(|| Reader::new("agent", &empty, 0..0, &mut notes.errors));
    let agent = decode_agent(&agent, notes);
    let nodes = nodes::decode(root, notes);
    let pair = single(root, "pair", notes);
    if pair.is_none() && root.get("pair").is_none() {
        notes
            .errors
            .push(Problem::absent(0..0, "the section [pair] is missing"));
    }
    let pair = pair.and_then(|reader| decode_pair(&reader, &nodes, notes));
    let floating_ips = network::decode(root, &nodes, notes);
    let trees = trees::decode(root, agent.as_ref(), notes);
    let beside = replicas::Beside {
        nodes: &nodes,
        floating_ips: &floating_ips,
        trees: &trees,
    };
    let replicas = replicas::decode(root, &beside, notes);
    let monitors = watching::decode(root, &floating_ips, notes);
    let services = actions::decode_services(root, notes);
    let hooks = actions::decode_hooks(root, notes);
    let mail = match single(root, "mail", notes) {
        Some(reader) => actions::decode_mail(&reader, notes).map(Some),
        None => Some(None),
    };
    if floating_ips.is_empty() && trees.is_empty() {
        notes.errors.push(Problem::absent(
            0..0,
            "there is neither a [[floating_ip]] nor a [[tree]]: nothing to do",
        ));
    }
    if !syntax.is_empty() {
        // What could not be read may hold whatever seems to be missing.
        notes.errors.retain(|p| !p.absence);
        let span = |e: &toml::de::Error| e.span().unwrap_or(0..0);
        let problems = syntax
            .iter()
            .map(|e| Problem::new(span(e), format!("not TOML: {}", e.message())));
        notes.errors.extend(problems);
        return None;
    }
    Some(Config {
        pair: pair?,
        agent: agent?,
        nodes: nodes.finish()?,
        floating_ips,
        trees,
        replicas,
        monitors,
        services,
        hooks,
        mail: mail?,
    })
}

/// The sections that stand on the top level.
fn top_level() -> impl Iterator<Item = &'static schema::Section> {
    schema::SECTIONS.iter().filter(|s| !s.path.contains('.'))
}

fn report_unknown_sections(root: &DeTable<'_>, notes: &mut Notes) {
    for (key, value) in root {
        let name = key.get_ref().as_ref();
        if top_level().any(|s| s.path == name) {
            continue;
        }
        let what = if value.get_ref().is_table() || value.get_ref().is_array() {
            "section"
        } else {
            "key"
        };
        let problem = Problem::new(
            key.span(),
            format!("unknown {what} `{}`", name.escape_debug()),
        );
        let near = did_you_mean(name, top_level().map(|s| s.path)).map(schema::section);
        let owner = schema::SECTIONS.iter().find(|s| s.key(name).is_some());
        notes.errors.push(match (near, owner) {
            (Some(section), _) => problem.hint(format!("did you mean {}?", section.header())),
            (None, Some(section)) => {
                problem.hint(format!("`{name}` belongs below {}", section.header()))
            }
            (None, None) => {
                let all: Vec<_> = top_level().map(schema::Section::header).collect();
                problem.hint(format!("known: {}", all.join(", ")))
            }
        });
    }
}

fn single<'t>(root: &'t DeTable<'t>, name: &str, notes: &mut Notes) -> Option<Reader<'t>> {
    let value = root.get(name)?;
    match value.get_ref().as_table() {
        Some(table) => Some(Reader::new(name, table, value.span(), &mut notes.errors)),
        None => {
            let message = format!("`{name}` is one table, found {}", found(value.get_ref()));
            let problem = Problem::new(value.span(), message);
            notes.errors.push(problem.hint(format!("write [{name}]")));
            None
        }
    }
}

fn decode_agent(reader: &Reader<'_>, notes: &mut Notes) -> Option<Agent> {
    let errors = &mut notes.errors;
    let key = reader.get("key", path, errors);
    let state_dir = reader.get("state_dir", path, errors);
    let socket = reader.get("socket", path, errors);
    if let Some(socket) = &socket {
        // sockaddr_un has 108 bytes for the path and its end.
        if socket.value.as_os_str().len() > 107 {
            errors.push(Problem::new(
                socket.span.clone(),
                "`socket` is longer than 107 bytes, which no socket can be",
            ));
        }
    }
    Some(Agent {
        key: key?.value,
        state_dir: state_dir?.value,
        socket: socket?.value,
    })
}

fn decode_pair(reader: &Reader<'_>, nodes: &nodes::Nodes, notes: &mut Notes) -> Option<Pair> {
    const CATCHING_UP: &[(&str, CatchingUp)] =
        &[("refuse", CatchingUp::Refuse), ("allow", CatchingUp::Allow)];
    let errors = &mut notes.errors;
    let pair_name = reader.get("name", name, errors);
    let preferred = reader.get("preferred", name, errors);
    let port = reader.get("port", port, errors);
    let heartbeat = reader.get("heartbeat", duration(millis(10)..=seconds(10)), errors);
    let dead_after = reader.get("dead_after", duration(millis(30)..=seconds(3600)), errors);
    let confirm = reader.get("confirm", duration(millis(10)..=seconds(10)), errors);
    let max_stale = reader.get(
        "max_stale",
        duration(seconds(1)..=seconds(7 * 86400)),
        errors,
    );
    let catching_up = reader.get("catching_up", choice(CATCHING_UP), errors);
    let boot_alone = reader.get("boot_alone", boolean, errors);
    let lifetime = reader.get(
        "address_lifetime",
        duration(seconds(3)..=seconds(3600)),
        errors,
    );
    let move_timeout = reader.get("move_timeout", duration(seconds(1)..=seconds(600)), errors);

    if let Some(preferred) = &preferred {
        nodes.check_preferred(preferred, errors);
    }
    if let (Some(heartbeat), Some(dead_after)) = (&heartbeat, &dead_after)
        && dead_after.value < heartbeat.value * 3
    {
        let span = if reader.given("dead_after").is_some() {
            &dead_after.span
        } else {
            &heartbeat.span
        };
        let (dead_after, least) = (
            format_duration(dead_after.value),
            format_duration(heartbeat.value * 3),
        );
        let message = format!("`dead_after` is {dead_after}, less than three heartbeats");
        errors.push(Problem::new(span.clone(), message).hint(format!(
            "make it {least} or more: one lost datagram is not a death"
        )));
    }
    if let Some(lifetime) = &lifetime
        && lifetime.value.subsec_nanos() != 0
    {
        errors.push(Problem::new(
            lifetime.span.clone(),
            "`address_lifetime` must be whole seconds: the kernel counts in them",
        ));
    }
    if let Some(alone) = &boot_alone
        && alone.value
    {
        let problem = Problem::new(
            alone.span.clone(),
            "`boot_alone` lets a node with old data become master when it boots first",
        );
        notes.warnings.push(problem);
    }
    Some(Pair {
        name: pair_name?.value,
        preferred: preferred?.value,
        port: port?.value,
        heartbeat: heartbeat?.value,
        dead_after: dead_after?.value,
        confirm: confirm?.value,
        max_stale: max_stale?.value,
        catching_up: catching_up?.value,
        boot_alone: boot_alone?.value,
        address_lifetime: lifetime?.value,
        move_timeout: move_timeout?.value,
    })
}
