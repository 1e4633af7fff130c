//! One command in a kernel of its own: Debian's `user-mode-linux`, a kernel that runs as a process.
//!
//! The guest's root is this machine's file tree (hostfs), read-only, so programs of this machine run in it unchanged; its
//! temporary directory is an ext4 of its own, empty, and gone afterwards. It has one processor, HZ=100, ext4, btrfs, xfs and
//! tmpfs built in, no network but loopback, and loads no modules. Needs no root. Boot takes a second or two.

mod power;

pub use power::{LastingDisk, Running};

use crate::disk::{make_work_dir, remove_tree};
use crate::{LabError, disk};
use rustix::fs::{FlockOperation, flock};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where Debian's package has the kernel.
const KERNEL: &str = "/usr/bin/linux.uml";
/// The guest's first process.
const INIT: &str = include_str!("uml_init.sh");
/// The guest's memory: sixteen times what it needs itself.
const MEMORY: u64 = 512 << 20;
/// Its disk, a sparse file.
const DISK: u64 = 1 << 30;

/// A kernel that can be started.
#[derive(Debug)]
pub struct Guest {
    kernel: PathBuf,
}

/// What a command in a guest left.
#[derive(Debug)]
pub struct GuestOutput {
    /// Its exit code; of a signal 128 and its number.
    pub code: i32,
    /// What it said.
    pub stdout: String,
    /// And of errors.
    pub stderr: String,
}

impl Guest {
    /// The kernel of Debian's package.
    ///
    /// # Errors
    /// [`LabError::Guest`] with a sentence for the user where it is not installed.
    pub fn find() -> Result<Self, LabError> {
        let kernel = PathBuf::from(KERNEL);
        if kernel.exists() {
            return Ok(Self { kernel });
        }
        Err(LabError::Guest(format!(
            "there is no {KERNEL}: install Debian's package user-mode-linux (tools/test does)"
        )))
    }

    /// Boots, runs the program, and switches off. However it ends, nothing of the guest is left after `most`: a
    /// process that outlives this one sees to that. Guests of one user run one on each processor; further ones wait.
    ///
    /// # Errors
    /// When the guest did not boot, died, or was not ready after `most`: [`LabError::Guest`] with the end of what its
    /// kernel said.
    pub fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        most: Duration,
    ) -> Result<GuestOutput, LabError> {
        self.run_job(&Job::make(program, arguments)?, most)
    }

    fn run_job(&self, job: &Job, most: Duration) -> Result<GuestOutput, LabError> {
        let (mut kernel, _lock) = self.boot(job, most)?;
        let status = kernel
            .wait()
            .map_err(failed("wait for the guest's kernel"))?;
        let code = job.read("code").trim().parse().map_err(|_| {
            let said = job.read("console");
            let (out, err) = (job.read("stdout"), job.read("stderr"));
            LabError::Guest(format!(
                "the guest died, or was not ready after {most:?} ({status}): {said}\n{out}\n{err}"
            ))
        })?;
        Ok(GuestOutput {
            code,
            stdout: job.read("stdout"),
            stderr: job.read("stderr"),
        })
    }

    /// Starts the kernel, on a processor that is the guest's for as long as the file is held.
    fn boot(&self, job: &Job, most: Duration) -> Result<(Child, File), LabError> {
        let (processor, lock) = a_processor()?;
        let console = File::create(job.dir.join("console")).map_err(failed("make the console"))?;
        let also = console.try_clone().map_err(failed("share the console"))?;
        let kernel = Command::new("timeout")
            // At SIGTERM the kernel ends its helpers, which are in a session of their own; SIGKILL would leave them.
            .args(["--kill-after=10", &most.as_secs().to_string()])
            // Between two processors it is three times slower.
            .args(["taskset", "-c", &processor.to_string()])
            .arg(&self.kernel)
            .args(job.words())
            .env("TMPDIR", memory_directory())
            .stdin(Stdio::null())
            .stdout(console)
            .stderr(also)
            .spawn()
            .map_err(failed("start timeout, taskset and the guest's kernel"))?;
        Ok((kernel, lock))
    }
}

/// The directory that the guest shares: its first process, what it runs, what that said, and its disk.
#[derive(Debug)]
struct Job {
    dir: PathBuf,
    /// The images of further disks, which outlive it.
    lasting: Vec<PathBuf>,
}

impl Job {
    fn make(program: &Path, arguments: &[&str]) -> Result<Self, LabError> {
        let dir = make_work_dir(&std::env::temp_dir())?;
        let lasting = Vec::new();
        let job = Self { dir, lasting };
        let mut command = OsString::from("exec");
        for word in [program.as_os_str()]
            .into_iter()
            .chain(arguments.iter().map(OsStr::new))
        {
            command.push(" ");
            command.push(quoted(word));
        }
        fs::write(job.dir.join("command"), command.as_bytes())
            .map_err(failed("write the guest's command"))?;
        let init = job.dir.join("init");
        fs::write(&init, INIT).map_err(failed("write the guest's first process"))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
            .map_err(failed("set the mode of the guest's first process"))?;
        disk::make_image(&job.dir.join("disk"), DISK, None)?;
        Ok(job)
    }

