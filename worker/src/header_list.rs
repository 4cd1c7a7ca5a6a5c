//! Reads header fields whose values are lists (RFC 9110 sections 5.3 and 5.6.1).

use hyper::HeaderMap;
use hyper::header::HeaderName;

/// Returns the elements of a list in their order, from one field line or several, without the white space around them.
/// Empty elements are among them.
pub(crate) fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl DoubleEndedIterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
}

/// Finds a token in a list, in any case.
pub(crate) fn contains(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    elements(headers, name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use hyper::header::{CONNECTION, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn headers<'a>(lines: impl IntoIterator<Item = &'a str>) -> HeaderMap {
        let value = |line| HeaderValue::from_str(line).unwrap();
        lines.into_iter().map(|line| (CONNECTION, value(line))).collect()
    }

    #[test]
    fn elements_are_whole() {
        let upgrade = |lines: &[&str]| contains(&headers(lines.iter().copied()), &CONNECTION, "Upgrade");
        for lines in [
            &["Upgrade"][..],
            &["upgrade"],
            &["keep-alive, Upgrade"],
            &["keep-alive", "Upgrade"],
            &["Upgrade", "keep-alive"],
            &[",, UPGRADE\t,"],
            &["", "\tupgrade"],
            // The other elements do not matter.
            &["no token, \u{e4}, Upgrade"],
        ] {
            assert!(upgrade(lines), "{lines:?}");
        }
        let others = [
            &[][..],
            &[""],
            &["close"],
            &["Up grade"],
            &["Upgrades"],
            &["x-upgrade"],
            &["\"Upgrade\""],
            &["Up", "grade"],
        ];
        for lines in others {
            assert!(!upgrade(lines), "{lines:?}");
        }
        let many = ["x,"; 10_000].concat();
        assert!(!upgrade(&[&many]) && upgrade(&[&many, "upgrade"]));
    }

    /// An element that is not the one looked for, the space around it, and whether a new line begins behind it.
    fn element() -> impl Strategy<Value = (String, String, String, bool)> {
        let other = "[a-z0-9/-]{0,8}".prop_filter("another", |text| !text.eq_ignore_ascii_case("upgrade"));
        (other, "[ \t]{0,3}", "[ \t]{0,3}", any::<bool>())
    }

    proptest! {
        #[test]
        fn a_list_may_be_spread_over_lines(
            mut all in prop::collection::vec(element(), 0..8),
            token in "[uU][pP][gG][rR][aA][dD][eE]",
            at in any::<prop::sample::Index>(),
            is_there in any::<bool>(),
        ) {
            if is_there {
                all.insert(at.index(all.len() + 1), (token, " ".into(), "\t".into(), true));
            }
            let mut lines = vec![String::new()];
            for (text, before, behind, is_last) in &all {
                let line = lines.last_mut().unwrap();
                line.push_str(&format!("{before}{text}{behind}"));
                if *is_last { lines.push(String::new()) } else { line.push(',') }
            }
            let headers = headers(lines.iter().map(String::as_str));
            prop_assert_eq!(contains(&headers, &CONNECTION, "Upgrade"), is_there);
            let expected: Vec<&[u8]> = all.iter().map(|(text, ..)| text.as_bytes()).filter(|text| !text.is_empty()).collect();
            let found: Vec<&[u8]> = elements(&headers, &CONNECTION).filter(|element| !element.is_empty()).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
