//! The fuzz targets of all crates, and a small mutator for the ordinary test.

mod mutate;

pub use mutate::Mutator;

/// One decoder.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: that of its directory in `corpus/`.
    pub name: &'static str,
    /// Takes any bytes; panics when the decoder breaks a promise.
    pub run: fn(&[u8]),
    /// Inputs from which a search may begin.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub fn targets() -> Vec<Target> {
    let crates = [
        tandem::fuzz::TARGETS,
        tandem_failover::fuzz::TARGETS,
        tandem_sync::fuzz::TARGETS,
    ];
    let all = crates.iter().flat_map(|targets| targets.iter());
    all.map(|&(name, run, seeds)| Target { name, run, seeds })
        .collect()
}
