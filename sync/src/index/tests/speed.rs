//! What the index costs. Run by hand: `cargo nextest run -p tandem-sync --run-ignored only index::tests::speed --no-capture`.

use super::*;

fn entry(n: u32) -> (RelPath, State, LocalKey) {
    let kind = Kind::File {
        size: u64::from(n) * 10,
        hash: ContentHash::of(&n.to_le_bytes()),
    };
    let meta = Meta {
        mode: 0o644,
        uid: 33,
        gid: 33,
        mtime_ns: 1_700_000_000_123_456_789,
        xattrs: Xattrs::default(),
    };
    let local = LocalKey {
        ctime_ns: meta.mtime_ns,
        mtime_ns: meta.mtime_ns,
        size: 1,
        ..key(u64::from(n))
    };
    (
        p(&format!("usr/share/doc/package-{}/file-{n}.txt", n / 20)),
        State { kind, meta },
        local,
    )
}

#[test]
#[ignore = "a measurement, not a check"]
fn hundred_thousand_entries() {
    let f = fixture();
    for batch in [100_000u32, 1000, 10] {
        let rounds = 100_000 / batch;
        let start = Instant::now();
        let rounds = rounds.min(200);
        for round in 0..rounds {
            f.write(|w| {
                for n in round * batch..(round + 1) * batch {
                    let (path, state, local) = entry(n);
                    // Another tree per batch size, so that each round inserts.
                    w.observe(TreeId([batch as u8; 16]), &path, Some(state), Some(local))?;
                }
                Ok(())
            });
        }
        let (count, time) = (rounds * batch, start.elapsed());
        println!(
            "{count} inserts in {rounds} transactions: {time:?}, {:.0}/s",
            f64::from(count) / time.as_secs_f64()
        );
    }
    let see = f.see();
    let start = Instant::now();
    let count = see
        .entries(TreeId([160; 16]), &RelPath::root())
        .unwrap()
        .count();
    println!("walk of {count} entries: {:?}", start.elapsed());
    let start = Instant::now();
    let mut after = 0;
    let mut count = 0;
    while let Some(last) = see.changes(after, 1000).unwrap().last() {
        after = last.entry.seq;
        count += 1;
    }
    println!("all changes in {count} chunks: {:?}", start.elapsed());
    println!("file: {} bytes", std::fs::metadata(&f.path).unwrap().len());
}
