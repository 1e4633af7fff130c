//! Consistent sets: a database that is copied while it works.

use crate::harness::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tandem_lab::pair::DEFAULT_BODY;

/// Bound of one command of the database.
const COMMAND: Duration = Duration::from_secs(30);

const BODY: &str = r#"
[[tree]]
name = "db"
path = "/srv/db"
# It names a process of this machine.
exclude = ["/pg/postmaster.pid"]

[tree.freeze]
before = ["/etc/tandem/still"]
after = ["/etc/tandem/go"]
every = "1s"

[[service]]
name = "database"
start = ["/etc/tandem/start"]
stop = ["/etc/tandem/stop"]
timeout = "30s"
"#;

/// All processes of the server, the postmaster first, so that it makes no new ones.
const PROCESSES: &str = r#"#!/bin/sh
set -e
read -r pid < /srv/db/pg/postmaster.pid || exit 0
kill -0 "$pid" 2>/dev/null || exit 0
"#;

/// Every process is stopped between two instructions, and no write is half done: what the files hold then is what they would
/// hold if the server were killed.
const STILL: &str = r#"
kill -STOP "$pid"
for p in "$pid" $(cat /proc/$pid/task/$pid/children); do
    kill -STOP "$p"
    until grep -q '^State:.[TZ]' /proc/$p/status 2>/dev/null || [ ! -e /proc/$p ]; do :; done
done
"#;

const GO: &str = r#"
for p in $(cat /proc/$pid/task/$pid/children) "$pid"; do
    kill -CONT "$p" || :
done
"#;

