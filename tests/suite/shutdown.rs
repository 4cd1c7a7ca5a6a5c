//! SIGTERM, with everybody watching.
