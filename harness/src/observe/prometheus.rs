//! A parser for the Prometheus text format, as far as polling single values needs it.
//!
//! Reads version 0.0.4 and what `OpenMetrics` adds to sample lines (exemplars, which are ignored).
//! Lines that cannot be read are counted, never an error: one bad line of a foreign node must not
//! hide the others. Comments, types and time stamps are skipped.
//!
//! Format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

/// One sample line.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricSample {
    /// Name of the metric.
    pub name: String,
    /// Labels in the order of the text, unescaped.
    pub labels: Vec<(String, String)>,
    /// The value; may be infinite or not a number.
    pub value: f64,
}

/// All samples of one page.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    /// In the order of the text.
    pub samples: Vec<MetricSample>,
    /// Lines that could not be read.
    pub unreadable: usize,
}

impl Metrics {
    /// Parses a page.
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_sample(line) {
                Some(sample) => metrics.samples.push(sample),
                None => metrics.unreadable += 1,
            }
        }
        metrics
    }

    /// The sum of `name` over all label sets that contain every label of `labels`; `None` if
    /// there is no such sample. A name without labels is summed over all of them.
    pub fn sum(&self, name: &str, labels: &[(String, String)]) -> Option<f64> {
        let mut matching = self
            .samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| labels.iter().all(|label| sample.labels.contains(label)))
            .map(|sample| sample.value)
            .peekable();
        matching.peek()?;
        // Summed from zero and not by `Sum`, which starts at -0.0.
        Some(matching.fold(0.0, |sum, value| sum + value))
    }
}

/// A metric as a role names it: `name` or `name{label="value",…}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricName {
    /// Name of the metric.
    pub name: String,
    /// Labels that a sample must have; it may have others.
    pub labels: Vec<(String, String)>,
}

impl MetricName {
    /// Parses the selector; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, labels, rest) = parse_series(text.trim())?;
        rest.trim().is_empty().then(|| Self {
            name: name.to_owned(),
            labels,
        })
    }
}

fn parse_sample(line: &str) -> Option<MetricSample> {
    let (name, labels, rest) = parse_series(line)?;
    let value = parse_value(rest.split_ascii_whitespace().next()?)?;
    Some(MetricSample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// Name, labels, and what follows them.
type Series<'a> = (&'a str, Vec<(String, String)>, &'a str);

fn parse_series(text: &str) -> Option<Series<'_>> {
    let (name, rest) = take_name(text, true)?;
    let rest = rest.trim_start();
    let Some(mut rest) = rest.strip_prefix('{') else {
        return Some((name, Vec::new(), rest));
    };
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return Some((name, labels, after));
        }
        let (label, after) = take_name(rest, false)?;
        let quoted = after
            .trim_start()
            .strip_prefix('=')?
            .trim_start()
            .strip_prefix('"')?;
        let (value, after) = take_quoted(quoted)?;
        labels.push((label.to_owned(), value));
        rest = after.trim_start();
        // A comma may also follow the last label.
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.starts_with('}') => {}
            None => return None,
        }
    }
}

/// A name: letters, digits and underscores, for metrics also colons; no digit at the start.
fn take_name(text: &str, colons: bool) -> Option<(&str, &str)> {
    let belongs = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    let end = text.find(|c: char| !belongs(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    name.starts_with(|c: char| !c.is_ascii_digit())
        .then_some((name, rest))
}

/// A label's value up to its closing quote, unescaped, and what follows the quote.
fn take_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('\\' | '"') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}

/// A Go float; `+Inf`, `-Inf` and `NaN` are values too.
fn parse_value(text: &str) -> Option<f64> {
    // Rust's parser knows the same spellings, and "infinity" besides.
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: &str = "\
# HELP mempool_txs Transactions known.
# TYPE mempool_txs counter
mempool_txs_total 42
sessions{state=\"open\"} 3
sessions{state=\"shut\",why=\"a \\\"b\\\" \\\\ \\n\",} 4 1395066363000

datagrams:rejected{ reason = \"garbage\" }  1e3 # {trace_id=\"x\"} 1
up +Inf
odd NaN
# EOF
";

    fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_page_is_read() {
        let metrics = Metrics::parse(PAGE);
        assert_eq!(metrics.unreadable, 0);
        let sum = |name: &str, pairs: &[(&str, &str)]| metrics.sum(name, &labels(pairs));
        assert_eq!(sum("mempool_txs_total", &[]), Some(42.0));
        assert_eq!(sum("sessions", &[]), Some(7.0));
        assert_eq!(sum("sessions", &[("state", "shut")]), Some(4.0));
        assert_eq!(sum("sessions", &[("why", "a \"b\" \\ \n")]), Some(4.0));
        assert_eq!(sum("sessions", &[("state", "gone")]), None);
        assert_eq!(
            sum("datagrams:rejected", &[("reason", "garbage")]),
            Some(1000.0)
        );
        assert_eq!(sum("up", &[]), Some(f64::INFINITY));
        assert!(sum("odd", &[]).unwrap().is_nan());
        assert_eq!(sum("mempool_txs", &[]), None);
    }

    #[test]
    fn bad_lines_are_counted_and_hide_nothing() {
        for bad in [
            "1abc 2",
            "name",
            "name x",
            "name{",
            "name{a} 1",
            "name{a=1} 1",
            "name{a=\"b} 1",
            "name{a=\"b\" c=\"d\"} 1",
            "name{a=\"b\"}",
            "{a=\"b\"} 1",
            "näme 1",
            "<html>",
        ] {
            let metrics = Metrics::parse(&format!("good 1\n{bad}\ngood 2\n"));
            assert_eq!(
                (metrics.unreadable, metrics.sum("good", &[])),
                (1, Some(3.0)),
                "{bad}"
            );
        }
    }

    #[test]
    fn selectors_are_read() {
        let parse = |text| MetricName::parse(text).map(|name| (name.name, name.labels));
        assert_eq!(parse("a_total"), Some(("a_total".to_owned(), vec![])));
        assert_eq!(
            parse(" a{b=\"c\"} "),
            Some(("a".to_owned(), labels(&[("b", "c")])))
        );
        for bad in ["", "a b", "a{b=\"c\"} 1", "a{", "7"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    /// Writes a sample as the format wants it.
    fn render(sample: &MetricSample) -> String {
        let escape = |text: &str| {
            text.replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n")
        };
        let labels: Vec<_> = sample
            .labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
            .collect();
        format!("{}{{{}}} {}\n", sample.name, labels.join(","), sample.value)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_text_makes_it_panic(text in "[a-c0-2_:{}=\",\\\\ \n#\\PC]{0,120}") {
            let _ = Metrics::parse(&text);
            let _ = MetricName::parse(&text);
        }

        #[test]
        fn what_is_written_is_read_again(
            name in "[a-z_:][a-z0-9_:]{0,8}",
            labels in prop::collection::vec(("[a-z_][a-z0-9_]{0,5}", "[^\r]{0,12}"), 0..4),
            value in -1e9..1e9f64,
        ) {
            // A carriage return inside a value ends no line in the format, but `str::lines` drops
            // one before a newline, which is escaped here anyway.
            let sample = MetricSample { name, labels, value };
            let metrics = Metrics::parse(&render(&sample));
            prop_assert_eq!(metrics.samples, vec![sample]);
        }
    }
}
