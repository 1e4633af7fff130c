//! Digests and differences.

use super::super::facts::{Applies, Facts};
use super::{SMALL, changed, good};

fn facts(text: &str) -> Facts {
    Facts::of(&good(text))
}

#[test]
fn formatting_comments_and_order_do_not_count() {
    let first = SMALL.find("[[node]]").unwrap();
    let second = SMALL.rfind("[[node]]").unwrap();
    let rest = SMALL.find("[[floating_ip]]").unwrap();
    let shuffled = format!(
        "# a comment\n{}{}{}{}",
        &SMALL[second..rest],
        &SMALL[rest..],
        &SMALL[first..second],
        &SMALL[..first].replace(
            "name = \"p\"\npreferred = \"a\"",
            "preferred   = 'a' # x\nname = \"\\u0070\""
        ),
    );
    assert_eq!(facts(SMALL).digest(), facts(&shuffled).digest());
    assert_eq!(facts(SMALL), facts(&shuffled));
}

#[test]
fn a_default_that_is_written_out_does_not_count() {
    let text = changed(
        "preferred = \"a\"",
        "preferred = \"a\"\nheartbeat = \"200 ms\"\nport = 0x1d25",
    );
    assert_eq!(facts(SMALL).digest(), facts(&text).digest());
}

#[test]
fn what_matters_is_the_addresses_the_trees_and_how_it_is_decided_who_serves() {
    let base = facts(SMALL);
    let pair = "preferred = \"a\"";
    for key in [
        "heartbeat = \"100ms\"",
        "address_lifetime = \"30s\"",
        "move_timeout = \"20s\"",
    ] {
        let other = facts(&changed(pair, &format!("{pair}\n{key}")));
        assert_ne!(base.digest(), other.digest(), "{key}");
        assert_eq!(base.matters(), other.matters(), "{key}");
    }
    for key in [
        "dead_after = \"4s\"",
        "confirm = \"1s\"",
        "max_stale = \"1h\"",
        "catching_up = \"allow\"",
        "boot_alone = true",
    ] {
        let other = facts(&changed(pair, &format!("{pair}\n{key}")));
        assert_ne!(base.matters(), other.matters(), "{key}");
    }
    for (old, new) in [
        (pair, "preferred = \"b\""),
        ("\"192.0.2.74/24\"", "\"192.0.2.75/24\""),
        ("\"192.0.2.74/24\"", "\"192.0.2.74/25\""),
        ("path = \"/home\"", "path = \"/srv\""),
        ("path = \"/home\"", "path = \"/home\"\ndeletes = \"keep\""),
    ] {
        let other = facts(&changed(old, new));
        assert_ne!(base.digest(), other.digest(), "{new}");
        assert_ne!(base.matters(), other.matters(), "{new}");
    }
}

#[test]
fn differences_are_named_with_their_old_and_new_values() {
    let hook = "[[hook]]\non = \"master\"\ncommand = [\"/bin/true\"]\n[[tree]]";
    let text = changed("[[tree]]", hook).replace(
        "preferred = \"a\"",
        "preferred = \"b\"\nmax_stale = \"90s\"",
    );
    let text = text.replace("path = \"/home\"", "path = \"/srv\"\nmax_delete = 7");
    let changes = facts(SMALL).changes_to(&facts(&text));
    let shown: Vec<_> = changes
        .iter()
        .map(|c| (c.text.as_str(), c.applies))
        .collect();
    let expected = [
        ("[[hook]] 1: added", Applies::InPlace),
        (
            "[pair]: max_stale was \"60s\", is \"90s\"",
            Applies::InPlace,
        ),
        ("[pair]: preferred was \"a\", is \"b\"", Applies::InPlace),
        (
            "[[tree]] home: max_delete was \"50%\", is 7",
            Applies::InPlace,
        ),
        (
            "[[tree]] home: path was \"/home\", is \"/srv\"",
            Applies::InPlace,
        ),
    ];
    assert_eq!(shown, expected);
    assert!(facts(SMALL).changes_to(&facts(SMALL)).is_empty());
}

#[test]
fn only_who_the_nodes_are_and_how_they_reach_each_other_needs_a_restart() {
    let restarts = |old: &str, new: &str| {
        let changes = facts(SMALL).changes_to(&facts(&changed(old, new)));
        assert!(!changes.is_empty(), "{new}");
        let restart = |c: &super::super::facts::Change| c.applies == Applies::AfterRestart;
        changes.iter().any(restart)
    };
    for (old, new) in [
        ("preferred = \"a\"", "preferred = \"a\"\nport = 7000"),
        ("name = \"p\"", "name = \"q\""),
    ] {
        assert!(restarts(old, new), "{new}");
    }
    for (old, new) in [
        (
            "preferred = \"a\"",
            "preferred = \"a\"\ndead_after = \"4s\"",
        ),
        ("\"192.0.2.74/24\"", "\"192.0.2.75/24\""),
        (
            "path = \"/home\"",
            "path = \"/home\"\nexclude = [\"*.tmp\"]",
        ),
        ("path = \"/home\"", "path = \"/home\"\nprotect = [\"/x\"]"),
        (
            "[[tree]]",
            "[[tree]]\nname = \"etc\"\npath = \"/opt/etc\"\n[[tree]]",
        ),
    ] {
        assert!(!restarts(old, new), "{new}");
    }
}

/// The digest is compared between agents of different versions: a change of this value is a change of the protocol.
#[test]
fn the_digest_of_a_known_configuration_stays() {
    assert_eq!(facts(SMALL).digest().to_string(), "8f716b9e8e7bcf2f");
}
