//! The control socket, whatever is sent to it.
