//! Directories that stay because of what lies in them: gone at the source, while something protected or excluded here does
//! not go.

use std::os::fd::{AsFd, BorrowedFd};

use crate::beneath::{Place, Root};
use crate::fault::Fault;
use crate::path::RelPath;
use crate::private::{duplicate, names};

/// Most entries that are looked at for one directory: some hundred milliseconds. The rest of a larger one is taken for what was
/// seen of it. If it is not, nothing is lost: what somebody else made here is found and treated by itself, while a directory
/// that was called neither kept nor gone would be asked for without end.
const MOST: usize = 10_000;
/// Deepest directory that is looked into, below the one in question. What lies deeper is taken for what was seen as well.
const DEEPEST: usize = 64;

/// Whether a directory holds something, and nothing but what is `outside` (neither changed nor removed here) and
/// directories of which the same is true, as far as [`MOST`] entries show. `false` for what cannot be read.
pub(crate) fn holds_only(
    root: &Root,
    dir: &RelPath,
    outside: &dyn Fn(&RelPath, bool) -> bool,
) -> bool {
    let mut left = MOST;
    let held = root.open_dir(dir);
    held.is_ok_and(|fd| below(fd.as_fd(), dir, outside, &mut left, DEEPEST).unwrap_or(false))
}

fn below(
    fd: BorrowedFd<'_>,
    dir: &RelPath,
    outside: &dyn Fn(&RelPath, bool) -> bool,
    left: &mut usize,
    depth: usize,
) -> Result<bool, Fault> {
    if depth == 0 {
        return Ok(true);
    }
    let names = names(fd)?;
    if names.is_empty() {
        return Ok(false);
    }
    for name in names {
        let Some(less) = left.checked_sub(1) else {
            return Ok(true);
        };
        *left = less;
        let place = Place::new(duplicate(fd)?, &name)?;
        let (Ok(path), Some(stat)) = (dir.join(&name), place.stat()?) else {
            return Ok(false);
        };
        let stays = outside(&path, stat.is_dir())
            || (stat.is_dir()
                && below(place.open_dir()?.as_fd(), &path, outside, left, depth - 1)?);
        if !stays {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_more_than_is_looked_at_is_kept_too() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path()).expect("root");
        let (deep, wide) = (temp.path().join("deep"), temp.path().join("wide"));
        let bottom = deep.join("d/".repeat(DEEPEST + 1));
        std::fs::create_dir_all(&bottom).expect("mkdir");
        std::fs::write(bottom.join("x.log"), b"x").expect("write");
        std::fs::create_dir(&wide).expect("mkdir");
        for n in 0..=MOST {
            std::fs::write(wide.join(format!("{n}.log")), b"").expect("write");
        }
        let logs = |path: &RelPath, _: bool| path.as_bytes().ends_with(b".log");
        let none = |_: &RelPath, _: bool| false;
        for dir in ["deep", "wide"].map(|dir| RelPath::new(dir).expect("path")) {
            assert!(holds_only(&root, &dir, &logs), "{dir}");
        }
        let wide = RelPath::new("wide").expect("path");
        assert!(!holds_only(&root, &wide, &none), "what is seen decides");
    }

    #[test]
    fn only_what_is_outside_keeps_a_directory() {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = Root::open(temp.path()).expect("root");
        let outside = |path: &RelPath, _: bool| path.as_bytes().ends_with(b".log");
        let holds = |dir: &str, files: &[&str]| {
            let base = temp.path().join(dir);
            std::fs::create_dir_all(&base).expect("mkdir");
            for file in files {
                let at = base.join(file);
                std::fs::create_dir_all(at.parent().expect("below base")).expect("mkdir");
                match file.strip_suffix('/') {
                    Some(_) => std::fs::create_dir_all(&at).expect("mkdir"),
                    None => std::fs::write(&at, b"x").expect("write"),
                }
            }
            holds_only(&root, &RelPath::new(dir).expect("path"), &outside)
        };
        assert!(holds("a", &["x.log", "deep/er/y.log", "whole.log/any"]));
        assert!(!holds("b", &["x.log", "other"]));
        assert!(!holds("c", &["x.log", "deep/other"]));
        assert!(!holds("d", &["x.log", "empty/"]));
        assert!(!holds("e", &[]));
        std::os::unix::fs::symlink("../a", temp.path().join("b/link")).expect("symlink");
        std::fs::remove_file(temp.path().join("b/other")).expect("remove");
        let b = RelPath::new("b").expect("path");
        assert!(!holds_only(&root, &b, &outside), "a link is not followed");
    }
}
