//! Clients that want too much.
