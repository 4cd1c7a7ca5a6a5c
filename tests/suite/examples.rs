//! The examples, run like the real thing.
