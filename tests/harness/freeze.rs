//! A single thread of a program that stands still, while the rest of it goes on (ptrace(2)).

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs;

/// The thread stands still until this is dropped. Only the thread that made it may drop it: the kernel knows the
/// tracer by its thread.
pub struct Frozen {
    thread: Pid,
}

impl Frozen {
    /// Stops the thread `name` of the process `pid`.
    pub fn thread(pid: u32, name: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
        let named = tasks.flatten().find(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        });
        let task = named.unwrap_or_else(|| panic!("no thread {name:?} in process {pid}"));
        let number = task.file_name().to_string_lossy().parse();
        let thread = Pid::from_raw(number.expect("a task is a number"));
        ptrace::seize(thread, ptrace::Options::empty()).expect("the thread may be traced");
        ptrace::interrupt(thread).expect("it is stopped");
        waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stands still");
        Self { thread }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = ptrace::detach(self.thread, None);
    }
}
