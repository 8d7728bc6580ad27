//! Roles as text, in exactly the form that a plan declares them in.
//!
//! Every value is written out, defaults and port numbers too. Periods of whole epochs are written in epochs, all others in
//! layers.

use std::fmt::Write;

use super::model::{Pull, Ready, Role, SettingKind, Source, StopSignal, Transport};
use crate::time::{Calendar, MICRO, Span};

/// One role, which was read under this calendar, as an entry of `roles:`, indented by two spaces.
pub fn render_role(role: &Role, calendar: &Calendar) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "    {text}");
    };
    if !role.command.is_empty() {
        let parts = role.command.iter().map(|part| quote(part));
        line(format!("command: {}", list(parts)));
    }
    if let Some(image) = &role.image {
        line(format!("image: {}", quote(&image.name)));
        let pull = match image.pull {
            Pull::Never => "false",
            Pull::Missing => "missing",
            Pull::Always => "true",
        };
        line(format!("pull: {pull}"));
    }
    line(format!(
        "settings: {}",
        map(role
            .settings
            .iter()
            .map(|(name, kind)| (name, setting(*kind).to_owned())))
    ));
    line(format!("speaks: {}", list(role.speaks.iter().cloned())));
    let ports = role.ports.iter().map(|(name, port)| {
        (
            name,
            format!(
                "{{ port: {}, transport: {} }}",
                port.number,
                transport(port.transport)
            ),
        )
    });
    line(format!("ports: {}", map(ports)));
    let within = wall(role.ready_within_ns);
    line(format!("ready: {}", ready(&role.ready, &within)));
    let signal = match role.stop.signal {
        StopSignal::Term => "TERM",
        StopSignal::Int => "INT",
    };
    line(format!(
        "stop: {{ signal: {signal}, grace: {} }}",
        wall(role.stop.grace_ns)
    ));
    line(format!(
        "expect-exit: {}",
        list(role.expect_exit.iter().map(ToString::to_string))
    ));
    let signals = role.signals.iter().map(|(name, signal)| {
        let any_only = if signal.any_only {
            ", any-only: true"
        } else {
            ""
        };
        (
            name,
            format!(
                "{{ {}, period: {}{any_only} }}",
                source(&signal.source),
                period(signal.period, calendar)
            ),
        )
    });
    line(format!("signals: {}", map(signals)));
    line(format!("events: {}", list(role.events.iter().cloned())));
    if let Some(panics) = &role.panics {
        line(format!("panics: {}", list(panics.iter().cloned())));
    }
    line(format!(
        "env: {}",
        map(role.env.iter().map(|(name, value)| (name, quote(value))))
    ));
    if let Some(bytes) = role.round_bytes {
        line(format!("round-bytes: {}", size(bytes)));
    }
    format!("  {}:\n{out}", role.name)
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn map<'a>(entries: impl Iterator<Item = (&'a String, String)>) -> String {
    let entries: Vec<String> = entries
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    if entries.is_empty() {
        "{}".to_owned()
    } else {
        format!("{{ {} }}", entries.join(", "))
    }
}

/// A double-quoted scalar: JSON strings are such.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn setting(kind: SettingKind) -> &'static str {
    match kind {
        SettingKind::Count => "count",
        SettingKind::Duration => "duration",
        SettingKind::Size => "size",
        SettingKind::Text => "text",
        SettingKind::Flag => "flag",
    }
}

fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::UdpTcp => "udp+tcp",
    }
}

fn ready(ready: &Ready, within: &str) -> String {
    let check = match ready {
        Ready::Http { url, status } => format!("http: {}, status: {status}", quote(url)),
        Ready::Tcp(address) => format!("tcp: {}", quote(address)),
        Ready::Log(pattern) => format!("log: {}", quote(pattern)),
        Ready::Exec(command) => {
            format!("exec: {}", list(command.iter().map(|part| quote(part))))
        }
    };
    format!("{{ {check}, within: {within} }}")
}

fn source(source: &Source) -> String {
    match source {
        Source::Json { url, pointer } => format!("json: {}, from: {}", quote(pointer), quote(url)),
        Source::Metric { url, name } => format!("metric: {}, from: {}", quote(name), quote(url)),
        Source::Log { event, value } => format!("log: {}, value: {}", quote(event), quote(value)),
    }
}

/// The largest unit that gives a whole number, which is how people write sizes.
pub(crate) fn size(bytes: u64) -> String {
    for (unit, each) in [
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("KB", 1_000),
    ] {
        if bytes > 0 && bytes.is_multiple_of(each) {
            return format!("{}{unit}", bytes / each);
        }
    }
    format!("{bytes}B")
}

/// The largest unit that gives a whole number.
fn wall(ns: u64) -> String {
    for (unit, each) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
        if ns.is_multiple_of(each) {
            return format!("{}{unit}", ns / each);
        }
    }
    format!("{ns}ns")
}

/// Exact, unlike the display of spans, which rounds for people.
fn period(span: Span, calendar: &Calendar) -> String {
    let epoch = calendar.epoch().0;
    if span.0 > 0 && span.0 % epoch == 0 {
        let epochs = span.0 / epoch;
        return format!("{epochs} {}", if epochs == 1 { "epoch" } else { "epochs" });
    }
    let text = format!("{}.{:06}", span.0 / MICRO, span.0 % MICRO);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text} {}", if text == "1" { "layer" } else { "layers" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_people_write_them() {
        for text in [
            "32MB", "32MiB", "64KiB", "592KiB", "1GB", "1GiB", "5KB", "1501B", "0B",
        ] {
            let bytes = super::super::units::size(text).map(size);
            assert_eq!(bytes, Ok(text.to_owned()));
        }
    }
}
