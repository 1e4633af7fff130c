//! Trees, monitors, services, hooks, mail.

use super::super::{SMALL, parse};
use super::{one, problems};

#[test]
fn trees() {
    let path = "path = \"/home\"";
    let more =
        |name: &str, path: &str| format!("{SMALL}[[tree]]\nname = \"{name}\"\npath = \"{path}\"\n");
    assert!(problems(&more("x", "/home"))[0].contains("two trees with the root /home"));
    assert!(problems(&more("home", "/srv"))[0].contains("two trees named `home`"));
    for other in ["/home2", "/home/x", "/var/lib"] {
        parse(&more("x", other)).unwrap();
    }
    one(path, "path = \"/\"", &["root directory"]);
    one(path, "path = \"/proc/sys\"", &["not data"]);
    one(
        path,
        "path = \"/var/lib/tandem/x\"",
        &["the agent's own state directory"],
    );
    one(
        path,
        &format!("{path}\nexclude = [\"ok\", \"[a\"]"),
        &["37:18", "entry 2 is no pattern", "found \"[a\""],
    );
    let list = format!("{path}\nexclude = [\"[a\", \"ok\", 5]");
    let found = problems(&super::super::changed(path, &list));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains("entry 1 is no pattern"), "{found:#?}");
    assert!(found[1].contains("entry 3 must be text"), "{found:#?}");
    one(
        path,
        &format!("{path}\nexclude = \"x\""),
        &["must be a list"],
    );
    one(
        path,
        &format!("{path}\nmax_delete = \"0%\""),
        &["from 1 to 100"],
    );
    one(
        path,
        &format!("{path}\nmax_delete = 2.5"),
        &["found the number 2.5"],
    );
    let key = |line: &str, says: &[&str]| one(path, &format!("{path}\n{line}"), says);
    let frozen = |line: &str| {
        let commands = "before = [\"/bin/true\"]\nafter = [\"/bin/true\"]";
        format!("{SMALL}[tree.freeze]\n{commands}\nsnapshot = {line}\n")
    };
    for good in ["\"btrfs\"", "\"/mnt/snapshot\""] {
        parse(&frozen(good)).unwrap();
    }
    for (bad, says) in [
        ("\"zfs\"", "where the tree lies in a mounted snapshot"),
        (
            "\"/home/snapshot\"",
            "/home/snapshot and its tree are nested",
        ),
        ("true", "\"btrfs\", or where"),
    ] {
        let found = problems(&frozen(bad));
        assert!(found.len() == 1 && found[0].contains(says), "{found:#?}");
    }
    key(
        "cross_mounts = true",
        &["unknown key `cross_mounts`", "a tree of its own"],
    );
    key("poll = \"500ms\"", &["37:8", "found \"500ms\""]);
    key("poll = \"2h\"", &["from 1s to 1h"]);
    key("pass = \"1s\"", &["37:8", "from 10s to 7d"]);
    key("compare_contents = \"1s\"", &["37:20", "or \"never\""]);
    let many: String = (0..33)
        .map(|n| format!("[[tree]]\nname = \"t{n}\"\npath = \"/t{n}\"\n"))
        .collect();
    assert!(
        problems(&format!("{SMALL}{many}"))
            .iter()
            .any(|p| p.contains("more than 32 trees"))
    );
}

#[test]
fn limits_of_trees() {
    let path = "path = \"/home\"";
    let key =
        |lines: &str, says: &[&str]| one(path, &format!("{path}\n[[tree.limit]]\n{lines}"), says);
    key("rate = 20", &["38:8", "must be a rate", "\"512KiB/s\""]);
    key("rate = \"20MB\"", &["the unit is one of kB/s"]);
    key("rate = \"1kB/s\"", &["from 10kB/s to 100GB/s", "\"pause\""]);
    key(
        "between = \"08:00-18:00\"",
        &["[[tree.limit]] needs `rate`"],
    );
    let between = |text: &str, says: &[&str]| {
        key(&format!("rate = \"pause\"\nbetween = \"{text}\""), says);
    };
    between(
        "08:00",
        &["39:11", "must be a part of a day", "in local time"],
    );
    between("8:00-18:00", &["must be a part of a day"]);
    between("08:60-18:00", &["must be a part of a day"]);
    between("08:00-25:00", &["must be a part of a day"]);
    between("08:00-08:00", &["two different times"]);
    let twice = "rate = \"5MB/s\"\n[[tree.limit]]\nrate = \"pause\"";
    key(twice, &["this limit never applies", "the first limit"]);
    let many = "between = \"08:00-18:00\"\nrate = \"5MB/s\"\n[[tree.limit]]\n".repeat(16);
    key(&format!("{many}rate = \"pause\""), &["more than 16 limits"]);
}

