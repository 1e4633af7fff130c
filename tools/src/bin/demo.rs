//! `cargo demo`: the whole story of a pair, on this machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    tandem_tools::demo::main()
}
