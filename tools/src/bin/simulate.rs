//! `cargo simulate`: histories of a pair on a virtual clock.

use std::process::ExitCode;

fn main() -> ExitCode {
    tandem_tools::simulate::main()
}
