//! The end that sends: a pure protocol machine, the reader of the index, the sender of contents, and their session.

pub mod machine;
