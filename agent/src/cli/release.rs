//! `tandem release`, the guardian: what systemd runs after the agent has ended, however it ended.

use super::exit::Failure;
use super::{Context, Exit, Outcome, output};
use crate::config;
use tandem_failover::address::FloatingAddress;

pub(super) fn run(context: &Context) -> Outcome {
    let configured = match config::load(&context.config) {
        Ok(loaded) => loaded.config.floating_ips,
        Err(error) => {
            // The addresses that carry the agent's mark go in any case.
            output::complain(&error.to_string());
            Vec::new()
        }
    };
    let configured: Vec<FloatingAddress> = configured
        .into_iter()
        .map(|f| FloatingAddress {
            address: f.address,
            prefix: f.prefix,
            device: f.device,
            label: f.label,
        })
        .collect();
    match tandem_failover::guardian::release_addresses(&configured) {
        Ok(gone) => {
            for address in gone {
                output::complain(&format!("removed {address}: there is no agent"));
            }
            Ok(Exit::Success)
        }
        Err(error) => Err(Failure::Other(Exit::Failed, error.to_string())),
    }
}
