//! Flags of `chattr` that a tree may carry.

use std::fmt;

/// Name under which flags are kept among an entry's extended attributes. No file system has an attribute of that name.
pub const FLAGS_NAME: &[u8] = b"tandem.flags";

/// The flags with the letters of `chattr`, as `FS_IOC_GETFLAGS` counts them.
const LETTERS: [(u32, char); 6] = [
    (0x08, 'S'),
    (0x10, 'i'),
    (0x20, 'a'),
    (0x40, 'd'),
    (0x80, 'A'),
    (0x1_0000, 'D'),
];
/// `i` and `a`: what has one of them cannot be changed.
const PROTECTING: u32 = 0x30;

/// Flags that say how a file or directory is to be treated: immutable (`i`), append-only (`a`), nodump (`d`), noatime (`A`),
/// sync (`S`), dirsync (`D`).
///
/// Not those that say how a file system stores it (compression, nocow, case folding, encryption): the other node's may be
/// another one.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u32);

impl Flags {
    /// All that are carried.
    pub const MASK: u32 = 0x1_00f8;

    /// Those of an inode; others are left out.
    pub fn of_bits(bits: u32) -> Flags {
        Flags(bits & Flags::MASK)
    }

    /// As the kernel counts them.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// None.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// One of them forbids changing the entry.
    pub fn protects(self) -> bool {
        self.0 & PROTECTING != 0
    }

    /// Without those that forbid changing the entry.
    pub fn without_protection(self) -> Flags {
        Flags(self.0 & !PROTECTING)
    }

    pub(crate) fn to_value(self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    /// `None`: not what [`Flags::to_value`] makes of some flags.
    pub(crate) fn from_value(value: &[u8]) -> Option<Flags> {
        let bits = u32::from_le_bytes(value.try_into().ok()?);
        (bits != 0 && bits & !Flags::MASK == 0).then_some(Flags(bits))
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let set = LETTERS.iter().filter(|(bit, _)| self.0 & bit != 0);
        set.map(|(_, letter)| *letter)
            .try_for_each(|letter| write!(f, "{letter}"))
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{StateError, Xattrs};
    use std::collections::BTreeMap;

    #[test]
    fn the_mask_is_what_has_a_letter() {
        let all = LETTERS.iter().fold(0, |all, (bit, _)| all | bit);
        assert_eq!(all, Flags::MASK);
        assert_eq!(Flags::of_bits(u32::MAX).to_string(), "SiadAD");
        assert_eq!(Flags::default().to_string(), "-");
    }

    #[test]
    fn only_known_flags_are_taken_from_the_peer() {
        let with = |value: &[u8]| {
            Xattrs::try_from(BTreeMap::from([(FLAGS_NAME.to_vec(), value.to_vec())]))
        };
        let flags = Flags::of_bits(0x10);
        assert_eq!(with(&flags.to_value()).map(|x| x.flags()), Ok(flags));
        for bad in [&[][..], &[0x10], &[0; 4], &[0, 0, 0x80, 0], &[0x10; 5]] {
            assert_eq!(with(bad), Err(StateError::Flags), "{bad:?}");
        }
        assert_eq!(Xattrs::default().flags(), Flags::default());
    }
}
