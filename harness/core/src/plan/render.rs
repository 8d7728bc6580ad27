//! Mistakes as people read them: place, the line they are about, why, and what to do next.
//!
//! Any list of diagnostics over any bytes gives a readable text: spans outside the source, long lines, bytes that are
//! not UTF-8, and characters that would steer a terminal are all made harmless here. Machine output is the diagnostics
//! themselves, which serialize.

use std::fmt::Write;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::Diagnostic;

/// Characters kept of a long line before, inside and after the place.
const KEEP: (usize, usize, usize) = (60, 100, 40);

/// Renders diagnostics about `source`, read from `file`, and a last line that counts them. Empty for none.
pub fn render(diagnostics: &[Diagnostic], file: &str, source: &[u8], color: bool) -> String {
    if diagnostics.is_empty() {
        return String::new();
    }
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let renderer = renderer.decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(
            renderer
                .render(&[group(diagnostic, file, source)])
                .trim_end(),
        );
        out.push_str("\n\n");
    }
    let count = diagnostics.len();
    let noun = if count == 1 { "mistake" } else { "mistakes" };
    let file = visible(file);
    let _ = writeln!(out, "{count} {noun} in {file}; nothing was started");
    out
}

fn group<'a>(diagnostic: &Diagnostic, file: &str, source: &[u8]) -> Group<'a> {
    let line_number = diagnostic.at.line.clamp(1, 99_999_999);
    let line = Line::around(diagnostic, source);
    let label = if diagnostic.path.is_empty() {
        None
    } else {
        Some(visible(&diagnostic.path))
    };
    let snippet = Snippet::source(line.text)
        .line_start(line_number)
        .fold(false)
        .annotation(
            AnnotationKind::Primary
                .span(line.start..line.end)
                .label(label),
        );
    let title = Level::ERROR.primary_title(visible(&diagnostic.message));
    // The place is counted in the snippet, which is right only while the line's start is kept.
    let group = if line.cut {
        let origin = Origin::path(visible(file)).line(line_number);
        title
            .element(origin.char_column(diagnostic.at.column.max(1)))
            .element(snippet)
    } else {
        title.element(snippet.path(visible(file)))
    };
    match &diagnostic.hint {
        Some(hint) => group.element(Level::HELP.with_name("hint").message(visible(hint))),
        None => group,
    }
}

/// The line of a place, made harmless, and the place in it in bytes.
struct Line {
    text: String,
    start: usize,
    end: usize,
    /// Its start is left out.
    cut: bool,
}

impl Line {
    fn around(diagnostic: &Diagnostic, source: &[u8]) -> Self {
        let start = diagnostic.at.start.min(source.len());
        let first = source[..start]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let length = source[start..]
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(source.len() - start);
        let end = diagnostic.at.end.clamp(start, start + length);
        let before = visible(&String::from_utf8_lossy(&source[first..start]));
        let inside = visible(&String::from_utf8_lossy(&source[start..end]));
        let after = visible(&String::from_utf8_lossy(&source[end..start + length]));

        let cut = before.chars().count().saturating_sub(KEEP.0);
        let before: String = if cut > 0 {
            ['…'].into_iter().chain(before.chars().skip(cut)).collect()
        } else {
            before
        };
        let inside = head(&inside, KEEP.1);
        let after = head(&after, KEEP.2);
        let (start, end) = (before.len(), before.len() + inside.len());
        Self {
            text: before + &inside + &after,
            start,
            end,
            cut: cut > 0,
        }
    }
}

fn head(text: &str, keep: usize) -> String {
    if text.chars().nth(keep).is_none() {
        return text.to_owned();
    }
    text.chars().take(keep).chain(['…']).collect()
}

/// Text in which control characters and those that reorder or hide other text are seen, on one line.
fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            '\u{0}'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
            '\u{7f}' => '\u{2421}',
            c if c.is_control() || hides(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Bidirectional controls (Unicode TR 9), separators and invisible characters.
fn hides(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::super::SourceSpan;
    use super::*;
    use proptest::prelude::*;

    fn at(start: usize, end: usize, line: usize, column: usize) -> SourceSpan {
        SourceSpan {
            start,
            end,
            line,
            column,
        }
    }

    #[test]
    fn a_mistake_reads_well() {
        let source = "format: 1\nplan: x\ntimeline:\n  - { at: 5 bananas }\n";
        let start = source.find("5 b").unwrap();
        let wrong = Diagnostic::new(
            at(start, start + 9, 4, 11),
            "timeline[0].at",
            "`bananas` is not a unit",
        )
        .hint("units are epochs, layers");
        let expected = "\
error: `bananas` is not a unit
 --> plans/x.yaml:4:11
  |
4 |   - { at: 5 bananas }
  |           ^^^^^^^^^ timeline[0].at
  |
  = hint: units are epochs, layers

1 mistake in plans/x.yaml; nothing was started
";
        assert_eq!(
            render(&[wrong], "plans/x.yaml", source.as_bytes(), false),
            expected
        );
    }

    #[test]
    fn tabs_wide_characters_and_ends_keep_the_place() {
        let source = "\tönü: 漢字 x\u{1b}[31m";
        let start = source.find('漢').unwrap();
        let wrong = Diagnostic::new(at(start, start + 6, 1, 7), "", "wide");
        let expected = "\
error: wide
 --> p:1:7
  |
1 |  önü: 漢字 x␛[31m
  |       ^^^^

1 mistake in p; nothing was started
";
        assert_eq!(render(&[wrong], "p", source.as_bytes(), false), expected);
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let source = format!("{}key{}", "ä".repeat(500_000), "z".repeat(500));
        let wrong = Diagnostic::new(at(1_000_000, 1_000_003, 1, 500_001), "", "far out");
        let text = render(&[wrong], "p", source.as_bytes(), false);
        assert!(
            text.contains("p:1:500001") && text.contains("äkeyz"),
            "{text}"
        );
        assert!(text.chars().count() < 700, "{text}");
    }

    fn any_diagnostic() -> impl Strategy<Value = Diagnostic> {
        let number = prop_oneof![0_usize..200, Just(usize::MAX)];
        (
            number.clone(),
            number.clone(),
            number.clone(),
            number,
            "\\PC{0,8}|.{0,8}",
            ".{0,20}",
            proptest::option::of(".{0,20}"),
        )
            .prop_map(
                |(start, end, line, column, path, message, hint)| Diagnostic {
                    at: at(start, end, line, column),
                    path,
                    message,
                    hint,
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn anything_renders_to_harmless_text(
            source in proptest::collection::vec(any::<u8>(), 0..200),
            wrong in proptest::collection::vec(any_diagnostic(), 1..4),
            file in ".{0,10}",
        ) {
            let text = render(&wrong, &file, &source, false);
            prop_assert_eq!(text.matches("error").count() >= wrong.len(), true);
            for c in text.chars() {
                prop_assert!(c == '\n' || !(c.is_control() || hides(c)), "U+{:04X} came through", u32::from(c));
            }
        }
    }
}
