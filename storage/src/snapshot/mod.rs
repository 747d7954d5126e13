//! Snapshot files: checksummed, written whole, durable before they are named.
