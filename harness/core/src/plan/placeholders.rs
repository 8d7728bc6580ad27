//! Placeholders of commands, addresses and URLs: `{name}`, `{p2p.addr}`, `{addr of ROLE}`, `{PORT.addr of ROLE}`.
//!
//! One rule for checking and expanding: a brace opens a placeholder when only letters, digits, `.`, `-`, `_` and spaces
//! stand between it and its closing brace; every other brace is text. To add one: a line in [`PLAIN`] and its value
//! where substrates expand them.

/// Placeholders that take nothing from the role.
pub const PLAIN: &[&str] = &[
    "release.bin",
    "release.name",
    "name",
    "role",
    "network",
    "data",
    "settings",
    "addr",
];

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