    /// The kernel's command line. `job` is not the kernel's, and so reaches the first process as environment.
    fn words(&self) -> Vec<OsString> {
        let path = |before: &str, below: &str| {
            let mut word = OsString::from(before);
            word.push(self.dir.join(below));
            word
        };
        let mut words: Vec<OsString> = [
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            "quiet",
            "loglevel=3",
            // A panic ends the process.
            "panic=-1",
            "con=null",
            "con0=null,fd:1",
            "ssl=null",
            // Its own name for what the kernel makes in `uml_dir`, and removes at its end.
            "umid=uml",
        ]
        .map(OsString::from)
        .into();
        words.push(format!("mem={}M", MEMORY >> 20).into());
        words.extend([
            path("init=", "init"),
            path("ubd0=", "disk"),
            path("uml_dir=", ""),
            path("job=", ""),
        ]);
        words.extend((1..).zip(&self.lasting).map(|(n, image)| {
            let mut word = OsString::from(format!("ubd{n}="));
            word.push(image);
            word
        }));
        words
    }

    /// Empty when it is not there: the guest did not come so far.
    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = remove_tree(&self.dir);
    }
}

fn failed(what: &str) -> impl FnOnce(std::io::Error) -> LabError {
    LabError::io(what)
}

/// One word for the shell, whatever is in it.
fn quoted(word: &OsStr) -> OsString {
    let mut out = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => out.extend_from_slice(br"'\''"),
            other => out.push(*other),
        }
    }
    out.push(b'\'');
    OsString::from_vec(out)
}

/// Where the kernel keeps the guest's memory, a file that it maps: shared memory, unless that is as small as in some containers.
fn memory_directory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    match rustix::fs::statvfs(shared) {
        Ok(found) if found.f_bavail * found.f_frsize > MEMORY => shared.into(),
        _ => std::env::temp_dir(),
    }
}

/// A processor that this process may use and no other guest of this user does, for as long as the file is held. The wait
/// is bounded by the time of the guest that runs there.
fn a_processor() -> Result<(usize, File), LabError> {
    let may = rustix::thread::sched_getaffinity(None)
        .map_err(|e| failed("ask for this process's processors")(e.into()))?;
    let user = rustix::process::getuid().as_raw();
    let mut first = None;
    for processor in (0..rustix::thread::CpuSet::MAX_CPU).filter(|n| may.is_set(*n)) {
        let path = format!("/tmp/tandem-guest-{user}-{processor}.lock");
        let file = File::create(&path).map_err(LabError::io(format!("make {path}")))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok((processor, file));
        }
        first.get_or_insert((processor, file));
    }
    let (processor, file) =
        first.ok_or_else(|| LabError::Guest("this process may use no processor".into()))?;
    flock(&file, FlockOperation::LockExclusive)
        .map_err(|e| failed("wait for a processor")(e.into()))?;
    Ok((processor, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word() {
        assert_eq!(quoted(OsStr::new("a b")), "'a b'");
        assert_eq!(quoted(OsStr::new("it's $x")), r"'it'\''s $x'");
    }

    #[test]
    fn a_guest_gives_back_what_its_command_said_and_its_code() {
        let guest = Guest::find().unwrap();
        let script = "uname -r; findmnt -no FSTYPE -T .; echo wrong >&2; exit 7";
        let most = Duration::from_secs(60);
        let left = guest
            .run(Path::new("/bin/sh"), &["-c", script], most)
            .unwrap();
        assert_eq!((left.code, left.stderr.as_str()), (7, "wrong\n"));
        let own = rustix::system::uname();
        let (kernel, disk) = left.stdout.trim().split_once('\n').unwrap();
        assert_ne!(kernel, own.release().to_str().unwrap());
        assert_eq!(disk, "ext4");
    }

    #[test]
    fn a_guest_that_does_not_end_is_ended() {
        let guest = Guest::find().unwrap();
        let script = "echo here; sleep 1000";
        let job = Job::make(Path::new("/bin/sh"), &["-c", script]).unwrap();
        let ended = guest.run_job(&job, Duration::from_secs(5));
        assert!(ended.is_err_and(|e| e.to_string().contains("here")));
        // Each of the guest's processes has the kernel's command line, which names the job. Killed ones take a moment.
        let begun = std::time::Instant::now();
        while power::processes_of(&job).next().is_some() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "something is left"
            );
            std::thread::yield_now();
        }
    }
}
