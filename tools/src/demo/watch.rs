//! Looking at the nodes while the story goes on.

use super::DemoError;
use crate::signals;
use std::time::{Duration, Instant};
use tandem::api::types::{Role, StatusReport, TreeState};
use tandem_lab::pair::{Node, Pair};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// `tandem status --json` of a node.
pub(super) fn status(node: &Node) -> Result<StatusReport, DemoError> {
    let broken = |why: String| DemoError::Broken(format!("status of {}: {why}", node.name()));
    let output = node.tandem_for(&["status", "--json"], Duration::from_secs(5))?;
    if !output.success() {
        return Err(broken(output.stderr));
    }
    serde_json::from_str(&output.stdout).map_err(|e| broken(e.to_string()))
}

/// Waits until the agent of a node answers; an agent that has ended never will.
pub(super) fn wait_agent(node: &Node, bound: Duration) -> Result<(), DemoError> {
    let name = node.name();
    let ended = wait(bound, &format!("the agent of {name} answers"), || {
        let ended = node.agent().filter(|agent| !agent.is_running());
        Ok(match ended {
            Some(agent) => Some(Some(agent.describe_end())),
            None => status(node).is_ok().then_some(None),
        })
    })?;
    ended.map_or(Ok(()), |how| {
        Err(DemoError::Broken(format!("the agent of {name} {how}")))
    })
}

/// Looks until there is a value, at most `bound`.
pub(super) fn wait<T>(
    bound: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>, DemoError>,
) -> Result<T, DemoError> {
    let begin = Instant::now();
    loop {
        signals::check()?;
        let last = look();
        if let Ok(Some(value)) = last {
            return Ok(value);
        }
        if begin.elapsed() >= bound {
            let why = match last {
                Err(e) => format!(" ({e})"),
                Ok(_) => String::new(),
            };
            return Err(DemoError::Broken(format!(
                "not within {bound:?}: {what}{why}"
            )));
        }
        std::thread::sleep(LOOK);
    }
}

/// Waits until one node is master with the addresses, and the other one could take over.
pub(super) fn wait_ready(
    pair: &Pair,
    master: usize,
    standby: usize,
    bound: Duration,
) -> Result<(StatusReport, StatusReport), DemoError> {
    let (m, s) = (&pair.nodes[master], &pair.nodes[standby]);
    let what = format!("{} is master, and {} could take over", m.name(), s.name());
    wait(bound, &what, || {
        let (m, s) = (status(m)?, status(s)?);
        Ok(ready(&m, &s).then_some((m, s)))
    })
}

/// Whether this is the usual state of a pair.
pub(super) fn ready(master: &StatusReport, standby: &StatusReport) -> bool {
    master.role == Role::Master
        && master.addresses.iter().all(|a| a.held)
        && standby.role == Role::Standby
        && standby.takeover.possible
        && standby
            .trees
            .iter()
            .chain(&master.trees)
            .all(|t| t.state == TreeState::Consistent)
}

/// Runs `tandem` on a node; it must succeed.
pub(super) fn tandem(node: &Node, args: &[&str]) -> Result<String, DemoError> {
    let output = node.tandem(args)?;
    if output.success() {
        Ok(output.stdout)
    } else {
        Err(DemoError::Broken(format!(
            "`tandem {}` on {}: {}{}",
            args.join(" "),
            node.name(),
            output.stdout,
            output.stderr
        )))
    }
}
