//! One of the two nodes: its host, agent and web server.

use super::{
    CONFIG, NODES, PairSpec, WEB_PORT, WWW, ip6, private_address, public_address, replica_address,
};
use crate::{Host, HostSpec, HttpClient, Lab, LabError, Network, Nic, PROGRAM_DIR, Process};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One of the two nodes, or a replica.
pub struct Node {
    /// Its host.
    pub host: Host,
    log: PathBuf,
    agent: Mutex<Option<Process>>,
    web: Mutex<Option<Process>>,
    outputs: AtomicU32,
}

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; none when it was killed.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it ended with code 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

impl Node {
    /// Makes and boots the machine of node `n`.
    pub(super) fn make(
        lab: &Lab,
        spec: &PairSpec,
        n: usize,
        name: &str,
        networks: &[Network; 2],
    ) -> Result<Self, LabError> {
        let node = Self::machine(lab, spec, n, name, networks)?;
        node.host.boot()?;
        fs::create_dir_all(node.www()).map_err(LabError::io("make the tree's root"))?;
        Ok(node)
    }

    /// Makes and boots the machine of replica `n`, counted from 0: `web1`.
    pub(super) fn replica(
        lab: &Lab,
        spec: &PairSpec,
        n: usize,
        public: &Network,
    ) -> Result<Self, LabError> {
        let name = format!("web{}", n + 1);
        let eth0 = [(replica_address(n), 24)];
        let host = HostSpec::new(&name)
            .disk(spec.disk)
            .nic(Nic::new("eth0", public, &eth0))
            .program("tandem", &spec.tandem);
        let node = Self::on(lab.host(host)?, lab, &name);
        node.host.boot()?;
        fs::create_dir_all(node.www()).map_err(LabError::io("make the tree's root"))?;
        Ok(node)
    }

    fn on(host: Host, lab: &Lab, name: &str) -> Self {
        Self {
            log: lab.dir().join(format!("{name}.log")),
            host,
            agent: Mutex::new(None),
            web: Mutex::new(None),
            outputs: AtomicU32::new(0),
        }
    }

    /// The machine of node `n`, switched off.
    fn machine(
        lab: &Lab,
        spec: &PairSpec,
        n: usize,
        name: &str,
        [public, private]: &[Network; 2],
    ) -> Result<Self, LabError> {
        // 192.0.2.72 and .73, as the pair of the original guide.
        let eth0 = [(public_address(n), 24), (ip6(0x72 + n as u16), 64)];
        let eth1 = [(private_address(n), 24)];
        let host = lab.host(
            HostSpec::new(name)
                .disk(spec.disk)
                .nic(Nic::new("eth0", public, &eth0))
                .nic(Nic::new("eth1", private, &eth1))
                .program("tandem", &spec.tandem),
        )?;
        Ok(Self::on(host, lab, name))
    }

    /// Another machine with a copy of this one's disk.
    pub(super) fn clone_machine(
        &self,
        lab: &Lab,
        spec: &PairSpec,
        n: usize,
        networks: &[Network; 2],
    ) -> Result<Self, LabError> {
        let clone = Self::machine(lab, spec, n, &format!("{}-clone", NODES[n]), networks)?;
        self.host.copy_disk_to(&clone.host)?;
        Ok(clone)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// The tree that the web server serves, seen from outside.
    pub fn www(&self) -> PathBuf {
        self.host.outside_path(WWW)
    }

    /// Makes the node's key and returns its public line.
    ///
    /// # Errors
    /// When `tandem keygen` fails.
    pub fn keygen(&self) -> Result<String, LabError> {
        let output = self.tandem(&["keygen"])?;
        let key = output.stdout.lines().find_map(|line| {
            let at = line.find("ssh-ed25519 ")?;
            Some(line[at..].trim_matches('"').to_string())
        });
        key.ok_or_else(|| LabError::Io {
            what: format!("make a key on {}: {output:?}", self.name()),
            source: io::Error::from(io::ErrorKind::InvalidData),
        })
    }

    /// Puts a configuration on this node alone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, text: &str) -> Result<(), LabError> {
        fs::write(self.host.outside_path(CONFIG), text).map_err(LabError::io(format!(
            "write the configuration of {}",
            self.name()
        )))
    }

