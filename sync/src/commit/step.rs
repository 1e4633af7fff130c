//! What goes into an apply, and what came of it.

use std::collections::BTreeMap;

use super::complete::Content;
use crate::entry::LocalKey;
use crate::fault::Fault;
use crate::path::RelPath;
use crate::plan::Step;

/// One step of a plan, with the content that it needs.
#[derive(Debug)]
pub struct Work {
    /// The step.
    pub step: Step,
    /// The staged content, for a step that puts a regular file.
    pub content: Option<Content>,
}

/// What came of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Where. A path may have several steps.
    pub path: RelPath,
    /// What lies there at the end of the apply: its version, or `None` for nothing. Or why the step was not carried out.
    pub result: Result<Option<LocalKey>, Fault>,
    /// Attributes that could not be applied although the step was carried out; by name.
    pub missed: Vec<Fault>,
}

/// What came of an apply. Everything reported as done is durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// One for each step, in the order of the steps.
    pub outcomes: Vec<Outcome>,
    /// The new versions of directories whose entries changed and that had no step of their own. Their modification
    /// times are as before.
    pub dirs: BTreeMap<RelPath, LocalKey>,
    /// Why the rest was not tried: no room ([`Fault::NoSpace`]), the tree takes no changes ([`Fault::ReadOnly`]), the role changed
    /// ([`Fault::Revoked`]), or the result cannot be made durable. The steps that were not tried carry the same fault. If durability failed, all do.
    pub stopped: Option<Fault>,
    /// What was changed could not be made durable: it may be visible all the same.
    pub unsure: bool,
}

impl Outcome {
    /// The step was carried out, with all attributes.
    pub fn is_whole(&self) -> bool {
        self.result.is_ok() && self.missed.is_empty()
    }
}

impl Report {
    /// The steps that were not carried out, with the reason.
    pub fn failures(&self) -> impl Iterator<Item = (&RelPath, &Fault)> {
        self.outcomes
            .iter()
            .filter_map(|outcome| Some((&outcome.path, outcome.result.as_ref().err()?)))
    }
}
