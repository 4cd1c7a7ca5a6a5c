//! Many hosts, one service: what they share by Redis, and what is noticed when it fails, which is nothing.

mod lab;
