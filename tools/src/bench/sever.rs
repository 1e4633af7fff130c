//! Breaking an agent's connections without touching the agent or its cables.

use super::error::BenchError;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::net::{Shutdown, TcpStream};
use std::os::fd::RawFd;

/// Port of the link (docs/configuration.md: `port`).
const PORT: u16 = 7461;

/// Shuts down every TCP connection of a process that belongs to the link; returns how many. Both ends see the
/// connection end, as after a reset.
pub(super) fn sever(pid: u32) -> Result<usize, BenchError> {
    let failed = || BenchError::io("break the agent's connections");
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| BenchError::Broken(format!("{pid} is no process")))?;
    let process = pidfd_open(raw, PidfdFlags::empty()).map_err(|e| failed()(e.into()))?;
    let list = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(failed())?;
    let mut broken = 0;
    for entry in list.flatten() {
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        let number: Option<RawFd> = entry.file_name().to_string_lossy().parse().ok();
        let Some(number) = number.filter(|_| is_socket) else {
            continue;
        };
        // It may have been closed meanwhile.
        let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        // Of another family or not connected: `peer_addr` fails.
        let socket = TcpStream::from(socket);
        if let (Ok(local), Ok(peer)) = (socket.local_addr(), socket.peer_addr())
            && is_tcp(&socket)
            && (local.port() == PORT || peer.port() == PORT)
            && socket.shutdown(Shutdown::Both).is_ok()
        {
            broken += 1;
        }
    }
    Ok(broken)
}

/// A heartbeat's socket may be connected too.
fn is_tcp(socket: &TcpStream) -> bool {
    rustix::net::sockopt::socket_type(socket).is_ok_and(|t| t == rustix::net::SocketType::STREAM)
}
