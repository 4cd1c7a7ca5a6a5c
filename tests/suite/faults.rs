//! Processes die, hang and come back.
