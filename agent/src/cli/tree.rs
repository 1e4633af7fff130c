//! `tandem tree accept`.

use super::text::escape;
use super::{Exit, Outcome, output};
use crate::api::client::Client;
use crate::api::types::{AcceptPrice, AcceptPriceRequest, AcceptRequest, Done, path};
use std::fmt::Write;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Resume a tree that a guard stopped: what it looks like now is meant. Shows what it lets go first
    Accept {
        /// Name of the tree
        name: String,
        /// Show what it would let go, and do nothing
        #[arg(long, conflicts_with = "yes")]
        show: bool,
        /// Do not ask on a terminal
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(command: Command, client: &Client) -> Outcome {
    let Command::Accept { name, show, yes } = command;
    let request = AcceptPriceRequest { tree: name.clone() };
    let price: AcceptPrice = client.call(path::ACCEPT_PRICE, &request).await?;
    output::raw(&describe(&price))?;
    if show {
        return Ok(Exit::Success);
    }
    let question = "Accept the tree as it is now?";
    if price.why.is_some() && !output::agreed(question, yes)? {
        return Ok(Exit::No);
    }
    // Not more than what was shown.
    let request = AcceptRequest {
        tree: name,
        most: Some(price.gone),
    };
    let done: Done = client.call(path::ACCEPT, &request).await?;
    output::line(&escape(&done.message))?;
    Ok(Exit::Success)
}

/// The price for a person. Pure.
fn describe(price: &AcceptPrice) -> String {
    let mut out = String::new();
    let Some(why) = &price.why else {
        return out;
    };
    // Writing to a String does not fail.
    let (tree, node) = (escape(&price.tree), escape(&price.node));
    let _ = writeln!(out, "tree {tree} is stopped on {node}: {}", escape(why));
    if price.gone == 0 {
        out.push_str("  nothing is missing in it; the root is taken for the right one\n");
        return out;
    }
    let _ = writeln!(
        out,
        "  accepting it removes {} entries on the other node too:",
        price.gone
    );
    for path in &price.examples {
        let _ = writeln!(out, "  - {}", escape(path));
    }
    let more = price.gone.saturating_sub(price.examples.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "  - and {more} more");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_price_names_what_goes() {
        let mut price = AcceptPrice {
            tree: "www".into(),
            node: "alpha".into(),
            why: Some("too much is gone".into()),
            gone: 3,
            examples: vec!["a".into(), "b\u{1b}[2J".into()],
        };
        let text = describe(&price);
        for part in [
            "www",
            "alpha",
            "too much is gone",
            "removes 3 entries",
            "- a\n",
            "and 1 more",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "escaped: {text}");
        price.gone = 0;
        assert!(describe(&price).contains("the root is taken for the right one"));
        price.why = None;
        assert_eq!(describe(&price), "");
    }
}
