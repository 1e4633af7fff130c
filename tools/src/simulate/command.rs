//! The command line of `cargo simulate`.

use super::history::play;
use super::reach::{Class, Reach};
use super::world::World;
use clap::Parser;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Plays random histories of a pair on a virtual clock.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Args {
    /// How many histories.
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only this one.
    #[arg(long)]
    seed: Option<u64>,
    /// Print what happened in it, line by line.
    #[arg(long, requires = "seed")]
    story: bool,
}

/// What many histories came to.
#[derive(Debug, Default)]
pub struct Totals {
    /// Classes reached, each once per history.
    pub reach: Reach,
    /// Histories that broke a promise.
    pub failed: Vec<u64>,
    /// Writes that were confirmed.
    pub writes: u64,
    /// Of them, lost with a named cause, at most.
    pub excused: u64,
    /// Virtual seconds.
    pub seconds: u64,
    /// Longest time in one history during which both nodes answered for the floating address, ms.
    pub overlap: u64,
    /// Longest such time in one history while they could hear each other, ms.
    pub in_contact: u64,
}

impl Totals {
    /// Adds one history.
    pub fn add(&mut self, seed: u64, world: &World) {
        self.reach.add(&world.reach);
        self.writes += world.acknowledged.len() as u64;
        self.excused += world.excused.len() as u64;
        self.seconds += world.now / super::world::SECOND;
        self.overlap = self.overlap.max(world.overlap / super::world::MS);
        self.in_contact = self.in_contact.max(world.in_contact / super::world::MS);
        if world.violation.is_some() {
            self.failed.push(seed);
        }
    }

    fn merge(&mut self, other: Totals, one_by_one: Vec<Reach>) {
        one_by_one.iter().for_each(|reach| self.reach.add(reach));
        self.failed.extend(other.failed);
        self.failed.sort_unstable();
        self.writes += other.writes;
        self.excused += other.excused;
        self.seconds += other.seconds;
        self.overlap = self.overlap.max(other.overlap);
        self.in_contact = self.in_contact.max(other.in_contact);
    }
}

/// Plays `count` seeds from `from` on all processors.
pub fn play_all(from: u64, count: u64) -> Totals {
    let next = AtomicU64::new(from);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let (mut totals, mut reaches) = (Totals::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from.saturating_add(count) {
                totals.reach = Reach::default();
                return (totals, reaches);
            }
            let world = play(seed, None);
            reaches.push(world.reach.clone());
            totals.add(seed, &world);
        }
    };
    let mut all = Totals::default();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok((totals, reaches)) => all.merge(totals, reaches),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    all
}

/// The lines of a history.
pub fn story(world: &World) -> String {
    let line = |(at, text): &(u64, String)| format!("{:>9.3} s  {text}\n", *at as f64 / 1e9);
    let mut text: String = world.story.iter().map(line).collect();
    for node in 0..2 {
        let n = &world.nodes[node];
        text += &format!(
            "{}: phase {:?}, term used {}, addresses {}, fenced {}, files {}, rescue {}, told {:?}\n",
            super::world::name(node),
            n.phase,
            n.slots.term_used,
            n.addresses.is_some(),
            n.fenced,
            n.data.trees.iter().map(|t| t.files.len()).sum::<usize>(),
            n.data.rescue.len(),
            n.told,
        );
    }
    text
}

/// The program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.seed {
        Some(seed) => one(seed, args.story),
        None => many(args.from, args.seeds),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Nobody reads any more.
        Err(_) => ExitCode::FAILURE,
    }
}

fn one(seed: u64, tell: bool) -> io::Result<bool> {
    let world = play(seed, None);
    let mut out = io::stdout().lock();
    if tell || world.violation.is_some() {
        out.write_all(story(&world).as_bytes())?;
    }
    match &world.violation {
        Some(what) => writeln!(out, "seed {seed}: BROKEN: {what}")?,
        None => writeln!(out, "seed {seed}: every promise held")?,
    }
    Ok(world.violation.is_none())
}

fn many(from: u64, count: u64) -> io::Result<bool> {
    let begun = std::time::Instant::now();
    let totals = play_all(from, count);
    let mut out = io::stdout().lock();
    write!(out, "{}", totals.reach)?;
    for missing in Class::MISSING {
        writeln!(out, "       -  {missing}")?;
    }
    writeln!(
        out,
        "{count} histories, {} h of virtual time in {:.1} s; {} confirmed writes, {} lost at most with a named cause; \
         longest time with two masters in one history {} ms, while they could hear each other {} ms",
        totals.seconds / 3600,
        begun.elapsed().as_secs_f64(),
        totals.writes,
        totals.excused,
        totals.overlap,
        totals.in_contact,
    )?;
    if let Some(seed) = totals.failed.first() {
        out.write_all(story(&play(*seed, None)).as_bytes())?;
        writeln!(
            out,
            "{} histories failed: {:?}",
            totals.failed.len(),
            totals.failed
        )?;
        return Ok(false);
    }
    let missed = totals.reach.missed();
    for class in &missed {
        writeln!(out, "never reached: {class}")?;
    }
    Ok(missed.is_empty())
}
