//! The Autobahn test suite against the echo example.
