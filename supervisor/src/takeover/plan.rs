//! Who of the givers gives how much to whom of the takers. Pure.

/// For each giver, the takers and their weights: every taker gets the same share of the whole, and every giver gives all,
/// with as few lanes as that takes. Giver `i` of `n` and taker `j` of `m` meet where `[i/n, (i+1)/n)` and `[j/m, (j+1)/m)` do.
pub(super) fn shares(givers: usize, takers: usize) -> Vec<Vec<(usize, u32)>> {
    let overlap = |giver: usize, taker: usize| {
        let from = (giver * takers).max(taker * givers);
        let until = ((giver + 1) * takers).min((taker + 1) * givers);
        until.saturating_sub(from) as u32
    };
    let of = |giver| (0..takers).map(move |taker| (taker, overlap(giver, taker))).filter(|(_, weight)| *weight > 0);
    (0..givers).map(|giver| of(giver).collect()).collect()
}

/// So many of a share in percent, rounded up: a canary of one connection is one.
pub(super) fn percent(count: u64, percent: f64) -> u64 {
    ((count as f64 * percent / 100.0).ceil() as u64).min(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn four_to_eight_and_back_and_what_does_not_divide() {
        assert_eq!(shares(2, 4), [vec![(0, 2), (1, 2)], vec![(2, 2), (3, 2)]]);
        assert_eq!(shares(4, 2), [[(0, 2)], [(0, 2)], [(1, 2)], [(1, 2)]]);
        assert_eq!(shares(3, 2), [vec![(0, 2)], vec![(0, 1), (1, 1)], vec![(1, 2)]]);
        assert_eq!((percent(1000, 1.0), percent(10, 1.0), percent(0, 1.0), percent(10, 100.0)), (10, 1, 0, 10));
    }

    proptest! {
        #[test]
        fn every_taker_gets_as_much(givers in 1..20usize, takers in 1..20usize) {
            let plan = shares(givers, takers);
            let mut got = vec![0; takers];
            for shares in &plan {
                prop_assert_eq!(shares.iter().map(|(_, weight)| *weight as usize).sum::<usize>(), takers);
                shares.iter().for_each(|(taker, weight)| got[*taker] += *weight as usize);
            }
            prop_assert!(got.iter().all(|got| *got == givers));
            prop_assert!(plan.iter().map(Vec::len).sum::<usize>() < givers + takers);
        }
    }
}