#[test]
fn limits_are_read_in_their_order() {
    use tandem_sync::limit::{Pace, pace_at};
    let text = super::super::changed(
        "path = \"/home\"",
        "path = \"/home\"\n[[tree.limit]]\nbetween = \"22:00-06:00\"\nrate = \"pause\"\n[[tree.limit]]\nrate = \"5MB/s\"",
    );
    let config = parse(&text).unwrap();
    let limits = &config.config.trees[0].limits;
    assert_eq!(pace_at(limits, 23 * 60), Pace::Pause);
    let Pace::Rate(rate) = pace_at(limits, 12 * 60) else {
        panic!("a rate by day: {limits:?}");
    };
    assert_eq!(rate.get(), 5_000_000);
}

fn with(more: &str) -> String {
    format!("{SMALL}{more}\n")
}

fn first(more: &str) -> String {
    problems(&with(more)).remove(0)
}

#[test]
fn monitors() {
    let http = "[[monitor]]\nname = \"w\"\ncheck = \"http\"\ncounts_for = \"service\"\n";
    parse(&with(&format!("{http}address = \"192.0.2.74\""))).unwrap();
    assert!(first(http).contains("check = \"http\" needs `address`"));
    assert!(
        first(&format!("{http}address = \"192.0.2.74\"\nhost = \"a b\"")).contains("host name")
    );
    assert!(
        first(&format!("{http}address = \"192.0.2.74\"\npath = \"x\"")).contains("begin with /")
    );
    assert!(
        first(&format!(
            "{http}address = \"192.0.2.74\"\nstatus = \"400-200\""
        ))
        .contains("status code")
    );
    let useless = first(&format!(
        "{http}address = \"192.0.2.74\"\ncommand = [\"/bin/true\"]"
    ));
    assert!(
        useless.contains("`command` has no meaning for check = \"http\""),
        "{useless}"
    );
    let tcp = http.replace("http", "tcp") + "address = \"192.0.2.74\"";
    assert!(first(&tcp).contains("check = \"tcp\" needs `port`"));
    let command = http.replace("http", "command");
    assert!(first(&format!("{command}command = \"/bin/true\"")).contains("there is no shell"));
    assert!(
        first(&format!("{command}command = [\"true\"]")).contains("absolute path of a program")
    );
    let elsewhere = parse(&with(&format!("{http}address = \"192.0.2.72\""))).unwrap();
    assert!(
        elsewhere.warnings.to_string().contains("not a floating IP"),
        "{}",
        elsewhere.warnings
    );
}

#[test]
fn services_hooks_and_mail() {
    let service = "[[service]]\nname = \"w\"\n";
    assert!(first(service).contains("needs `unit`, or `start` and `stop`"));
    assert!(first(&format!("{service}start = [\"/bin/x\"]")).contains("needs both"));
    assert!(
        first(&format!("{service}unit = \"x\"\nstop = [\"/bin/x\"]")).contains("either `unit`")
    );
    assert!(first(&format!("{service}unit = \"a b\"")).contains("systemd unit"));
    let two = format!(
        "{service}unit = \"x\"\n{}unit = \"x.service\"",
        service.replace('w', "v")
    );
    assert!(first(&two).contains("are one unit"));
    assert!(
        first("[[hook]]\non = \"failover\"\ncommand = [\"/bin/x\"]").contains("must be one of")
    );
    let mail = "[mail]\nto = [\"operator@example.com\"]\nfrom = \"t@example.com\"\n";
    parse(&with(mail)).unwrap();
    parse(&with(&format!("{mail}smtp = \"[::1]:25\""))).unwrap();
    assert!(first(&mail.replace("operator@", "")).contains("entry 1 must be a mail address"));
    assert!(first(&format!("{mail}smtp = \"localhost\"")).contains("a host and a port"));
    assert!(
        first(&format!("{mail}smtp = \"localhost:25\"\nsendmail = \"/s\"")).contains("not by both")
    );
    assert!(first("[[mail]]\nto = []").contains("`mail` is one table, found a list"));
}
