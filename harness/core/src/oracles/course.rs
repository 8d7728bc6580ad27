//! How far a signal has come within one life of a node: which of its values are advances.
//!
//! A value that says a height (a number, or a text `HEIGHT:VALUE`) is compared with the furthest height of this life, any
//! other text with the text before it, and never one with the other: a node that is stuck at 10 and sometimes says
//! `unknown` goes nowhere. Where heights are the rule, a text without one is no value at all, since errors that change
//! would look like progress.

use crate::history::SignalValue;

/// What a value is to the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// It is further.
    Further,
    /// It is a value, and no further.
    Stays,
    /// It is a text where heights are the rule, so nothing was read.
    Unread,
}

/// What was read in one life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Course {
    furthest: Option<u64>,
    text: Option<String>,
    heights: u64,
    texts: u64,
    /// Heights are the rule from here on.
    counts: bool,
}

impl Course {
    /// Takes a value in.
    pub(super) fn take(&mut self, value: &SignalValue) -> Move {
        let further = match height(value) {
            Some(new) => {
                self.heights += 1;
                // A hash may have nothing but digits by chance, so one height is no rule, nor are a few among many texts.
                self.counts |= self.heights >= 2 && self.heights > self.texts;
                let further = self.furthest.is_some_and(|old| new > old);
                self.furthest = self.furthest.max(Some(new));
                further
            }
            None if self.counts => return Move::Unread,
            None => {
                self.texts += 1;
                let SignalValue::Text(new) = value else {
                    return Move::Stays;
                };
                let further = self.text.as_ref().is_some_and(|old| old != new);
                self.text = Some(new.clone());
                further
            }
        };
        if further { Move::Further } else { Move::Stays }
    }
}

/// The height a value stands for, if it says one.
pub(super) fn height(value: &SignalValue) -> Option<u64> {
    match value {
        SignalValue::Number(number) => Some(*number),
        SignalValue::Text(text) => text.split_once(':')?.0.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The moves of values as a page has them: digits alone are a number.
    fn moves(values: &[&str]) -> String {
        let mut course = Course::default();
        let moves = values.iter().map(|value| {
            let value = match value.parse() {
                Ok(number) => SignalValue::Number(number),
                Err(_) => SignalValue::Text((*value).to_owned()),
            };
            match course.take(&value) {
                Move::Further => '+',
                Move::Stays => '.',
                Move::Unread => '?',
            }
        });
        moves.collect()
    }

    #[test]
    fn heights_and_texts_are_compared_with_their_like() {
        for (values, expected) in [
            (&["10", "11", "11", "13"] as &[&str], ".+.+"),
            (&["10", "9", "10", "9"], "...."),
            (&["5:aa", "5:bb", "6:bb", "6:aa"], "..+."),
            (&["aa", "ab", "ab", "aa"], ".+.+"),
            // Stuck, and sometimes a word.
            (&["10", "unknown", "10", "unknown", "10"], "...?."),
            (&["unknown", "10", "unknown", "10"], "...."),
            // A word while it starts, and none afterwards.
            (&["none", "none", "1:a", "2:b", "3:c", "none"], "...++?"),
            // Errors that change are no progress.
            (&["10", "11", "error 1", "error 2", "11", "12"], ".+??.+"),
            // A short hash that has only digits by chance is one text missed.
            (&["12345678", "ab", "cd", "87654321", "ef"], "..+++"),
        ] {
            assert_eq!(moves(values), expected, "{values:?}");
        }
    }
}
