//! What the pair replicates, watches and runs.

use super::Need::{Below, DefaultsTo, Depends, Optional, Required};
use super::{Section, key};

pub(super) const TREE: Section = Section {
    path: "tree",
    repeated: true,
    help: "A directory hierarchy that is replicated from the master to the standby.",
    keys: &[
        key(
            "name",
            "name",
            Required(&["\"home\"", "\"www\""]),
            "Name of the tree.",
        ),
        key(
            "path",
            "absolute path",
            Required(&["\"/home\"", "\"/srv/www\""]),
            "Its root, the same on both nodes. A file system that is mounted below it is no part of the tree, and can be one of its own. A tree that lies in another one belongs to itself alone.",
        ),
        key(
            "exclude",
            "list of patterns",
            DefaultsTo("[]"),
            "What is not replicated. Patterns as rsync's: a leading / anchors at the root of the tree, a trailing / means directories, *, **, ? and [...] as usual.",
        ),
        key(
            "protect",
            "list of patterns",
            DefaultsTo("[]"),
            "What is never changed or removed on the receiver. Immutable and append-only files are protected without being named here, unless the tree carries `flags`.",
        ),
        key(
            "deletes",
            "\"mirror\", \"keep\" or \"trash\"",
            DefaultsTo("\"mirror\""),
            "What a delete on the master is on the standby: mirror deletes there too; keep leaves it; trash moves it to `.tandem/trash` for the time of `trash_age`.",
        ),
        key(
            "trash_age",
            "duration, 1h to 3650d",
            DefaultsTo("\"7d\""),
            "How long the trash keeps what is in it. It goes by whole hours, and earlier when there is no room.",
        ),
        key(
            "local_changes",
            "\"repair\", \"keep\" or \"report\"",
            DefaultsTo("\"repair\""),
            "What becomes of a change that somebody makes on the standby: repair puts the master's version back and the local one into the rescue; keep leaves it until the master changes that path; report leaves it as long too, and counts it in the status and raises an alarm while there is any.",
        ),
        key(
            "update",
            "\"atomic\" or \"in-place\"",
            DefaultsTo("\"atomic\""),
            "How a changed file takes the place of its old version on the standby. atomic: a new file is made beside it and renamed. in-place: of a file of 1 MiB and more only the changed blocks are written, into the file, through a durable journal; for very large files such as those of a database.",
        ),
        key(
            "owners",
            "\"number\" or \"name\"",
            DefaultsTo("\"number\""),
            "What says who owns an entry on the other node: its numbers, or the names that they have in /etc/passwd and /etc/group of each node.",
        ),
        key(
            "flags",
            "boolean",
            DefaultsTo("false"),
            "Whether the flags of chattr are replicated: immutable, append-only, nodump, noatime, sync and dirsync, of files and directories. false: they are not, and what is immutable or append-only on the standby stays as it is.",
        ),
        key(
            "devices",
            "boolean",
            DefaultsTo("true"),
            "Whether device nodes are made on the standby. false: one on the master is an error of that path, and the tree is not in sync until it is gone or excluded.",
        ),
        key(
            "max_delete",
            "\"N%\" or a number",
            DefaultsTo("\"50%\""),
            "More than this gone within a minute stops the tree until `tandem tree accept`. Per cent of its entries (never less than 10), or a number of entries. A name that is made again is not gone. A tree in which nothing is left always stops.",
        ),
        key(
            "poll",
            "duration, 1s to 1h",
            Optional("\"2s\""),
            "For a tree with writers that cause no events (databases, libaio, memory maps): all its entries are looked at again after this pause, and its files are made durable before they are read. Costs a stat for each entry each time.",
        ),
        key(
            "pass",
            "duration, 10s to 7d",
            DefaultsTo("\"10m\""),
            "Pause between two slow passes over all entries of the tree, which find what events do not tell. It takes a quarter of one core: some seconds for a million entries.",
        ),
        key(
            "compare_contents",
            "duration, 1m to 365d, or \"never\"",
            DefaultsTo("\"7d\""),
            "Within how long the contents of all files are read once and compared with the index, on each node. It finds what moved no time stamp. At most 32 MiB each second: a tree that is too large for its period takes longer.",
        ),
        key(
            "verify",
            "duration, 1m to 365d",
            Optional("\"30d\""),
            "Within how long the whole tree is compared once with that of the standby and of each replica, part after part, while replication goes on: contents, metadata, names. What differs is named by an alarm. Without it only `tandem verify` compares. Not for trees with [tree.freeze].",
        ),
        key(
            "verify_rate",
            "rate",
            Optional("\"50MB/s\""),
            "How fast each side reads at most for that, and for `tandem verify`: 10kB/s to 100GB/s. Without it `tandem verify` reads as fast as it can, and the schedule as fast as its period needs, at most 32 MiB each second.",
        ),
        key(
            "freeze",
            "[tree.freeze]",
            Below,
            "The standby changes this tree only by consistent sets.",
        ),
        key(
            "limit",
            "[[tree.limit]] tables",
            Below,
            "How fast its contents may be sent, by the time of day.",
        ),
    ],
};

