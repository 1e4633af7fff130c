//! Hosts as namespaces.
