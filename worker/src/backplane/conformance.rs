//! What every backplane must do: one suite, run against each implementation.
//!
//! An implementation brings a [`Cluster`], the place where instances meet, and names it in [`conformance!`], which makes
//! a test of each function here.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::BackplaneError;
use crate::batch::{Batch, Increment, Outcome, Publication};
use crate::token::Token;

/// Nothing here takes so long unless it is broken.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// One worker's hold on a backplane, which waits until a commit is settled.
pub(super) trait Instance {
    /// Commits, and waits for the outcomes.
    fn settle(&mut self, batch: &mut Batch) -> Result<(), BackplaneError>;

    /// The next publications, and how many were missed.
    fn hear(&mut self) -> Result<(Vec<Publication>, u64), BackplaneError>;

    /// The counts of these sessions now, without any use of them; 0 for one that has none.
    fn peek(&mut self, sessions: &[Token]) -> Vec<u64>;
}

/// What several workers share: a directory, a server.
pub(super) trait Cluster: Sync {
    /// One worker's hold on it.
    type Instance: Instance;

    /// Another worker joins.
    fn join(&self) -> Self::Instance;

    /// As [`Cluster::join`], with sessions that live for so many seconds. All instances of a cluster have the same.
    fn with_ttl(seconds: u64) -> Self;

    /// Adds to a batch what makes its commit fail.
    fn spoil(&self, batch: &mut Batch);

    /// More publications than are kept for a worker that does not come for them.
    fn too_many(&self) -> usize;
}

/// Makes a test of each rule, for the cluster that the expression makes.
macro_rules! conformance {
    ($cluster:ty, $make:expr) => {
        $crate::backplane::conformance::conformance!(
            $cluster, $make,
            every_count_is_given_once
            increments_of_one_batch_add_up
            a_count_never_falls_below_its_floor
            counts_are_loaded_in_the_order_asked_for
            sessions_live_as_long_as_they_are_touched
            publications_reach_everyone_in_one_order
            who_joins_later_hears_what_comes_later
            what_was_missed_is_told
            a_batch_is_committed_whole_or_not_at_all
            counts_outlive_those_who_counted
        );
    };
    ($cluster:ty, $make:expr, $($rule:ident)*) => {
        $(
            #[test]
            fn $rule() {
                $crate::backplane::conformance::$rule::<$cluster>(&$make);
            }
        )*
    };
}
pub(super) use conformance;

pub(super) fn token(text: &str) -> Token {
    text.parse().expect("a token")
}

pub(super) fn increment(session: &str, by: u32, floor: u64) -> Increment {
    Increment { token: token(session), by, floor: Some(floor), began: true, outcome: Outcome::Failed }
}

/// The count that an increment has got.
pub(super) fn last(increment: &Increment) -> u64 {
    match increment.outcome {
        Outcome::Count(count) => count,
        outcome @ (Outcome::Failed | Outcome::Unknown) => panic!("{outcome:?} of {:?}", increment.token),
    }
}

/// An increment by nothing: a look that is a use.
fn touch(session: &str) -> Increment {
    Increment { floor: None, ..increment(session, 0, 0) }
}

pub(super) fn batch(increments: Vec<Increment>, publications: Vec<Publication>) -> Batch {
    let mut batch = Batch::default();
    batch.increments = increments;
    batch.publications = publications;
    batch
}

pub(super) fn publication(text: impl ToString) -> Publication {
    Publication { room: "room".into(), text: text.to_string() }
}

/// Counts `by` messages of a session; the last of their counts.
pub(super) fn count(backplane: &mut impl Instance, session: &str, by: u32) -> u64 {
    let mut batch = batch(vec![increment(session, by, 0)], vec![]);
    backplane.settle(&mut batch).expect("a commit");
    last(&batch.increments[0])
}

pub(super) fn load(backplane: &mut impl Instance, session: &str) -> u64 {
    backplane.peek(&[token(session)])[0]
}

pub(super) fn publish(backplane: &mut impl Instance, texts: impl IntoIterator<Item = impl ToString>) {
    let publications = texts.into_iter().map(publication).collect();
    backplane.settle(&mut batch(vec![], publications)).expect("a commit");
}

/// The texts that arrive until there are so many; none may have been missed.
pub(super) fn hear(backplane: &mut impl Instance, n: usize) -> Vec<String> {
    let end = Instant::now() + SOON;
    let mut texts = Vec::new();
    while texts.len() < n {
        let (publications, missed) = backplane.hear().expect("publications");
        assert_eq!(missed, 0);
        texts.extend(publications.into_iter().map(|publication| publication.text));
        assert!(Instant::now() < end, "{} of {n} have arrived", texts.len());
    }
    texts
}