pub(super) const FREEZE: Section = Section {
    path: "tree.freeze",
    repeated: false,
    help: "How the tree above is held still while a consistent set is taken of it. With it the standby changes the tree only by whole sets; changes between two sets are not sent.",
    keys: &[
        key(
            "before",
            "argument list",
            Required(&["[\"/usr/bin/systemctl\", \"freeze\", \"postgresql@15-main.service\"]"]),
            "Holds the tree still: when it has ended nothing in the tree changes until `after`. Program and arguments, no shell.",
        ),
        key(
            "after",
            "argument list",
            Required(&["[\"/usr/bin/systemctl\", \"thaw\", \"postgresql@15-main.service\"]"]),
            "Lets it go on. Run in any case: also after a failure, and at the start of an agent that died in between.",
        ),
        key(
            "timeout",
            "duration, 100ms to 1h",
            DefaultsTo("\"30s\""),
            "Bound of each of the two commands, and of what is read between them. A set that takes longer is given up.",
        ),
        key(
            "every",
            "duration, 1s to 24h",
            DefaultsTo("\"60s\""),
            "From the end of one set to the next one. It waits until the standby has the one before.",
        ),
        key(
            "snapshot",
            "\"btrfs\" or absolute path",
            Optional("\"btrfs\""),
            "What a set is read from in place of the tree. btrfs: the tree's root is a subvolume, of which Tandem takes a snapshot between the two commands; the set is read when the tree goes on already. A path: `before` makes a snapshot of the file system (LVM) and mounts it so that the tree lies there; `after` removes it.",
        ),
    ],
};

pub(super) const LIMIT: Section = Section {
    path: "tree.limit",
    repeated: true,
    help: "How fast contents of the tree above may be sent while this node is master. The first limit that applies counts; when none does, there is none. Other trees are not slowed.",
    keys: &[
        key(
            "between",
            "\"HH:MM-HH:MM\"",
            Optional("\"08:00-18:00\""),
            "The part of each day, in local time, in which it applies. It may go past midnight. Default: always.",
        ),
        key(
            "rate",
            "\"N\" with kB/s, MB/s, GB/s, KiB/s, MiB/s or GiB/s, or \"pause\"",
            Required(&["\"20MB/s\""]),
            "So many bytes of contents each second, 10kB/s to 100GB/s. pause: none.",
        ),
    ],
};

