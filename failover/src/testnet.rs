//! Two hosts in fresh network namespaces, joined by one veth cable. For tests only; needs root (CAP_SYS_ADMIN),
//! and fails loudly without it: a test that cannot run has not passed.

use crate::iface::{Mac, Netlink};
use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Task = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// One host: a thread in its own network namespace with a tokio runtime.
pub(crate) struct Host {
    tasks: tokio::sync::mpsc::UnboundedSender<Task>,
    mac: Mac,
}

/// Two hosts with one cable between their devices `eth0`.
/// A has 192.0.2.1/24 and 2001:db8::1/64, B the same with 2.
pub(crate) struct Pair {
    pub(crate) a: Host,
    pub(crate) b: Host,
}

pub(crate) const A4: &str = "192.0.2.1";
pub(crate) const B4: &str = "192.0.2.2";
pub(crate) const A6: &str = "2001:db8::1";
pub(crate) const B6: &str = "2001:db8::2";

impl Pair {
    pub(crate) fn new() -> Self {
        let (a, _a_namespace) = Host::start(Mac([2, 0, 0, 0, 0, 0xa]));
        let (b, b_namespace) = Host::start(Mac([2, 0, 0, 0, 0, 0xb]));
        a.block_on(move || async move {
            let netlink = Netlink::open().expect("netlink opens");
            let mut veth = LinkVeth::new("eth0", "peer0").build();
            veth.attributes
                .push(mac_attribute(Mac([2, 0, 0, 0, 0, 0xa])));
            netlink
                .handle()
                .link()
                .add(veth)
                .execute()
                .await
                .expect("veth is made");
            let moved = LinkUnspec::new_with_name("peer0")
                .setns_by_fd(b_namespace.as_raw_fd())
                .build();
            netlink
                .handle()
                .link()
                .set(moved)
                .execute()
                .await
                .expect("peer is moved");
        });
        b.block_on(|| async {
            let netlink = Netlink::open().expect("netlink opens");
            let mut named = LinkUnspec::new_with_index(
                netlink
                    .interface("peer0")
                    .await
                    .expect("peer0 has arrived")
                    .index,
            )
            .name("eth0")
            .build();
            named
                .attributes
                .push(mac_attribute(Mac([2, 0, 0, 0, 0, 0xb])));
            netlink
                .handle()
                .link()
                .set(named)
                .execute()
                .await
                .expect("peer is named");
        });
        for (host, v4, v6) in [(&a, A4, A6), (&b, B4, B6)] {
            host.set_link("lo", true);
            host.set_link("eth0", true);
            host.add_address("eth0", v4.parse().expect("literal"), 24);
            host.add_address("eth0", v6.parse().expect("literal"), 64);
        }
        Self { a, b }
    }
}

fn mac_attribute(mac: Mac) -> netlink_packet_route::link::LinkAttribute {
    netlink_packet_route::link::LinkAttribute::Address(mac.0.to_vec())
}

impl Host {
    fn start(mac: Mac) -> (Self, OwnedFd) {
        let (tasks, mut queue) = tokio::sync::mpsc::unbounded_channel::<Task>();
        let (ready, started) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("a network namespace can be made: run this test as root");
            let namespace =
                std::fs::File::open("/proc/thread-self/ns/net").expect("/proc is mounted");
            ready
                .send(OwnedFd::from(namespace))
                .expect("the test waits");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime starts");
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                while let Some(task) = queue.recv().await {
                    tokio::task::spawn_local(task());
                }
            });
        });
        let namespace = started
            .recv()
            .expect("the host starts: run this test as root");
        (Self { tasks, mac }, namespace)
    }

    pub(crate) fn mac(&self) -> Mac {
        self.mac
    }

    /// Runs a task on the host and waits for its result, at most 50 s.
    pub(crate) fn block_on<T, F, Fut>(&self, task: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        self.spawn(task)
            .recv_timeout(Duration::from_secs(50))
            .expect("the task on the host ends well within 50 s")
    }

    /// Starts a task on the host; its result comes through the channel.
    pub(crate) fn spawn<T, F, Fut>(&self, task: F) -> mpsc::Receiver<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (done, result) = mpsc::channel();
        self.tasks
            .send(Box::new(move || {
                Box::pin(async move {
                    // The test may have given up; then nobody wants the result.
                    let _ = done.send(task().await);
                })
            }))
            .unwrap_or_else(|_| panic!("the host's thread is gone"));
        result
    }

    /// Asks a condition again and again until it holds, at most 10 s.
    pub(crate) fn wait_until<F, Fut>(&self, what: &str, condition: F)
    where
        F: Fn() -> Fut + Send + Clone + 'static,
        Fut: Future<Output = bool> + 'static,
    {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.block_on(condition.clone()) {
            assert!(Instant::now() < deadline, "not within 10 s: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn set_link(&self, device: &'static str, up: bool) {
        self.block_on(move || async move {
            let netlink = Netlink::open().expect("netlink opens");
            let index = netlink
                .interface(device)
                .await
                .expect("the device exists")
                .index;
            let builder = LinkMessageBuilder::<LinkUnspec>::default().index(index);
            let message = if up { builder.up() } else { builder.down() }.build();
            netlink
                .handle()
                .link()
                .set(message)
                .execute()
                .await
                .expect("link state is set");
        });
    }

    /// Adds a permanent address at once usable.
    pub(crate) fn add_address(&self, device: &'static str, address: IpAddr, prefix: u8) {
        self.block_on(move || async move {
            let netlink = Netlink::open().expect("netlink opens");
            let index = netlink
                .interface(device)
                .await
                .expect("the device exists")
                .index;
            let mut request = netlink.handle().address().add(index, address, prefix);
            request
                .message_mut()
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
            request.execute().await.expect("the address is added");
        });
    }

    /// Deletes an address as an administrator would.
    pub(crate) fn delete_address(&self, address: IpAddr) {
        self.block_on(move || async move {
            let netlink = Netlink::open().expect("netlink opens");
            let mut all = std::pin::pin!(
                netlink
                    .handle()
                    .address()
                    .get()
                    .set_address_filter(address)
                    .execute()
            );
            let message = all
                .try_next()
                .await
                .expect("dump works")
                .expect("the address is there");
            netlink
                .handle()
                .address()
                .del(message)
                .execute()
                .await
                .expect("it is deleted");
        });
    }

    /// Serves HTTP on port 80 of every IPv4 address until the returned sender is dropped.
    pub(crate) fn serve_http(&self) -> tokio::sync::oneshot::Sender<()> {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, listening) = mpsc::channel();
        let _server = self.spawn(move || async move {
            let listener = tokio::net::TcpListener::bind("0.0.0.0:80")
                .await
                .expect("port 80 is free");
            ready.send(()).expect("the test waits");
            let accept = async {
                while let Ok((mut stream, _)) = listener.accept().await {
                    // A client that went away is its own affair. Unread bytes would turn the close into a reset.
                    let mut request = [0; 1024];
                    let _ = stream.read(&mut request).await;
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                        .await;
                }
            };
            tokio::select! {
                () = accept => {}
                _ = stopped => {}
            }
        });
        listening.recv().expect("the server starts");
        stop
    }
}
