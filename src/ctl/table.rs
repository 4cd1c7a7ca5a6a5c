//! Aligned columns, and words that fit into them.

/// Which side of a column its cells keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// The escape sequences of ECMA-48 (SGR) that a state is painted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Paint {
    /// The text in this colour, if colours are wanted.
    pub(super) fn on(self, text: &str, colors: bool) -> String {
        let code = match self {
            Paint::Plain => return text.to_owned(),
            Paint::Bold => 1,
            Paint::Dim => 2,
            Paint::Red => 31,
            Paint::Green => 32,
            Paint::Yellow => 33,
        };
        if colors { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One cell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell(pub(super) String, pub(super) Paint);

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Cell {
        Cell(value.to_string(), Paint::Plain)
    }
}

/// Lines of equally wide columns, two spaces between them and none at the end.
pub(crate) fn table(columns: &[(&str, Align)], rows: &[Vec<Cell>], colors: bool) -> String {
    let header = columns.iter().map(|(title, _)| Cell((*title).to_owned(), Paint::Bold)).collect();
    let lines: Vec<&Vec<Cell>> = std::iter::once(&header).chain(rows).collect();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| printable(&cell.0).chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let mut owed = 0;
        for (i, (cell, (_, align))) in line.iter().zip(columns).enumerate() {
            let word = printable(&cell.0);
            let fill = widths[i] - word.chars().count();
            let (before, after) = match align {
                Align::Left => (0, fill),
                Align::Right => (fill, 0),
            };
            if !word.is_empty() {
                text.push_str(&" ".repeat(owed + before));
                text.push_str(&cell.1.on(&word, colors));
                owed = 0;
            } else {
                owed += before;
            }
            owed += after + 2;
        }
        text.push('\n');
    }
    text
}

/// Without characters that would move the cursor: some of what is shown comes from far away.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A duration in its two largest units: `3d4h`, `5m12s`, `0.4s`.
pub(crate) fn age(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (d, h, m, s) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (d, h, m) {
        (0, 0, 0) if whole < 10 => format!("{:.1}s", seconds.max(0.0)),
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m{s}s"),
        (0, _, _) => format!("{h}h{m}m"),
        (_, _, _) => format!("{d}d{h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_end_in_spaces() {
        let columns = [("NAME", Align::Left), ("N", Align::Right), ("NOTE", Align::Left)];
        let rows = [vec!["a".into(), 1.into(), "x".into()], vec!["longer".into(), 100.into(), "".into()]];
        assert_eq!(table(&columns, &rows, false), "NAME      N  NOTE\na         1  x\nlonger  100\n");
    }

    #[test]
    fn colors_do_not_disturb_the_columns() {
        let rows = [vec![Cell("up".into(), Paint::Green), "x".into()]];
        let painted = table(&[("STATE", Align::Left), ("Y", Align::Left)], &rows, true);
        assert!(painted.ends_with("\x1b[32mup\x1b[0m     x\n"), "{painted:?}");
    }

    #[test]
    fn ages() {
        let cases =
            [(0.44, "0.4s"), (-1.0, "0.0s"), (12.9, "12s"), (312.0, "5m12s"), (7260.0, "2h1m"), (273_600.0, "3d4h")];
        assert!(cases.into_iter().all(|(seconds, text)| age(seconds) == text));
    }

    #[test]
    fn nothing_shown_moves_the_cursor() {
        assert_eq!(printable("a\x1b[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
    }
}
