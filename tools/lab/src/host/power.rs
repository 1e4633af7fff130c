//! Switching a host on and off, and its cables.

use super::namespaces::Namespaces;
use super::{HostInner, lock};
use crate::LabError;
use crate::netlink::Netlink;
use crate::network::CableState;
use crate::start::{INIT, WEB, own_path, own_program};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kernel takes up to a second to follow a carrier (net/core/link_watch.c).
const CARRIER_LIMIT: Duration = Duration::from_secs(10);

impl HostInner {
    pub(super) fn boot_error(&self, why: impl Into<String>) -> LabError {
        LabError::Boot {
            host: self.spec.name.clone(),
            why: why.into(),
        }
    }

    /// Starts the first process in a PID namespace of its own; it makes the other namespaces itself.
    pub(super) fn start_init(&self) -> Result<(Child, UnixStream), LabError> {
        let (line, its_end) = UnixStream::pair().map_err(LabError::io("make the host's line"))?;
        let mut command = Command::new(own_program());
        command
            .arg0(INIT)
            .arg(&self.spec.name)
            .arg(&self.dir)
            .stdin(OwnedFd::from(its_end))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        let own = own_path().map_err(LabError::io("find this program"))?;
        let web = (WEB.to_string(), own);
        for (name, path) in std::iter::once(&web).chain(&self.spec.programs) {
            let mut argument = std::ffi::OsString::from(format!("{name}="));
            argument.push(path);
            command.arg(argument);
        }
        // On a thread of its own, because a thread makes one PID namespace in its life. It inherits the floor's
        // namespaces: the memory disks are mounted there.
        let child = self.lab.floor.run(move |_| {
            let start = move || {
                unshare(CloneFlags::CLONE_NEWPID).map_err(LabError::os("make a PID namespace"))?;
                command
                    .spawn()
                    .map_err(LabError::io("start the host's first process"))
            };
            std::thread::spawn(start)
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok((child, line))
    }

    pub(super) fn finish_boot(
        &self,
        init: &Child,
        line: &UnixStream,
    ) -> Result<Arc<Namespaces>, LabError> {
        let mut report = String::new();
        BufReader::new(line)
            .read_line(&mut report)
            .map_err(LabError::io("read the first process's report"))?;
        if report.trim() != "ready" {
            return Err(self.boot_error(report.trim()));
        }
        let namespaces = Arc::new(Namespaces::of(init.id())?);
        self.wire(&namespaces)?;
        Ok(namespaces)
    }

    /// Makes the cables: one end in the switch, one end in the host.
    fn wire(&self, namespaces: &Arc<Namespaces>) -> Result<(), LabError> {
        let states = lock(&self.cables).clone();
        for (nic, spec) in self.spec.nics.iter().enumerate() {
            let (near, far) = (self.near(nic), format!("{}x", self.near(nic)));
            let (device, bridge, mac) = (
                spec.device.clone(),
                spec.network.bridge().to_string(),
                self.mac(nic),
            );
            let (host, state) = (Arc::clone(namespaces), states[nic]);
            self.lab.floor.run(move |floor| {
                let netlink = &floor.netlink;
                netlink.remove(&near)?;
                netlink.add_veth(&near, &far)?;
                netlink.plug(&near, &bridge)?;
                netlink.move_device(&far, &device, mac, host.net.as_fd())?;
                apply_cable(netlink, &near, state)
            })?;
        }
        let (nics, host) = (self.spec.nics.clone(), Arc::clone(namespaces));
        let configure = move || {
            host.join()?;
            let netlink = Netlink::here()?;
            netlink.set_up("lo", true)?;
            for nic in &nics {
                netlink.set_up(&nic.device, true)?;
                for (ip, prefix) in &nic.addresses {
                    netlink.add_address(&nic.device, *ip, *prefix)?;
                }
            }
            Ok(())
        };
        std::thread::spawn(configure)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        (0..self.spec.nics.len())
            .filter(|nic| !states[*nic].cut)
            .try_for_each(|nic| self.wait_up(namespaces, nic))
    }

    /// Waits until frames pass through both ends of a cable, so that nothing that a caller sends then is lost.
    fn wait_up(&self, namespaces: &Arc<Namespaces>, nic: usize) -> Result<(), LabError> {
        let end = Instant::now() + CARRIER_LIMIT;
        let (host, device) = (Arc::clone(namespaces), self.spec.nics[nic].device.clone());
        let far = move || {
            host.join()?;
            let netlink = Netlink::here()?;
            while !(netlink.passes(&device)? && netlink.addresses_answer(&device)?) {
                not_after(end, &device)?;
            }
            Ok(())
        };
        std::thread::spawn(far)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        // One question at a time: the floor has other things to do meanwhile.
        let near = self.near(nic);
        loop {
            let device = near.clone();
            if self
                .lab
                .floor
                .run(move |floor| floor.netlink.passes(&device))?
            {
                return Ok(());
            }
            not_after(end, &near)?;
        }
    }

    pub(crate) fn change_cable(
        &self,
        nic: usize,
        change: impl FnOnce(&mut CableState),
    ) -> Result<(), LabError> {
        let state = {
            let mut cables = lock(&self.cables);
            change(&mut cables[nic]);
            cables[nic]
        };
        let namespaces = lock(&self.running)
            .as_ref()
            .map(|running| Arc::clone(&running.namespaces));
        let Some(namespaces) = namespaces else {
            return Ok(());
        };
        let near = self.near(nic);
        self.lab
            .floor
            .run(move |floor| apply_cable(&floor.netlink, &near, state))?;
        if state.cut {
            return Ok(());
        }
        self.wait_up(&namespaces, nic)
    }

    pub(super) fn power_cut(&self) -> Result<(), LabError> {
        let Some(mut running) = lock(&self.running).take() else {
            return Ok(());
        };
        // First nothing runs any more: a program that sees its cable go before it dies could act on that.
        for process in &running.processes {
            process.signal(Signal::SIGSTOP);
        }
        let nears: Vec<String> = (0..self.spec.nics.len())
            .map(|nic| self.near(nic))
            .collect();
        let silent = self.lab.floor.run(move |floor| {
            nears
                .iter()
                .try_for_each(|near| floor.netlink.set_up(near, false))
        });
        let _ = running.init.kill();
        drop(running.line);
        // The kernel ends the namespace only when those that we started in it are reaped.
        for process in &running.processes {
            process.reap();
        }
        let _ = running.init.wait();
        silent
    }

    /// The switch's end of a cable.
    fn near(&self, nic: usize) -> String {
        format!("h{}n{nic}", self.number)
    }

    pub(super) fn mac(&self, nic: usize) -> [u8; 6] {
        // A locally administered address (IEEE 802: second bit of the first byte). Hosts have few devices.
        [2, 0, 0, 0, self.number, nic as u8]
    }
}

impl Drop for HostInner {
    fn drop(&mut self) {
        let _ = self.power_cut();
    }
}

/// Pauses before the next look at a device; an error after `end`.
fn not_after(end: Instant, device: &str) -> Result<(), LabError> {
    if Instant::now() >= end {
        return Err(LabError::Io {
            what: format!("wait for the carrier of {device}"),
            source: std::io::Error::from(std::io::ErrorKind::TimedOut),
        });
    }
    std::thread::sleep(Duration::from_millis(5));
    Ok(())
}

fn apply_cable(netlink: &Netlink, near: &str, state: CableState) -> Result<(), LabError> {
    netlink.set_port(near, state.deaf, state.mute)?;
    netlink.set_up(near, !state.cut)
}
