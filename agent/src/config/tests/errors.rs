//! Each error, by the text that causes it and the place and words that are reported.

mod work;

use super::{SMALL, changed, parse};

/// `line:column: message = hint` of each problem.
fn problems(text: &str) -> Vec<String> {
    let problems = parse(text)
        .err()
        .unwrap_or_else(|| panic!("this is valid:\n{text}"));
    let line = |p| {
        let (line, column) = problems.position(p);
        let hint = p.hint.as_deref().unwrap_or("-");
        format!("{line}:{column}: {} = {hint}", p.message)
    };
    problems.list().iter().map(line).collect()
}

/// Asserts that the one problem of `SMALL`, with `old` replaced by `new`, has all `parts`.
fn one(old: &str, new: &str, parts: &[&str]) {
    let found = problems(&changed(old, new));
    assert_eq!(found.len(), 1, "{new}: {found:#?}");
    for part in parts {
        assert!(
            found[0].contains(part),
            "{new}: {part:?} is not in {:?}",
            found[0]
        );
    }
}

#[test]
fn the_small_configuration_is_valid() {
    let loaded = parse(SMALL).unwrap();
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

#[test]
fn all_errors_are_reported_at_once_with_their_places() {
    let text = SMALL
        .replace("preferred = \"a\"", "prefered = \"a\"\nport = 70000")
        .replace("[[tree]]", "[[tre]]")
        .replace("device = \"eth1\"", "device = 7");
    let found = problems(&text);
    let expected = [
        "2:1: [pair] needs `preferred` = preferred (node): The node that `tandem failback` moves the role to, and that becomes master when both start with equal data and neither was master last.",
        "4:1: unknown key `prefered` in [pair] = did you mean `preferred`?",
        "5:8: `port` must be a whole number from 1 to 65535, found the number 70000 = -",
        "13:10: `device` must be text in quotes, found the number 7 = -",
        "25:10: `device` must be text in quotes, found the number 7 = -",
        "35:3: unknown section `tre` = did you mean [[tree]]?",
    ];
    assert_eq!(found, expected);
}

#[test]
fn broken_toml_is_reported_with_what_can_be_read() {
    let found = problems("[pair]\nname = \"p\nprot = 1\n");
    assert!(
        found
            .iter()
            .any(|p| p.starts_with("2:") && p.contains("not TOML")),
        "{found:#?}"
    );
    assert!(
        found.iter().any(|p| p.contains("did you mean `port`?")),
        "{found:#?}"
    );
    assert!(!found.iter().any(|p| p.contains("needs")), "{found:#?}");
}

#[test]
fn a_key_that_stands_twice_is_an_error() {
    let found = problems(&changed("name = \"p\"", "name = \"p\"\nname = \"q\""));
    assert!(found[0].starts_with("4:1:"), "{found:#?}");
}

#[test]
fn an_empty_file_says_what_is_missing() {
    let found = problems("").join("\n");
    for part in [
        "[pair] is missing",
        "a pair has two nodes, found 0",
        "neither a [[floating_ip]] nor a [[tree]]",
    ] {
        assert!(found.contains(part), "{found}");
    }
}

#[test]
fn values_of_the_wrong_kind_or_out_of_range() {
    let after = "preferred = \"a\"";
    let with = |line: &str| format!("{after}\n{line}");
    one(
        after,
        &with("heartbeat = 200"),
        &[
            "5:13",
            "duration in quotes",
            "found the number 200",
            "\"200ms\"",
        ],
    );
    one(
        after,
        &with("heartbeat = \"5ms\""),
        &["from 10ms to 10s", "found \"5ms\""],
    );
    one(
        after,
        &with("heartbeat = \"1s\""),
        &["5:13", "`dead_after` is 600ms", "make it 3s or more"],
    );
    one(
        after,
        &with("dead_after = \"500ms\""),
        &["5:14", "less than three heartbeats"],
    );
    one(after, &with("max_stale = \"60\""), &["the unit is one of"]);
    one(
        after,
        &with("address_lifetime = \"3500ms\""),
        &["whole seconds"],
    );
    one(
        after,
        &with("catching_up = \"alow\""),
        &["did you mean \"allow\"?"],
    );
    one(after, &with("boot_alone = \"yes\""), &["true or false"]);
    one(after, &with("port = 0"), &["from 1 to 65535"]);
    one(
        "preferred = \"a\"",
        "preferred = \"c\"",
        &["names no node", "the nodes are a and b"],
    );
    one("name = \"p\"", "name = \"p p\"", &["must be a name"]);
    one(
        "[pair]",
        "[agent]\nstate_dir = \"var\"\n[pair]",
        &["absolute path", "begin it with /"],
    );
    one(
        "[pair]",
        "[agent]\nstate_dir = \"/var/../lib\"\n[pair]",
        &[". or .."],
    );
    one(
        "[pair]",
        "[agent]\nstate_dir = \"/var//lib/\"\n[pair]",
        &["write \"/var/lib\""],
    );
}

#[test]
fn nodes_and_links() {
    one(
        "name = \"b\"",
        "name = \"a\"",
        &["both nodes are named `a`"],
    );
    one(
        "AAAAICfYDK0mx4nxIFZMCW+TUaxVKAiLFDb4u9l4JMSPpotD b",
        "AAAAIHGRTsnVrif9xjxJLPq1WK8wBgrk1PM9X66g9TT2uFfs",
        &["same key"],
    );
    one(
        "AAAAIHGRTsnVrif9xjxJLPq1WK8wBgrk1PM9X66g9TT2uFfs a",
        "AAAA",
        &["public key line", "tandem keygen"],
    );
    one(
        "192.168.1.2",
        "192.168.1.1",
        &["stands at another link too"],
    );
    one(
        "192.168.1.2",
        "fd00::2",
        &["IPv4 address and the other an IPv6"],
    );
    one("192.168.1.2", "224.0.0.1", &["multicast"]);
    one(
        "192.168.1.2",
        "mirror2",
        &["must be an IP address", "names are not looked up"],
    );
    one(
        "device = \"eth1\"",
        "device = \"eth0:1\"",
        &["a name with a colon is a label"],
    );
    let found = problems(&SMALL.replacen("name = \"private\"", "name = \"privat\"", 1));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found
            .iter()
            .all(|p| p.contains("both ends of a link have one name")),
        "{found:#?}"
    );
    one(
        "device = \"eth1\"",
        "device = \"eth1\"\ndata = false",
        &["no link may carry data"],
    );
    let contradiction = SMALL.replacen("device = \"eth1\"", "device = \"eth1\"\ndata = true", 1);
    let at = contradiction.rfind("device = \"eth1\"").unwrap();
    let contradiction = format!(
        "{}data = false\n{}",
        &contradiction[..at],
        &contradiction[at..]
    );
    let found = problems(&contradiction);
    assert!(
        found.len() == 1 && found[0].contains("not the same at the other end"),
        "{found:#?}"
    );
    let third = SMALL[SMALL.rfind("[[node]]").unwrap()..SMALL.find("[[floating_ip]]").unwrap()]
        .replace('b', "c");
    let found = problems(&format!("{SMALL}{third}"));
    assert!(
        found.iter().any(|p| p.contains("one too many")),
        "{found:#?}"
    );
}

