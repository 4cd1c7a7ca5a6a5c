//! The receipt of a takeover: what became of every connection, and how long anybody had to wait.

use baton_ipc::control::{Generation, TakeoverReceipt};

use super::super::table::{Align, Cell, Paint, printable, table};

/// From whom to whom, and the numbers. The steps were told as they happened.
pub(crate) fn page(receipt: &TakeoverReceipt, colors: bool) -> String {
    let mut text = format!("{} -> {} in {}ms\n\n", name(&receipt.from), name(&receipt.to), receipt.took_ms());
    text.push_str(&numbers(receipt, colors));
    if !receipt.drained.is_empty() {
        let reasons = receipt.drained.iter().map(|(why, n)| format!("{n} {}", printable(why)));
        text.push_str(&format!("told to come back: {}\n", reasons.collect::<Vec<_>>().join(", ")));
    }
    if receipt.kept {
        let old = printable(&receipt.from.color);
        text.push_str(&format!("\n{old} is kept: `batonctl rollback` gives everything back to it\n"));
    }
    text
}

fn numbers(receipt: &TakeoverReceipt, colors: bool) -> String {
    let columns = [
        ("HANDED OVER", Align::Right),
        ("DRAINED", Align::Right),
        ("DROPPED", Align::Right),
        ("LONGEST PAUSE", Align::Right),
        ("P99 PAUSE", Align::Right),
    ];
    let unless_zero = |n: u64, paint| Cell(n.to_string(), if n > 0 { paint } else { Paint::Plain });
    let row = vec![
        receipt.handed.into(),
        unless_zero(receipt.all_drained(), Paint::Yellow),
        unless_zero(receipt.dropped, Paint::Red),
        milliseconds(receipt.longest_pause_us).into(),
        milliseconds(receipt.p99_pause_us).into(),
    ];
    table(&columns, &[row], colors)
}

fn name(generation: &Generation) -> String {
    let Generation { color, pid, version } = generation;
    format!("{} (pid {pid}, baton {})", printable(color), printable(version))
}

fn milliseconds(us: u64) -> String {
    format!("{:.2}ms", us as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> TakeoverReceipt {
        TakeoverReceipt {
            from: Generation { color: "blue".into(), pid: 4242, version: "0.1.0".into() },
            to: Generation { color: "green".into(), pid: 5151, version: "0.2.0".into() },
            handed: 10_000,
            drained: vec![("in the middle of a close".into(), 2), ("too much output".into(), 1)],
            dropped: 0,
            longest_pause_us: 1420,
            p99_pause_us: 310,
            steps: vec![("preflight".into(), 12), ("handing over".into(), 1204)],
            kept: true,
        }
    }

    #[test]
    fn the_receipt() {
        assert_eq!(
            page(&receipt(), false),
            "\
blue (pid 4242, baton 0.1.0) -> green (pid 5151, baton 0.2.0) in 1216ms

HANDED OVER  DRAINED  DROPPED  LONGEST PAUSE  P99 PAUSE
      10000        3        0         1.42ms     0.31ms
told to come back: 2 in the middle of a close, 1 too much output

blue is kept: `batonctl rollback` gives everything back to it
"
        );
    }

    #[test]
    fn nothing_is_said_about_what_did_not_happen() {
        let receipt = TakeoverReceipt { drained: vec![], steps: vec![], kept: false, ..receipt() };
        assert_eq!(page(&receipt, false).lines().count(), 4);
    }

    #[test]
    fn a_loss_is_seen_at_once() {
        let page = |dropped| page(&TakeoverReceipt { dropped, ..receipt() }, true);
        assert!(page(7).contains("\x1b[31m7\x1b[0m") && !page(0).contains("\x1b[31m"));
    }
}