    /// Starts the web server and waits until it answers.
    ///
    /// # Errors
    /// When it does not within five seconds.
    pub fn start_web(&self) -> Result<(), LabError> {
        let mut command = Command::new(format!("{PROGRAM_DIR}/lab-web"));
        command.args([WWW, &WEB_PORT.to_string()]);
        let process = self.host.spawn(self.logged(command)?)?;
        *lock(&self.web) = Some(process);
        let own = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), WEB_PORT);
        let client = HttpClient::new(&self.host, own, Duration::from_millis(500));
        let end = Instant::now() + Duration::from_secs(5);
        while let Err(source) = client.get("/") {
            if Instant::now() >= end {
                let what = format!("wait for the web server of {}", self.name());
                return Err(LabError::Io { what, source });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// `kill -9` of the web server.
    pub fn kill_web(&self) {
        if let Some(web) = lock(&self.web).take() {
            web.kill();
        }
    }

    /// Starts the agent. Its log is kept over restarts and boots.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&self) -> Result<(), LabError> {
        let mut command = Command::new(format!("{PROGRAM_DIR}/tandem"));
        command.arg("agent");
        *lock(&self.agent) = Some(self.host.spawn(self.logged(command)?)?);
        Ok(())
    }

    /// The agent's process, when it was started since the last boot.
    pub fn agent(&self) -> Option<Process> {
        lock(&self.agent).clone()
    }

    /// `kill -9` of the agent.
    pub fn kill_agent(&self) {
        if let Some(agent) = lock(&self.agent).take() {
            agent.kill();
        }
    }

    /// Switches the host on again, with web server and agent.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn power_on(&self) -> Result<(), LabError> {
        self.host.boot()?;
        self.start_web()?;
        self.start_agent()
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// As [`Host::power_cut`].
    pub fn power_cut(&self) -> Result<(), LabError> {
        lock(&self.agent).take();
        lock(&self.web).take();
        self.host.power_cut()
    }

    /// Runs `tandem` with arguments on the node, at most half a minute.
    ///
    /// # Errors
    /// When it cannot be run or does not end.
    pub fn tandem(&self, args: &[&str]) -> Result<Output, LabError> {
        self.tandem_for(args, Duration::from_secs(30))
    }

    /// Runs `tandem` with arguments on the node, at most `limit`.
    ///
    /// # Errors
    /// When it cannot be run or does not end.
    pub fn tandem_for(&self, args: &[&str], limit: Duration) -> Result<Output, LabError> {
        let mut command = Command::new(format!("{PROGRAM_DIR}/tandem"));
        command.args(args);
        self.output(command, limit)
    }

    /// Runs a program on the node and returns what it said.
    ///
    /// # Errors
    /// When it cannot be run or does not end within `limit`; it is killed then.
    pub fn output(&self, mut command: Command, limit: Duration) -> Result<Output, LabError> {
        // Files and no pipes: whatever it says, nobody has to read at the same time.
        let n = self.outputs.fetch_add(1, Ordering::Relaxed);
        let file = |stream: &str| self.log.with_extension(format!("{n}.{stream}"));
        let (out, err) = (file("out"), file("err"));
        let create = |path: &Path| File::create(path).map_err(LabError::io("make an output file"));
        command
            .stdin(Stdio::null())
            .stdout(create(&out)?)
            .stderr(create(&err)?);
        let what = format!("run {:?} on {}", command, self.name());
        let process = self.host.spawn(command)?;
        let status = process.wait(limit);
        if status.is_none() {
            process.kill();
        }
        let take = |path: &Path| {
            let text = fs::read(path).unwrap_or_default();
            let _ = fs::remove_file(path);
            String::from_utf8_lossy(&text).into_owned()
        };
        let (stdout, stderr) = (take(&out), take(&err));
        match status {
            Some(status) => Ok(Output {
                code: status.code(),
                stdout,
                stderr,
            }),
            None => Err(LabError::Io {
                what: format!("{what}: it said {stdout:?} and {stderr:?}"),
                source: io::Error::from(io::ErrorKind::TimedOut),
            }),
        }
    }

    /// The last lines of what agent and web server logged.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// All that agent and web server logged.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn logged(&self, mut command: Command) -> Result<Command, LabError> {
        let failed = || LabError::io("open the node's log");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(failed())?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed())?)
            .stderr(log);
        Ok(command)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
