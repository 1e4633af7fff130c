//! The program behind `tools/bench`: Tandem beside what it replaces, measured in one run.

use std::process::ExitCode;

fn main() -> ExitCode {
    tandem_tools::bench::main()
}
