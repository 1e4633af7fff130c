//! Two nodes with one tree, and the cable between them.

use crate::engine::command::Command;
use crate::engine::{Engine, EngineStatus, SessionEnd, SessionError};
use crate::tree::{PairConfig, Part, TreeConfig};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything. Reached only by a failing test.
pub const PATIENCE: Duration = Duration::from_secs(50);

/// One node: its engine, if it runs, and its directories.
pub struct Node {
    pub name: &'static str,
    pub dir: TempDir,
    pub engine: Option<Engine>,
    pub change: fn(&mut TreeConfig),
    pub part: Part,
    /// Where its state lies, if not in its directory.
    state: Option<PathBuf>,
}

impl Node {
    pub fn new(name: &'static str, change: fn(&mut TreeConfig)) -> Node {
        Node::make(&std::env::temp_dir(), name, Part::node(), change)
    }

    /// One whose directories lie there.
    pub fn new_in(at: &Path, name: &'static str, change: fn(&mut TreeConfig)) -> Node {
        Node::make(at, name, Part::node(), change)
    }

    /// One that is this to the pair.
    pub fn with(name: &'static str, part: Part, change: fn(&mut TreeConfig)) -> Node {
        Node::make(&std::env::temp_dir(), name, part, change)
    }

    /// One whose directory is `dir`, which is made, and its state elsewhere.
    pub fn new_at(
        dir: &Path,
        state: PathBuf,
        name: &'static str,
        change: fn(&mut TreeConfig),
    ) -> Node {
        let node = Node::dir_at(dir, name, change);
        std::fs::create_dir(node.tree()).unwrap();
        node.started(state)
    }

    /// One whose directories were made by [`Node::new_at`] in a process that is gone.
    pub fn after_a_cut(
        dir: &Path,
        state: PathBuf,
        name: &'static str,
        change: fn(&mut TreeConfig),
    ) -> Node {
        let was = dir.with_extension("was");
        std::fs::rename(dir, &was).unwrap();
        let node = Node::dir_at(dir, name, change);
        std::fs::rename(was, dir).unwrap();
        node.started(state)
    }

    fn dir_at(dir: &Path, name: &'static str, change: fn(&mut TreeConfig)) -> Node {
        let (parent, own) = (dir.parent().unwrap(), dir.file_name().unwrap());
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix(own).rand_bytes(0).tempdir_in(parent);
        Node {
            name,
            dir: dir.unwrap(),
            engine: None,
            change,
            part: Part::node(),
            state: None,
        }
    }

    fn started(mut self, state: PathBuf) -> Node {
        self.state = Some(state);
        self.start();
        self
    }

    fn make(at: &Path, name: &'static str, part: Part, change: fn(&mut TreeConfig)) -> Node {
        let dir = tempfile::Builder::new()
            .prefix("tandem-sync-")
            .tempdir_in(at)
            .unwrap();
        std::fs::create_dir(dir.path().join("tree")).unwrap();
        let mut node = Node {
            name,
            dir,
            engine: None,
            change,
            part,
            state: None,
        };
        node.start();
        node
    }

    pub fn start(&mut self) {
        let mut tree = TreeConfig::new("data", self.tree());
        (self.change)(&mut tree);
        self.start_with(vec![tree]);
    }

    /// Starts it with other trees than that one.
    pub fn start_with(&mut self, trees: Vec<TreeConfig>) {
        let config = self.config(trees);
        self.engine = Some(Engine::open(config).unwrap());
    }

    pub fn config(&self, trees: Vec<TreeConfig>) -> PairConfig {
        PairConfig {
            pair: "test".into(),
            node: self.name.into(),
            part: self.part.clone(),
            trees,
            etc: self.dir.path().to_owned(),
            state_dir: self.state(),
            detector: super::detectors::best(),
            max_stale: Duration::from_secs(60),
        }
    }

    /// Ends the engine, as a restart of the agent does.
    pub async fn stop(&mut self) {
        self.engine.take().expect("the node runs").close().await;
    }

    pub fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    pub fn state(&self) -> PathBuf {
        let own = || self.dir.path().join("state");
        self.state.clone().unwrap_or_else(own)
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the node runs")
    }

    /// What the index has of the tree, and what is not settled, for a failing test.
    pub fn index(&self) -> String {
        let snapshot = self.engine().shared.index.snapshot().unwrap();
        let tree = crate::tree::TreeId::of("data");
        let mut out = String::new();
        for row in snapshot
            .entries(tree, &crate::path::RelPath::root())
            .unwrap()
        {
            let (path, entry) = row.unwrap();
            let kind = entry.current.map(|s| s.kind);
            let ino = entry.local.map(|l| l.ino);
            out += &format!("{path} #{} {kind:?} inode {ino:?}\n", entry.seq);
        }
        for (_, path, record) in snapshot.unreplicated(None, usize::MAX).unwrap() {
            out += &format!("unsettled {path} {record:?}\n");
        }
        out
    }

    /// The status as it is now. What is published is of a moment ago while much happens.
    pub async fn shown(&self) -> EngineStatus {
        self.engine().shared.ask(Command::Show).await.unwrap();
        self.engine().status()
    }

    /// Waits until the status fulfils the condition, from this moment on.
    pub async fn until(&self, what: &str, condition: impl FnMut(&EngineStatus) -> bool) {
        let show = self.engine().shared.ask(Command::Show);
        // A worker that was cut shows nothing more.
        let _ = tokio::time::timeout(PATIENCE, show).await;
        let mut changes = self.engine().status_changes();
        let found = tokio::time::timeout(PATIENCE, changes.wait_for(condition))
            .await
            .is_ok();
        if !found {
            panic!(
                "{}: not {what} after {PATIENCE:?}: {:#?}\n{}",
                self.name,
                self.engine().status(),
                self.index()
            );
        }
    }
}

