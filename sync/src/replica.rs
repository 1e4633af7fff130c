//! The end that receives: a pure protocol machine, the staging of contents, and their session.

#[allow(clippy::disallowed_methods)]
mod basis;
pub mod machine;
mod pulse;
#[allow(clippy::disallowed_methods)]
pub(crate) mod session;
mod small;
pub(crate) mod staging;
