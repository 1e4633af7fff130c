//! Somebody who may write in a tree exchanges a directory in it for a link out of it, again and again, while a test works below
//! that directory.

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The name in the tree that leads to a directory or to the link.
pub(crate) const NAME: &str = "d";
/// The other one of the two, outside the tree.
const OTHER: &str = "x";

/// Enough that between any two calls that look it up the name leads to the one and to the other.
const ROUNDS: usize = 60;
/// Rounds that a race may take.
const MOST: usize = 100_000;

/// The exchange is under way.
pub(crate) struct Swapper {
    tree: PathBuf,
    outside: PathBuf,
    before: Vec<Found>,
    /// The real directory, by which a test finds it whatever the name leads to.
    dir: OwnedFd,
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Swapper {
    /// Exchanges `d` in the tree, which is there, for a link to the directory `outside`, with a pause after each time.
    pub fn begin(tree: &Path, outside: &Path, pause: Duration) -> Swapper {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |at: &Path| rustix::fs::open(at, flags, Mode::empty()).expect("open");
        let spare = outside.with_extension("spare");
        std::fs::create_dir(&spare).expect("mkdir");
        let pair = Pair {
            tree: open(tree),
            spare: open(&spare),
            at: spare,
            outside: outside.to_owned(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let before = everything(outside);
        let (stopped, swaps) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&swaps);
        Swapper {
            tree: tree.to_owned(),
            outside: outside.to_owned(),
            before,
            dir: open(&tree.join(NAME)),
            stop,
            swaps,
            thread: std::thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    counted.fetch_add(pair.swap().into(), Ordering::Relaxed);
                    if pause > Duration::ZERO {
                        std::thread::sleep(pause);
                    }
                }
                pair.settle();
            }),
        }
    }

    /// Carries out round after round until there were [`ROUNDS`], as many exchanges meanwhile, and something was done; each says
    /// how much of it was. On a busy machine a few milliseconds of rounds may all meet the same of the two.
    pub fn race(self, mut round: impl FnMut(usize, &Swapper) -> usize) {
        let (mut done, mut rounds) = (0, 0);
        while done == 0 || rounds < ROUNDS || self.swaps.load(Ordering::Relaxed) < ROUNDS as u64 {
            assert!(rounds < MOST, "nothing was done: the race was not tried");
            done += round(rounds, &self);
            rounds += 1;
        }
        self.end();
    }

    /// Makes or changes a file in the real directory, if that is still anywhere: it is removed when the node put one of its own in
    /// the place of the link.
    pub fn write(&self, name: &str, content: &[u8]) {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let gone = || rustix::fs::fstat(&self.dir).expect("stat").st_nlink == 0;
        let file = rustix::fs::openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR);
        if matches!(file, Err(Errno::NOENT)) && gone() {
            return;
        }
        let mut file = File::from(file.expect("create"));
        file.write_all(content).expect("write");
    }

    /// Opens a file of the real directory.
    pub fn open(&self, name: &str) -> File {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        File::from(rustix::fs::openat(&self.dir, name, flags, Mode::empty()).expect("open"))
    }

    /// Ends it: the name leads to a directory, if to anything, and what is outside is as it was.
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the exchange goes on to its end");
        let swaps = self.swaps.load(Ordering::Relaxed);
        assert!(swaps > 1, "nothing was exchanged");
        assert!(!self.tree.join(NAME).is_symlink());
        assert_eq!(everything(&self.outside), self.before, "outside");
    }
}

/// The two names.
struct Pair {
    tree: OwnedFd,
    spare: OwnedFd,
    /// Where `spare` is.
    at: PathBuf,
    outside: PathBuf,
}

impl Pair {
    /// Exchanges them. False: one was taken away, or replaced, and is made anew as far as it can be.
    fn swap(&self) -> bool {
        let flags = RenameFlags::EXCHANGE;
        let done = rustix::fs::renameat_with(&self.tree, NAME, &self.spare, OTHER, flags);
        match done {
            Ok(()) => {
                if !self.is_link_there() {
                    self.make_link();
                }
                true
            }
            Err(Errno::NOENT) => {
                self.settle();
                self.make_link();
                false
            }
            Err(errno) => panic!("exchange: {errno}"),
        }
    }

    fn is_link(dir: &OwnedFd, name: &str) -> bool {
        rustix::fs::readlinkat(dir, name, Vec::new()).is_ok()
    }

    fn is_link_there(&self) -> bool {
        Pair::is_link(&self.tree, NAME) || Pair::is_link(&self.spare, OTHER)
    }

    /// A directory that was in the link's place is one that the test's node replaced.
    fn make_link(&self) {
        let at = self.at.join(OTHER);
        if self.is_link_there() {
            return;
        }
        match std::fs::remove_dir_all(&at) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => std::os::unix::fs::symlink(&self.outside, at).expect("symlink"),
        }
    }

    /// The tree has the directory, as long as there is one.
    fn settle(&self) {
        if Pair::is_link(&self.tree, NAME) {
            let flags = RenameFlags::EXCHANGE;
            let _ = rustix::fs::renameat_with(&self.tree, NAME, &self.spare, OTHER, flags);
        } else if !Pair::is_link(&self.spare, OTHER) {
            let flags = RenameFlags::NOREPLACE;
            let _ = rustix::fs::renameat_with(&self.spare, OTHER, &self.tree, NAME, flags);
        }
    }
}

/// Of an entry: path, what its stat says, content.
type Found = (PathBuf, [i128; 7], Vec<u8>);

/// All of a directory. Its own times show what came and went again.
fn everything(dir: &Path) -> Vec<Found> {
    let entries = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter();
    let entries = entries.map(|entry| {
        let path = entry.expect("listed").into_path();
        let found = path.symlink_metadata().expect("stat");
        let numbers = [
            found.ctime().into(),
            found.ctime_nsec().into(),
            found.mtime().into(),
            found.mtime_nsec().into(),
            found.ino().into(),
            found.mode().into(),
            found.nlink().into(),
        ];
        let content = std::fs::read(&path).unwrap_or_default();
        (path, numbers, content)
    });
    entries.collect()
}
