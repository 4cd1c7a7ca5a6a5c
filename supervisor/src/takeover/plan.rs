//! Who of the givers gives how much to whom of the takers. Pure.

/// Someone who may take connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taker {
    /// Connections that it has already.
    pub(super) has: u64,
    /// The most that it takes, those included.
    pub(super) most: u64,
}

impl Taker {
    fn room(self) -> u64 {
        self.most.saturating_sub(self.has)
    }
}

/// For each giver, the takers and their weights, which are numbers of connections. Every taker ends up with as many as the
/// others, unless it has no room for so many; whatever the givers hold. There are as few lanes as that takes, and one for each
/// giver that has nothing: clients may still come to it.
pub(super) fn shares(givers: &[u64], takers: &[Taker]) -> Vec<Vec<(usize, u32)>> {
    let mut due = targets(givers.iter().sum(), takers);
    let mut spare: Vec<u64> = takers.iter().zip(&due).map(|(taker, due)| taker.room().saturating_sub(*due)).collect();
    let mut filled = 0;
    let mut plan = Vec::with_capacity(givers.len());
    for count in givers {
        let (mut left, mut shares) = (*count, Vec::new());
        while left > 0 && filled < takers.len() {
            let weight = left.min(due[filled]);
            if weight > 0 {
                shares.push((filled, u32::try_from(weight).unwrap_or(u32::MAX)));
                left -= weight;
                due[filled] -= weight;
            }
            if due[filled] == 0 {
                filled += 1;
            }
        }
        if shares.is_empty()
            && let Some(taker) = (0..takers.len()).rev().max_by_key(|taker| spare[*taker])
        {
            spare[taker] = spare[taker].saturating_sub(1);
            shares.push((taker, 1));
        }
        plan.push(shares);
    }
    plan
}

/// How many of `total` each gets. What does not fit anywhere is spread evenly: the takers refuse what they have to, and know
/// their room better.
fn targets(total: u64, takers: &[Taker]) -> Vec<u64> {
    let count = takers.len().max(1) as u64;
    let fits: u64 = takers.iter().map(|taker| taker.room().min(total)).sum();
    if fits < total {
        let (each, more) = ((total - fits) / count, (total - fits) % count);
        return (0..).zip(takers).map(|(n, taker)| taker.room() + each + u64::from(n < more)).collect();
    }
    // All are filled to the same level, as far as they go.
    let at = |level: u64, taker: &Taker| level.saturating_sub(taker.has).min(taker.room());
    let sum = |level: u64| takers.iter().map(|taker| at(level, taker)).sum::<u64>();
    let (mut level, mut above) = (0, takers.iter().map(|taker| taker.has).max().unwrap_or(0) + total + 1);
    while above - level > 1 {
        let middle = level + (above - level) / 2;
        match sum(middle) <= total {
            true => level = middle,
            false => above = middle,
        }
    }
    let mut rest = total - sum(level);
    let give = |taker: &Taker| {
        let given = at(level, taker);
        let one_more = rest > 0 && at(level + 1, taker) > given;
        rest -= u64::from(one_more);
        given + u64::from(one_more)
    };
    takers.iter().map(give).collect()
}

/// For each giver, the takers to whom it goes by itself should its supervisor die, whatever it holds then. Giver `i` of `n` and
/// taker `j` of `m` meet where `[i/n, (i+1)/n)` and `[j/m, (j+1)/m)` do.
pub(super) fn refuges(givers: usize, takers: usize) -> Vec<Vec<usize>> {
    let meet = |giver: usize, taker: usize| {
        (giver * takers).max(taker * givers) < ((giver + 1) * takers).min((taker + 1) * givers)
    };
    (0..givers).map(|giver| (0..takers).filter(|taker| meet(giver, *taker)).collect()).collect()
}

