//! `tandem agent`: what is read and checked before the daemon starts.

use super::exit::Failure;
use super::{Context, Exit, Outcome, output};
use crate::config::{self, Loaded};
use crate::keys::NodeKey;
use std::path::PathBuf;

/// What the daemon starts with. Everything in it has been checked.
#[derive(Debug)]
pub struct AgentStart {
    /// The configuration, and the file that `reload` reads again.
    pub loaded: Loaded,
    /// This node's key; it is of one of the configuration's nodes.
    pub key: NodeKey,
    /// Where the API listens: the command line's word before the configuration's.
    pub socket: PathBuf,
}

/// Reads and checks what the daemon needs.
pub(super) fn prepare(context: &Context) -> Result<AgentStart, Failure> {
    let loaded = config::load(&context.config)
        .map_err(|e| Failure::Other(Exit::InvalidConfig, e.to_string()))?;
    let path = &loaded.config.agent.key;
    let key =
        NodeKey::load(path).map_err(|e| Failure::Other(Exit::InvalidConfig, e.to_string()))?;
    if loaded.config.sides(&key.public()).is_none() {
        let names = loaded
            .config
            .nodes
            .each_ref()
            .map(|n| n.name.as_str())
            .join(" and ");
        let message = format!(
            "the key {} belongs to neither {names}: the configuration has other keys, or this is another machine's file; \
             `tandem keygen --show` prints the line of this key",
            path.display()
        );
        return Err(Failure::Other(Exit::InvalidConfig, message));
    }
    let socket = context
        .socket
        .clone()
        .unwrap_or_else(|| loaded.config.agent.socket.clone());
    Ok(AgentStart {
        loaded,
        key,
        socket,
    })
}

pub(super) fn run(context: &Context) -> Outcome {
    let start = prepare(context)?;
    if !start.loaded.warnings.is_empty() {
        output::complain(&format!(
            "doubts about the configuration:\n{}",
            start.loaded.warnings
        ));
    }
    Err(Failure::Other(
        Exit::Failed,
        "this build has no daemon".to_owned(),
    ))
}
