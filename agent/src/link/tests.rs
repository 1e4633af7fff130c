//! Two links on loopback addresses, and those who try to get between them.

mod bulk;
mod cuts;
mod harness;
mod strangers;
mod talk;
