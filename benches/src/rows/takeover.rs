//! What clients notice when one generation takes over from another.

mod arrivals;
mod idle;
mod loaded;

use crate::rows::Bench;
use crate::table::Row;

/// Measures all of it; `progress` is told what begins.
pub fn measure(bench: &Bench, mut progress: impl FnMut(&str)) -> Vec<Row> {
    progress("takeover under load");
    let mut rows = loaded::measure(bench);
    progress("takeover of idle connections");
    rows.push(idle::measure(bench));
    progress("takeovers while clients connect");
    rows.push(arrivals::measure(bench));
    rows
}
