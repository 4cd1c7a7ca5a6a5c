//! The result: rows with a verdict each, as an aligned table and as JSON.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Unit of memory.
pub const BYTES: &str = "bytes/connection";
/// Unit of CPU time.
pub const MICROS: &str = "µs/message";
/// Unit of a ratio that is a row of its own.
pub const TIMES: &str = "×";

/// How a figure stands to what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is asked of it.
    Reference,
    /// As good as is aimed at.
    Aim,
    /// Within the limit.
    Limit,
    /// Over the limit.
    Over,
    /// Not measured, or measured with wrong answers.
    Failed,
}

impl Verdict {
    /// The verdict on `figure`, which should be at most `limit` and is hoped to be at most `aim`.
    pub fn on(figure: f64, limit: Option<f64>, aim: Option<f64>) -> Verdict {
        match (limit, aim) {
            (None, None) => Verdict::Reference,
            (_, Some(aim)) if figure <= aim => Verdict::Aim,
            (Some(limit), _) if figure <= limit => Verdict::Limit,
            (None, Some(_)) => Verdict::Limit,
            (Some(_), _) => Verdict::Over,
        }
    }

    /// Whether the bench as a whole may succeed with it.
    pub fn is_good(self) -> bool {
        match self {
            Verdict::Reference | Verdict::Aim | Verdict::Limit => true,
            Verdict::Over | Verdict::Failed => false,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Verdict::Reference => "",
            Verdict::Aim => "aim reached",
            Verdict::Limit => "within limit",
            Verdict::Over => "OVER LIMIT",
            Verdict::Failed => "FAILED",
        })
    }
}

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured.
    pub row: String,
    /// The median of the samples; none if the measurement failed.
    pub value: Option<f64>,
    /// Unit of the value and the samples.
    pub unit: Cow<'static, str>,
    /// The value beside its reference, which is the median of the rounds' ratios.
    pub ratio: Option<f64>,
    /// The most that is allowed, of the ratio if there is one, else of the value.
    pub limit: Option<f64>,
    /// What is aimed at, likewise.
    pub aim: Option<f64>,
    /// How it stands.
    pub verdict: Verdict,
    /// Each round's value.
    pub samples: Vec<f64>,
    /// What else there is to say.
    pub note: String,
}

impl Row {
    /// A row without ratio.
    pub fn of(row: impl Into<String>, unit: &'static str, samples: Vec<f64>) -> Row {
        let value = median(&samples);
        let verdict = if value.is_some() { Verdict::Reference } else { Verdict::Failed };
        let note = String::new();
        Row {
            row: row.into(),
            value,
            unit: Cow::Borrowed(unit),
            ratio: None,
            limit: None,
            aim: None,
            verdict,
            samples,
            note,
        }
    }

    /// A row that could not be measured.
    pub fn failed(row: impl Into<String>, unit: &'static str, why: impl fmt::Display) -> Row {
        Row { note: why.to_string(), ..Row::of(row, unit, Vec::new()) }
    }

    /// With the ratio to a reference.
    pub fn beside(self, ratio: Option<f64>) -> Row {
        Row { ratio, ..self }
    }

    /// With what is asked of it, which makes the verdict.
    pub fn asked(self, limit: Option<f64>, aim: Option<f64>) -> Row {
        let figure = self.ratio.or(self.value).filter(|_| self.verdict != Verdict::Failed);
        let verdict = figure.map_or(Verdict::Failed, |figure| Verdict::on(figure, limit, aim));
        Row { limit, aim, verdict, ..self }
    }

    /// With a note.
    pub fn noted(self, note: impl Into<String>) -> Row {
        Row { note: note.into(), ..self }
    }

    /// Failed if `condition` does not hold, whatever the figure.
    pub fn provided(self, condition: bool) -> Row {
        let verdict = if condition { self.verdict } else { Verdict::Failed };
        Row { verdict, ..self }
    }