pub(super) fn every_count_is_given_once<C: Cluster>(cluster: &C) {
    const WORKERS: u64 = 3;
    const COMMITS: u64 = 300;
    // 1, 2 or 3 messages at a time, of a session of all and of one's own.
    let work = |worker: u64| {
        let mut backplane = cluster.join();
        let own = format!("own-{worker}");
        let (mut counts, mut before) = (Vec::new(), 0);
        for commit in 0..COMMITS {
            let by = 1 + commit as u32 % 3;
            let increments = vec![increment("shared", by, before), increment(&own, 1, 0)];
            let mut batch = batch(increments, vec![]);
            backplane.settle(&mut batch).expect("a commit");
            let count = last(&batch.increments[0]);
            assert!(count >= before + u64::from(by), "a count went backward");
            counts.extend(count + 1 - u64::from(by)..=count);
            before = count;
            assert_eq!(last(&batch.increments[1]), commit + 1);
        }
        counts
    };
    let given: Vec<u64> = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    let distinct: BTreeSet<u64> = given.iter().copied().collect();
    assert_eq!((given.len() as u64, distinct.len() as u64), (WORKERS * COMMITS * 2, WORKERS * COMMITS * 2));
    assert_eq!((distinct.first(), distinct.last()), (Some(&1), Some(&(WORKERS * COMMITS * 2))));
}

pub(super) fn increments_of_one_batch_add_up<C: Cluster>(cluster: &C) {
    let mut backplane = cluster.join();
    count(&mut backplane, "a", 10);
    let increments = vec![
        increment("a", 2, 0),
        increment("b", 1, 0),
        increment("a", 3, 0),
        // One connection has seen more than the store knows: all that follows goes on from there.
        increment("a", 1, 50),
        increment("a", 1, 0),
    ];
    let mut batch = batch(increments, vec![]);
    backplane.settle(&mut batch).expect("a commit");
    assert_eq!(batch.increments.iter().map(last).collect::<Vec<_>>(), [12, 1, 15, 51, 52]);
    assert_eq!((load(&mut backplane, "a"), load(&mut backplane, "b")), (52, 1));
}

pub(super) fn a_count_never_falls_below_its_floor<C: Cluster>(cluster: &C) {
    let (mut one, mut other) = (cluster.join(), cluster.join());
    let mut count_from = |floor| {
        let mut batch = batch(vec![increment("a", 2, floor)], vec![]);
        one.settle(&mut batch).expect("a commit");
        last(&batch.increments[0])
    };
    assert_eq!(count_from(100), 102, "a store that was set back goes on where the client is");
    assert_eq!(count_from(7), 104, "a lower one means nothing");
    assert_eq!(count(&mut other, "a", 1), 105);
}

pub(super) fn counts_are_loaded_in_the_order_asked_for<C: Cluster>(cluster: &C) {
    let (mut one, mut other) = (cluster.join(), cluster.join());
    let uuid = "0123abcd-0000-4000-8000-0123456789ab";
    let longest = "x".repeat(crate::token::MAX_TOKEN);
    for (session, by) in [("b", 2), (uuid, 3), (&longest, 4), ("a", 1)] {
        count(&mut one, session, by);
    }
    let sessions: Vec<Token> = ["a", "unknown", uuid, "b", "a", &longest].map(token).to_vec();
    for backplane in [&mut one, &mut other] {
        assert_eq!(backplane.peek(&sessions), [1, 0, 3, 2, 1, 4]);
        assert_eq!(backplane.peek(&[]), Vec::<u64>::new());
    }
}

