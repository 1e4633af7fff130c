//! `tandem is master|standby|replica`.

use super::{Exit, Outcome};
use crate::api::client::Client;
use crate::api::types::Role;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 0: yes. 1: no. 3: no agent answers, so this node certainly serves nobody as master."
)]
pub(super) struct Args {
    /// The role
    #[arg(value_enum)]
    role: Asked,
}

/// A role that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Asked {
    Master,
    Standby,
    Replica,
}

impl From<Asked> for Role {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Master => Self::Master,
            Asked::Standby => Self::Standby,
            Asked::Replica => Self::Replica,
        }
    }
}

pub(super) async fn run(args: Args, client: &Client) -> Outcome {
    let report = client.role().await?;
    Ok(if report.role == args.role.into() {
        Exit::Success
    } else {
        Exit::No
    })
}