/// The newest server of Debian's packages.
fn programs() -> PathBuf {
    let versions =
        fs::read_dir("/usr/lib/postgresql").expect("postgresql is installed: tools/test does it");
    let newest = versions
        .filter_map(|v| Some(v.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .max();
    newest.expect("a server is installed")
}

struct Database {
    scene: Scene,
    bin: PathBuf,
}

impl Database {
    fn new() -> Database {
        let body = format!("{DEFAULT_BODY}{BODY}");
        let database = Database {
            scene: SceneOptions::new().body(&body).make(),
            bin: programs(),
        };
        database.scene.fill();
        for n in [ONE, TWO] {
            database.prepare(n);
        }
        let initdb = [
            "--no-sync",
            "-A",
            "trust",
            "-U",
            "postgres",
            "-D",
            "/srv/db/pg",
        ];
        database.as_owner(ONE, "initdb", &initdb);
        let settings = "unix_socket_directories = ''\nlisten_addresses = '127.0.0.1'\n\
            dynamic_shared_memory_type = mmap\nshared_buffers = 16MB\ncheckpoint_timeout = 30s\n";
        let file = database.outside(ONE, "/srv/db/pg/postgresql.conf");
        let before = fs::read_to_string(&file).expect("made by initdb");
        fs::write(&file, before + settings).expect("written");
        database
    }

    fn outside(&self, n: usize, path: &str) -> PathBuf {
        self.scene.node(n).host.outside_path(path)
    }

    fn prepare(&self, n: usize) {
        let directory = self.outside(n, "/srv/db");
        fs::create_dir(&directory).expect("made");
        if n == ONE {
            let pg = directory.join("pg");
            fs::create_dir(&pg).expect("made");
            std::os::unix::fs::chown(&pg, Some(self.owner().0), Some(self.owner().1))
                .expect("given");
        }
        let log = self.outside(n, "/var/log/database");
        fs::write(&log, "").expect("made");
        std::os::unix::fs::chown(&log, Some(self.owner().0), Some(self.owner().1)).expect("given");
        let owner = "setpriv --reuid=postgres --regid=postgres --clear-groups";
        let control = format!("exec {owner} {}/pg_ctl -D /srv/db/pg", self.bin.display());
        let scripts = [
            ("still", format!("{PROCESSES}{STILL}")),
            ("go", format!("{PROCESSES}{GO}")),
            (
                "start",
                format!("#!/bin/sh\n{control} -w -t 25 -l /var/log/database start >/dev/null\n"),
            ),
            (
                "stop",
                format!(
                    "#!/bin/sh\n[ -e /srv/db/pg/postmaster.pid ] || exit 0\n{control} -m fast stop\n"
                ),
            ),
        ];
        for (name, text) in scripts {
            let path = self.outside(n, "/etc/tandem").join(name);
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }
    }

    /// Ids of the user that runs the server, made by Debian's package.
    fn owner(&self) -> (u32, u32) {
        let user = nix::unistd::User::from_name("postgres").expect("asked");
        let user = user.expect("the package made its user");
        (user.uid.as_raw(), user.gid.as_raw())
    }

    fn as_owner(&self, n: usize, program: &str, args: &[&str]) {
        let mut command = Command::new("/usr/bin/setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(self.bin.join(program))
            .args(args)
            .current_dir("/");
        let output = self.scene.node(n).output(command, COMMAND).expect("run");
        assert!(output.success(), "{program}: {output:?}");
    }

    fn client(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .args(["-h", "127.0.0.1", "-U", "postgres"])
            .args(args)
            .env("PGDATABASE", "postgres")
            .current_dir("/");
        command
    }

    fn sql(&self, n: usize, text: &str) -> Result<String, String> {
        let command = self.client("psql", &["-AtX", "-v", "ON_ERROR_STOP=1", "-c", text]);
        let output = self.scene.node(n).output(command, COMMAND);
        let output = output.map_err(|e| e.to_string())?;
        match output.success() {
            true => Ok(output.stdout.trim().to_owned()),
            false => Err(format!("{output:?}")),
        }
    }
}

/// The master loses its power while the database works. What was committed before the last complete set is there, and what
/// there is fits together.
#[test]
fn a_database_is_carried_in_a_state_that_recovers() {
    if !nix::unistd::geteuid().is_root() {
        return tandem_lab::skipped("the server's files belong to another user, which needs root");
    }
    let database = Database::new();
    let scene = &database.scene;
    scene.start();
    eventually(LONG, "the database answers", || {
        database.sql(ONE, "SELECT 1").map(drop)
    });
    let load = database.client("pgbench", &["-i", "-q", "-s", "2", "postgres"]);
    let made = scene.node(ONE).output(load, COMMAND).expect("run");
    assert!(made.success(), "{made:?}");
    database
        .sql(ONE, "CREATE TABLE told (n int PRIMARY KEY)")
        .expect("made");
    let load = database.client(
        "pgbench",
        &["-n", "-c", "4", "-j", "2", "-T", "300", "postgres"],
    );
    let load = scene.node(ONE).host.spawn(load).expect("started");
    let mut told = 0;
    for _ in 0..3 {
        told += 1;
        let insert = format!("INSERT INTO told VALUES ({told})");
        database.sql(ONE, &insert).expect("committed");
        // A flush takes a set that begins after it, and waits until the standby has it.
        scene.flush(ONE);
    }
    assert!(load.is_running(), "{}", load.describe_end());
    scene.power_cut(ONE);
    eventually(LONG, "the database answers on the other node", || {
        database.sql(TWO, "SELECT 1").map(drop)
    });
    let found = database
        .sql(TWO, "SELECT count(*) FROM told")
        .expect("asked");
    assert_eq!(found, told.to_string(), "committed before the last set");
    // Each transaction of pgbench adds the same to all of them.
    let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), \
        (SELECT sum(bbalance) FROM pgbench_branches), \
        (SELECT sum(tbalance) FROM pgbench_tellers), \
        (SELECT sum(delta) FROM pgbench_history), (SELECT count(*) > 0 FROM pgbench_history)";
    let sums = database.sql(TWO, sums).expect("asked");
    let parts: Vec<&str> = sums.split('|').collect();
    assert!(parts[..4].iter().all(|sum| *sum == parts[0]), "{sums}");
    assert_eq!(parts[4], "t", "the load was carried over");
    database.as_owner(
        TWO,
        "pg_amcheck",
        &[
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "--install-missing",
            "postgres",
        ],
    );
    assert!(scene.rescued_paths(TWO).is_empty());
}

const HANGS: &str = r#"
[[tree]]
name = "held"
path = "/srv/held"

[tree.freeze]
before = ["/etc/tandem/still"]
after = ["/etc/tandem/go"]
timeout = "1s"
# Only a flush takes one.
every = "1h"
"#;

/// A child and itself, neither of which ends by itself or for SIGTERM.
const OUTLIVES: &str = r#"#!/bin/sh
[ -e /etc/tandem/hangs ] || exit 0
trap '' TERM
sleep 1000 &
echo "$$ $!" > /etc/tandem/pids
wait
sleep 1000
"#;

/// The command that holds the tree still hangs. It is ended with all that it started, the tree goes on, and that there is no
/// set is said; with the next one all is well.
#[test]
fn a_freeze_that_hangs_is_ended_and_the_next_one_brings_a_set() {
    let body = format!("{DEFAULT_BODY}{HANGS}");
    let scene = SceneOptions::new().body(&body).make();
    scene.fill();
    let outside = |path: &str| scene.node(ONE).host.outside_path(path);
    for n in [ONE, TWO] {
        let at = |path: &str| scene.node(n).host.outside_path(path);
        fs::create_dir(at("/srv/held")).expect("made");
        let go = "#!/bin/sh\necho >> /etc/tandem/gone-on\n";
        for (name, text) in [("still", OUTLIVES), ("go", go)] {
            let path = at("/etc/tandem").join(name);
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }
    }
    fs::write(outside("/srv/held/f"), "old").expect("written");
    scene.start();
    scene.flush(ONE);
    let gone_on =
        || fs::read_to_string(outside("/etc/tandem/gone-on")).map_or(0, |text| text.len());
    let before = gone_on();
    fs::write(outside("/etc/tandem/hangs"), "").expect("written");
    fs::write(outside("/srv/held/f"), "new").expect("written");
    let flushed = scene.tandem(ONE, &["flush", "--timeout", "1s"]);
    assert!(!flushed.success(), "{flushed:?}");
    let refused = "no set of the tree held could be taken: /etc/tandem/still did not end within 1s";
    scene.wait_status(ONE, "says why there is no set", |s| {
        s.alarms.iter().any(|alarm| alarm.contains(refused))
    });
    assert!(
        scene.node(ONE).log_tail(500).contains(refused),
        "in the log too"
    );
    assert!(gone_on() > before, "it goes on");
    let pids = fs::read_to_string(outside("/etc/tandem/pids")).expect("it ran");
    let pids = pids.trim().to_owned();
    assert_eq!(pids.split_whitespace().count(), 2, "{pids}");
    eventually(SOON, "both processes have ended", || {
        let mut look = Command::new("/bin/sh");
        look.args([
            "-c",
            &format!("for p in {pids}; do kill -0 $p && exit 1; done; exit 0"),
        ]);
        let ended = scene.node(ONE).output(look, COMMAND);
        match ended.map_err(|e| e.to_string())?.success() {
            true => Ok(()),
            false => Err(pids.clone()),
        }
    });
    let arrived = |n: usize| fs::read_to_string(scene.node(n).host.outside_path("/srv/held/f"));
    assert_eq!(arrived(TWO).expect("the set before"), "old");
    fs::remove_file(outside("/etc/tandem/hangs")).expect("removed");
    scene.flush(ONE);
    assert_eq!(arrived(TWO).expect("the next set"), "new");
    scene.wait_status(ONE, "says it no more", |s| {
        !s.alarms.iter().any(|alarm| alarm.contains("no set of"))
    });
}
