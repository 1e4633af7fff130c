//! The order of the story, and what is shown when it breaks.

use super::copy::{Copied, Except, Limit, copy_tree};
use super::stage::Stage;
use super::steps::{PRIVATE, Play};
use super::{DemoError, MAX_BYTES, MAX_FILES, Options, place};
use crate::text::{count, size, time};
use std::path::{Path, PathBuf};
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
    let tree = find_tree(&options.tree)?;
    introduce(how, stage);
    stage.step("The data");
    let mut spec = PairSpec::new(own_path().map_err(DemoError::io("find this program"))?);
    let place = place::choose(options.full);
    (spec.disk, spec.parent) = (place.disk, place.parent);
    stage.event(&match spec.disk {
        Disk::Memory => "each node's disk is a file system of its own, in memory".to_string(),
        Disk::Directory | Disk::Image { .. } => {
            format!("each node's disk is in {}", spec.parent.display())
        }
    });
    let pair = Pair::new(spec)?;
    let told = tell(&pair, &tree, options, stage);
    if let Err(e) = &told
        && !matches!(e, DemoError::Interrupted(_))
    {
        show_nodes(&pair, stage);
    }
    let work = pair.lab.dir().to_path_buf();
    drop(pair);
    if work.exists() {
        return Err(DemoError::Broken(format!(
            "{} was left behind",
            work.display()
        )));
    }
    told?;
    stage.note("");
    stage.note(&format!(
        "Every step held. {} in all; nothing was left behind.",
        time(stage.elapsed())
    ));
    Ok(())
}

fn find_tree(named: &Path) -> Result<PathBuf, DemoError> {
    let tree = named
        .canonicalize()
        .map_err(DemoError::io(format!("--tree {}", named.display())))?;
    if tree.is_dir() {
        Ok(tree)
    } else {
        Err(DemoError::Broken(format!(
            "--tree {}: this is no directory",
            named.display()
        )))
    }
}

fn introduce(how: &str, stage: &Stage) {
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
}

fn copy_data(
    tree: &Path,
    pair: &Pair,
    options: &Options,
    stage: &Stage,
) -> Result<Copied, DemoError> {
    let limit = (!options.full).then_some(Limit {
        names: MAX_FILES,
        bytes: MAX_BYTES,
    });
    let except = Except {
        place: pair.lab.dir(),
        name: PRIVATE,
    };
    let begin = Instant::now();
    stage.event(&format!("{} is copied; it is only read", tree.display()));
    let progress = stage.progress(None);
    let copied = copy_tree(tree, &pair.nodes[0].www(), limit, except, |n| {
        progress.at(n);
    })?;
    drop(progress);
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
    place::room_for_second(&pair.nodes[1].www(), copied.bytes)?;
    Ok(copied)
}

fn tell(pair: &Pair, tree: &Path, options: &Options, stage: &mut Stage) -> Result<(), DemoError> {
    let copied = copy_data(tree, pair, options, stage)?;
    let mut play = Play::new(pair, stage, copied);
    play.first_copy()?;
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
        let log = node.log_tail(TAIL);
        if log.is_empty() {
            // Nothing was started yet.
            continue;
        }
        stage.note(&format!("\n---- {}: status", node.name()));
        match node.tandem_for(&["status"], Duration::from_secs(3)) {
            Ok(output) => stage.note(&format!("{}{}", output.stdout, output.stderr)),
            Err(e) => stage.note(&e.to_string()),
        }
        stage.note(&format!("---- {}: the last lines of its log", node.name()));
        stage.note(&log);
    }
}
