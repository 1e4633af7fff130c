//! The laboratory itself.

use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tandem_lab::{Disk, Host, HostSpec, HttpClient, Lab, Nic, PROGRAM_DIR, Privilege, Probe};

tandem_lab::before_main!();

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

struct Room {
    a: Host,
    b: Host,
    lab: Lab,
}

/// Two hosts on one switch, switched on.
fn room() -> Room {
    let lab = Lab::new().expect("a lab");
    let network = lab.network("public").expect("a switch");
    let host = |name: &str, n: u8| {
        let addresses = [
            (ip(&format!("192.0.2.{n}")), 24),
            (ip(&format!("2001:db8::{n}")), 64),
        ];
        let host = lab
            .host(HostSpec::new(name).nic(Nic::new("eth0", &network, &addresses)))
            .expect("a host");
        host.boot().expect("it boots");
        host
    };
    Room {
        a: host("a", 1),
        b: host("b", 2),
        lab,
    }
}

/// Whether a datagram from one host arrives at the other.
fn passes(from: &Host, to: &Host, address: &str) -> bool {
    let target = SocketAddr::new(ip(address), 4000);
    let receiver = to
        .enter(move || UdpSocket::bind(target))
        .expect("the host is on")
        .expect("the port is free");
    let timeout = Some(Duration::from_millis(50));
    receiver.set_read_timeout(timeout).expect("a timeout");
    let any = if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let sender = from
        .enter(move || UdpSocket::bind(any))
        .expect("the host is on")
        .expect("a port");
    // The first may be lost while the neighbour is looked up.
    (0..10).any(|_| {
        let sent = sender.send_to(b"x", target).is_ok();
        receiver.recv(&mut [0; 8]).is_ok() && sent
    })
}

fn carrier(host: &Host) -> String {
    host.enter(|| fs::read_to_string("/sys/class/net/eth0/carrier"))
        .expect("the host is on")
        .unwrap_or_default()
}

#[test]
fn hosts_reach_each_other_by_both_protocols() {
    let room = room();
    assert!(passes(&room.a, &room.b, "192.0.2.2"));
    assert!(passes(&room.b, &room.a, "2001:db8::1"));
}

#[test]
fn a_host_has_its_own_names_and_file_system() {
    let room = room();
    let inside = room
        .a
        .enter(|| {
            let read = |p: &str| fs::read_to_string(p).unwrap_or_default();
            let pid1 = fs::read_link("/proc/1/exe").is_ok();
            let usr = fs::write("/usr/tandem-lab-test", "x").is_err();
            fs::write("/srv/kept", "x").expect("the disk can be written");
            fs::write("/run/lost", "x").expect("/run can be written");
            (
                read("/proc/sys/kernel/random/boot_id"),
                read("/etc/machine-id"),
                pid1,
                usr,
            )
        })
        .expect("the host is on");
    let (boot_id, machine_id, proc, usr_is_read_only) = inside;
    assert!(proc && usr_is_read_only);
    room.a.power_cut().expect("off");
    assert!(matches!(
        room.a.enter(|| ()),
        Err(tandem_lab::LabError::Off(_))
    ));
    assert_eq!(
        fs::read(room.a.outside_path("/srv/kept")).expect("seen while off"),
        b"x"
    );
    room.a.boot().expect("on");
    let again = room.a.enter(|| {
        let read = |p: &str| fs::read_to_string(p).unwrap_or_default();
        (
            read("/proc/sys/kernel/random/boot_id"),
            read("/etc/machine-id"),
            Path::new("/srv/kept").exists(),
            Path::new("/run/lost").exists(),
        )
    });
    let (new_boot_id, same_machine_id, kept, lost) = again.expect("the host is on");
    assert_ne!(boot_id, new_boot_id);
    assert_eq!(boot_id.trim().len(), 36);
    assert_eq!(machine_id, same_machine_id);
    assert!(kept && !lost);
}

#[test]
fn a_cut_cable_has_no_carrier_and_heals() {
    let room = room();
    let cable = room.a.cable("eth0");
    assert_eq!(carrier(&room.a).trim(), "1");
    cable.cut().expect("cut");
    assert_eq!(carrier(&room.a).trim(), "0");
    assert!(!passes(&room.b, &room.a, "192.0.2.1"));
    cable.heal().expect("heal");
    assert_eq!(carrier(&room.a).trim(), "1");
    assert!(passes(&room.b, &room.a, "192.0.2.1"));
    assert!(
        passes(&room.a, &room.b, "2001:db8::2"),
        "addresses survive the cut"
    );
}

#[test]
fn loss_can_be_one_way() {
    let room = room();
    assert!(
        passes(&room.a, &room.b, "192.0.2.2"),
        "neighbours are known"
    );
    assert!(passes(&room.b, &room.a, "192.0.2.1"));
    let cable = room.a.cable("eth0");
    cable.deafen().expect("deaf");
    assert!(passes(&room.a, &room.b, "192.0.2.2"));
    assert!(!passes(&room.b, &room.a, "192.0.2.1"));
    cable.heal().expect("heal");
    assert!(passes(&room.b, &room.a, "192.0.2.1"));
    cable.mute().expect("mute");
    assert!(passes(&room.b, &room.a, "192.0.2.1"));
    assert!(!passes(&room.a, &room.b, "192.0.2.2"));
    cable.heal().expect("heal");
    assert!(passes(&room.a, &room.b, "192.0.2.2"));
}

