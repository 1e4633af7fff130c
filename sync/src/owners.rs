//! Owners by name: the numbers of a record become those that the same names have on this node. Pure.
//!
//! The numbers of a record are its owner, its group and those of its POSIX ACLs. The source says the names of those that have one;
//! a number without a name there is taken as it is. A name that is not known here is an error of that path: its content is not
//! given to whoever has the number.

use crate::entry::{Meta, Xattrs};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::num::NonZeroU32;

/// Most names of a record and a kind. A record that needs more (an ACL of hundreds of named entries) is not applied: the number of
/// a name that is left out would be given to whoever has it there.
pub const MAX_NAMES: usize = 256;
/// Longest name in bytes. The system's own tools stop at 32.
pub const MAX_NAME: usize = 256;

const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
const ACL_VERSION: u32 = 2;
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;

/// Names of numbers, as the node that sends them knows them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Names {
    /// At most [`MAX_NAMES`].
    pub users: Vec<(u32, String)>,
    /// At most [`MAX_NAMES`].
    pub groups: Vec<(u32, String)>,
    /// Why these are not all.
    pub lacks: Lacks,
}

/// What keeps an entry from being given to anybody: a number whose name is not said would be given to whoever has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Lacks {
    /// Every number that has a name is named.
    #[default]
    Nothing,
    /// So many names more, for which the bounds had no room.
    Room(NonZeroU32),
    /// Users and groups cannot be read on the node that sends.
    Theirs,
    /// They cannot be read on the node that receives.
    Ours,
}

impl Names {
    /// None, because users and groups cannot be read.
    pub fn unread(lacks: Lacks) -> Names {
        Names {
            lacks,
            ..Names::default()
        }
    }

    /// Within the bounds.
    pub fn fit(&self) -> bool {
        [&self.users, &self.groups].iter().all(|names| {
            names.len() <= MAX_NAMES && names.iter().all(|(_, name)| name.len() <= MAX_NAME)
        })
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty() && self.lacks == Lacks::Nothing
    }

    /// Bytes that they add to a message.
    pub fn bytes(&self) -> usize {
        let all = self.users.iter().chain(&self.groups);
        8 + all.map(|(_, name)| name.len() + 8).sum::<usize>()
    }
}

/// As an error: names that are not known here, were too many to come along, or could not be looked up.
impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lacks {
            Lacks::Nothing => {}
            Lacks::Room(names) => {
                return write!(
                    f,
                    "{names} names more than the {MAX_NAMES} that can be sent for an owner, a group and their ACLs, so it is not applied"
                );
            }
            Lacks::Theirs => {
                return f.write_str(
                    "users and groups cannot be read on the sending node, so it is not applied",
                );
            }
            Lacks::Ours => {
                return f.write_str(
                    "users and groups cannot be read on this node, so it is not applied",
                );
            }
        }
        let kinds = [("user", &self.users), ("group", &self.groups)];
        let all = kinds
            .iter()
            .flat_map(|(kind, names)| names.iter().map(move |(_, name)| (kind, name)));
        let mut separator = "";
        for (kind, name) in all {
            write!(f, "{separator}{kind} ")?;
            crate::path::escape(name.as_bytes(), f)?;
            separator = ", ";
        }
        f.write_str(": not known on this node, so it is not applied")
    }
}

/// The users and groups of this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    users: Table,
    groups: Table,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Table {
    names: HashMap<u32, String>,
    numbers: HashMap<String, u32>,
}

impl Table {
    /// Of `/etc/passwd` or `/etc/group`: name, password, number. The first line of a number and the first of a name count, as
    /// for the system.
    fn parse(text: &[u8]) -> Table {
        let mut table = Table::default();
        for line in text.split(|b| *b == b'\n') {
            let mut fields = line.split(|b| *b == b':');
            let name = fields
                .next()
                .and_then(|name| std::str::from_utf8(name).ok());
            let number = fields.nth(1).and_then(|n| std::str::from_utf8(n).ok());
            let (Some(name), Some(Ok(number))) = (name, number.map(str::parse::<u32>)) else {
                continue;
            };
            if name.is_empty() || name.len() > MAX_NAME || name.starts_with(['#', '+', '-']) {
                continue;
            }
            table.names.entry(number).or_insert_with(|| name.to_owned());
            table.numbers.entry(name.to_owned()).or_insert(number);
        }
        table
    }

    /// The names of the entry's own number and of the others, and how many of them there was no room for.
    fn name(&self, own: u32, mut others: BTreeSet<u32>) -> (Vec<(u32, String)>, u32) {
        others.remove(&own);
        let mut named = std::iter::once(own)
            .chain(others)
            .filter_map(|number| Some((number, self.names.get(&number)?.clone())));
        let sent = named.by_ref().take(MAX_NAMES).collect();
        // An ACL has at most 64 KiB.
        (sent, u32::try_from(named.count()).unwrap_or(u32::MAX))
    }

