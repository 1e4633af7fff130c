//! The small records: format, numbers, heads, counts, values.

use super::IndexError;
use super::places::Places;
use crate::entry::{Acked, Base, IndexEntry, Kind, State};
use crate::lineage::{CopyState, Head, Lineage};
use crate::tree::TreeId;
use redb::{ReadableTable, Table};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The format that this program reads and writes.
pub const FORMAT_VERSION: u32 = 2;

/// Whose an index is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexIdentity {
    /// Name of the pair.
    pub pair: String,
    /// Name of the node.
    pub node: String,
}

/// What this node does with the newest epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Mode {
    /// Nothing decided yet: a fresh index. What is found gets numbers, for this may become the first source.
    #[default]
    Fresh,
    /// It wrote the newest epochs; local changes are new data and get numbers.
    Writing,
    /// It receives; local changes get no number.
    Receiving,
}

/// How much of a tree the index holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Regular files (a further name of a file counts too).
    pub files: u64,
    /// Directories, the root not counted.
    pub dirs: u64,
    /// All other live entries.
    pub others: u64,
    /// Bytes of content; further names of a file add nothing.
    pub bytes: u64,
    /// Further names of files; among `files` too.
    pub links: u64,
    /// Entries of what is gone.
    pub tombstones: u64,
}

impl Counts {
    /// Live entries, the root not counted.
    pub fn entries(&self) -> u64 {
        self.files + self.dirs + self.others
    }
}

/// One path whose local state the pair had not acknowledged when this node became the receiver. It stays listed until
/// it was compared with the source and, where it differs, put into the rescue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreplicated {
    /// What was here; `None`: deleted here.
    pub ours: Option<State>,
    /// What the peer had acknowledged before.
    pub base: Base,
}

impl Unreplicated {
    /// For a path where nothing of this node's own lies, and that is not as the source has it: what an apply could not
    /// finish.
    pub fn nothing() -> Self {
        Unreplicated {
            ours: None,
            base: Base::Never,
        }
    }

    /// Nothing of this node's own would be lost at the path.
    pub fn is_nothing(&self) -> bool {
        self.ours.is_none() && matches!(self.base, Base::Never | Base::Was(None))
    }
}

/// The numbers of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Numbers {
    pub mode: Mode,
    /// The newest number given out here or received.
    pub last_seq: u64,
    pub acked: Acked,
    /// Tombstones up to this number may be missing.
    pub tombstone_floor: u64,
}

/// A head without its lineage, which is larger and changes seldom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Position {
    pub seq: u64,
    pub state: CopyState,
    /// This node writes the tree's newest epoch: the position follows the newest number.
    pub writing: bool,
}

const FORMAT: &str = "format";
const NUMBERS: &str = "numbers";
const PLACES: &str = "places";
const POSITION: &str = "position/";
const COUNTS: &str = "counts/";

pub(super) type MetaTable<'t> = Table<'t, &'static str, &'static [u8]>;

/// Anything that reads the meta table.
pub(super) trait MetaRead: ReadableTable<&'static str, &'static [u8]> {}
impl<T: ReadableTable<&'static str, &'static [u8]>> MetaRead for T {}

pub(super) fn read<T: DeserializeOwned>(
    meta: &impl MetaRead,
    key: &str,
) -> Result<Option<T>, IndexError> {
    let Some(bytes) = meta.get(key)? else {
        return Ok(None);
    };
    let value = postcard::from_bytes(bytes.value()).map_err(|_| IndexError::Damaged {
        what: key.to_owned(),
    })?;
    Ok(Some(value))
}

pub(super) fn write<T: Serialize + ?Sized>(
    meta: &mut MetaTable<'_>,
    key: &str,
    value: &T,
) -> Result<(), IndexError> {
    let bytes = encode(value, key)?;
    meta.insert(key, bytes.as_slice())?;
    Ok(())
}

pub(super) fn encode<T: Serialize + ?Sized>(value: &T, what: &str) -> Result<Vec<u8>, IndexError> {
    postcard::to_stdvec(value).map_err(|_| IndexError::Damaged {
        what: what.to_owned(),
    })
}

/// The version stands alone in front, so that every version can be read.
pub(super) fn read_format(
    meta: &impl MetaRead,
) -> Result<Option<(u32, Option<IndexIdentity>)>, IndexError> {
    let Some(bytes) = meta.get(FORMAT)? else {
        return Ok(None);
    };
    let damaged = |_| IndexError::Damaged {
        what: FORMAT.into(),
    };
    let (version, rest) = postcard::take_from_bytes::<u32>(bytes.value()).map_err(damaged)?;
    Ok(Some((version, postcard::from_bytes(rest).ok())))
}

pub(super) fn write_format(
    meta: &mut MetaTable<'_>,
    identity: &IndexIdentity,
) -> Result<(), IndexError> {
    write_format_as(meta, FORMAT_VERSION, identity)
}

