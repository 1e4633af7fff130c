//! Contents as they come: bytes, holes, parts of the basis; and what is asked about the basis meanwhile.

use super::{Contents, Slot};
use crate::commit::{self, Content, Staged, Staging};
use crate::delta;
use crate::fault::Fault;
use crate::holes::Span;
use crate::replica::basis::Basis;
use crate::wire::Item;
use std::sync::Arc;
use tokio::runtime::Handle;

impl Contents {
    /// Sees that there is room for an item that begins.
    pub fn reserve(&mut self, item: Item, bytes: u64) {
        let Some(Slot::Coming { tree, staging, .. }) = self.slots.get_mut(&item) else {
            return;
        };
        let Some(open) = self.roots.get(*tree) else {
            return;
        };
        let reserved = staging.reserve(bytes).or_else(|fault| {
            // What other transfers left gives way to what is to be received now.
            match fault.is_no_space() && commit::clear_partials(&open.private).is_ok_and(|n| n > 0)
            {
                true => staging.reserve(bytes),
                false => Err(fault),
            }
        });
        if let Err(fault) = reserved {
            self.give_up(item, &fault);
        }
    }

    fn give_up(&mut self, item: Item, fault: &Fault) {
        if let Some(Slot::Coming {
            staging,
            tree,
            path,
            ..
        }) = self.slots.insert(item, Slot::Failed)
        {
            tracing::debug!(%path, %fault, "a content cannot be staged");
            staging.discard();
            self.fail(tree, path, fault);
        }
    }

    /// Appends zeros that lie on no disk. With `last` the content is checked. False: it cannot be used.
    pub fn hole(&mut self, item: Item, len: u64, last: bool) -> bool {
        if let Some(Slot::Small(_)) = self.slots.get(&item) {
            return self.small(item, Span::Zeros(len), last);
        }
        self.pulse.beat();
        self.add(item, last, |staging, _| staging.hole(len))
    }

    /// Appends bytes. With `last` the content is checked. False: it cannot be used.
    pub fn write(&mut self, item: Item, bytes: &[u8], last: bool) -> bool {
        if let Some(Slot::Small(_)) = self.slots.get(&item) {
            return self.small(item, Span::Bytes(bytes), last);
        }
        self.add(item, last, |staging, _| staging.write(bytes))
    }

    fn small(&mut self, item: Item, bytes: Span<'_>, last: bool) -> bool {
        let Some(Slot::Small(mut small)) = self.slots.insert(item, Slot::Failed) else {
            return false;
        };
        if let Err(fault) = small.write(bytes) {
            tracing::warn!(path = %small.path, %fault, "a content did not arrive as announced");
            return false;
        }
        if !last {
            self.slots.insert(item, Slot::Small(small));
            return true;
        }
        let (tree, path) = (small.tree, small.path.clone());
        let asides = self.asides.entry(item.batch).or_default();
        match small.finish(&self.roots, asides) {
            Ok(complete) => {
                let ready = Slot::Ready(Content::Complete(complete));
                self.slots.insert(item, ready);
                true
            }
            Err(Fault::WrongContent) => {
                tracing::warn!(%path, "a content did not arrive as announced");
                false
            }
            Err(fault) => {
                tracing::debug!(%path, %fault, "a content cannot be staged");
                self.fail(tree, path, &fault);
                false
            }
        }
    }

    /// Appends a part of the basis. With `last` the content is checked. False: it cannot be used.
    pub fn copy(&mut self, item: Item, from: u64, len: u64, last: bool) -> bool {
        let pulse = self.pulse.clone();
        self.add(item, last, |staging, basis| match basis {
            None if from == 0 && staging.may_grow() => staging.take_beginning(len),
            Some(basis) => basis.copy_to(staging, from, len, &pulse),
            None => Err(Fault::WrongContent),
        })
    }

    fn add(
        &mut self,
        item: Item,
        last: bool,
        write: impl FnOnce(&mut Staging, Option<&Basis>) -> Result<(), Fault>,
    ) -> bool {
        let Some(slot) = self.slots.get_mut(&item) else {
            return false;
        };
        let Slot::Coming { staging, basis, .. } = slot else {
            return false;
        };
        if let Err(fault) = write(staging, basis.as_ref()) {
            self.give_up(item, &fault);
            return false;
        }
        if !last {
            return true;
        }
        let Slot::Coming {
            staging,
            hash,
            tree,
            path,
            meta,
            ..
        } = std::mem::replace(slot, Slot::Failed)
        else {
            return false;
        };
        match staging.finish(hash) {
            Ok(mut staged) => {
                if let Some(tail) = staged.take_tail() {
                    self.shared.tails.remember(tree, &path, tail);
                } else if !self.asides.contains_key(&item.batch) {
                    if let Some(meta) = meta.filter(|_| staged.is_new()) {
                        staged.dress(&meta);
                    }
                    sync_ahead(&mut staged);
                }
                if let Some(chunks) = staged.take_chunks() {
                    self.shared.chunks.remember(hash, Arc::new(chunks));
                }
                *slot = Slot::Ready(Content::Staged(staged));
                true
            }
            Err(fault) => {
                tracing::warn!(%fault, "a content did not arrive as announced");
                false
            }
        }
    }

    /// The rsync signature of a part of an item's basis; empty when it cannot be read.
    pub fn signature(&self, item: Item, from: u64, len: u64) -> Vec<u8> {
        let Some(Slot::Coming {
            basis: Some(basis), ..
        }) = self.slots.get(&item)
        else {
            return Vec::new();
        };
        if len > delta::MAX_BASIS {
            return Vec::new();
        }
        // At most MAX_BASIS, little more than a megabyte.
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        match basis.read(&mut bytes, from) {
            Ok(()) => delta::signature_of(&bytes),
            Err(_) => Vec::new(),
        }
    }
}

/// Lets the disk begin with a content of a batch of few. Whoever applies it waits for the disk, and sees its errors; what
/// it does until then takes about as long as a disk does.
fn sync_ahead(staged: &mut Staged) {
    if let Ok(runtime) = Handle::try_current()
        && let Some(sync) = staged.sync_ahead()
    {
        runtime.spawn_blocking(sync);
    }
}
