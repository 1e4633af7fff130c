//! The replica's side of the worker: local changes on the standby.

use super::look::Sight;
use super::worker::Worker;
use crate::index::IndexError;

impl Worker {
    /// What differs from the index although this node only receives.
    pub(super) fn local_changes(&mut self, at: usize, sights: Vec<Sight>) -> Result<(), IndexError> {
        let _ = (at, sights);
        Ok(())
    }
}
