//! The end that receives: a pure protocol machine, the staging of contents, and their session.

pub mod machine;
