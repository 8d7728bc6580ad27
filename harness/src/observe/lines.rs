//! Cuts a stream of bytes into lines, with a bound on memory. Pure: no descriptor, no clock.

/// One line, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// More bytes than allowed; they are gone.
    TooLong,
}

/// Cuts chunks into lines; holds at most one unfinished line.
#[derive(Debug)]
pub(crate) struct LineSplitter {
    partial: Vec<u8>,
    longest: usize,
    /// Bytes are skipped until the next newline: the rest of a line that is already given up.
    skipping: bool,
}

impl LineSplitter {
    pub(crate) fn new(longest: usize) -> Self {
        Self {
            partial: Vec::new(),
            longest,
            skipping: false,
        }
    }

    /// Takes the next chunk and hands out every line that it completes.
    pub(crate) fn feed(&mut self, mut chunk: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            self.line(&chunk[..end], &mut each);
            chunk = &chunk[end + 1..];
        }
        if self.skipping {
            return;
        }
        if self.partial.len() + chunk.len() > self.longest {
            self.give_up();
            each(Line::TooLong);
        } else {
            self.partial.extend_from_slice(chunk);
        }
    }

    /// A newline was reached; `rest` is what this chunk adds to the line.
    fn line(&mut self, rest: &[u8], each: &mut impl FnMut(Line<'_>)) {
        if self.skipping {
            self.skipping = false;
        } else if self.partial.len() + rest.len() > self.longest {
            self.partial.clear();
            each(Line::TooLong);
        } else if self.partial.is_empty() {
            each(Line::Whole(rest));
        } else {
            self.partial.extend_from_slice(rest);
            each(Line::Whole(&self.partial));
            self.partial.clear();
        }
    }

    /// Bytes of the stream were lost: the line they were in is given up, and so is what follows
    /// up to the next newline.
    pub(crate) fn give_up(&mut self) {
        self.partial = Vec::new();
        self.skipping = true;
    }

    /// The stream ended; an unfinished line counts as one.
    pub(crate) fn finish(&mut self, each: impl FnOnce(Line<'_>)) {
        if !self.partial.is_empty() {
            each(Line::Whole(&self.partial));
        }
        self.partial = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines of a stream that is fed in the given chunks; `None` is one that was too long.
    fn split<'a>(chunks: impl Iterator<Item = &'a [u8]>, longest: usize) -> Vec<Option<Vec<u8>>> {
        let mut lines = Vec::new();
        let mut splitter = LineSplitter::new(longest);
        let mut take = |line: Line<'_>| {
            lines.push(match line {
                Line::Whole(bytes) => Some(bytes.to_vec()),
                Line::TooLong => None,
            });
        };
        for chunk in chunks {
            splitter.feed(chunk, &mut take);
            assert!(splitter.partial.len() <= longest);
        }
        splitter.finish(&mut take);
        lines
    }

    #[test]
    fn lines_are_cut() {
        let some = |text: &str| Some(text.as_bytes().to_vec());
        for (text, want) in [
            ("", vec![]),
            ("a", vec![some("a")]),
            ("a\n", vec![some("a")]),
            ("a\n\nb", vec![some("a"), some(""), some("b")]),
            ("12345\n123456\n1", vec![some("12345"), None, some("1")]),
            ("1234567890", vec![None]),
        ] {
            assert_eq!(split(std::iter::once(text.as_bytes()), 5), want, "{text:?}");
        }
    }

    #[test]
    fn after_a_loss_the_next_whole_line_is_found() {
        let mut splitter = LineSplitter::new(100);
        let mut lines = Vec::new();
        let mut take = |line: Line<'_>| lines.push(format!("{line:?}"));
        splitter.feed(b"lost ha", &mut take);
        splitter.give_up();
        splitter.feed(b"lf\nwhole\n", &mut take);
        assert_eq!(lines, [format!("{:?}", Line::Whole(b"whole"))]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn chunks_do_not_matter(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            size in 1..50usize,
            longest in 1..40usize,
        ) {
            let whole: Vec<_> = bytes
                .strip_suffix(b"\n")
                .unwrap_or(&bytes)
                .split(|byte| *byte == b'\n')
                .map(|line| (line.len() <= longest).then(|| line.to_vec()))
                .collect();
            let want = if bytes.is_empty() { vec![] } else { whole };
            prop_assert_eq!(split(bytes.chunks(size), longest), want);
        }
    }
}
