//! The files of the decision record.

use super::Limits;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A disk that fails is complained about this often.
const COMPLAIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    limits: Limits,
    file: File,
    size: u64,
    complained: Option<Instant>,
}

impl Writer {
    pub(super) fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        let (file, size) = open_append(path)?;
        Ok(Self {
            path: path.to_owned(),
            limits,
            file,
            size,
            complained: None,
        })
    }

    /// Appends one line. A failure is logged, and the line is lost: decisions do not wait for the record.
    pub(super) fn append(&mut self, line: &[u8]) {
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.limits.bytes {
            let rotated = self.rotate();
            self.check("rotate", rotated);
        }
        // One write call: a crash tears at most the last line.
        let written = self.file.write_all(line);
        if written.is_ok() {
            self.size += length;
        } else if let Ok(end) = self.file.seek(SeekFrom::End(0)) {
            self.size = end;
        }
        self.check("write", written);
    }

    pub(super) fn sync(&mut self) {
        let synced = self.file.sync_data();
        self.check("sync", synced);
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        for number in (1..self.limits.files).rev() {
            let from = numbered(&self.path, number - 1);
            match std::fs::rename(&from, numbered(&self.path, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.limits.files <= 1 {
            std::fs::remove_file(&self.path)?;
        }
        (self.file, self.size) = open_append(&self.path)?;
        Ok(())
    }

    fn check(&mut self, what: &str, result: io::Result<()>) {
        if let Err(error) = result
            && self.complained.is_none_or(|at| at.elapsed() > COMPLAIN)
        {
            self.complained = Some(Instant::now());
            tracing::warn!(path = %self.path.display(), what, error = %error, "decision record");
        }
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Opens for appending; ends a line that a crash has torn.
fn open_append(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    let mut size = file.seek(SeekFrom::End(0))?;
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

pub(super) fn tail(path: &Path, count: usize) -> io::Result<Vec<Box<RawValue>>> {
    let mut kept = VecDeque::new();
    for number in [1, 0] {
        let file = match File::open(numbered(path, number)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        keep_last(BufReader::new(file), count, &mut kept)?;
    }
    Ok(kept.into())
}

/// Adds the records of a file, as far as they are whole, and forgets the oldest above `count`.
pub(crate) fn keep_last(
    file: impl BufRead,
    count: usize,
    kept: &mut VecDeque<Box<RawValue>>,
) -> io::Result<()> {
    for line in file.split(b'\n') {
        let Ok(record) = serde_json::from_slice::<Box<RawValue>>(&line?) else {
            continue;
        };
        kept.push_back(record);
        if kept.len() > count {
            kept.pop_front();
        }
    }
    Ok(())
}
