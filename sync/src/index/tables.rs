//! The tables of the file.

use super::IndexError;
use redb::{ReadOnlyTable, ReadTransaction, Table, TableDefinition, WriteTransaction};

const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
const BY_SEQ: TableDefinition<u64, &[u8]> = TableDefinition::new("by_seq");
const BY_INO: TableDefinition<&[u8], ()> = TableDefinition::new("by_ino");
const BY_HASH: TableDefinition<&[u8], ()> = TableDefinition::new("by_hash");
const TOMBSTONES: TableDefinition<u64, &[u8]> = TableDefinition::new("tombstones");
const UNREPLICATED: TableDefinition<&[u8], &[u8]> = TableDefinition::new("unreplicated");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// All tables, writable.
pub(super) struct Tables<'t> {
    pub entries: Table<'t, &'static [u8], &'static [u8]>,
    pub by_seq: Table<'t, u64, &'static [u8]>,
    pub by_ino: Table<'t, &'static [u8], ()>,
    pub by_hash: Table<'t, &'static [u8], ()>,
    pub tombstones: Table<'t, u64, &'static [u8]>,
    pub unreplicated: Table<'t, &'static [u8], &'static [u8]>,
    pub meta: Table<'t, &'static str, &'static [u8]>,
}

impl<'t> Tables<'t> {
    pub fn open(transaction: &'t WriteTransaction) -> Result<Self, IndexError> {
        Ok(Tables {
            entries: transaction.open_table(ENTRIES)?,
            by_seq: transaction.open_table(BY_SEQ)?,
            by_ino: transaction.open_table(BY_INO)?,
            by_hash: transaction.open_table(BY_HASH)?,
            tombstones: transaction.open_table(TOMBSTONES)?,
            unreplicated: transaction.open_table(UNREPLICATED)?,
            meta: transaction.open_table(META)?,
        })
    }
}

/// All tables as of one moment.
pub(super) struct Views {
    pub entries: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub by_seq: ReadOnlyTable<u64, &'static [u8]>,
    pub by_ino: ReadOnlyTable<&'static [u8], ()>,
    pub by_hash: ReadOnlyTable<&'static [u8], ()>,
    pub unreplicated: ReadOnlyTable<&'static [u8], &'static [u8]>,
    pub meta: ReadOnlyTable<&'static str, &'static [u8]>,
}

impl Views {
    pub fn open(transaction: &ReadTransaction) -> Result<Self, IndexError> {
        Ok(Views {
            entries: transaction.open_table(ENTRIES)?,
            by_seq: transaction.open_table(BY_SEQ)?,
            by_ino: transaction.open_table(BY_INO)?,
            by_hash: transaction.open_table(BY_HASH)?,
            unreplicated: transaction.open_table(UNREPLICATED)?,
            meta: transaction.open_table(META)?,
        })
    }
}
