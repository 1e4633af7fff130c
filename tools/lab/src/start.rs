//! One program, several parts: what this process is, decided by the name it was started under.

use crate::{init, janitor, privilege, web};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

/// Where a host finds the programs that [`crate::HostSpec::program`] gave it.
pub const PROGRAM_DIR: &str = "/opt/lab";

/// Name of the part that is a host's first process.
pub(crate) const INIT: &str = "lab-init";
/// Name of the part that removes the work directory after everything else is gone.
pub(crate) const JANITOR: &str = "lab-janitor";
/// Name of the part that is a host's web server; every host has it in [`PROGRAM_DIR`].
pub(crate) const WEB: &str = "lab-web";

/// Must run first in the process, while it has one thread. When the process was started as one of the lab's
/// own parts, it becomes that part and does not return. Else it takes the right to make namespaces, if
/// necessary by a user namespace; whether that worked is said by [`crate::privilege()`].
pub fn at_start() {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let part: Option<fn(Vec<OsString>) -> i32> =
        match Path::new(&name).file_name().and_then(|n| n.to_str()) {
            Some(INIT) => Some(init::main),
            Some(JANITOR) => Some(janitor::main),
            Some(WEB) => Some(web::main),
            _ => None,
        };
    if let Some(part) = part {
        // Rust's own start-up, which does this, has not run when we come from `.init_array`.
        // SAFETY: SIG_IGN installs no handler, so no code can run in signal context.
        let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
        process::exit(part(args.collect()));
    }
    privilege::acquire();
}

/// This program's own file, to start it again as another part. The magic link stays right when the file was
/// replaced by a rebuild.
pub(crate) fn own_program() -> &'static Path {
    Path::new("/proc/self/exe")
}

/// The path of this program's own file: it plays all the lab's parts. Mounts need a path, not the magic link,
/// which leads into the mount namespace in which the program was started.
///
/// # Errors
/// When the file was removed.
pub fn own_path() -> io::Result<PathBuf> {
    std::env::current_exe()?.canonicalize()
}
