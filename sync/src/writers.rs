//! Who can still write beneath a tree: open descriptors and shared writable mappings of all processes.
//!
//! Asked before a reversal: a process that goes on writing into a file that was moved to the rescue would write where
//! nobody looks. A look through `/proc`, not a lock: a process may open a file a moment later.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::beneath::Root;
use crate::fault::Fault;
use crate::path::RelPath;
use crate::stat::Stat;

/// Writers that are listed; more are not needed to stop and to name the cause.
pub const MAX_LISTED: usize = 1000;

/// One process that holds a file of the tree open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Process id.
    pub pid: u32,
    /// The process's name as the kernel has it, escaped.
    pub command: String,
    /// The file. A file that was deleted meanwhile is not listed.
    pub path: RelPath,
    /// It is a shared writable mapping, perhaps without descriptor.
    pub mapped: bool,
}

/// Lists the writers beneath the root, at most [`MAX_LISTED`], without this process. Processes that end meanwhile and
/// those that may not be looked at are passed over; as root there are none of the latter.
pub fn find(root: &Root) -> Result<Vec<Writer>, Fault> {
    let own = std::process::id();
    // The path as the kernel prints it for descriptors: links in the configured path are resolved.
    let base = fs::canonicalize(root.path()).map_err(|e| Fault::io("resolve the root", &e))?;
    let mut found = Vec::new();
    let processes = fs::read_dir("/proc").map_err(|e| Fault::io("read /proc", &e))?;
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        if pid == own {
            continue;
        }
        let command = command_of(pid);
        let mut add = |path: RelPath, mapped: bool| {
            let writer = Writer {
                pid,
                command: command.clone(),
                path,
                mapped,
            };
            if !found.contains(&writer) && found.len() < MAX_LISTED {
                found.push(writer);
            }
        };
        descriptors(root, &base, pid, &mut add);
        mappings(root, &base, pid, &mut add);
        if found.len() >= MAX_LISTED {
            break;
        }
    }
    Ok(found)
}

fn command_of(pid: u32) -> String {
    let raw = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = crate::path::escape(raw.trim_ascii_end(), &mut text);
    text
}

fn descriptors(root: &Root, base: &Path, pid: u32, add: &mut dyn FnMut(RelPath, bool)) {
    let Ok(list) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return;
    };
    for descriptor in list.flatten() {
        let link = descriptor.path();
        let Ok(target) = fs::read_link(&link) else {
            continue;
        };
        let Some(path) = relative(base, &target) else {
            continue;
        };
        let number = descriptor.file_name();
        let info = format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy());
        let writable = fs::read_to_string(info).is_ok_and(|info| is_writable(&info));
        // The descriptor's own stat: the name may be another file's by now, or belong to another mount namespace.
        let same = Stat::of_path_followed(&link).ok();
        if writable && same.is_some_and(|stat| in_tree(root, &path, &stat)) {
            add(path, false);
        }
    }
}

/// The `flags:` line of fdinfo is octal, with the access mode in the lowest two bits.
fn is_writable(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|text| i64::from_str_radix(text.trim(), 8).ok());
    flags.is_some_and(|flags| flags & 0o3 == 1 || flags & 0o3 == 2)
}

/// A regular file of the tree; the root's mount only, as for all of the tree.
fn in_tree(root: &Root, path: &RelPath, stat: &Stat) -> bool {
    let there = root.stat(path).ok().flatten();
    stat.is_file() && there.is_some_and(|t| (t.dev, t.ino) == (stat.dev, stat.ino))
}

fn mappings(root: &Root, base: &Path, pid: u32, add: &mut dyn FnMut(RelPath, bool)) {
    let Ok(maps) = fs::read(format!("/proc/{pid}/maps")) else {
        return;
    };
    for line in maps.split(|b| *b == b'\n') {
        let Some((inode, target)) = shared_writable(line) else {
            continue;
        };
        let Some(path) = relative(base, Path::new(&target)) else {
            continue;
        };
        let there = root.stat(&path).ok().flatten();
        if there.is_some_and(|stat| stat.is_file() && stat.ino == inode) {
            add(path, true);
        }
    }
}

