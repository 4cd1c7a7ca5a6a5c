//! `/admin/`: the pages of operators.

mod attempts;
mod clients;
mod login;
mod page;
mod redis;
mod sessions;
mod superusers;
