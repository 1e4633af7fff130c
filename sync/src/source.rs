//! The end that sends: a pure protocol machine, the reader of the index, the sender of contents, and their session.

mod again;
#[allow(clippy::disallowed_methods)]
pub(crate) mod books;
pub(crate) mod content;
pub(crate) mod fetch;
mod lanes;
pub mod machine;
#[allow(clippy::disallowed_methods)]
mod outlook;
#[allow(clippy::disallowed_methods)]
pub(crate) mod session;
mod withheld;
