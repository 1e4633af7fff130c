//! A transfer of a large file that is cut goes on where it was.

use crate::harness::*;
use std::fs;
use std::path::PathBuf;

/// Size of the file.
const SIZE: u64 = 160 << 20;
/// What two cuts may cost: in each, 16 MiB that wait in the agents' queues, what the kernels' and the session's windows
/// hold, and everything else that goes over the links meanwhile. Without resuming they cost SIZE / 4 and SIZE / 2.
const SPARE: u64 = 64 << 20;

/// Bytes that a node sent on all its links.
fn sent(scene: &Scene, n: usize) -> u64 {
    let pid = scene.node(n).agent().expect("it runs").pid();
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).expect("read");
    // proc_net_dev(5): name, eight columns of receiving, then the bytes that were sent.
    let of = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        name.trim()
            .starts_with("eth")
            .then(|| numbers.split_whitespace().nth(8)?.parse::<u64>().ok())?
    };
    text.lines().filter_map(of).sum()
}

/// The longest content that is kept of a transfer.
fn came(scene: &Scene) -> Result<u64, String> {
    let dir: PathBuf = scene.file(TWO, ".tandem/partial");
    let entries = fs::read_dir(dir).map_err(|e| e.to_string())?;
    let length =
        |e: std::io::Result<fs::DirEntry>| e.and_then(|e| e.metadata()).map_or(0, |m| m.len());
    Ok(entries.map(length).max().unwrap_or(0))
}

fn wait_for(scene: &Scene, bytes: u64) {
    eventually(LONG, "a part came", || match came(scene)? {
        length if length >= bytes => Ok(()),
        length => Err(format!("{length} bytes")),
    });
}

#[test]
fn a_large_file_goes_on_where_it_was_cut_by_kill_9_of_either_agent() {
    // The addresses stay while an agent is dead, so that nothing but the copy goes on.
    let scene = SceneOptions::new()
        .policy("address_lifetime = \"60s\"")
        .make();
    scene.fill();
    scene.start();
    let mut big = vec![0; SIZE as usize];
    for (block, bytes) in big.chunks_mut(4096).enumerate() {
        // No two blocks are equal.
        bytes[..8].copy_from_slice(&block.to_le_bytes());
    }
    let before = sent(&scene, ONE);
    // Whole at once: one that grows while it is written is appended to on the standby.
    let aside = scene.file(ONE, ".tandem/huge");
    fs::write(&aside, &big).expect("written");
    fs::rename(aside, scene.file(ONE, "huge")).expect("renamed");
    wait_for(&scene, SIZE / 4);
    scene.node(TWO).kill_agent();
    assert!(came(&scene).expect("read") >= SIZE / 4, "it stays");
    scene.start_agent(TWO);
    wait_for(&scene, SIZE / 2);
    scene.node(ONE).kill_agent();
    scene.start_agent(ONE);
    scene.wait_ready(ONE, TWO);
    scene.flush_and_compare(ONE);
    let bytes = sent(&scene, ONE) - before;
    assert!(
        bytes < SIZE + SPARE,
        "{bytes} bytes were sent for a file of {SIZE}"
    );
    eventually(SOON, "nothing of a transfer stays", || {
        match came(&scene)? {
            0 => Ok(()),
            length => Err(format!("{length} bytes")),
        }
    });
}
