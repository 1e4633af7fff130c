//! `tandem takeover`.

use super::text::{escape, time};
use super::{Exit, Outcome, moves, output};
use crate::api::client::Client;
use crate::api::types::{TakeoverPrice, TakeoverRequest, path};
use std::fmt::Write;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show the price, ask, and do it. Without this the price is shown and nothing is done
    #[arg(long)]
    force: bool,
    /// Do not ask. Needed where there is no terminal to ask on
    #[arg(long, requires = "force")]
    yes: bool,
}

pub(super) async fn run(args: Args, client: &Client) -> Outcome {
    let price = client.takeover_price().await?;
    output::raw(&describe(&price))?;
    if !args.force {
        output::complain("nothing was done; `tandem takeover --force` does it");
        return Ok(Exit::No);
    }
    if !args.yes && !output::interactive() {
        output::complain(
            "nothing was done: there is no terminal to ask on; `tandem takeover --force --yes` does it at this price",
        );
        return Ok(Exit::No);
    }
    if !output::agreed("Become master at this price?", args.yes)? {
        return Ok(Exit::No);
    }
    let request = TakeoverRequest { force: true };
    moves::follow(client.stream(path::TAKEOVER, &request).await?, false).await
}

/// The price for a person. Pure.
pub(super) fn describe(price: &TakeoverPrice) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "{} is {} now. What a takeover by force costs:",
        escape(&price.node),
        price.role.as_str()
    );
    if price.free && !price.peer_heard {
        out.push_str("  nothing is known that would be lost\n");
    }
    for reason in &price.reasons {
        let _ = writeln!(out, "  - {}", escape(reason));
    }
    if price.peer_heard {
        let role = price.peer_role.map_or("of unknown role", |r| r.as_str());
        let _ = writeln!(
            out,
            "  - the peer is alive and {role}: until it steps down there are two masters, and what it has not sent goes to its rescue; \
             `tandem switchover` loses nothing"
        );
    } else if let Some(ms) = price.peer_silent_ms {
        let _ = writeln!(
            out,
            "  - the peer was last heard {} ago; if it still runs there will be two masters",
            time(ms)
        );
    } else {
        out.push_str("  - the peer was never heard since this agent started; if it runs there will be two masters\n");
    }
    for tree in &price.trees {
        let stale = match tree.stale_ms {
            Some(ms) => format!(
                "the last {} of the master's writes may be missing",
                time(ms)
            ),
            None => "how much is missing is not known".to_owned(),
        };
        let _ = writeln!(
            out,
            "  - tree {}: {}; {stale}",
            escape(&tree.tree),
            escape(&tree.note)
        );
    }
    out
}
