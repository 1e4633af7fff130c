//! The command `tandem`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tandem::cli::main(std::env::args_os())
}
