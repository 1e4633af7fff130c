//! The lab's floor: one thread in namespaces of its own, where switches and memory disks live and from which
//! hosts are started.

use crate::LabError;
use crate::netlink::Netlink;
use crate::privilege::sentence;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// What a job on the floor may use.
pub(crate) struct FloorState {
    /// Netlink in the network namespace of the switches.
    pub(crate) netlink: Netlink,
}

type Job = Box<dyn FnOnce(&mut FloorState) + Send>;

/// Handle of the thread.
pub(crate) struct Floor {
    // The locks only make the handle shareable; nothing waits while holding one.
    jobs: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    tid: libc::pid_t,
}

impl Floor {
    pub(crate) fn start() -> Result<Self, LabError> {
        // One job at a time: every caller waits for its own.
        let (jobs, queue) = sync_channel::<Job>(1);
        let (ready, started) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("lab-floor".into())
            .spawn(move || match enter_namespaces() {
                Ok(mut state) => {
                    // SAFETY: gettid has no arguments and cannot fail.
                    let _ = ready.send(Ok(unsafe { libc::gettid() }));
                    while let Ok(job) = queue.recv() {
                        job(&mut state);
                    }
                }
                Err(e) => {
                    let _ = ready.send(Err(e));
                }
            })
            .map_err(LabError::io("start the lab's floor"))?;
        let tid = started.recv().unwrap_or_else(|_| {
            Err(LabError::Io {
                what: "start the lab's floor".into(),
                source: io::Error::other("its thread ended"),
            })
        })?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            tid,
        })
    }

    /// Runs `job` on the floor and returns its result.
    ///
    /// # Errors
    /// When the floor is gone.
    pub(crate) fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut FloorState) -> Result<R, LabError> + Send + 'static,
    ) -> Result<R, LabError> {
        let gone = || LabError::Io {
            what: "use the lab's floor".into(),
            source: io::Error::other("it has ended"),
        };
        let (result, answer) = sync_channel(1);
        let sender = self
            .jobs
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
            .ok_or_else(gone)?;
        sender
            .send(Box::new(move |state| {
                let _ = result.send(job(state));
            }))
            .map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    /// A path to `path` in the floor's mount namespace, usable from every thread
    /// of this process and from its children.
    pub(crate) fn outside_path(&self, path: &std::path::Path) -> PathBuf {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let pid = std::process::id();
        PathBuf::from(format!("/proc/{pid}/task/{}/root", self.tid)).join(relative)
    }

    /// Ends the thread, and with it the namespaces that nothing else holds.
    pub(crate) fn stop(&self) {
        let lock_error = std::sync::PoisonError::into_inner;
        self.jobs.lock().unwrap_or_else(lock_error).take();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

fn enter_namespaces() -> Result<FloorState, LabError> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|e| LabError::NotPrivileged(sentence(&format!("namespaces: {}", e.desc()))))?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(|e| LabError::NotPrivileged(sentence(&format!("mounts: {}", e.desc()))))?;
    Ok(FloorState {
        netlink: Netlink::here()?,
    })
}
