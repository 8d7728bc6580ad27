//! Placeholders of commands, addresses and URLs: `{name}`, `{p2p.addr}`, `{addr of ROLE}`, `{PORT.addr of ROLE}`.
//!
//! One rule for checking and expanding: a brace opens a placeholder when only letters, digits, `.`, `-`, `_` and spaces
//! stand between it and its closing brace; every other brace is text. To add one: a line in [`PLAIN`] and its value
//! where substrates expand them.

/// Placeholders that take nothing from the role, and what they stand for.
pub const PLAIN: &[(&str, &str)] = &[
    (
        "release.bin",
        "the executable of the release under test, as the first word of `command`",
    ),
    ("release.name", "the name of the release under test"),
    ("name", "the node's name, as `gateway-0`"),
    ("role", "the node's role"),
    (
        "network",
        "the path of the node's network file: every node, protocol time, the node's secret",
    ),
    ("data", "the path of the node's data directory"),
    (
        "settings",
        "the node's settings as arguments; stands alone as an argument",
    ),
    ("addr", "the node's address, without a port"),
];

/// Placeholders with a name of the plan's own in capitals, and what they stand for.
pub const NAMED: &[(&str, &str)] = &[
    (
        "PORT.addr",
        "address and number of this port, as `p2p.addr`",
    ),
    ("PORT.port", "the number of this port"),
    (
        "addr of ROLE",
        "the addresses of all nodes of a role, with commas",
    ),
    (
        "PORT.addr of ROLE",
        "address and number of this port of all nodes of a role, with commas",
    ),
];

/// Every placeholder as a plan spells it, and what it stands for.
pub fn meanings() -> impl Iterator<Item = (String, &'static str)> {
    let all = PLAIN.iter().chain(NAMED);
    all.map(|(name, meaning)| (format!("{{{name}}}"), *meaning))
}

/// A part of a text with placeholders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'t> {
    /// Stands for itself.
    Text(&'t str),
    /// The inside of a pair of braces.
    Placeholder(&'t str),
}

/// Splits a text; the pieces with their braces give it back.
pub fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut plain_from = 0;
    let mut at = 0;
    while let Some(open) = text[at..].find('{').map(|found| at + found) {
        let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ' ');
        let length = text[open + 1..]
            .find(|c| !inside(c))
            .unwrap_or(text.len() - open - 1);
        let close = open + 1 + length;
        at = open + 1;
        if length > 0 && text[close..].starts_with('}') {
            if plain_from < open {
                pieces.push(Piece::Text(&text[plain_from..open]));
            }
            pieces.push(Piece::Placeholder(&text[open + 1..close]));
            plain_from = close + 1;
            at = close + 1;
        }
    }
    if plain_from < text.len() {
        pieces.push(Piece::Text(&text[plain_from..]));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn braces_that_hold_no_name_are_text() {
        use Piece::{Placeholder, Text};
        assert_eq!(
            pieces("http://{api.addr}/v1"),
            [Text("http://"), Placeholder("api.addr"), Text("/v1")]
        );
        assert_eq!(pieces("{addr of poet}"), [Placeholder("addr of poet")]);
        assert_eq!(pieces(r#"{"a":1}"#), [Text(r#"{"a":1}"#)]);
        assert_eq!(
            pieces("{{name}}"),
            [Text("{"), Placeholder("name"), Text("}")]
        );
        assert_eq!(pieces("{}"), [Text("{}")]);
        assert_eq!(pieces("{a"), [Text("{a")]);
        assert_eq!(pieces(""), []);
    }

    proptest! {
        #[test]
        fn pieces_give_the_text_back(text in "[{}a. ü]{0,20}") {
            let whole: String = pieces(&text)
                .iter()
                .map(|piece| match piece {
                    Piece::Text(text) => (*text).to_owned(),
                    Piece::Placeholder(name) => format!("{{{name}}}"),
                })
                .collect();
            prop_assert_eq!(whole, text);
        }
    }
}
