//! Stretches of time in which the host was in some way unfit: void time is taken out of every "did not advance within", and
//! where nodes were let wait for processors for too much of a time, what was due in it is doubtful.

/// Merged stretches kept; older ones are forgotten. No bound reaches back this far: it would take as many separate void
/// stretches between an advance and its bound.
const STRETCHES_MAX: usize = 4096;

/// Stretches so far.
#[derive(Debug, Clone, Default)]
pub struct Stretches {
    stretches: Vec<(u64, u64)>,
}

impl Stretches {
    /// Adds a stretch that begins no earlier than any before it.
    pub fn add(&mut self, from_ns: u64, to_ns: u64) {
        match self.stretches.last_mut() {
            Some(last) if last.1 >= from_ns => last.1 = last.1.max(to_ns),
            _ => {
                if self.stretches.len() == STRETCHES_MAX {
                    self.stretches.remove(0);
                }
                self.stretches.push((from_ns, to_ns));
            }
        }
    }

    /// Time from one instant to another outside of all stretches, in nanoseconds.
    pub fn elapsed(&self, from_ns: u64, to_ns: u64) -> u64 {
        let mut elapsed = to_ns.saturating_sub(from_ns);
        for (start, end) in self.stretches.iter().rev() {
            if *end <= from_ns {
                break;
            }
            let overlap = (*end).min(to_ns).saturating_sub((*start).max(from_ns));
            elapsed = elapsed.saturating_sub(overlap);
        }
        elapsed
    }

    /// Time from one instant to another in stretches, in nanoseconds.
    pub fn within(&self, from_ns: u64, to_ns: u64) -> u64 {
        to_ns.saturating_sub(from_ns) - self.elapsed(from_ns, to_ns)
    }

    /// The instant at which this much time outside of all stretches has passed since `from_ns`.
    pub fn later(&self, from_ns: u64, span_ns: u64) -> u64 {
        let mut at = from_ns.saturating_add(span_ns);
        for (start, end) in &self.stretches {
            if *end > from_ns && *start < at {
                at = at.saturating_add(end - (*start).max(from_ns));
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_taken_out() {
        let mut void = Stretches::default();
        void.add(100, 200);
        void.add(200, 250);
        void.add(400, 500);
        for (from, to, elapsed) in [
            (0, 90, 90),
            (0, 300, 150),
            (150, 260, 10),
            (120, 180, 0),
            (0, 600, 350),
            (600, 500, 0),
        ] {
            assert_eq!(void.elapsed(from, to), elapsed, "{from}..{to}");
            assert_eq!(void.within(from, to), to.saturating_sub(from) - elapsed);
        }
    }

    #[test]
    fn later_is_the_inverse_of_elapsed() {
        let mut void = Stretches::default();
        void.add(100, 250);
        void.add(400, 500);
        for from in [0, 50, 100, 180, 250, 399, 450, 700] {
            for span in [1, 10, 120, 300] {
                let at = void.later(from, span);
                assert_eq!(void.elapsed(from, at), span, "{span} after {from} is {at}");
                assert!(void.elapsed(from, at - 1) < span);
            }
        }
    }
}
