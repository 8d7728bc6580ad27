//! Making text from nodes harmless where it is shown.

use std::fmt::Write as _;

/// One line that can be shown on a terminal or in a CI log: control characters (line feeds included), characters that
/// turn the reading direction or take no room, and what XML cannot carry become visible; what CI systems read as
/// commands (`::error::`, `##[error]`, `##vso[`, `##teamcity[`) is broken up.
pub fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if deceives(c) => {
                // Writing to a string cannot fail.
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    let shown = break_hashes(&shown);
    match shown.trim_start().strip_prefix("::") {
        Some(rest) => format!(": :{rest}"),
        None => shown,
    }
}

/// Several lines, each made harmless.
pub fn lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(line).collect();
    lines.join("\n")
}

/// Runs of hashes begin commands wherever they stand in a line.
fn break_hashes(text: &str) -> String {
    let mut broken = String::with_capacity(text.len());
    let mut last = ' ';
    for c in text.chars() {
        if c == '#' && last == '#' {
            broken.push(' ');
        }
        broken.push(c);
        last = c;
    }
    broken
}

/// Whether a character is not what it looks like, or looks like nothing.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{fffe}'
                | '\u{ffff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_text_is_shown_for_what_it_is() {
        for (text, shown) in [
            ("plain a::b text", "plain a::b text"),
            ("\u{1b}[31mred\u{1b}[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("a\r\nb\tc", "a\\r\\nb\\tc"),
            ("::error::x", ": :error::x"),
            ("  ::set-output name=a::b", ": :set-output name=a::b"),
            ("x ##[error]y", "x # #[error]y"),
            ("####", "# # # #"),
            ("abc\u{202e}fed", "abc\\u{202e}fed"),
            ("\u{ffff}", "\\u{ffff}"),
            ("\u{9b}31m", "\\u{9b}31m"),
        ] {
            assert_eq!(line(text), shown);
        }
    }

    proptest! {
        #[test]
        fn nothing_slips_through(text in "\\PC*|(::|##|\\[|\u{1b}|\n|a| )*|.*") {
            let shown = lines(&text);
            prop_assert!(!shown.chars().any(|c| deceives(c) && c != '\n'));
            prop_assert!(!shown.contains("##"));
            prop_assert!(!shown.lines().any(|line| line.trim_start().starts_with("::")));
        }
    }
}
