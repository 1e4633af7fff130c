//! A power cut: a guest whose processes are killed loses what its kernel had not written, and a disk keeps the rest.

use super::{Guest, Job, failed};
use crate::LabError;
use crate::disk::{make_image, make_work_dir, remove_tree};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// Longest wait for killed processes. They hold nothing that would delay their end.
const KILLED: Duration = Duration::from_secs(10);
/// How often what a guest said is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// A disk that outlives its guests: an ext4 in a file of this machine. A guest has it at [`LastingDisk::at`]. It gets
/// only what somebody in the guest waits for: its journal is not committed by time, nothing is written because of its age,
/// and no content because it gets the name of another one.
#[derive(Debug)]
pub struct LastingDisk {
    dir: PathBuf,
}

impl LastingDisk {
    /// Most that a guest has.
    pub const MOST: usize = 2;

    /// Where a guest has the `n`th of those that it was started with, from 0 on.
    pub fn at(n: usize) -> PathBuf {
        PathBuf::from(format!("/mnt/lasting-{n}"))
    }

    /// An empty one.
    ///
    /// # Errors
    /// The file system's, or that of `mkfs.ext4`.
    pub fn make() -> Result<Self, LabError> {
        let dir = make_work_dir(&std::env::temp_dir())?;
        let made = Self { dir };
        make_image(&made.image(), super::DISK, None)?;
        Ok(made)
    }

    fn image(&self) -> PathBuf {
        self.dir.join("disk")
    }
}

impl Drop for LastingDisk {
    fn drop(&mut self) {
        let _ = remove_tree(&self.dir);
    }
}

/// A guest that runs. Its power is cut when this is dropped.
#[derive(Debug)]
pub struct Running {
    kernel: Child,
    job: Job,
    /// Its processor.
    _lock: File,
}

impl Guest {
    /// Boots with these disks, at most [`LastingDisk::MOST`], and runs the program. Nothing of the guest is left after `most`, as with [`Guest::run`].
    ///
    /// # Errors
    /// [`LabError`] when it cannot be started. That it does not boot is told by [`Running::wait`].
    pub fn start(
        &self,
        program: &Path,
        arguments: &[&str],
        lasting: &[LastingDisk],
        most: Duration,
    ) -> Result<Running, LabError> {
        let mut job = Job::make(program, arguments)?;
        if lasting.len() > LastingDisk::MOST {
            return Err(LabError::Guest("more disks than a guest mounts".into()));
        }
        job.lasting = lasting.iter().map(LastingDisk::image).collect();
        let (kernel, lock) = self.boot(&job, most)?;
        Ok(Running {
            kernel,
            job,
            _lock: lock,
        })
    }
}

impl Running {
    /// What its command has said so far.
    pub fn said(&self) -> String {
        self.job.read("stdout")
    }