/// So many of a share in percent, rounded up: a canary of one connection is one.
pub(super) fn percent(count: u64, percent: f64) -> u64 {
    ((count as f64 * percent / 100.0).ceil() as u64).min(count)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn taker(has: u64, most: u64) -> Taker {
        Taker { has, most }
    }

    #[test]
    fn four_to_eight_and_back_and_what_does_not_divide() {
        let empty = |takers: usize| vec![taker(0, 1000); takers];
        assert_eq!(shares(&[20, 20], &empty(4)), [[(0, 10), (1, 10)], [(2, 10), (3, 10)]]);
        assert_eq!(shares(&[5; 4], &empty(2)), [[(0, 5)], [(0, 5)], [(1, 5)], [(1, 5)]]);
        assert_eq!(shares(&[2, 2, 3], &empty(2)), [vec![(0, 2)], vec![(0, 2)], vec![(1, 3)]]);
        assert_eq!((percent(1000, 1.0), percent(10, 1.0), percent(0, 1.0), percent(10, 100.0)), (10, 1, 0, 10));
        assert_eq!(refuges(2, 4), [[0, 1], [2, 3]]);
        assert_eq!(refuges(3, 2), [vec![0], vec![0, 1], vec![1]]);
    }

    #[test]
    fn one_giver_has_all_of_them() {
        assert_eq!(shares(&[100, 0, 0, 0], &[taker(0, 97); 4])[0], [(0, 25), (1, 25), (2, 25), (3, 25)]);
        assert_eq!(shares(&[60, 0], &[taker(0, 39); 2]), [vec![(0, 30), (1, 30)], vec![(0, 1)]]);
    }

    #[test]
    fn who_has_less_room_or_some_already_gets_less() {
        assert_eq!(shares(&[60], &[taker(0, 10), taker(0, 100)]), [[(0, 10), (1, 50)]]);
        assert_eq!(shares(&[60], &[taker(20, 100), taker(0, 100)]), [[(0, 20), (1, 40)]]);
        assert_eq!(shares(&[5], &[taker(100, 200), taker(0, 200)]), [[(1, 5)]]);
        assert_eq!(shares(&[60], &[taker(0, 10), taker(0, 20)]), [[(0, 25), (1, 35)]], "who does not fit is offered");
        assert_eq!(shares(&[7], &[taker(9, 0), taker(0, 0)]), [[(0, 4), (1, 3)]]);
        assert!(shares(&[7, 0], &[]).iter().all(Vec::is_empty));
        assert_eq!(shares(&[u32::MAX.into()], &[taker(0, u64::MAX)]), [[(0, u32::MAX)]]);
    }

    proptest! {
        #[test]
        fn all_are_given_and_nobody_gets_more_than_it_has_room_for(
            givers in vec(0..200u64, 1..20),
            takers in vec((0..100u64, 0..300u64).prop_map(|(has, most)| taker(has, most)), 1..20),
        ) {
            let plan = shares(&givers, &takers);
            let mut got = vec![0; takers.len()];
            for (count, shares) in givers.iter().zip(&plan) {
                prop_assert!(!shares.is_empty());
                if *count > 0 {
                    prop_assert_eq!(shares.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>(), *count);
                    shares.iter().for_each(|(taker, weight)| got[*taker] += u64::from(*weight));
                }
            }
            prop_assert!(plan.iter().map(Vec::len).sum::<usize>() < givers.len() + takers.len());
            if givers.iter().sum::<u64>() <= takers.iter().map(|taker| taker.room()).sum() {
                for (one, more) in takers.iter().zip(&got) {
                    prop_assert!(*more <= one.room());
                    for (other, less) in takers.iter().zip(&got) {
                        let uneven = *more > 0 && one.has + more > other.has + less + 1;
                        prop_assert!(!uneven || *less == other.room(), "{:?}: {:?}", takers, got);
                    }
                }
            }
        }

        #[test]
        fn everyone_has_a_refuge(givers in 1..20usize, takers in 1..20usize) {
            let plan = refuges(givers, takers);
            prop_assert!(plan.iter().all(|takers| !takers.is_empty()));
            prop_assert!((0..takers).all(|taker| plan.iter().any(|takers| takers.contains(&taker))));
            prop_assert!(plan.iter().map(Vec::len).sum::<usize>() < givers + takers);
        }
    }
}
