//! A host: namespaces around a first process, a disk, and cables.

use crate::network::CableState;
use crate::{Cable, Disk, LabError, LabInner, Network};
use nix::sys::signal::Signal;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

mod disk;
mod namespaces;
mod power;
mod process;

pub use disk::Snapshot;
use namespaces::Namespaces;
pub use process::Process;

/// One network device of a host.
#[derive(Clone)]
pub struct Nic {
    device: String,
    network: Network,
    addresses: Vec<(IpAddr, u8)>,
}

impl Nic {
    /// A device on a network with its own addresses and their prefix lengths.
    pub fn new(device: &str, network: &Network, addresses: &[(IpAddr, u8)]) -> Self {
        Self {
            device: device.to_string(),
            network: network.clone(),
            addresses: addresses.to_vec(),
        }
    }
}

/// What a host is made of.
#[derive(Clone)]
pub struct HostSpec {
    name: String,
    disk: Disk,
    nics: Vec<Nic>,
    programs: Vec<(String, PathBuf)>,
}

impl HostSpec {
    /// A host with a disk in memory and no devices.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_string(),
            disk: Disk::Memory,
            nics: Vec::new(),
            programs: Vec::new(),
        }
    }

    /// Where its disk is.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disk = disk;
        self
    }

    /// Adds a device.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Makes a program of the machine available in the host as `/opt/lab/NAME`.
    #[must_use]
    pub fn program(mut self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.programs.push((name.to_string(), path.into()));
        self
    }
}

/// A host. Cloning gives another handle of the same one; it ends with the last handle.
#[derive(Clone)]
pub struct Host {
    inner: Arc<HostInner>,
}

pub(crate) struct HostInner {
    lab: Arc<LabInner>,
    spec: HostSpec,
    number: u8,
    dir: PathBuf,
    cables: Mutex<Vec<CableState>>,
    running: Mutex<Option<Running>>,
}

/// A host that is switched on.
struct Running {
    init: Child,
    /// The first process ends when this line does, and with it everything in the host.
    line: UnixStream,
    namespaces: Arc<Namespaces>,
    processes: Vec<Process>,
}

