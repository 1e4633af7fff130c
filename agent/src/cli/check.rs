//! `tandem check`: the configuration, and what this machine says to it.

mod boot;
pub(super) mod machine;

use super::exit::Failure;
use super::{Context, Exit, Outcome, output};
use crate::config::facts::Facts;
use crate::config::{self, LoadError, Who};
use crate::keys::NodeKey;

pub(super) fn run(context: &Context) -> Outcome {
    let loaded = match config::load(&context.config) {
        Ok(loaded) => loaded,
        Err(LoadError::Invalid(problems)) => {
            let summary = super::text::count(problems.list().len() as u64, "error");
            // As a compiler does: the places first, then how many.
            output::complain_raw(&format!("{problems}"));
            return Err(Failure::Other(Exit::InvalidConfig, summary));
        }
        Err(error @ LoadError::Read { .. }) => {
            return Err(Failure::Other(Exit::InvalidConfig, error.to_string()));
        }
    };
    output::complain_raw(&loaded.warnings.to_string());
    let key = NodeKey::load(&loaded.config.agent.key);
    let config = &loaded.config;
    let me = key.as_ref().ok().and_then(|k| config.who(&k.public()));
    for warning in machine::warnings(&loaded, &key, me) {
        output::complain(&format!("warning: {}", super::text::escape(&warning)));
    }
    let who = match (me, &key) {
        (Some(Who::Node(at)), _) => format!("this node is {}", config.nodes[at].name),
        (Some(Who::Replica(at)), _) => {
            format!("this machine is the replica {}", config.replicas[at].name)
        }
        (None, Ok(_)) => "this machine is none of its nodes and replicas".to_owned(),
        (None, Err(_)) => "which node this is cannot be said without its key".to_owned(),
    };
    let digest = Facts::of(&loaded.config).digest();
    output::line(&format!(
        "{}: valid, digest {digest}, {who}",
        loaded.file.display()
    ))?;
    Ok(Exit::Success)
}
