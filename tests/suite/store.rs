//! The embedded store on a disk that fails.
