//! `[[replica]]`.

use super::super::Who;
use super::super::facts::{Applies, Facts};
use super::{SMALL, good, parse};

const ONE: &str = r#"
[[replica]]
name = "web1"
key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGP5ULXj1DQvlB45l1SGDQyN12HU5EIkIV0S+vdn38kR web1"
address = "192.0.2.81"
trees = ["home"]
"#;

fn with(replica: &str) -> String {
    format!("{SMALL}{replica}")
}

#[test]
fn a_machine_knows_by_its_key_that_it_is_a_replica() {
    let config = good(&with(ONE));
    let [replica] = &config.replicas[..] else {
        panic!("{:?}", config.replicas)
    };
    assert_eq!(
        (&replica.name[..], &replica.trees[..]),
        ("web1", &["home".to_owned()][..])
    );
    assert_eq!(config.who(&replica.key), Some(Who::Replica(0)));
    assert_eq!(config.who(&config.nodes[1].key), Some(Who::Node(1)));
    assert_eq!(good(SMALL).who(&replica.key), None);
    assert_eq!(config.machines(), ["a", "b", "web1"]);
}

#[test]
fn what_cannot_be_a_replica_is_named() {
    let a = "AAAAC3NzaC1lZDI1NTE5AAAAIHGRTsnVrif9xjxJLPq1WK8wBgrk1PM9X66g9TT2uFfs";
    for (old, new, said) in [
        ("\"web1\"", "\"b\"", "another machine is named `b` too"),
        (
            "AAAAC3NzaC1lZDI1NTE5AAAAIGP5ULXj1DQvlB45l1SGDQyN12HU5EIkIV0S+vdn38kR",
            a,
            "another machine has this key too",
        ),
        ("192.0.2.81", "192.0.2.72", "belongs to somebody else"),
        ("192.0.2.81", "192.0.2.74", "belongs to somebody else"),
        ("192.0.2.81", "0.0.0.0", "cannot be the unspecified address"),
        ("[\"home\"]", "[]", "`trees` is empty"),
        ("[\"home\"]", "[\"home\", \"home\"]", "names `home` twice"),
        ("[\"home\"]", "[\"hom\"]", "did you mean \"home\"?"),
        ("address", "adress", "did you mean `address`"),
    ] {
        assert!(ONE.contains(old), "{old}");
        let problems = parse(&with(&ONE.replacen(old, new, 1))).expect_err(new);
        assert!(problems.to_string().contains(said), "{new}: {problems}");
    }
    let twice = format!("{}{ONE}", with(ONE));
    let problems = parse(&twice).expect_err("two of them").to_string();
    assert!(
        problems.contains("another machine is named `web1` too"),
        "{problems}"
    );
    let many: String = (0..33)
        .map(|n| ONE.replace("web1", &format!("web{n}")))
        .collect();
    let problems = parse(&with(&many)).expect_err("33").to_string();
    assert!(problems.contains("more than 32 replicas"), "{problems}");
}

#[test]
fn a_tree_in_sets_goes_to_no_replica() {
    let freeze = "[tree.freeze]\nbefore = [\"/bin/true\"]\nafter = [\"/bin/true\"]\n";
    let problems = parse(&format!("{SMALL}{freeze}{ONE}")).expect_err("sets");
    assert!(problems.to_string().contains("sent in sets"), "{problems}");
}

#[test]
fn replicas_change_while_the_agents_run_and_do_not_matter_for_a_takeover() {
    let (without, with) = (Facts::of(&good(SMALL)), Facts::of(&good(&with(ONE))));
    assert_ne!(without.digest(), with.digest());
    assert_eq!(without.matters(), with.matters());
    let changes = without.changes_to(&with);
    let shown: Vec<_> = changes.iter().map(|c| (&c.text[..], c.applies)).collect();
    assert_eq!(shown, [("[[replica]] web1: added", Applies::InPlace)]);
}
