//! libFuzzer on one target, which the variable `TARGET` names; its seeds are written to the directory that `SEEDS` names. See
//! `tests/fuzz/search`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tandem_fuzz::{Target, targets};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("TARGET").unwrap_or_default();
    let all = targets();
    let names: Vec<&str> = all.iter().map(|target| target.name).collect();
    let found = all.iter().find(|target| target.name == name).copied();
    found.unwrap_or_else(|| panic!("TARGET is {name:?}, and must be one of {names:?}"))
});

/// Where the search finds them beside the corpus.
fn write_seeds() {
    let Some(dir) = std::env::var_os("SEEDS").map(std::path::PathBuf::from) else {
        return;
    };
    for (n, seed) in (TARGET.seeds)().iter().enumerate() {
        std::fs::write(dir.join(format!("seed-{n}")), seed).expect("a seed can be written");
    }
}

fuzz_target!(init: write_seeds(), |bytes: &[u8]| (TARGET.run)(bytes));
