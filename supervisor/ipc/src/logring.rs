//! The last log lines of one process, in shared memory: `batonctl tail` reads them also after the process has died, and
//! while it hangs.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Bytes of log kept per side of a slot, and of the supervisor.
pub const RING_BYTES: usize = 64 * 1024;

/// What [`LogRing::read`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Whole lines, newline included.
    pub text: String,
    /// Where to read on.
    pub next: u64,
    /// Bytes asked for that were overwritten meanwhile.
    pub missed: u64,
}

/// A ring with one writing process and any number of readers. Positions are counted from the ring's beginning and never
/// wrap, so that a reader can tell how much it missed.
#[derive(Clone, Copy, Debug)]
pub struct LogRing<'a> {
    written: &'a AtomicU64,
    bytes: &'a [AtomicU8],
}

impl<'a> LogRing<'a> {
    pub(crate) fn new(written: &'a AtomicU64, bytes: &'a [AtomicU8]) -> LogRing<'a> {
        LogRing { written, bytes }
    }

    /// Adds one line, newline included. A line longer than the ring keeps its end.
    pub fn write(&self, line: &[u8]) {
        let start = self.written.load(Ordering::Relaxed);
        let skip = line.len().saturating_sub(self.bytes.len());
        for (i, byte) in line.iter().enumerate().skip(skip) {
            self.at(start + i as u64).store(*byte, Ordering::Relaxed);
        }
        self.written.store(start + line.len() as u64, Ordering::Release);
    }

    /// The lines from position `from` on, or from as far back as there is.
    pub fn read(&self, from: Option<u64>) -> Tail {
        let end = self.written.load(Ordering::Acquire);
        let oldest = end.saturating_sub(self.bytes.len() as u64);
        let wanted = from.unwrap_or(0).min(end);
        let start = wanted.max(oldest);
        let copy: Vec<u8> = (start..end).map(|at| self.at(at).load(Ordering::Relaxed)).collect();
        std::sync::atomic::fence(Ordering::Acquire);
        // What the writer overwrote while we copied is not text any more.
        let torn = self.written.load(Ordering::Relaxed).saturating_sub(self.bytes.len() as u64).saturating_sub(start);
        let copy = copy.get(torn as usize..).unwrap_or_default();
        // Begin after a newline unless we continue where an earlier read ended; end with one.
        let first = match from {
            Some(at) if at == start && torn == 0 => 0,
            None if start == 0 && torn == 0 => 0,
            _ => copy.iter().position(|b| *b == b'\n').map_or(copy.len(), |i| i + 1),
        };
        let last = copy.iter().rposition(|b| *b == b'\n').map_or(first, |i| i + 1).max(first);
        let begin = start + torn + first as u64;
        Tail {
            text: String::from_utf8_lossy(&copy[first..last]).into_owned(),
            next: begin + (last - first) as u64,
            missed: from.map_or(0, |_| begin - wanted),
        }
    }

    fn at(&self, position: u64) -> &AtomicU8 {
        &self.bytes[(position % self.bytes.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring<'a>(written: &'a AtomicU64, bytes: &'a [AtomicU8]) -> LogRing<'a> {
        LogRing::new(written, bytes)
    }

    fn memory(n: usize) -> Vec<AtomicU8> {
        (0..n).map(|_| AtomicU8::new(0)).collect()
    }

    #[test]
    fn lines_come_back_and_reading_goes_on_where_it_ended() {
        let (written, bytes) = (AtomicU64::new(0), memory(64));
        let ring = ring(&written, &bytes);
        ring.write(b"one\n");
        ring.write(b"two\n");
        let tail = ring.read(None);
        assert_eq!(tail, Tail { text: "one\ntwo\n".into(), next: 8, missed: 0 });
        ring.write(b"three\n");
        assert_eq!(ring.read(Some(tail.next)).text, "three\n");
        assert_eq!(ring.read(Some(14)), Tail { text: String::new(), next: 14, missed: 0 });
        assert_eq!(ring.read(Some(99)).next, 14);
    }

    #[test]
    fn old_lines_are_overwritten_whole_and_counted() {
        let (written, bytes) = (AtomicU64::new(0), memory(16));
        let ring = ring(&written, &bytes);
        for line in ["aaaa\n", "bbbb\n", "cccc\n", "dddd\n"] {
            ring.write(line.as_bytes());
        }
        let tail = ring.read(Some(0));
        assert_eq!(tail, Tail { text: "bbbb\ncccc\ndddd\n".into(), next: 20, missed: 5 });
        ring.write(b"a line that is longer than the ring\n");
        assert!(ring.read(Some(20)).text.is_empty());
    }
}