pub(super) const MONITOR: Section = Section {
    path: "monitor",
    repeated: true,
    help: "Something that is asked again and again. The peer's own host needs no monitor: heartbeat, ICMP, ARP or ND and TCP are always asked before it counts as dead.",
    keys: &[
        key(
            "name",
            "name",
            Required(&["\"web\""]),
            "Name of the monitor.",
        ),
        key(
            "check",
            "\"ping\", \"http\", \"tcp\" or \"command\"",
            Required(&["\"http\""]),
            "How it asks.",
        ),
        key(
            "counts_for",
            "\"service\" or \"network\"",
            Required(&["\"service\""]),
            "What its failure says: that the service at the floating IP is dead (asked by both nodes), or that the asking node's own network is (for example a ping of the gateway; of several of these, one that is answered is enough).",
        ),
        key(
            "address",
            "IP address",
            Depends("\"192.0.2.74\""),
            "Whom it asks; not for `command`. Usually a floating IP for a service, the gateway for the network.",
        ),
        key(
            "port",
            "port",
            Depends("80"),
            "`tcp`: must be given. `http`: 80 if absent.",
        ),
        key(
            "path",
            "text",
            Depends("\"/\""),
            "`http`: path with query. Default: /.",
        ),
        key(
            "host",
            "text",
            Depends("\"www.example.com\""),
            "`http`: the Host header. Default: the address.",
        ),
        key(
            "status",
            "number or \"N-M\"",
            Depends("\"200-399\""),
            "`http`: which status codes are a success. Default: 200-399.",
        ),
        key(
            "command",
            "argument list",
            Optional("[\"/usr/lib/tandem/check-database\"]"),
            "`command`: program and arguments, no shell. Success is exit code 0.",
        ),
        key(
            "interval",
            "duration, 100ms to 1h",
            DefaultsTo("\"1s\""),
            "From one question to the next.",
        ),
        key(
            "timeout",
            "duration, 10ms to 1m",
            DefaultsTo("\"1s\""),
            "Bound of one question.",
        ),
        key(
            "fall",
            "number, 1 to 100",
            DefaultsTo("3"),
            "Failures in a row until it counts as failed. A monitor that never succeeded is unknown, never failed.",
        ),
        key(
            "rise",
            "number, 1 to 100",
            DefaultsTo("1"),
            "Successes in a row until it counts as good.",
        ),
    ],
};

pub(super) const SERVICE: Section = Section {
    path: "service",
    repeated: true,
    help: "A service that follows the role: stopped before a node applies data, started in this order after a takeover, stopped in reverse order. It must not start at boot by itself.",
    keys: &[
        key(
            "name",
            "name",
            Required(&["\"web\""]),
            "Name of the service.",
        ),
        key(
            "unit",
            "systemd unit",
            Depends("\"apache2.service\""),
            "The unit. Either this, or `start` and `stop`.",
        ),
        key(
            "start",
            "argument list",
            Optional("[\"/usr/sbin/apachectl\", \"start\"]"),
            "Starts it. Program and arguments, no shell.",
        ),
        key(
            "stop",
            "argument list",
            Optional("[\"/usr/sbin/apachectl\", \"stop\"]"),
            "Stops it.",
        ),
        key(
            "timeout",
            "duration, 100ms to 1h",
            DefaultsTo("\"30s\""),
            "Bound of each start or stop.",
        ),
    ],
};

pub(super) const HOOK: Section = Section {
    path: "hook",
    repeated: true,
    help: "A command at a change of role.",
    keys: &[
        key(
            "on",
            "\"master\", \"standby\", \"freeze\" or \"thaw\"",
            Required(&["\"master\""]),
            "When: after this node became master and its services run; after it stopped being master and its services are stopped; before a planned move, to stop writers; when a planned move was given up.",
        ),
        key(
            "command",
            "argument list",
            Required(&["[\"/usr/lib/tandem/on-master\"]"]),
            "Program and arguments, no shell.",
        ),
        key(
            "timeout",
            "duration, 100ms to 1h",
            DefaultsTo("\"30s\""),
            "Bound of the run.",
        ),
    ],
};

pub(super) const MAIL: Section = Section {
    path: "mail",
    repeated: false,
    help: "Where notices go. Without this section they go to the log only.",
    keys: &[
        key(
            "to",
            "list of addresses",
            Required(&["[\"operator@example.com\"]"]),
            "Recipients.",
        ),
        key(
            "from",
            "address",
            Required(&["\"tandem@example.com\""]),
            "Sender.",
        ),
        key(
            "sendmail",
            "absolute path",
            Optional("\"/usr/sbin/sendmail\""),
            "A sendmail program. Either this or `smtp`; without both: /usr/sbin/sendmail.",
        ),
        key(
            "smtp",
            "host:port",
            Optional("\"localhost:25\""),
            "An SMTP server on this machine or a trusted network (no encryption).",
        ),
    ],
};
