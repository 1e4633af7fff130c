//! The end that receives: a pure protocol machine, the staging of contents, and their session.

pub mod machine;
#[allow(clippy::disallowed_methods)]
pub(crate) mod session;
pub(crate) mod staging;