/// Inode and path of a line `from-to rwxs offset dev inode path` that maps a file shared and writable.
fn shared_writable(line: &[u8]) -> Option<(u64, OsString)> {
    let mut rest = line;
    let mut fields = [&b""[..]; 5];
    for field in &mut fields {
        let start = rest.iter().position(|b| *b != b' ')?;
        rest = &rest[start..];
        let end = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
        (*field, rest) = rest.split_at(end);
    }
    let rights = fields[1];
    if rights.get(1) != Some(&b'w') || rights.get(3) != Some(&b's') {
        return None;
    }
    let inode = std::str::from_utf8(fields[4]).ok()?.parse().ok()?;
    let start = rest.iter().position(|b| *b != b' ')?;
    // Only the newline is escaped in this file, as `\012`.
    let text = &rest[start..];
    let mut path = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let newline = text[at..].starts_with(b"\\012");
        path.push(if newline { b'\n' } else { *byte });
        at += if newline { 4 } else { 1 };
    }
    Some((inode, OsString::from_vec(path)))
}

fn relative(base: &Path, target: &Path) -> Option<RelPath> {
    let below = target.strip_prefix(base).ok()?;
    let path = RelPath::new(below.as_os_str().as_bytes()).ok()?;
    (!path.is_private()).then_some(path)
}

/// Lines of fdinfo and maps.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = is_writable(&String::from_utf8_lossy(bytes));
    for line in bytes.split(|b| *b == b'\n') {
        if let Some((_, path)) = shared_writable(line) {
            let _ = relative(Path::new("/"), Path::new(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};

    /// A shell that holds `file` with `redirection` until its standard input closes. Returns when it is ready.
    fn holder(redirection: &str, file: &Path) -> Child {
        let script = format!("exec 9{redirection}\"$1\"; echo ready; read line");
        let mut child = Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh is there");
        let mut ready = [0u8; 6];
        let out = child.stdout.as_mut().expect("piped");
        out.read_exact(&mut ready).expect("the shell is ready");
        child
    }

    fn end(mut child: Child) {
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(b"\n")
            .expect("written");
        child.wait().expect("ended");
    }

    #[test]
    fn a_writer_is_named_and_a_reader_is_not() {
        let temp = tempfile::tempdir().expect("temp dir");
        std::fs::write(temp.path().join("w"), b"x").expect("write");
        std::fs::write(temp.path().join("r"), b"x").expect("write");
        let root = Root::open(temp.path()).expect("root");
        let writer = holder(">>", &temp.path().join("w"));
        let reader = holder("<", &temp.path().join("r"));
        let found = find(&root);
        let pid = writer.id();
        end(writer);
        end(reader);
        let expected = Writer {
            pid,
            command: "sh".to_owned(),
            path: RelPath::new("w").expect("valid"),
            mapped: false,
        };
        assert_eq!(found, Ok(vec![expected]));
        assert_eq!(find(&root), Ok(Vec::new()));
    }

    #[test]
    fn lines_of_maps_are_read() {
        let line = b"7f00-7f10 rw-s 00000000 fe:00 1234                       /srv/a b\\012c";
        let path = OsString::from("/srv/a b\nc");
        assert_eq!(shared_writable(line), Some((1234, path)));
        assert_eq!(shared_writable(b"7f00-7f10 rw-p 0 fe:00 1234 /srv/a"), None);
        assert_eq!(shared_writable(b"7f00-7f10 r--s 0 fe:00 1234 /srv/a"), None);
        assert_eq!(shared_writable(b"7f00-7f10 rw-s 0 00:00 0"), None);
        assert_eq!(shared_writable(b""), None);
    }

    #[test]
    fn access_modes_of_fdinfo() {
        assert!(is_writable("pos:\t0\nflags:\t0100001\nmnt_id:\t1\n"));
        assert!(is_writable("flags:\t02100002"));
        assert!(!is_writable("flags:\t0100000"));
        assert!(!is_writable("flags:\t012000000"));
        assert!(!is_writable(""));
    }
}
