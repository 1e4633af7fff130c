//! Nothing is destroyed on the word of an empty or unmounted source (invariant 4): is this the root that it was, and
//! does too much vanish at once? Pure decisions on facts that others gathered.

mod deletes;
mod root;
pub use deletes::{DELETE_FLOOR, DeleteWindow, Name, Vanished, WINDOW_NS, limit};
pub use root::{RootRecord, Verdict, judge};
