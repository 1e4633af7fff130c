//! `tandem agent`: what is read and checked before the daemon starts.

use super::check::machine::file_of_others;
use super::exit::Failure;
use super::{Context, Exit, Outcome, output};
use crate::config;
use crate::daemon::{self, AgentStart};
use crate::keys::NodeKey;

/// Reads and checks what the daemon needs.
pub(super) fn prepare(context: &Context) -> Result<AgentStart, Failure> {
    let loaded = config::load(&context.config)
        .map_err(|e| Failure::Other(Exit::InvalidConfig, e.to_string()))?;
    let path = &loaded.config.agent.key;
    let key =
        NodeKey::load(path).map_err(|e| Failure::Other(Exit::InvalidConfig, e.to_string()))?;
    if loaded.config.who(&key.public()).is_none() {
        let names = loaded.config.machines().join(" nor ");
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
    let log = crate::logging::init();
    let log = log.map_err(|e| Failure::Other(Exit::Failed, e.to_string()))?;
    let mut doubts = Vec::new();
    file_of_others(&start.loaded.file, &mut doubts);
    for doubt in doubts {
        tracing::warn!(doubt, "configuration");
    }
    crate::descriptors::raise_limit();
    match daemon::run(start) {
        Ok(daemon::End::Exit) => Ok(Exit::Success),
        Ok(daemon::End::Restart(handover)) => {
            // What is still to be written is written by this program.
            drop(log);
            let error = daemon::execute_again(handover);
            Err(Failure::Other(
                Exit::Failed,
                format!("cannot execute the agent again: {error}"),
            ))
        }
        Err(error) => Err(Failure::Other(Exit::Failed, error.to_string())),
    }
}
