//! Removes the work directory when the lab's process is gone, even when that was killed by SIGKILL.

use crate::start::{JANITOR, own_program};
use crate::{LabError, remove_tree};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The janitor's process and the line whose end wakes it.
pub(crate) struct Janitor {
    child: Child,
    line: UnixStream,
}

impl Janitor {
    pub(crate) fn start(work: &Path) -> Result<Self, LabError> {
        let what = || "start the lab's janitor".to_string();
        let (line, its_end) = UnixStream::pair().map_err(LabError::io(what()))?;
        let child = Command::new(own_program())
            .arg0(JANITOR)
            .arg(work)
            // Its own group: Ctrl-C and a test runner's group kill must not reach it.
            .process_group(0)
            .stdin(std::os::fd::OwnedFd::from(its_end))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(LabError::io(what()))?;
        Ok(Self { child, line })
    }

    /// The normal end: lets the janitor remove the directory and waits for it.
    pub(crate) fn finish(mut self, work: &Path) {
        drop(self.line);
        let _ = self.child.wait();
        // Should the janitor have died early, the directory is still ours to remove.
        if work.exists() {
            let _ = remove_tree(work);
        }
    }
}

/// The janitor: waits for the end of its standard input, then removes the directory.
pub(crate) fn main(args: Vec<OsString>) -> i32 {
    let [work] = args.as_slice() else {
        return 2;
    };
    let mut sink = [0_u8; 1];
    // Nobody writes: this returns when the lab's process is gone.
    let _ = std::io::stdin().read(&mut sink);
    match remove_tree(Path::new(work)) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}
