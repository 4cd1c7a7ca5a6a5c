//! Numbers as people read them.

use super::histogram::Quantile;

/// A number of things: `120`, `12,345`.
pub(super) fn whole(n: f64) -> String {
    let digits = format!("{:.0}", n.max(0.0));
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many a second: `59.9`, `12,345`; none: `-`.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate < 1000.0 => format!("{rate:.1}"),
        Some(rate) => whole(rate),
    }
}

/// A duration in the unit that fits: `85us`, `2.40ms`, `1.50s`.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0}us", s * 1e6),
        s if s < 1.0 => format!("{:.2}ms", s * 1e3),
        s => format!("{s:.2}s"),
    }
}

/// A quantile: `85us`, `>2.50s`; of nothing: `-`.
pub(super) fn quantile(quantile: Option<Quantile>) -> String {
    match quantile {
        None => "-".to_owned(),
        Some(Quantile::About(value)) => seconds(value),
        Some(Quantile::Over(bound)) => format!(">{}", seconds(bound)),
    }
}

/// In JSON: a number or null. What is over the highest bound is told as that bound.
pub(super) fn quantile_seconds(quantile: Option<Quantile>) -> Option<f64> {
    quantile.map(|quantile| match quantile {
        Quantile::About(value) | Quantile::Over(value) => value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases = [(0.0, "0"), (999.0, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567"), (-1.0, "0")];
        assert!(cases.into_iter().all(|(n, text)| whole(n) == text));
        assert_eq!([rate(None), rate(Some(59.94)), rate(Some(12_345.6))], ["-", "59.9", "12,346"]);
        assert_eq!([seconds(0.000_085), seconds(0.0024), seconds(1.5)], ["85us", "2.40ms", "1.50s"]);
        assert_eq!([quantile(None), quantile(Some(Quantile::Over(2.5)))], ["-", ">2.50s"]);
    }
}