pub(super) fn sessions_live_as_long_as_they_are_touched<C: Cluster>(_: &C) {
    let cluster = C::with_ttl(3);
    let (mut one, mut other) = (cluster.join(), cluster.join());
    for session in ["touched", "loaded", "left"] {
        count(&mut one, session, 5);
    }
    let end = Instant::now() + SOON;
    while load(&mut other, "left") > 0 {
        let mut batch = batch(vec![touch("touched"), touch("nobody")], vec![]);
        one.settle(&mut batch).expect("a commit");
        assert!(Instant::now() < end, "a session outlives its time");
        thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(load(&mut other, "touched"), 5, "a touch changes no count");
    assert_eq!((load(&mut one, "nobody"), load(&mut one, "loaded")), (0, 0), "nor does it make one; to look is no use");
    assert_eq!(count(&mut one, "left", 1), 1, "what has expired begins anew");
}

pub(super) fn publications_reach_everyone_in_one_order<C: Cluster>(cluster: &C) {
    const EACH: usize = 400;
    let mut listener = cluster.join();
    // All are there before the first speaks.
    let begin = std::sync::Barrier::new(2);
    let speak = |name: &str| {
        let mut backplane = cluster.join();
        begin.wait();
        let mut heard = Vec::new();
        for n in 0..EACH / 2 {
            // Two in one batch, and some reading in between.
            publish(&mut backplane, [format!("{name}{:04}", 2 * n), format!("{name}{:04}", 2 * n + 1)]);
            heard.extend(hear(&mut backplane, 1));
        }
        let rest = 2 * EACH - heard.len();
        heard.extend(hear(&mut backplane, rest));
        heard
    };
    let (a, b) = thread::scope(|scope| {
        let (a, b) = (scope.spawn(|| speak("a")), scope.spawn(|| speak("b")));
        (a.join().expect("no panic"), b.join().expect("no panic"))
    });
    let all = hear(&mut listener, 2 * EACH);
    assert!(a == b && a == all, "everyone hears the same in the same order, the speaker too");
    for name in ["a", "b"] {
        let own: Vec<&String> = all.iter().filter(|text| text.starts_with(name)).collect();
        assert!(own.len() == EACH && own.is_sorted(), "each once, in the order in which they were published");
    }
    assert!(hear(&mut listener, 0).is_empty());
    assert_eq!(listener.hear().expect("publications"), (vec![], 0), "and then nothing");
}

pub(super) fn who_joins_later_hears_what_comes_later<C: Cluster>(cluster: &C) {
    let mut first = cluster.join();
    publish(&mut first, ["before"]);
    let mut second = cluster.join();
    let text = "ein Gruß {\"with\": \"quotes\"}\n\0 \u{1f3c3}".to_owned();
    publish(&mut first, [&text, ""]);
    assert_eq!(hear(&mut second, 2), [text.as_str(), ""]);
    assert_eq!(hear(&mut first, 3), ["before", &text, ""]);
}

pub(super) fn what_was_missed_is_told<C: Cluster>(cluster: &C) {
    let (mut speaker, mut laggard) = (cluster.join(), cluster.join());
    let all = cluster.too_many();
    let texts: Vec<usize> = (0..all).collect();
    texts.chunks(1000).for_each(|texts| publish(&mut speaker, texts));
    let (mut heard, mut missed, end) = (Vec::new(), 0, Instant::now() + SOON);
    while heard.last() != Some(&(all - 1)) {
        let (publications, gap) = laggard.hear().expect("publications");
        heard.extend(publications.into_iter().map(|p| p.text.parse::<usize>().expect("a number")));
        missed += gap;
        assert!(Instant::now() < end, "the last one does not arrive");
    }
    assert!(missed > 0 && missed as usize + heard.len() == all, "{missed} missed, {} heard of {all}", heard.len());
    assert!(heard.windows(2).all(|pair| pair[0] + 1 == pair[1]), "what is heard is whole");
}

pub(super) fn a_batch_is_committed_whole_or_not_at_all<C: Cluster>(cluster: &C) {
    let (mut one, mut other) = (cluster.join(), cluster.join());
    count(&mut one, "a", 3);
    let increments = vec![increment("a", 1, 0), increment("b", 1, 0)];
    let mut batch = batch(increments, vec![publication("never")]);
    cluster.spoil(&mut batch);
    one.settle(&mut batch).expect_err("it is spoiled");
    for backplane in [&mut one, &mut other] {
        assert_eq!((load(backplane, "a"), load(backplane, "b")), (3, 0));
    }
    // And the next one is as good as ever.
    assert_eq!(count(&mut one, "a", 1), 4);
    publish(&mut one, ["after"]);
    assert_eq!(hear(&mut other, 1), ["after"]);
    assert_eq!(hear(&mut one, 1), ["after"]);
}

pub(super) fn counts_outlive_those_who_counted<C: Cluster>(cluster: &C) {
    let mut backplane = cluster.join();
    assert_eq!(count(&mut backplane, "a", 2), 2);
    drop(backplane);
    let mut backplane = cluster.join();
    assert_eq!(load(&mut backplane, "a"), 2);
    assert_eq!(count(&mut backplane, "a", 1), 3);
}