    /// From the numbers of the source to those of this node; and the names that have none here.
    fn translation(&self, names: &[(u32, String)]) -> (HashMap<u32, u32>, Vec<(u32, String)>) {
        let (mut found, mut unknown) = (HashMap::new(), Vec::new());
        for (number, name) in names {
            match self.numbers.get(name) {
                Some(here) => drop(found.insert(*number, *here)),
                None => unknown.push((*number, name.clone())),
            }
        }
        (found, unknown)
    }
}

impl Accounts {
    /// Of the texts of `/etc/passwd` and `/etc/group`.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Accounts {
        Accounts {
            users: Table::parse(passwd),
            groups: Table::parse(group),
        }
    }

    /// The names of the numbers in `meta`.
    pub fn names(&self, meta: &Meta) -> Names {
        let (mut users, mut groups) = (BTreeSet::new(), BTreeSet::new());
        for acl in ACLS.iter().filter_map(|name| meta.xattrs.get(*name)) {
            for (tag, number) in entries(acl) {
                match tag {
                    ACL_USER => drop(users.insert(number)),
                    ACL_GROUP => drop(groups.insert(number)),
                    _ => {}
                }
            }
        }
        let (users, more_users) = self.users.name(meta.uid, users);
        let (groups, more_groups) = self.groups.name(meta.gid, groups);
        Names {
            users,
            groups,
            lacks: NonZeroU32::new(more_users.saturating_add(more_groups))
                .map_or(Lacks::Nothing, Lacks::Room),
        }
    }

    /// Gives `meta`, whose numbers have these names at the source, the numbers of this node.
    ///
    /// # Errors
    /// The names that are not known here, or that did not come; nothing was changed.
    pub fn translate(&self, meta: &mut Meta, names: &Names) -> Result<(), Names> {
        let (users, unknown_users) = self.users.translation(&names.users);
        let (groups, unknown_groups) = self.groups.translation(&names.groups);
        let unknown = Names {
            users: unknown_users,
            groups: unknown_groups,
            lacks: names.lacks,
        };
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let user = |number: u32| users.get(&number).copied().unwrap_or(number);
        let group = |number: u32| groups.get(&number).copied().unwrap_or(number);
        (meta.uid, meta.gid) = (user(meta.uid), group(meta.gid));
        if !ACLS.iter().any(|name| meta.xattrs.contains_key(*name)) {
            return Ok(());
        }
        let mut xattrs: BTreeMap<Vec<u8>, Vec<u8>> = std::mem::take(&mut meta.xattrs).into();
        for name in ACLS {
            if let Some(acl) = xattrs.get_mut(name) {
                *acl = translated(acl, &user, &group);
            }
        }
        // As many bytes as before, which fitted.
        meta.xattrs = Xattrs::try_from(xattrs).unwrap_or_default();
        Ok(())
    }
}

/// Tag and number of each entry of an ACL; none of what is no ACL.
fn entries(acl: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    let known = acl.get(..4) == Some(&ACL_VERSION.to_le_bytes());
    let entries = acl.get(4..).filter(|_| known).unwrap_or_default();
    entries.chunks_exact(8).map(|entry| {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let number = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        (tag, number)
    })
}

fn translated(acl: &[u8], user: &dyn Fn(u32) -> u32, group: &dyn Fn(u32) -> u32) -> Vec<u8> {
    let mut out = acl.to_vec();
    for (at, (tag, number)) in entries(acl).enumerate() {
        let number = match tag {
            ACL_USER => user(number),
            ACL_GROUP => group(number),
            _ => continue,
        };
        let place = 4 + 8 * at + 4;
        out[place..place + 4].copy_from_slice(&number.to_le_bytes());
    }
    out
}