pub(super) fn write_format_as(
    meta: &mut MetaTable<'_>,
    version: u32,
    identity: &IndexIdentity,
) -> Result<(), IndexError> {
    write(meta, FORMAT, &(version, identity))
}

pub(super) fn read_numbers(meta: &impl MetaRead) -> Result<Numbers, IndexError> {
    Ok(read(meta, NUMBERS)?.unwrap_or_default())
}

pub(super) fn write_numbers(meta: &mut MetaTable<'_>, numbers: &Numbers) -> Result<(), IndexError> {
    write(meta, NUMBERS, numbers)
}

pub(super) fn read_places(meta: &impl MetaRead) -> Result<Places, IndexError> {
    Ok(read(meta, PLACES)?.unwrap_or_default())
}

pub(super) fn write_places(meta: &mut MetaTable<'_>, places: &Places) -> Result<(), IndexError> {
    write(meta, PLACES, places)
}

pub(super) fn read_head(meta: &impl MetaRead, tree: TreeId) -> Result<Head, IndexError> {
    let position = read_position(meta, tree)?;
    let lineage: Lineage = read(meta, &format!("lineage/{tree}"))?.unwrap_or_default();
    Ok(Head {
        lineage,
        seq: position.seq,
        state: position.state,
    })
}

/// Writes what differs from `old`.
pub(super) fn write_head(
    meta: &mut MetaTable<'_>,
    tree: TreeId,
    old: &Head,
    new: &Head,
    writing: bool,
) -> Result<(), IndexError> {
    if old.lineage != new.lineage {
        write(meta, &format!("lineage/{tree}"), &new.lineage)?;
    }
    write_position(
        meta,
        tree,
        &Position {
            seq: new.seq,
            state: new.state,
            writing,
        },
    )
}

pub(super) fn read_position(meta: &impl MetaRead, tree: TreeId) -> Result<Position, IndexError> {
    Ok(read(meta, &format!("{POSITION}{tree}"))?.unwrap_or_default())
}

pub(super) fn write_position(
    meta: &mut MetaTable<'_>,
    tree: TreeId,
    position: &Position,
) -> Result<(), IndexError> {
    write(meta, &format!("{POSITION}{tree}"), position)
}

/// The positions of all trees that ever had one.
pub(super) fn read_positions(meta: &impl MetaRead) -> Result<Vec<(TreeId, Position)>, IndexError> {
    read_trees(meta, POSITION)
}

/// The trees of which anything was ever indexed.
pub(super) fn read_counted(meta: &impl MetaRead) -> Result<Vec<TreeId>, IndexError> {
    Ok(read_trees::<Counts>(meta, COUNTS)?
        .into_iter()
        .map(|(tree, _)| tree)
        .collect())
}

fn read_trees<T: DeserializeOwned>(
    meta: &impl MetaRead,
    prefix: &str,
) -> Result<Vec<(TreeId, T)>, IndexError> {
    let mut all = Vec::new();
    for row in meta.range::<&str>(prefix..)? {
        let (key, value) = row?;
        let Some(id) = key.value().strip_prefix(prefix) else {
            break;
        };
        let damaged = || IndexError::Damaged {
            what: key.value().to_owned(),
        };
        let tree = u128::from_str_radix(id, 16).map_err(|_| damaged())?;
        all.push((
            TreeId(tree.to_be_bytes()),
            postcard::from_bytes(value.value()).map_err(|_| damaged())?,
        ));
    }
    Ok(all)
}

pub(super) fn read_counts(meta: &impl MetaRead, tree: TreeId) -> Result<Counts, IndexError> {
    Ok(read(meta, &format!("{COUNTS}{tree}"))?.unwrap_or_default())
}

pub(super) fn write_counts(
    meta: &mut MetaTable<'_>,
    tree: TreeId,
    counts: &Counts,
) -> Result<(), IndexError> {
    write(meta, &format!("{COUNTS}{tree}"), counts)
}

/// The key of a value that somebody else keeps here.
pub(super) fn value_key(name: &str) -> String {
    format!("value/{name}")
}

impl Counts {
    /// Adds (`+1`) or takes away (`-1`) what one entry accounts for.
    pub(super) fn add(&mut self, entry: &IndexEntry, is_root: bool, sign: i64) {
        use crate::entry::KindName;
        let Some(state) = &entry.current else {
            self.tombstones = self.tombstones.saturating_add_signed(sign);
            return;
        };
        if matches!(state.kind, Kind::HardLink { .. }) {
            self.links = self.links.saturating_add_signed(sign);
        }
        let size = i64::try_from(state.kind.size()).unwrap_or(i64::MAX);
        self.bytes = self.bytes.saturating_add_signed(sign * size);
        let count = match state.kind.name() {
            KindName::Dir if is_root => return,
            KindName::Dir => &mut self.dirs,
            KindName::File => &mut self.files,
            KindName::Symlink | KindName::Fifo | KindName::Device => &mut self.others,
        };
        *count = count.saturating_add_signed(sign);
    }
}
