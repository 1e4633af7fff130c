//! `tandem keygen`.

use super::exit::Failure;
use super::{Context, Exit, Outcome, output};
use crate::config;
use crate::keys::{NodeKey, public_line};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the key goes; never overwritten [default: what the configuration says, else /etc/tandem/key]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the public line of the key that is there
    #[arg(long)]
    show: bool,
}

pub(super) fn run(args: Args, context: &Context) -> Outcome {
    let path = args
        .out
        .unwrap_or_else(|| match config::load(&context.config) {
            Ok(loaded) => loaded.config.agent.key,
            Err(_) => PathBuf::from(config::DEFAULT_KEY),
        });
    let failed = |e: &dyn std::fmt::Display| Failure::Other(Exit::Failed, e.to_string());
    let comment = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let key = if args.show {
        NodeKey::load(&path).map_err(|e| failed(&e))?
    } else {
        let key = NodeKey::generate()?;
        key.write_new(&path, &comment).map_err(|e| failed(&e))?;
        output::complain(&format!(
            "the key is in {}; in the configuration of all machines, below this one's [[node]] or [[replica]]:",
            path.display()
        ));
        key
    };
    output::line(&format!(
        "key = \"{}\"",
        public_line(&key.public(), &comment)
    ))?;
    Ok(Exit::Success)
}
