//! Tests of the room: tables of facts, then random edits against a simple model and a PE that caches all it can.

mod edits;
mod machine;
mod shapes;
mod vmids;
