//! libFuzzer on one target, which the variable `TARGET` names. See `tests/fuzz/search`.

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

fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
