//! Tandem's side: the agents, what they say, and how much memory they take.

use super::error::BenchError;
use super::place::Place;
use crate::signals;
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tandem::api::client::{Client, ClientError};
use tandem::api::types::{
    Done, Empty, InitReport, InitRequest, Role, StatusReport, TreeState, path,
};

/// Bound of what takes no copying.
pub(super) const SOON: Duration = Duration::from_secs(60);
/// Bound of a copy of any of the cases.
pub(super) const COPY: Duration = Duration::from_secs(1800);
/// Pause between two looks at the status while something large goes on: rare enough to cost nothing.
const LOOK: Duration = Duration::from_millis(10);

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// Resident now.
    pub(super) now: u64,
    /// The most that ever was.
    pub(super) peak: u64,
}

impl Place {
    /// The agent's API. From outside, its socket is seen through the root of its process.
    pub(super) fn client(&self, n: usize) -> Result<Client, BenchError> {
        Ok(Client::new(PathBuf::from(format!(
            "/proc/{}/root{}",
            self.agent_pid(n)?,
            tandem::config::DEFAULT_SOCKET
        ))))
    }

    /// The process of an agent that runs.
    pub(super) fn agent_pid(&self, n: usize) -> Result<u32, BenchError> {
        let node = self.node(n);
        match node.agent() {
            Some(agent) if agent.is_running() => Ok(agent.pid()),
            Some(agent) => Err(BenchError::Broken(format!(
                "the agent of {} {}",
                node.name(),
                agent.describe_end()
            ))),
            None => Err(BenchError::Broken(format!("no agent on {}", node.name()))),
        }
    }

    /// Starts both agents and waits until they answer.
    pub(super) fn start_agents(&self) -> Result<(), BenchError> {
        for node in &self.pair.nodes {
            node.start_agent()?;
        }
        self.wait(SOON, "both agents answer", || {
            Ok(self.status(0).and(self.status(1)).is_ok())
        })
    }

    /// Stops both agents in order, the standby first so that it takes nothing over.
    pub(super) fn stop_agents(&self) -> Result<(), BenchError> {
        for n in [1, 0] {
            let Some(agent) = self.node(n).agent() else {
                continue;
            };
            agent.signal(Signal::SIGTERM);
            if agent.wait(SOON).is_none() {
                let name = self.node(n).name();
                return Err(BenchError::Broken(format!(
                    "the agent of {name} does not stop"
                )));
            }
        }
        Ok(())
    }

    /// Makes the first node the source.
    pub(super) fn init(&self) -> Result<(), BenchError> {
        let request = InitRequest { source: true };
        let client = self.client(0)?;
        let _: InitReport = self.runtime.block_on(client.call(path::INIT, &request))?;
        Ok(())
    }

    /// Lets the agent of a node execute itself again.
    pub(super) fn restart(&self, n: usize) -> Result<(), BenchError> {
        let client = self.client(n)?;
        let _: Done = self
            .runtime
            .block_on(client.call(path::RESTART, &Empty {}))?;
        Ok(())
    }

    pub(super) fn status(&self, n: usize) -> Result<StatusReport, BenchError> {
        let client = self.client(n)?;
        Ok(self.runtime.block_on(client.status())?)
    }

    /// Waits until everything that was written is durable on the other side.
    pub(super) fn flush(&self, bound: Duration) -> Result<(), BenchError> {
        let client = self.client(0)?;
        let report = self.runtime.block_on(client.flush(bound))?;
        match report.not_covered.first() {
            None => Ok(()),
            Some(missing) => Err(BenchError::Broken(format!("flush: {}", missing.why))),
        }
    }

    /// Waits until the pair is in its usual state with equal data, and `flush` vouches for it.
    pub(super) fn wait_in_sync(&self, bound: Duration) -> Result<(), BenchError> {
        let end = Instant::now() + bound;
        self.wait(
            bound,
            "the trees are equal and the standby could take over",
            || Ok(in_sync(&self.status(0)?, &self.status(1)?)),
        )?;
        self.flush(end.saturating_duration_since(Instant::now()))
    }

    /// Looks until it is so, at most `bound`. A look that fails does not count, unless an agent is gone.
    pub(super) fn wait(
        &self,
        bound: Duration,
        what: &str,
        mut look: impl FnMut() -> Result<bool, BenchError>,
    ) -> Result<(), BenchError> {
        let begin = Instant::now();
        let end = begin + bound;
        loop {
            signals::check()?;
            let last = match look() {
                Ok(true) => return Ok(()),
                Ok(false) => String::new(),
                Err(BenchError::Agent(e @ ClientError::Api(_))) => format!(" ({e})"),
                Err(BenchError::Agent(e)) => format!(" ({e})"),
                Err(e) => return Err(e),
            };
            if Instant::now() >= end {
                return Err(BenchError::Broken(format!(
                    "not within {bound:?}: {what}{last}"
                )));
            }
            // Looking costs the agents time; what takes long need not be known to the millisecond.
            std::thread::sleep(LOOK.max(begin.elapsed() / 100));
        }
    }

    /// Memory of an agent (proc_pid_status(5): VmRSS, VmHWM).
    pub(super) fn memory(&self, n: usize) -> Result<Memory, BenchError> {
        let file = format!("/proc/{}/status", self.agent_pid(n)?);
        let text = std::fs::read_to_string(&file).map_err(BenchError::io(file))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok())
                .map(|kib| kib * 1024)
                .ok_or_else(|| BenchError::Broken(format!("no {name} of an agent")))
        };
        Ok(Memory {
            now: field("VmRSS:")?,
            peak: field("VmHWM:")?,
        })
    }

    /// What both nodes know, when something did not come to its end.
    pub(super) fn show(&self) {
        for node in &self.pair.nodes {
            eprintln!("---- {}: status", node.name());
            match node.tandem_for(&["status"], Duration::from_secs(5)) {
                Ok(output) => eprintln!("{}{}", output.stdout, output.stderr),
                Err(e) => eprintln!("{e}"),
            }
            eprintln!("---- {}: log", node.name());
            eprintln!("{}", node.log_tail(30));
        }
    }
}

fn in_sync(master: &StatusReport, standby: &StatusReport) -> bool {
    let trees = || master.trees.iter().chain(&standby.trees);
    master.role == Role::Master
        && standby.role == Role::Standby
        && standby.takeover.possible
        && master.session.up
        && trees().all(|t| t.state == TreeState::Consistent)
}
