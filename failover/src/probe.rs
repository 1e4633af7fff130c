//! Questions to other machines and to services: is somebody there?
//!
//! Each question is bounded by the time that its caller gives, and each answer is checked to belong to it.

pub mod arp;
pub mod command;
pub mod http;
pub mod icmp;
pub mod monitor;
pub mod tcp;

use std::io;
use std::net::IpAddr;

/// Where a question leaves this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outlet {
    /// Only through this device (`SO_BINDTODEVICE`, `socket(7)`); `None`: as the routing table says, which is also the
    /// only way to an address of this node itself.
    pub device: Option<String>,
    /// With this source address.
    pub source: Option<IpAddr>,
}

impl Outlet {
    /// Through one device, with the source address that the kernel chooses.
    pub fn device(name: &str) -> Self {
        Self {
            device: Some(name.to_owned()),
            source: None,
        }
    }

    fn apply(&self, socket: &socket2::Socket) -> io::Result<()> {
        if let Some(device) = &self.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(source) = self.source {
            socket.bind(&std::net::SocketAddr::new(source, 0).into())?;
        }
        Ok(())
    }
}

/// Why there was no (good) answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nothing came in time; names the phase.
    #[error("no answer in time ({0})")]
    Silent(&'static str),
    /// The question could not be put, or was refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// An answer came and is not the wanted one.
    #[error("{0}")]
    Wrong(String),
}

/// What became of one question, as far as it says whether anybody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Somebody answered.
    Answered,
    /// It was put, and nobody answered.
    Silent,
    /// It did not leave this node: its device is down or absent, or the kernel refused it. Says nothing about anybody else.
    NotPut,
}

impl<T> From<Result<T, ProbeError>> for Reply {
    fn from(result: Result<T, ProbeError>) -> Self {
        match result {
            Ok(_) => Self::Answered,
            Err(error) if error.is_silence() => Self::Silent,
            Err(error) => {
                tracing::debug!(%error, "question not put");
                Self::NotPut
            }
        }
    }
}

impl ProbeError {
    /// Whether the question was put and nobody answered. What is not known to be silence is none.
    fn is_silence(&self) -> bool {
        match self {
            Self::Silent(_) => true,
            // The kernel's own words for nobody having answered ARP, neighbour discovery or SYN.
            Self::Io { source, .. } => matches!(
                source.raw_os_error(),
                Some(libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::ETIMEDOUT)
            ),
            Self::Wrong(_) => false,
        }
    }

    fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
