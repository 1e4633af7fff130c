//! The order of the story, and what is shown when it breaks.

use super::copy::{Copied, Limit, copy_tree};
use super::stage::{Stage, count, size, time};
use super::steps::Play;
use super::{DemoError, MAX_BYTES, MAX_FILES, Options};
use std::path::Path;
use std::time::{Duration, Instant};
use tandem_lab::pair::{FLOATING, NODES, Pair, PairSpec, private_address, public_address};
use tandem_lab::{Disk, Privilege, own_path, privilege};

/// Lines of each agent's log that are shown when a step failed.
const TAIL: usize = 60;

/// Plays everything. Returns when nothing of it is left.
pub(super) fn play(options: &Options, stage: &mut Stage) -> Result<(), DemoError> {
    let how = match privilege()? {
        Privilege::Root => "as root",
        Privilege::UserNamespace => "in a user namespace",
    };
    let tree = options
        .tree
        .canonicalize()
        .map_err(DemoError::io(format!("{}", options.tree.display())))?;
    stage.note(&format!(
        "Tandem: two machines as one service. Here both are namespaces of this machine ({how})."
    ));
    stage.note("");
    for (n, name) in NODES.iter().enumerate() {
        stage.note(&format!(
            "  {name}  {}  private cable {}  one configuration, one key pair each",
            public_address(n),
            private_address(n)
        ));
    }
    stage.note(&format!(
        "  client   192.0.2.10  asks {FLOATING}, the floating IP, all the time"
    ));

    stage.step("The data");
    let mut spec = PairSpec::new(own_path().map_err(DemoError::io("find this program"))?);
    spec.disk = choose_disk(options);
    stage.event(match spec.disk {
        Disk::Memory => "each node's disk is a file system of its own, in memory",
        Disk::Directory => "each node's disk is a directory on this machine's disk",
    });
    let pair = Pair::new(spec)?;
    let copied = copy_data(&tree, &pair, options, stage)?;
    let told = tell(&pair, &copied, stage);
    if let Err(e) = &told
        && !matches!(e, DemoError::Interrupted)
    {
        show_nodes(&pair, stage);
    }
    told?;
    let work = pair.lab.dir().to_path_buf();
    drop(pair);
    if work.exists() {
        return Err(DemoError::Broken(format!(
            "{} was left behind",
            work.display()
        )));
    }
    stage.note("");
    stage.note(&format!(
        "Every step held. {} in all; nothing was left behind.",
        time(stage.elapsed())
    ));
    Ok(())
}

/// Disks in memory when that is certainly enough for both copies and the rest: then the times are those of
/// Tandem, and not of whatever disk is here.
fn choose_disk(options: &Options) -> Disk {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024);
    // A memory disk holds at most half of the memory, and there are two.
    if !options.full && available >= 6 * MAX_BYTES {
        Disk::Memory
    } else {
        Disk::Directory
    }
}

fn copy_data(
    tree: &Path,
    pair: &Pair,
    options: &Options,
    stage: &Stage,
) -> Result<Copied, DemoError> {
    let limit = (!options.full).then_some(Limit {
        files: MAX_FILES,
        bytes: MAX_BYTES,
    });
    let begin = Instant::now();
    let copied = copy_tree(tree, &pair.nodes[0].www(), limit)?;
    stage.holds(&format!(
        "private copy of {} for {}: {} files, {} directories, {} links, {} ({})",
        tree.display(),
        NODES[0],
        count(copied.files),
        count(copied.dirs),
        count(copied.symlinks),
        size(copied.bytes),
        time(begin.elapsed())
    ));
    if copied.capped {
        stage.event("there is more; --full takes all of it");
    }
    if copied.mapped > 0 {
        stage.event(&format!(
            "{} entries belong to users that do not exist in this user namespace: the copy is ours",
            count(copied.mapped)
        ));
    }
    if copied.skipped > 0 {
        stage.event(&format!(
            "{} entries cannot be read or are no files: left out",
            count(copied.skipped)
        ));
    }
    Ok(copied)
}

fn tell(pair: &Pair, copied: &Copied, stage: &mut Stage) -> Result<(), DemoError> {
    let mut play = Play::new(pair, stage);
    play.first_copy(copied)?;
    play.changes()?;
    play.power_cut()?;
    play.new_master()?;
    play.the_return()?;
    play.fail_back()?;
    play.comparison()
}

/// What both nodes know, when a step did not hold.
fn show_nodes(pair: &Pair, stage: &Stage) {
    for node in &pair.nodes {
        stage.note(&format!("\n---- {}: status", node.name()));
        match node.tandem_for(&["status"], Duration::from_secs(3)) {
            Ok(output) => stage.note(&format!("{}{}", output.stdout, output.stderr)),
            Err(e) => stage.note(&e.to_string()),
        }
        stage.note(&format!("---- {}: the last lines of its log", node.name()));
        stage.note(&node.log_tail(TAIL));
    }
}
