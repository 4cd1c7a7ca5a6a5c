//! A run beside the committed one: what got worse. Only figures that travel from machine to machine are compared: ratios to
//! a reference of the same run, and bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::table::{self, Row};

/// What `bench --json` writes: where, and what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Where it was measured.
    pub machine: Machine,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// How one figure stands to the committed one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// By so many parts of the committed figure it is more; negative: less. Less is better, of every figure that is compared.
    By(f64),
    /// It is not in the run, or could not be measured.
    Missing,
    /// It is not in the committed table.
    New,
}

/// One figure in both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// What was measured.
    pub row: String,
    /// Its unit.
    pub unit: String,
    /// As committed.
    pub committed: Option<f64>,
    /// As measured now.
    pub now: Option<f64>,
}

impl Compared {
    /// What has become of it.
    pub fn change(&self) -> Change {
        match (self.committed, self.now) {
            (Some(committed), Some(now)) => Change::By(now / committed - 1.0),
            (Some(_), None) => Change::Missing,
            (None, _) => Change::New,
        }
    }

    /// Whether the comparison as a whole fails because of it: it got worse by more than `tolerance`, or nobody knows.
    pub fn is_worse(&self, tolerance: f64) -> bool {
        match self.change() {
            Change::By(more) => more > tolerance,
            Change::Missing => true,
            Change::New => false,
        }
    }
}

/// Each figure that travels, of both runs, in the order of the committed one.
pub fn compare(committed: &[Row], now: &[Row]) -> Vec<Compared> {
    let find = |rows: &[Row], row: &str| rows.iter().find(|other| other.row == row).and_then(travelling);
    let one = |row: &Row| Compared {
        row: row.row.clone(),
        unit: if row.ratio.is_some() { "×".to_owned() } else { row.unit.to_string() },
        committed: find(committed, &row.row),
        now: find(now, &row.row),
    };
    let known = committed.iter().filter(|row| travelling(row).is_some());
    let new = now.iter().filter(|row| travelling(row).is_some() && find(committed, &row.row).is_none());
    known.chain(new).map(one).collect()
}

/// The figure of a row that is much the same on another machine; none of a row that has none, or that is about another server
/// than baton.
fn travelling(row: &Row) -> Option<f64> {
    let asked = row.limit.is_some() || row.aim.is_some();
    match (&*row.unit, row.ratio) {
        (_, Some(ratio)) => asked.then_some(ratio),
        (table::TIMES | table::BYTES, None) => row.value,
        (_, None) => None,
    }
}

/// A table of the comparison.
pub fn render(figures: &[Compared], tolerance: f64) -> String {
    let head = ["row", "committed", "now", "unit", "change", ""].map(str::to_owned);
    let number = |figure: Option<f64>| match figure {
        Some(figure) if figure >= 100.0 => format!("{figure:.0}"),
        Some(figure) => format!("{figure:.2}"),
        None => "–".to_owned(),
    };
    let line = |one: &Compared| {
        let verdict = if one.is_worse(tolerance) { "WORSE" } else { "" };
        let unit = one.unit.clone();
        [one.row.clone(), number(one.committed), number(one.now), unit, one.change().to_string(), verdict.to_owned()]
    };
    table::aligned(&head, figures.iter().map(line), [false, true, true, false, true, false])
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::By(more) => write!(formatter, "{:+.1} %", more * 100.0),
            Change::Missing => formatter.write_str("not measured"),
            Change::New => formatter.write_str("new"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ratio: f64, bytes: Option<f64>) -> Vec<Row> {
        vec![
            Row::of("floor", table::MICROS, vec![5.0]).beside(Some(1.0)),
            Row::of("baton", table::MICROS, vec![5.0 * ratio]).beside(Some(ratio)).asked(Some(1.2), None),
            Row::of("other", table::MICROS, vec![9.0]).beside(Some(9.0 * ratio)),
            Row::of("memory", table::BYTES, bytes.into_iter().collect()),
            Row::of("start", "ms", vec![1.0 / ratio]).asked(Some(300.0), None),
        ]
    }

    #[test]
    fn only_what_travels_is_compared() {
        let figures = compare(&rows(1.0, Some(100.0)), &rows(1.05, Some(90.0)));
        let names: Vec<&str> = figures.iter().map(|one| one.row.as_str()).collect();
        assert_eq!(names, ["baton", "memory"]);
        assert!(figures.iter().all(|one| !one.is_worse(0.1)), "{figures:?}");
        let Change::By(less) = figures[1].change() else { panic!("{figures:?}") };
        assert!((less + 0.1).abs() < 1e-9);
    }

    #[test]
    fn more_than_the_tolerance_is_worse_and_so_is_what_nobody_knows() {
        let committed = rows(1.0, Some(100.0));
        let worse = |now: &[Row]| {
            compare(&committed, now).into_iter().filter(|one| one.is_worse(0.1)).map(|one| one.row).collect::<Vec<_>>()
        };
        assert_eq!(worse(&rows(1.11, Some(100.0))), ["baton"]);
        assert_eq!(worse(&rows(1.0, Some(111.0))), ["memory"]);
        assert_eq!(worse(&rows(1.0, None)), ["memory"], "it failed");
        assert_eq!(worse(&[]), ["baton", "memory"], "they were not run");
    }

    #[test]
    fn a_new_figure_is_shown_and_is_no_fault() {
        let figures = compare(&[], &rows(1.0, Some(100.0)));
        assert_eq!(figures.len(), 2);
        assert!(figures.iter().all(|one| one.change() == Change::New && !one.is_worse(0.1)));
        assert!(render(&figures, 0.1).contains("new"));
    }
}