    fn cells(&self) -> [String; 8] {
        let places = |number: f64| if number.abs() >= 100.0 { 0 } else { 2 };
        let number = |number: Option<f64>| number.map_or(String::new(), |n| format!("{n:.0$}", places(n)));
        let bound = |bound: Option<f64>, sign: &str| match (bound, self.ratio) {
            (None, _) => String::new(),
            (Some(bound), Some(_)) => format!("{sign} {bound:.2} ×"),
            (Some(bound), None) => format!("{sign} {bound}"),
        };
        let spread =
            match (self.samples.iter().copied().reduce(f64::min), self.samples.iter().copied().reduce(f64::max)) {
                (Some(least), Some(most)) if self.samples.len() > 1 => {
                    format!("{least:.0$}–{most:.0$}", places(most))
                }
                _ => String::new(),
            };
        [
            self.row.clone(),
            self.value.map_or_else(|| "–".to_owned(), |value| number(Some(value))),
            self.unit.to_string(),
            spread,
            self.ratio.map_or(String::new(), |ratio| format!("{ratio:.2} ×")),
            bound(self.limit, "≤"),
            bound(self.aim, "≤"),
            self.verdict.to_string(),
        ]
    }
}

/// The median; of an even number the mean of the middle two; none of none.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// `lines` below `head`, in columns; those of `right` are aligned at their right.
pub fn aligned<const N: usize>(
    head: &[String; N],
    lines: impl Iterator<Item = [String; N]>,
    right: [bool; N],
) -> String {
    let lines: Vec<[String; N]> = std::iter::once(head.clone()).chain(lines).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for (nth, line) in lines.iter().enumerate() {
        let cells: Vec<String> = (0..N)
            .map(|column| match right[column] {
                true => format!("{:>1$}", line[column], widths[column]),
                false => format!("{:<1$}", line[column], widths[column]),
            })
            .collect();
        out += cells.join("  ").trim_end();
        out.push('\n');
        if nth == 0 {
            out += &"─".repeat(widths.iter().sum::<usize>() + 2 * (N - 1));
            out.push('\n');
        }
    }
    out
}

/// The rows as one table, the notes beneath it.
pub fn render(rows: &[Row]) -> String {
    const HEAD: [&str; 8] = ["row", "median", "unit", "min–max", "ratio", "limit", "aim", "verdict"];
    /// Figures are aligned at their right.
    const RIGHT: [bool; 8] = [false, true, false, true, true, true, true, false];
    let mut out = aligned(&HEAD.map(str::to_owned), rows.iter().map(Row::cells), RIGHT);
    let noted: Vec<&Row> = rows.iter().filter(|row| !row.note.is_empty()).collect();
    if !noted.is_empty() {
        out.push('\n');
    }
    for row in noted {
        out += &format!("{}: {}\n", row.row, row.note);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn verdicts_follow_from_limit_and_aim() {
        let verdict = |figure| Verdict::on(figure, Some(1.2), Some(1.08));
        assert_eq!(verdict(1.08), Verdict::Aim);
        assert_eq!(verdict(1.09), Verdict::Limit);
        assert_eq!(verdict(1.21), Verdict::Over);
        assert_eq!(Verdict::on(9.0, None, None), Verdict::Reference);
        assert_eq!(Row::of("row", "ms", vec![]).asked(Some(1.0), None).verdict, Verdict::Failed);
        assert_eq!(Row::of("row", "ms", vec![0.5]).asked(Some(1.0), None).provided(false).verdict, Verdict::Failed);
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [
            Row::of("short", "µs", vec![1.0, 3.0, 2.0]).beside(Some(1.05)).asked(Some(1.2), Some(1.08)),
            Row::failed("a longer one", "ms", "why not"),
        ];
        let table = render(&rows);
        let lines: Vec<&str> = table.lines().collect();
        let column = |line: &str, word: &str| line.find(word).map(|at| line[..at].chars().count());
        assert_eq!(column(lines[0], "verdict"), column(lines[2], "aim reached"));
        assert_eq!(column(lines[0], "verdict"), column(lines[3], "FAILED"));
        assert_eq!(lines[5], "a longer one: why not");
    }
}