#[test]
fn links_are_brought_into_one_order() {
    let second = SMALL.rfind("[[node]]").unwrap();
    let rest = SMALL.find("[[floating_ip]]").unwrap();
    let node = &SMALL[second..rest];
    let (private, public) = (
        node.find("[[node.link]]").unwrap(),
        node.rfind("[[node.link]]").unwrap(),
    );
    let swapped = format!(
        "{}{}{}",
        &node[..private],
        &node[public..],
        &node[private..public]
    );
    let text = format!("{}{swapped}{}", &SMALL[..second], &SMALL[rest..]);
    assert_eq!(super::good(&text), super::good(SMALL));
}

#[test]
fn floating_addresses() {
    let ip = "\"192.0.2.74/24\"";
    one(
        ip,
        "\"192.0.2.74\"",
        &["with its prefix length", "\"192.0.2.74/24\""],
    );
    one(ip, "\"192.0.2.74/33\"", &["prefix length from 1 to 32"]);
    one(
        ip,
        "\"192.0.2.255/24\"",
        &["broadcast address of its network"],
    );
    one(ip, "\"127.0.0.2/8\"", &["loopback"]);
    one(ip, "\"192.0.2.73/24\"", &["a node's own address on a link"]);
    let label = |text: &str| format!("{ip}\nlabel = \"{text}\"");
    one(
        ip,
        &label("eth1:1"),
        &["must begin with the device", "eth0:1"],
    );
    one(ip, &label("eth0:0123456789a"), &["has 16 bytes"]);
    one(
        ip,
        "\"2001:db8::1/64\"\nlabel = \"eth0:1\"",
        &["no meaning for an IPv6"],
    );
    let twice = format!("{SMALL}[[floating_ip]]\naddress = \"192.0.2.74/32\"\ndevice = \"eth0\"\n");
    assert!(problems(&twice)[0].contains("two floating IPs 192.0.2.74"));
}

proptest::proptest! {
    /// Cutting and mangling a valid text gives errors or a configuration, never a panic, and all places can be shown.
    #[test]
    fn no_text_breaks_the_parser(at in 0..SMALL.len(), length in 0usize..40, insert in "[\\[\\]=\".a-z0-9/\n{},]{0,6}") {
        let end = (at + length).min(SMALL.len());
        let text = format!("{}{insert}{}", &SMALL[..at], &SMALL[end..]);
        if let Err(problems) = parse(&text) {
            proptest::prop_assert!(!problems.is_empty());
            let _ = problems.to_string();
        }
    }
}
