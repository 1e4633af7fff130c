//! Every target on its seeds, its corpus, and repeatable mutations of both. Bounded in time, so that it is an ordinary
//! test; what it cannot find is what `tests/fuzz/search` is for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};
use tandem_fuzz::{Mutator, targets};

/// Mutations of one target: enough to pass every branch of a small decoder, some seconds for the slowest in a debug build.
const ROUNDS: usize = 4000;
/// Bound of one target, for a machine that is busy.
const TIME: Duration = Duration::from_secs(6);
/// Longest input: a few messages.
const LONGEST: usize = 64 << 10;
/// Most bytes that one allocation may take for such an input: a length from the wire must not take memory before its
/// bytes have come. The largest honest one is the window of a frame's decoder.
const LARGEST: usize = 8 << 20;

struct Counting;

thread_local! {
    static LARGEST_SEEN: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait demands of the caller.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no such variable any more, and is not measured.
        let _ = LARGEST_SEEN.try_with(|seen| seen.set(seen.get().max(layout.size())));
        // SAFETY: the same layout as the caller's.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as the trait demands of the caller.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: it came from `alloc` above, which is the system's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.expect("the corpus can be listed");
        inputs.push((
            entry.file_name(),
            std::fs::read(entry.path()).expect("and read"),
        ));
    }
    inputs.sort();
    inputs.into_iter().map(|(_, bytes)| bytes).collect()
}

fn check(name: &str) {
    let all = targets();
    let target = all.iter().find(|target| target.name == name);
    let target = target.expect("the list below names no other");
    let run = |input: &[u8]| {
        LARGEST_SEEN.with(|seen| seen.set(0));
        let ended = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
        let taken = LARGEST_SEEN.with(Cell::get);
        let bound = LARGEST.max(input.len() * 4);
        if ended.is_err() || taken > bound {
            let file = std::env::temp_dir().join(format!("tandem-fuzz-{name}"));
            std::fs::write(&file, input).expect("the input can be kept");
            panic!(
                "{name}: {taken} bytes at once; the input is in {}",
                file.display()
            );
        }
    };
    let mut inputs = (target.seeds)();
    inputs.extend(corpus(name));
    inputs.iter().for_each(|input| run(input));
    // Names differ, so the sequences do.
    let seed = name
        .bytes()
        .fold(1, |n: u64, b| n.wrapping_mul(31).wrapping_add(b.into()));
    let mut mutator = Mutator::new(seed);
    let end = Instant::now() + TIME;
    for _ in 0..ROUNDS {
        let pick = |m: &mut Mutator| {
            inputs
                .get(m.below(inputs.len()))
                .cloned()
                .unwrap_or_default()
        };
        let (mut input, other) = (pick(&mut mutator), pick(&mut mutator));
        mutator.mutate(&mut input, &other);
        input.truncate(LONGEST);
        run(&input);
        if Instant::now() > end {
            break;
        }
    }
}

macro_rules! replayed {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { check(stringify!($name)); })*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<&str> = targets().iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

replayed!(
    agent_link,
    agent_forward,
    agent_api,
    agent_answer,
    agent_config,
    agent_keys,
    agent_journal,
    agent_handover,
    failover_heartbeat,
    failover_peer,
    failover_slots,
    failover_frames,
    failover_icmp,
    failover_netlink,
    failover_events,
    failover_http,
    sync_wire,
    sync_replica,
    sync_source,
    sync_delta,
    sync_heads,
    sync_index,
    sync_redo,
    sync_stored,
    sync_spool,
    sync_manifest,
    sync_marker,
    sync_trash,
    sync_owners,
    sync_flags,
    sync_fanotify,
    sync_writers,
    sync_path,
);
