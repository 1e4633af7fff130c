//! What the kernel knows of a connection's link (TCP_INFO, tcp(7)).

use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;
use tandem_sync::engine::LinkUse;

/// `struct tcp_info` (linux/tcp.h) up to `tcpi_rwnd_limited`, in words of 8 bytes; later kernels only append.
const WORDS: usize = 23;
/// `tcpi_busy_time`, microseconds: there since Linux 4.10.
const BUSY: usize = 21;
/// `tcpi_rwnd_limited`, microseconds.
const HELD: usize = 22;

/// How much the connection had to do. `None` if the kernel does not say.
pub(super) fn link_use(tcp: BorrowedFd<'_>) -> Option<LinkUse> {
    let mut info = [0u64; WORDS];
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).ok()?;
    // SAFETY: the descriptor is open for the time of the call (borrowed); the kernel writes at most `length` bytes to `info`, which
    // has as many, and then to `length`. Any bytes are valid numbers.
    let result = unsafe {
        libc::getsockopt(
            tcp.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let whole = usize::try_from(length).ok()? == size_of_val(&info);
    (result == 0 && whole).then(|| LinkUse {
        busy: Duration::from_micros(info[BUSY]),
        held: Duration::from_micros(info[HELD]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Instant;

    /// The fields are where they are looked for: a receiver that does not read holds the sender up.
    #[test]
    fn a_receiver_that_does_not_read_holds_the_connection_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_receiver, _) = listener.accept().unwrap();
        let before = link_use(sender.as_fd()).unwrap();
        assert!(before.busy < Duration::from_secs(1) && before.held.is_zero());
        sender.set_nonblocking(true).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        let held = loop {
            // Full after some megabytes.
            let _ = sender.write(&[0; 64 << 10]);
            let used = link_use(sender.as_fd()).unwrap();
            if !used.held.is_zero() || Instant::now() > end {
                break used;
            }
        };
        assert!(!held.held.is_zero() && held.busy >= held.held, "{held:?}");
        assert!(held.busy < Duration::from_secs(20), "{held:?}");
    }
}