impl Host {
    pub(crate) fn make(lab: &Arc<LabInner>, spec: HostSpec, number: u8) -> Result<Self, LabError> {
        let dir = lab.work.join(&spec.name);
        let (disk, kind) = (dir.join("disk"), spec.disk);
        fs::create_dir_all(dir.join("root")).map_err(LabError::io("make the host's directory"))?;
        fs::create_dir_all(&disk).map_err(LabError::io("make the host's disk"))?;
        fs::write(dir.join("machine-id"), format!("{}\n", random_hex()?))
            .map_err(LabError::io("make the host's machine id"))?;
        lab.floor
            .run(move |_| crate::rootfs::prepare_disk(&disk, kind))?;
        let cables = vec![CableState::default(); spec.nics.len()];
        Ok(Self {
            inner: Arc::new(HostInner {
                lab: Arc::clone(lab),
                spec,
                number,
                dir,
                cables: Mutex::new(cables),
                running: Mutex::new(None),
            }),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// Switches the host on: new namespaces and a new boot id around the same disk. Returns when its devices
    /// have their addresses.
    ///
    /// # Errors
    /// When it is on already, or its first process fails and says why.
    pub fn boot(&self) -> Result<(), LabError> {
        let host = &self.inner;
        let mut running = lock(&host.running);
        if running.is_some() {
            return Err(host.boot_error("it is on already"));
        }
        fs::write(host.dir.join("boot-id"), format!("{}\n", random_uuid()?))
            .map_err(LabError::io("make the boot id"))?;
        let (mut init, line) = host.start_init()?;
        match host.finish_boot(&init, &line) {
            Ok(namespaces) => {
                *running = Some(Running {
                    init,
                    line,
                    namespaces,
                    processes: Vec::new(),
                });
                Ok(())
            }
            Err(e) => {
                let _ = init.kill();
                let _ = init.wait();
                Err(e)
            }
        }
    }

    /// Cuts the power: the cables go dead, then every process of the host is gone. The disk stays. Nothing is
    /// sent, as connections of a machine without power close nothing.
    ///
    /// # Errors
    /// When the cables cannot be taken down; the processes are killed even then.
    pub fn power_cut(&self) -> Result<(), LabError> {
        self.inner.power_cut()
    }

    /// Whether it is switched on.
    pub fn is_on(&self) -> bool {
        lock(&self.inner.running).is_some()
    }

    /// Starts a program in the host. It belongs to the host and dies with it.
    ///
    /// # Errors
    /// When the host is off or the program cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Process, LabError> {
        let what = format!("start {:?} on {}", command.get_program(), self.name());
        let namespaces = self.namespaces()?;
        // Its own group, so that Ctrl-C in a terminal reaches only the lab's owner.
        command.process_group(0);
        let child = std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    namespaces.join()?;
                    command.spawn().map_err(LabError::io(what))
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let process = Process::new(child);
        match lock(&self.inner.running).as_mut() {
            Some(running) => {
                running.processes.retain(Process::is_running);
                running.processes.push(process.clone());
                Ok(process)
            }
            None => {
                // The power went while it was started: it is dead or never lived.
                process.kill();
                Err(LabError::Off(self.name().to_string()))
            }
        }
    }

    /// Sends a signal to every program that was started in the host: `SIGSTOP` makes it hang while its kernel goes
    /// on answering.
    pub fn signal_all(&self, signal: Signal) {
        if let Some(running) = lock(&self.inner.running).as_ref() {
            running.processes.iter().for_each(|p| p.signal(signal));
        }
    }

    /// Runs `job` on a thread inside the host: its sockets, paths and mounts are the host's.
    ///
    /// # Errors
    /// When the host is off.
    pub fn enter<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, LabError> {
        self.enter_thread(job)?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Like [`Host::enter`], but returns at once. The thread is the caller's own and does not end with the host.
    ///
    /// # Errors
    /// When the host is off.
    pub fn enter_thread<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<JoinHandle<Result<R, LabError>>, LabError> {
        let namespaces = self.namespaces()?;
        std::thread::Builder::new()
            .name(format!("lab-{}", self.name()))
            .spawn(move || {
                namespaces.join()?;
                Ok(job())
            })
            .map_err(LabError::io("start a thread"))
    }

    /// Where a path of the host's disk is seen from outside, whether the host is on or off. Only paths below
    /// `/etc/tandem`, `/var/lib/tandem`, `/srv` and `/var/log` are on the disk.
    pub fn outside_path(&self, path: impl AsRef<Path>) -> PathBuf {
        let relative = path.as_ref().strip_prefix("/").unwrap_or(path.as_ref());
        self.inner
            .lab
            .floor
            .outside_path(&self.inner.dir.join("disk"))
            .join(relative)
    }

    /// The same for programs that are started by [`crate::Lab::output`].
    pub fn floor_path(&self, path: impl AsRef<Path>) -> PathBuf {
        let relative = path.as_ref().strip_prefix("/").unwrap_or(path.as_ref());
        self.inner.dir.join("disk").join(relative)
    }

    /// The cable of a device.
    ///
    /// # Panics
    /// When the host has no such device.
    pub fn cable(&self, device: &str) -> Cable {
        let nic = self.inner.spec.nics.iter().position(|n| n.device == device);
        Cable {
            host: Arc::clone(&self.inner),
            nic: nic.unwrap_or_else(|| panic!("{} has no device {device}", self.name())),
        }
    }

    /// The hardware address of a device, the same at every boot.
    pub fn mac(&self, device: &str) -> [u8; 6] {
        self.inner.mac(self.cable(device).nic)
    }

    fn namespaces(&self) -> Result<Arc<Namespaces>, LabError> {
        lock(&self.inner.running)
            .as_ref()
            .map(|running| Arc::clone(&running.namespaces))
            .ok_or_else(|| LabError::Off(self.name().to_string()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random_bytes() -> Result<[u8; 16], LabError> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| LabError::io("get random bytes")(io::Error::from(e)))?;
    Ok(bytes)
}

fn random_hex() -> Result<String, LabError> {
    Ok(random_bytes()?.iter().map(|b| format!("{b:02x}")).collect())
}

fn random_uuid() -> Result<String, LabError> {
    let hex = random_hex()?;
    Ok(format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    ))
}
