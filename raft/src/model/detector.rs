//! The failure detector: one verdict a node pair, from heartbeats alone. Pure: time comes in as milliseconds.