#[test]
fn a_power_cut_is_silent_and_kills_everything() {
    let room = room();
    let mut web = Command::new(format!("{PROGRAM_DIR}/lab-web"));
    web.args(["/srv", "80"]);
    let web = room.a.spawn(web).expect("started");
    let listener = room
        .a
        .enter(|| TcpListener::bind("192.0.2.1:5000"))
        .expect("on")
        .expect("bound");
    let mut stream = room
        .b
        .enter(|| TcpStream::connect("192.0.2.1:5000"))
        .expect("on")
        .expect("connected");
    let (mut accepted, _) = listener.accept().expect("accepted");
    accepted.write_all(b"x").expect("sent");
    stream.read_exact(&mut [0]).expect("received");
    room.a.power_cut().expect("off");
    drop((accepted, listener));
    assert!(!web.is_running());
    let timeout = Some(Duration::from_millis(200));
    stream.set_read_timeout(timeout).expect("a timeout");
    let end = stream
        .read(&mut [0])
        .expect_err("neither FIN nor RST comes");
    assert_eq!(end.kind(), std::io::ErrorKind::WouldBlock);
    assert!(!room.a.is_on() && room.b.is_on());
}

#[test]
fn the_web_server_serves_stores_and_is_probed() {
    let room = room();
    let mut web = Command::new(format!("{PROGRAM_DIR}/lab-web"));
    web.args(["/srv", "80"]);
    let server = room.a.spawn(web).expect("started");
    let client = HttpClient::new(
        &room.b,
        "192.0.2.1:80".parse().expect("address"),
        Duration::from_secs(1),
    );
    let end = Instant::now() + Duration::from_secs(5);
    while client.get("/").is_err() {
        assert!(Instant::now() < end, "the server answers");
    }
    assert_eq!(
        client.put("/www/page", "hello").expect("stored").status,
        200
    );
    let answer = client.get("/www/page").expect("served");
    assert_eq!(
        (answer.status, answer.node.as_str(), answer.body.as_slice()),
        (200, "a", &b"hello"[..])
    );
    assert_eq!(client.get("/www/none").expect("answered").status, 404);
    assert_eq!(
        fs::read(room.a.outside_path("/srv/www/page")).expect("on the disk"),
        b"hello"
    );
    let server_at: SocketAddr = "[2001:db8::1]:80".parse().expect("address");
    let probe = Probe::start(&room.b, server_at, "/www/page").expect("probing");
    while probe.log().good.len() < 10 {
        assert!(Instant::now() < end, "the probe gets answers");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.kill();
    let cut = Instant::now();
    let failed = probe.log().failed;
    while probe.log().failed < failed + 5 {
        assert!(
            Instant::now() < end + Duration::from_secs(5),
            "the probe sees the end"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        probe.stop().longest_gap(cut + Duration::from_millis(50)),
        None
    );
}

#[test]
fn nothing_is_left_behind() {
    let before = mounts();
    let room = room();
    let work = room.lab.dir().to_path_buf();
    let disk = room
        .lab
        .host(HostSpec::new("c").disk(Disk::Directory))
        .expect("a host");
    fs::write(disk.outside_path("/srv/x"), "x").expect("written");
    assert!(work.exists());
    drop((disk, room));
    assert!(!work.exists());
    assert_eq!(before, mounts());
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").expect("proc is mounted")
}

/// Set in the process that is to be killed.
const VICTIM: &str = "TANDEM_LAB_VICTIM";

/// What the victim does: has a lab, says where, and waits.
fn keep_a_lab_until_killed() {
    let room = room();
    let mut web = Command::new(format!("{PROGRAM_DIR}/lab-web"));
    web.args(["/srv", "80"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let web = room.a.spawn(web).expect("started");
    println!("LAB {} {} END", room.lab.dir().display(), web.pid());
    web.wait(Duration::from_secs(60));
}

/// Starts this test again as a process with a lab, ends it by a signal, and sees that hosts and directory go too.
#[test]
fn a_killed_lab_leaves_nothing() {
    if std::env::var_os(VICTIM).is_some() {
        keep_a_lab_until_killed();
        return;
    }
    for signal in [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM] {
        ended_by(signal);
    }
}

fn ended_by(signal: Signal) {
    let mut child = Command::new("/proc/self/exe")
        .args(["--exact", "a_killed_lab_leaves_nothing", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let mut output = child.stdout.take().expect("piped");
    let mut text = String::new();
    let mut buffer = [0; 256];
    let (work, web) = loop {
        let n = output.read(&mut buffer).expect("its output");
        assert!(n > 0, "it ended early: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
        let line = text
            .lines()
            .find_map(|l| l.split_once("LAB "))
            .map(|(_, rest)| rest);
        if let Some((work, pid)) = line
            .and_then(|rest| rest.strip_suffix(" END"))
            .and_then(|l| l.split_once(' '))
        {
            break (PathBuf::from(work), pid.to_string());
        }
    };
    let process = PathBuf::from(format!("/proc/{web}"));
    assert!(work.exists() && process.exists());
    let pid = i32::try_from(child.id()).expect("a process number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("signalled");
    child.wait().expect("collected");
    let end = Instant::now() + Duration::from_secs(10);
    while work.exists() || process.exists() {
        assert!(
            Instant::now() < end,
            "{} and {} go",
            work.display(),
            process.display()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Without root: in a user namespace, or a sentence where the system forbids that.
#[test]
fn an_ordinary_user_has_a_lab_too() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let dir = tempfile::tempdir().expect("a directory");
    // Where the build directory is may be closed to others.
    let program = dir.path().join("lab");
    fs::copy("/proc/self/exe", &program).expect("copied");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let mut command = Command::new(&program);
    command.args(["--exact", "hosts_reach_each_other_by_both_protocols"]);
    command.current_dir("/").env("TMPDIR", "/tmp");
    if tandem_lab::privilege().expect("a lab is possible") == Privilege::Root {
        command.uid(65534).gid(65534);
    }
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || said.contains("Run it as root, or allow user namespaces"),
        "{said}"
    );
}