/// The tables of users and groups, names that came along, and an ACL that is translated by them: see `owner_seeds` of
/// `fuzz.rs` for the order.
#[cfg(feature = "fuzz")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Ok((names, rest)) = postcard::take_from_bytes::<Names>(bytes) else {
        let _ = Accounts::parse(bytes, bytes);
        return;
    };
    let _ = names.to_string();
    let mut texts = rest.splitn(3, |b| *b == 0);
    let mut text = || texts.next().unwrap_or_default();
    let (accounts, acl) = (Accounts::parse(text(), text()), text());
    let xattrs = BTreeMap::from([(ACLS[0].to_vec(), acl.to_vec())]);
    let Ok(xattrs) = Xattrs::try_from(xattrs) else {
        return;
    };
    let meta = Meta {
        mode: 0o644,
        uid: 1000,
        gid: 50,
        mtime_ns: 0,
        xattrs,
    };
    assert!(accounts.names(&meta).fit(), "more names than fit");
    let mut here = meta.clone();
    if accounts.translate(&mut here, &names).is_err() {
        assert_eq!(here, meta, "changed and refused");
    }
    let length = |meta: &Meta| meta.xattrs.get(ACLS[0]).map(Vec::len);
    assert_eq!(length(&here), length(&meta), "an ACL of another length");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u32)]) -> Vec<u8> {
        let mut out = ACL_VERSION.to_le_bytes().to_vec();
        for (tag, number) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(7u16.to_le_bytes());
            out.extend(number.to_le_bytes());
        }
        out
    }

    fn meta(uid: u32, gid: u32, entries: &[(u16, u32)]) -> Meta {
        let mut xattrs = BTreeMap::from([(b"user.x".to_vec(), b"y".to_vec())]);
        if !entries.is_empty() {
            xattrs.insert(ACLS[0].to_vec(), acl(entries));
        }
        Meta {
            mode: 0o640,
            uid,
            gid,
            mtime_ns: 0,
            xattrs: Xattrs::try_from(xattrs).unwrap(),
        }
    }

    const OTHER: u32 = u32::MAX;

    #[test]
    fn numbers_follow_their_names() {
        let here = Accounts::parse(
            b"root:x:0:0::/root:/bin/sh\n# a comment:x:5:5\nalice:x:1000:1000::/:\nbob:x:1001:1001::/:\nalias:x:1000:1\n",
            b"root:x:0:\nstaff:x:50:alice,bob\n",
        );
        let there = Accounts::parse(
            b"root:x:0:0::/:\nalice:x:2000:1::/:\nbob:x:1000:1::/:\n+nis::::\n",
            b"root:x:0:\nstaff:x:60:\n",
        );
        let sent = meta(
            1000,
            50,
            &[(0x01, OTHER), (ACL_USER, 1001), (ACL_GROUP, 50)],
        );
        let names = here.names(&sent);
        assert_eq!(names.users, [(1000, "alice".into()), (1001, "bob".into())]);
        assert_eq!(names.groups, [(50, "staff".into())]);
        let mut got = sent.clone();
        there.translate(&mut got, &names).unwrap();
        let wanted = [(0x01, OTHER), (ACL_USER, 1000), (ACL_GROUP, 60)];
        assert_eq!(got, meta(2000, 60, &wanted));
        // And back.
        here.translate(&mut got, &there.names(&meta(2000, 60, &wanted)))
            .unwrap();
        assert_eq!(got, sent);
    }

    #[test]
    fn a_number_without_a_name_stays_and_a_name_that_is_not_known_is_an_error() {
        let here = Accounts::parse(b"alice:x:1000:1\n", b"");
        let there = Accounts::parse(b"", b"staff:x:1000:\n");
        let mut got = meta(1000, 77, &[]);
        let names = here.names(&got);
        let unknown = there.translate(&mut got, &names).unwrap_err();
        assert_eq!(unknown.users, [(1000, "alice".into())]);
        assert!(unknown.to_string().starts_with("user alice: not known"));
        assert_eq!(got, meta(1000, 77, &[]), "nothing was changed");
        let mut nameless = meta(5, 6, &[]);
        there
            .translate(&mut nameless, &here.names(&meta(5, 6, &[])))
            .unwrap();
        assert_eq!(nameless, meta(5, 6, &[]));
    }

    #[test]
    fn names_that_do_not_fit_are_an_error_and_the_owner_is_named_first() {
        let passwd: String = (1..=5000).map(|n| format!("u{n}:x:{n}:1::/:\n")).collect();
        let (here, there) = (
            Accounts::parse(passwd.as_bytes(), b""),
            Accounts::parse(passwd.replace(":x:", ":x:1").as_bytes(), b""),
        );
        let acl = |named: u32| -> Vec<_> { (1..=named).map(|n| (ACL_USER, n)).collect() };
        let fits = meta(5000, 0, &acl(MAX_NAMES as u32 - 1));
        let names = here.names(&fits);
        assert!(names.fit() && names.lacks == Lacks::Nothing);
        let mut got = fits.clone();
        there.translate(&mut got, &names).unwrap();
        assert_eq!(got.uid, 15000);
        let too_many = meta(5000, 0, &acl(MAX_NAMES as u32));
        let names = here.names(&too_many);
        assert!(names.fit() && names.users.contains(&(5000, "u5000".into())));
        let mut got = too_many.clone();
        let unknown = there.translate(&mut got, &names).unwrap_err();
        assert_eq!(unknown.lacks, Lacks::Room(NonZeroU32::MIN));
        assert!(unknown.to_string().starts_with("1 names more"), "{unknown}");
        assert_eq!(got, too_many, "nothing was changed");
    }

    #[test]
    fn what_is_no_acl_is_left_as_it_is() {
        for odd in [&b""[..], &[2, 0, 0], &[3, 0, 0, 0, 2, 0, 7, 0, 1, 0, 0, 0]] {
            assert_eq!(translated(odd, &|_| 9, &|_| 9), odd);
        }
        let cut = [&acl(&[(ACL_USER, 1)])[..], &[2, 0, 7]].concat();
        let wanted = [&acl(&[(ACL_USER, 9)])[..], &[2, 0, 7]].concat();
        assert_eq!(translated(&cut, &|_| 9, &|_| 9), wanted);
    }
}
