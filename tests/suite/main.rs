//! The whole product: the shipped commands as real processes, with real clients.

#[path = "../harness/mod.rs"]
#[allow(unreachable_pub, reason = "what tests may use is public, and a test binary exports nothing")]
mod harness;

mod addresses;
mod admin;
mod autobahn;
mod batonctl;
mod configuration;
mod control;
mod counts;
mod examples;
mod faults;
mod floods;
mod handoff;
mod host;
mod http;
mod load_test;
mod logs;
mod monitor;
mod monitoring;
mod nginx;
mod oracle;
mod package;
mod page;
mod parent;
mod permissions;
mod promote;
mod protocol;
mod readme;
mod redis;
mod shutdown;
mod store;
mod systemd;
mod takeover;
