//! The right to make namespaces: root's capabilities, or a user namespace of our own.

use crate::LabError;
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::sync::OnceLock;

/// How this process got its right to make namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// It had the capabilities.
    Root,
    /// It lives in a user namespace that it made: it is root there, and only its own user and group exist.
    UserNamespace,
}

/// Capabilities that the lab needs: CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_SYS_CHROOT 18, CAP_SYS_ADMIN 21
/// (linux/capability.h).
const NEEDED: u64 = 1 << 12 | 1 << 13 | 1 << 18 | 1 << 21;

static OUTCOME: OnceLock<Result<Privilege, String>> = OnceLock::new();

/// How this process may make namespaces.
///
/// # Errors
/// [`LabError::NotPrivileged`] when it may not, with a sentence that says what to do.
pub fn privilege() -> Result<Privilege, LabError> {
    match OUTCOME.get() {
        Some(Ok(privilege)) => Ok(*privilege),
        Some(Err(why)) => Err(LabError::NotPrivileged(why.clone())),
        None => Err(LabError::NotPrivileged(
            "tandem_lab::at_start was not called at the start of this program".into(),
        )),
    }
}

/// Takes the right to make namespaces. The process must have one thread: the kernel refuses a user
/// namespace to a process with more.
pub(crate) fn acquire() {
    OUTCOME.get_or_init(|| {
        if effective_capabilities() & NEEDED == NEEDED {
            return Ok(Privilege::Root);
        }
        enter_user_namespace()
            .map(|()| Privilege::UserNamespace)
            .map_err(|why| sentence(&why))
    });
}

/// The sentence for a user whose system allows neither way.
pub(crate) fn sentence(why: &str) -> String {
    format!(
        "This needs network namespaces, which take root or a user namespace, and neither is possible here ({why}). \
         Run it as root, or allow user namespaces: on Debian `sysctl kernel.unprivileged_userns_clone=1`, \
         on Ubuntu `sysctl kernel.apparmor_restrict_unprivileged_userns=0`; a container needs `--privileged`."
    )
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn enter_user_namespace() -> Result<(), String> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|e| format!("user namespace: {}", e.desc()))?;
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("{file}: {e}"))
    };
    // user_namespaces(7): without CAP_SETGID outside, setgroups must be denied before gid_map is written.
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))?;
    // AppArmor may let the namespace be made and take every capability away again: try one.
    if effective_capabilities() & NEEDED != NEEDED {
        return Err("the user namespace has no capabilities".into());
    }
    Ok(())
}