/// A session between two nodes.
pub struct Cable {
    cancel: CancellationToken,
    pub source: JoinHandle<Result<SessionEnd, SessionError>>,
    pub replica: JoinHandle<Result<SessionEnd, SessionError>>,
}

impl Cable {
    pub fn plug(source: &Node, replica: &Node) -> Cable {
        let (a, b) = tokio::io::duplex(64 << 10);
        Cable::over(source, replica, a, b)
    }

    /// A cable that breaks after `bytes` from the source.
    pub fn breaking(source: &Node, replica: &Node, bytes: usize) -> Cable {
        let (inner, b) = tokio::io::duplex(64 << 10);
        Cable::over(source, replica, Breaks { inner, left: bytes }, b)
    }

    /// A cable that counts the bytes from the source.
    pub fn counting(source: &Node, replica: &Node) -> (Cable, Arc<AtomicU64>) {
        let (cable, written, _) = Cable::counting_pieces(source, replica);
        (cable, written)
    }

    /// A cable that counts the bytes from the source, and the pieces in which they are handed over.
    pub fn counting_pieces(
        source: &Node,
        replica: &Node,
    ) -> (Cable, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (inner, b) = tokio::io::duplex(64 << 10);
        let (written, pieces) = (Arc::default(), Arc::default());
        let counts = Counts {
            inner,
            written: Arc::clone(&written),
            pieces: Arc::clone(&pieces),
        };
        (Cable::over(source, replica, counts, b), written, pieces)
    }

    /// One with a stream of its own at the source.
    pub fn over<A>(source: &Node, replica: &Node, a: A, b: DuplexStream) -> Cable
    where
        A: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let cancel = CancellationToken::new();
        let (from, to) = (source.engine().clone(), replica.engine().clone());
        let (one, two) = (cancel.clone(), cancel.clone());
        let feeds = (replica.part == Part::Replica).then_some(replica.name);
        Cable {
            source: tokio::spawn(async move {
                match feeds {
                    Some(name) => from.run_feed_session(name, a, None, one).await,
                    None => from.run_source_session(a, None, one).await,
                }
            }),
            replica: tokio::spawn(async move { to.run_replica_session(b, two).await }),
            cancel,
        }
    }

    /// Ends what is left of a session whose one end is known to have ended.
    pub fn stop(&self) {
        self.cancel.cancel();
    }

    pub async fn cut(self) {
        self.cancel.cancel();
        // A cut may hit either end anywhere; whatever it says is fine.
        let _ = self.ended().await;
    }

    /// Waits for both ends. What they say is looked at by tests that care.
    pub async fn ended(
        self,
    ) -> (
        Result<SessionEnd, SessionError>,
        Result<SessionEnd, SessionError>,
    ) {
        let both = async { (self.source.await.unwrap(), self.replica.await.unwrap()) };
        tokio::time::timeout(PATIENCE, both)
            .await
            .expect("both ends of a session end")
    }
}

/// Source a with a first epoch, replica b.
pub async fn pair(change: fn(&mut TreeConfig)) -> (Node, Node) {
    begin(Node::new("a", change), Node::new("b", change)).await
}

/// Makes a the source and b the replica.
pub async fn begin(a: Node, b: Node) -> (Node, Node) {
    a.engine().init_source().await.unwrap();
    a.engine().begin_source(1).await.unwrap();
    b.engine().begin_replica().await.unwrap();
    (a, b)
}

/// Everything written on the node so far is in its index.
pub async fn recorded(node: &Node) {
    let barrier = |reply| Command::Barrier { only: None, reply };
    let asked = node.engine().shared.ask(barrier);
    let recorded = tokio::time::timeout(PATIENCE, asked).await;
    let recorded = recorded.expect("a barrier ends").unwrap();
    assert!(recorded.not_covered.is_empty(), "{recorded:?}");
}

/// Everything written on the source so far is durable on the replica.
pub async fn flush(source: &Node) {
    let mut peer = source.engine().shared.peer.subscribe();
    let connected = tokio::time::timeout(PATIENCE, peer.wait_for(|p| p.session))
        .await
        .is_ok();
    assert!(connected, "no session: {:#?}", source.engine().status());
    let report = source.engine().flush(PATIENCE).await.unwrap();
    assert!(report.not_covered.is_empty(), "{report:?}");
    // Whoever looks at the status next sees what was flushed.
    source.shown().await;
}

pub fn write(path: &Path, content: impl AsRef<[u8]>) {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).unwrap();
    }
    std::fs::write(path, content).unwrap();
}

/// Repeatable bytes that do not compress and do not repeat.
pub fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; n];
    blake3::Hasher::new_derive_key("tandem tests")
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// A stream that breaks after so many bytes were written to it.
pub struct Breaks<S> {
    pub inner: S,
    pub left: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Breaks<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Breaks<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.left == 0 {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        let some = &bytes[..bytes.len().min(self.left)];
        let written = std::task::ready!(Pin::new(&mut self.inner).poll_write(cx, some))?;
        self.left -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A stream that counts what is written to it.
pub struct Counts<S> {
    pub inner: S,
    pub written: Arc<AtomicU64>,
    /// Each is flushed once.
    pub pieces: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counts<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counts<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.pieces.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
