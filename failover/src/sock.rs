//! Raw sockets within a tokio runtime: netlink, packet and ICMP sockets share this.

use socket2::{SockAddr, SockAddrStorage, Socket};
use std::io;
use std::mem::{MaybeUninit, size_of};
use tokio::io::unix::AsyncFd;

/// A non-blocking socket that the runtime watches.
pub(crate) struct AsyncSocket {
    fd: AsyncFd<Socket>,
}

impl AsyncSocket {
    /// Takes the socket over and makes it non-blocking. Must be called within a tokio runtime.
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // SAFETY: the AsyncFd owns the socket, which owns its open descriptor, always returns that one, and is
        // only ever lent out shared, so that it can be neither closed nor exchanged before the AsyncFd is dropped.
        let fd = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { fd })
    }

    /// The socket, for options.
    pub(crate) fn get_ref(&self) -> &Socket {
        self.fd.get_ref()
    }

    /// Reads one datagram; `Ok(n)` may be larger than the buffer when the kernel cut it and `MSG_TRUNC` (in `flags`)
    /// was asked. Cancel safe.
    pub(crate) async fn recv(&self, buffer: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
        loop {
            let mut guard = self.fd.readable().await?;
            let read = guard.try_io(|fd| {
                // SAFETY: u8 and MaybeUninit<u8> have the same layout, and `recv` writes only bytes that are
                // initialised, so the buffer holds no uninitialised byte afterwards.
                let uninit =
                    unsafe { &mut *(std::ptr::from_mut(buffer) as *mut [MaybeUninit<u8>]) };
                fd.get_ref().recv_with_flags(uninit, flags)
            });
            match read {
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

/// An address of a packet socket (`packet(7)`): Ethernet protocol and device; `protocol` in host byte order.
pub(crate) fn link_layer_address(protocol: u16, index: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the address types that sockaddr_storage is made to hold, and every bit pattern
    // is a valid one.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = index;
    // SAFETY: the storage holds a sockaddr_ll, and that is its length.
    Ok(unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
}
