//! Making trees equal.