    /// Returns when what it said fulfils the condition.
    ///
    /// # Errors
    /// [`LabError::Guest`] with all that it said when it ended before.
    pub fn wait(&mut self, condition: impl Fn(&str) -> bool) -> Result<(), LabError> {
        loop {
            // Before what it said is read: what it said last counts.
            let ended = self
                .kernel
                .try_wait()
                .map_err(failed("look for the guest's kernel"))?;
            if condition(&self.said()) {
                return Ok(());
            }
            if let Some(status) = ended {
                let said = ["console", "stdout", "stderr"].map(|name| self.job.read(name));
                return Err(LabError::Guest(format!(
                    "the guest ended ({status}): {}",
                    said.join("\n")
                )));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Cuts its power. Gives what its command had said. The disk may be used again when this returns.
    ///
    /// # Errors
    /// [`LabError::Guest`] when something of it does not end.
    pub fn cut(mut self) -> Result<String, LabError> {
        self.kill()?;
        Ok(self.said())
    }

    /// The kernel stands still until nothing else of the guest is left: it traces the guest's programs, and one whose tracer
    /// is gone goes on as a program of this machine. Its next system call is then this kernel's, on the files that the guest's
    /// kernel has open (seen: a database's header at the start of a disk's image).
    fn kill(&mut self) -> Result<(), LabError> {
        let begun = Instant::now();
        let within = |what: &str| {
            std::thread::yield_now();
            let late = || LabError::Guest(format!("{what} after {KILLED:?}"));
            (begun.elapsed() < KILLED).then_some(()).ok_or_else(late)
        };
        let timeout = Pid::from_child(&self.kernel);
        let main = processes_of(&self.job).find(|pid| Status::of(*pid).parent == Some(timeout));
        if let Some(main) = main {
            send(main, Signal::STOP);
            while !Status::of(main).stands {
                within("a guest's kernel does not stand still")?;
            }
        }
        for last in [false, true] {
            let stays = |pid: &Pid| !last && [main, Some(timeout)].contains(&Some(*pid));
            let left = || processes_of(&self.job).filter(|pid| !stays(pid));
            while left().inspect(|pid| send(*pid, Signal::KILL)).count() > 0 {
                within("a killed guest does not end")?;
            }
        }
        let waited = self.kernel.wait();
        waited
            .map(drop)
            .map_err(failed("wait for the guest's kernel"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// What proc(5) has in a process's `stat`.
struct Status {
    /// It runs nothing more: a signal stopped it, or it has ended.
    stands: bool,
    parent: Option<Pid>,
}

impl Status {
    fn of(pid: Pid) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name before the last parenthesis may have any byte in it.
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        let mut words = after.split(' ');
        let stands = matches!(words.next(), None | Some("" | "T" | "Z" | "X"));
        let parent = words.next().and_then(|word| word.parse().ok());
        let parent = parent.and_then(Pid::from_raw);
        Self { stands, parent }
    }
}

/// One that has just ended is fine.
fn send(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

/// What runs for that job: each process of a guest has the kernel's command line, which names the job. Killed ones take a moment.
pub(super) fn processes_of(job: &Job) -> impl Iterator<Item = Pid> {
    // With the slash, as the command line has it: else another job whose number begins with this one's would be meant.
    let name = job.dir.join("");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(move |entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let name = name.as_os_str().as_bytes();
        let names = line.windows(name.len()).any(|part| part == name);
        let pid = entry.file_name().to_str()?.parse().ok()?;
        names.then(|| Pid::from_raw(pid)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a guest waited for is there in the next one; what it only wrote is not.
    #[test]
    fn a_power_cut_takes_what_nobody_waited_for() {
        let guest = Guest::find().unwrap();
        let disks = [LastingDisk::make().unwrap(), LastingDisk::make().unwrap()];
        let most = Duration::from_secs(60);
        let sh = Path::new("/bin/sh");
        let script = "cd /mnt/lasting-0; echo 1 >synced; echo 1 >../lasting-1/behind; sync -f synced; \
            echo 2 >written; echo 3 >synced; echo ready; sleep 1000";
        let mut first = guest.start(sh, &["-c", script], &disks, most).unwrap();
        first.wait(|said| said == "ready\n").unwrap();
        first.cut().unwrap();
        let script = "cd /mnt/lasting-0; cat synced; ls . ../lasting-1; echo end; sleep 1000";
        let mut second = guest.start(sh, &["-c", script], &disks, most).unwrap();
        second.wait(|said| said.ends_with("end\n")).unwrap();
        let said = second.cut().unwrap();
        assert_eq!(
            said,
            "1\n.:\nlost+found\nsynced\n\n../lasting-1:\nlost+found\nend\n"
        );
    }

    /// What the guest's programs do when the power goes is nothing of this machine's: there, their standard output is the console.
    #[test]
    fn a_program_does_not_outlive_its_kernel() {
        let guest = Guest::find().unwrap();
        let most = Duration::from_secs(60);
        let script = "echo ready; while :; do echo outlived; done >/dev/null";
        let sh = Path::new("/bin/sh");
        // One of three is where a kernel that is killed first leaves a program.
        for _ in 0..3 {
            let mut running = guest.start(sh, &["-c", script], &[], most).unwrap();
            running.wait(|said| said == "ready\n").unwrap();
            running.kill().unwrap();
            let console = running.job.read("console");
            assert!(!console.contains("outlived"), "{console}");
        }
    }
}
