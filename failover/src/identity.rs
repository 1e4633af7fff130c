//! Which machine this is (R6): what changes when a node's state is restored, copied or moved to other hardware.

use crate::heartbeat::{Incarnation, MachineId};
use crate::slots::Durable;
use std::io;
use std::path::Path;

/// Reads the identity of this machine. What cannot be read counts as absent: then its change is not noticed.
/// `state_directory` must exist. Blocks on the disk.
pub fn machine_id(state_directory: &Path) -> MachineId {
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    let machine = [
        read("/etc/machine-id"),
        read("/sys/class/dmi/id/product_uuid"),
        read("/sys/class/dmi/id/board_serial"),
    ];
    MachineId {
        machine: digest(b"tandem machine 1", &machine),
        root: digest(b"tandem root 1", &[file_system(state_directory)]),
        boot: digest(b"tandem boot 1", &[read("/proc/sys/kernel/random/boot_id")]),
    }
}

/// A new life of the agent: the counter from the durable state, and 128 random bits.
pub fn incarnation(durable: &Durable) -> io::Result<Incarnation> {
    let mut nonce = [0; 16];
    rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())?;
    Ok(Incarnation {
        counter: durable.incarnation,
        nonce,
    })
}

/// The file system's UUID (`FS_IOC_GETFSUUID`, kernel 6.9 and later), else the id of `statfs(2)`, which most file systems derive
/// from it.
fn file_system(directory: &Path) -> Vec<u8> {
    uuid(directory).unwrap_or_else(|_| {
        rustix::fs::statvfs(directory)
            .map(|s| s.f_fsid.to_ne_bytes().to_vec())
            .unwrap_or_default()
    })
}

fn uuid(directory: &Path) -> io::Result<Vec<u8>> {
    /// `struct fsuuid2` of `linux/fs.h`.
    #[repr(C)]
    struct Uuid {
        length: u8,
        bytes: [u8; 16],
    }
    /// `_IOR(0x15, 0, struct fsuuid2)`.
    type GetUuid = rustix::ioctl::Getter<{ rustix::ioctl::opcode::read::<Uuid>(0x15, 0) }, Uuid>;
    let directory = std::fs::File::open(directory)?;
    // SAFETY: the number and the structure are those of linux/fs.h; the kernel fills the whole structure.
    let uuid = unsafe { rustix::ioctl::ioctl(&directory, GetUuid::new()) }?;
    Ok(uuid.bytes[..usize::from(uuid.length).min(16)].to_vec())
}

fn digest(purpose: &[u8], parts: &[Vec<u8>]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(purpose);
    for part in parts {
        // With its length, so that no two lists of parts look alike.
        hasher
            .update(&(part.len() as u64).to_le_bytes())
            .update(part);
    }
    let mut eight = [0; 8];
    eight.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_the_same_and_tells_file_systems_apart() {
        let here = machine_id(Path::new("/"));
        assert_eq!(here, machine_id(Path::new("/")));
        let other = machine_id(Path::new("/proc"));
        assert_eq!((here.machine, here.boot), (other.machine, other.boot));
        assert_ne!(here.root, other.root);
    }

    #[test]
    fn every_life_is_another() {
        let durable = Durable {
            incarnation: 7,
            ..Durable::default()
        };
        let one = incarnation(&durable).expect("random numbers");
        let two = incarnation(&durable).expect("random numbers");
        assert_eq!((one.counter, two.counter), (7, 7));
        assert_ne!(one.nonce, two.nonce);
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(
            digest(b"x", &[b"ab".to_vec(), b"c".to_vec()]),
            digest(b"x", &[b"a".to_vec(), b"bc".to_vec()])
        );
    }
}
