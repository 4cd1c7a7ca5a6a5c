//! Decides which of several generations serves, and with which exit code the service ends. Pure.

/// What a generation says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pid: u32,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Waits,
    Serves,
    /// Another generation has got everything.
    Retired,
    Ends(u8),
}

impl News {
    /// Reads a line such as `17 serves`; none for what this version does not know.
    pub(crate) fn read(line: &str) -> Option<News> {
        let mut words = line.split_ascii_whitespace();
        let pid = words.next()?.parse().ok().filter(|pid| (1..=i32::MAX as u32).contains(pid))?;
        let what = match words.next()? {
            "waits" => What::Waits,
            "serves" => What::Serves,
            "retired" => What::Retired,
            "ends" => What::Ends(words.next()?.parse().ok()?),
            _ => return None,
        };
        Some(News { pid, what })
    }
}

/// The generations that there are. The last one is that which serves, or has served last.
#[derive(Debug)]
pub(crate) struct Family {
    members: Vec<Member>,
    /// The exit code when there is none of them.
    otherwise: u8,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    pid: u32,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lives,
    /// It says that it ends with this code.
    Ends(u8),
    /// It has ended.
    Gone(u8),
}

/// The exit code of a generation that has ended where its parent could not see how.
const UNKNOWN: u8 = 1;

impl Family {
    /// Begins with the supervisor that was forked.
    pub(crate) fn new(first: u32) -> Family {
        Family { members: vec![Member { pid: first, fate: Fate::Lives }], otherwise: UNKNOWN }
    }

    /// Notes what a generation says.
    pub(crate) fn hear(&mut self, News { pid, what }: News) {
        let at = self.members.iter().position(|member| member.pid == pid);
        match what {
            What::Waits if at.is_none() => self.members.insert(0, Member { pid, fate: Fate::Lives }),
            What::Waits => {}
            What::Serves => {
                self.members.retain(|member| member.pid != pid);
                self.members.push(Member { pid, fate: Fate::Lives });
            }
            What::Retired => {
                self.members.retain(|member| member.pid != pid);
                self.otherwise = 0;
            }
            What::Ends(code) => self.end(at, Fate::Ends(code)),
        }
        self.forget();
    }

    /// Notes the end of a process, which may be any orphan.
    pub(crate) fn reaped(&mut self, pid: u32, code: u8) {
        let at = self.members.iter().position(|member| member.pid == pid);
        self.end(at, Fate::Gone(code));
        self.forget();
    }

    fn end(&mut self, at: Option<usize>, fate: Fate) {
        if let Some(member) = at.and_then(|at| self.members.get_mut(at)) {
            member.fate = fate;
        }
    }

    /// Only the last one's end is of interest, once it is over.
    fn forget(&mut self) {
        let last = self.members.len().saturating_sub(1);
        let mut at = 0;
        self.members.retain(|member| {
            at += 1;
            at > last || !matches!(member.fate, Fate::Gone(_))
        });
    }

    /// The generation that serves.
    pub(crate) fn main(&self) -> Option<u32> {
        self.members.last().filter(|member| !matches!(member.fate, Fate::Gone(_))).map(|member| member.pid)
    }

    /// All that may be there.
    pub(crate) fn living(&self) -> impl Iterator<Item = u32> {
        self.members.iter().filter(|member| !matches!(member.fate, Fate::Gone(_))).map(|member| member.pid)
    }

    /// The exit code of the service, when all is over.
    pub(crate) fn code(&self) -> u8 {
        self.members.last().map_or(self.otherwise, |member| match member.fate {
            Fate::Lives => UNKNOWN,
            Fate::Ends(code) | Fate::Gone(code) => code,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(lines: &[&str]) -> Family {
        let mut family = Family::new(10);
        lines.iter().for_each(|line| family.hear(News::read(line).unwrap()));
        family
    }

    #[test]
    fn what_is_said_is_read_and_all_else_ignored() {
        assert_eq!(News::read("17 serves\n"), Some(News { pid: 17, what: What::Serves }));
        assert_eq!(News::read("17 ends 3\n"), Some(News { pid: 17, what: What::Ends(3) }));
        for other in
            ["", "17", "17 dances", "serves", "-1 serves", "0 serves", "17 ends", "17 ends 256", "99999999999 waits"]
        {
            assert_eq!(News::read(other), None, "{other}");
        }
    }

    #[test]
    fn one_generation_alone_decides() {
        let mut family = Family::new(10);
        assert_eq!((family.main(), family.code()), (Some(10), UNKNOWN));
        family.reaped(99, 7);
        family.reaped(10, 137);
        assert_eq!((family.main(), family.code(), family.living().count()), (None, 137, 0));
    }

    #[test]
    fn the_last_that_serves_decides_whatever_became_of_others() {
        let mut family = family(&["10 serves", "20 waits"]);
        assert_eq!((family.main(), family.living().collect::<Vec<_>>()), (Some(10), vec![20, 10]));
        family.hear(News::read("10 waits").unwrap());
        family.hear(News::read("20 serves").unwrap());
        family.hear(News::read("10 retired").unwrap());
        family.reaped(10, 0);
        assert_eq!((family.main(), family.living().collect::<Vec<_>>()), (Some(20), vec![20]));
        // One that came to nothing.
        family.hear(News::read("30 waits").unwrap());
        family.reaped(30, 1);
        family.reaped(20, 3);
        assert_eq!(family.code(), 3);
    }

    #[test]
    fn a_successor_that_dies_before_it_has_said_that_it_serves_is_the_last() {
        let mut family = family(&["20 waits", "10 retired"]);
        family.reaped(10, 0);
        family.reaped(20, 137);
        assert_eq!(family.code(), 137);
    }

    #[test]
    fn a_service_that_went_on_under_another_parent_has_ended_well() {
        let mut family = family(&["10 retired"]);
        family.reaped(10, 0);
        assert_eq!(family.code(), 0);
    }

    #[test]
    fn one_that_is_nobodys_child_is_believed() {
        assert_eq!(family(&["20 serves", "10 retired", "20 ends 0"]).code(), 0);
        assert_eq!(family(&["20 serves", "10 retired"]).code(), UNKNOWN);
    }

    #[test]
    fn a_standby_that_serves_after_the_death_of_the_other_is_the_one_that_counts() {
        let mut family = family(&["10 serves", "20 waits"]);
        family.reaped(10, 137);
        family.hear(News::read("20 serves").unwrap());
        assert_eq!((family.main(), family.living().count()), (Some(20), 1));
        family.reaped(20, 0);
        assert_eq!(family.code(), 0);
    }
}
