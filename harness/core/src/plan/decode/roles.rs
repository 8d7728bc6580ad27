//! `roles:`: how nodes are started, watched and stopped. Bundled roles come through the same code.

use std::collections::{BTreeMap, BTreeSet};

use super::super::keys::{self, READY, ROLE, SIGNAL, STOP};
use super::super::model::{Port, Ready, Role, SettingKind, Signal, Source, Stop, StopSignal};
use super::super::placeholders::{PLAIN, Piece, pieces};
use super::super::raw::{self, shorten};
use super::super::reader::{Field, Fields, Reader};
use super::image::image;
use super::ports::ports;
use super::{Catalogue, at_key};
use crate::findings;
use crate::time::Calendar;

/// Every role, with the names of all that are declared, soundly or not.
pub(super) fn all(
    reader: &mut Reader,
    field: Option<Field<'_>>,
    catalogue: &Catalogue,
    calendar: &Calendar,
) -> Option<(BTreeMap<String, Role>, BTreeSet<String>)> {
    let mut roles = match bundled(catalogue, calendar) {
        Ok(roles) => roles,
        Err(why) => {
            let at = super::SourceSpan {
                start: 0,
                end: 0,
                line: 1,
                column: 1,
            };
            reader.wrong(
                at,
                "",
                why,
                "this is a fault of tweedledum, not of the plan: please report it",
            );
            return None;
        }
    };
    let mut declared: Declared = roles
        .iter()
        .map(|(name, role)| (name.clone(), role.ports.keys().cloned().collect()))
        .collect();
    let own = field
        .and_then(|field| reader.named(&field))
        .unwrap_or_default();
    declared.extend(own.iter().map(named_ports));
    for (key, field) in own {
        roles.remove(&key.text);
        if let Some(role) = role(reader, key, &field, calendar, &declared) {
            roles.insert(key.text.clone(), role);
        }
    }
    Some((roles, declared.into_keys().collect()))
}

/// Every role and the names of its ports, before any role is read: placeholders may name a role further down.
type Declared = BTreeMap<String, BTreeSet<String>>;

/// What is no list of ports is reported when the role is read.
fn named_ports((key, field): &(&raw::Key, Field<'_>)) -> (String, BTreeSet<String>) {
    fn entries(node: &raw::Node) -> &[(raw::Key, raw::Node)] {
        match &node.kind {
            raw::Kind::Map(entries) => entries,
            _ => &[],
        }
    }
    let ports = entries(field.node)
        .iter()
        .filter(|(key, _)| key.text == "ports")
        .flat_map(|(_, ports)| entries(ports))
        .map(|(port, _)| port.text.clone())
        .collect();
    (key.text.clone(), ports)
}

/// The roles of the catalogue.
pub(super) fn bundled(
    catalogue: &Catalogue,
    calendar: &Calendar,
) -> Result<BTreeMap<String, Role>, String> {
    let mut reader = Reader { wrong: Vec::new() };
    let first = |wrong: &[super::Diagnostic]| match wrong.first() {
        Some(first) => Err(format!(
            "the bundled roles, line {}: {}: {}",
            first.at.line, first.path, first.message
        )),
        None => Ok(()),
    };
    if catalogue.roles.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let root =
        raw::read(catalogue.roles.as_bytes(), &mut reader.wrong).map_err(|stop| stop.message)?;
    let whole = Field {
        node: &root,
        path: String::new(),
    };
    let mut entries = reader.named(&whole).unwrap_or_default();
    if let [(key, field)] = entries.as_slice()
        && key.text == "roles"
    {
        entries = reader.named(&field.clone()).unwrap_or_default();
    }
    let declared: Declared = entries.iter().map(named_ports).collect();
    let mut roles = BTreeMap::new();
    for (key, field) in entries {
        if let Some(role) = role(&mut reader, key, &field, calendar, &declared) {
            roles.insert(key.text.clone(), role);
        }
    }
    first(&reader.wrong)?;
    Ok(roles)
}

fn role(
    reader: &mut Reader,
    key: &raw::Key,
    field: &Field<'_>,
    calendar: &Calendar,
    declared: &Declared,
) -> Option<Role> {
    let before = reader.wrong.len();
    role_name(reader, key, &field.path);
    let fields = reader.fields(field, &ROLE)?;
    let ports = fields
        .get("ports")
        .map(|field| ports(reader, &field))
        .unwrap_or_default();
    let known = Placeholders {
        ports: &ports,
        roles: declared,
    };
    let command = fields
        .get("command")
        .map(|field| command(reader, &field, &known))
        .unwrap_or_default();
    let image = image(reader, &fields);
    let settings = fields
        .get("settings")
        .map(|field| settings(reader, &field))
        .unwrap_or_default();
    if let Some(field) = fields.get("settings")
        && reader.wrong.len() == before
        && !command.iter().any(|word| word == "{settings}")
    {
        reader.wrong(
            fields.key_span("settings"),
            &field.path,
            "its `command` takes no settings",
            "add \"{settings}\" to `command`, as an argument of its own",
        );
    }
    let speaks = fields
        .get("speaks")
        .map(|field| names(reader, &field, "protocol"))
        .unwrap_or_default();
    let (ready, ready_within_ns) = fields
        .get("ready")
        .and_then(|field| ready_and_bound(reader, &field, &known))
        .unzip();
    let stop = stop(reader, fields.get("stop"));
    let expect_exit = fields
        .get("expect-exit")
        .map(|field| exit_codes(reader, &field))
        .unwrap_or_default();
    let signals = fields
        .get("signals")
        .map(|field| signals(reader, &field, &known, calendar))
        .unwrap_or_default();
    let events = fields
        .get("events")
        .map(|field| events(reader, &field))
        .unwrap_or_default();
    let panics = fields.get("panics").map(|field| components(reader, &field));
    let env = fields
        .get("env")
        .map(|field| env(reader, &field, &known))
        .unwrap_or_default();
    let round_bytes = fields
        .get("round-bytes")
        .and_then(|field| round_bytes(reader, &field));
    let sound = reader.wrong.len() == before;
    let role = Role {
        name: key.text.clone(),
        command,
        image,
        settings,
        speaks,
        ports,
        ready: ready?,
        ready_within_ns: ready_within_ns?,
        stop: stop?,
        expect_exit,
        signals,
        events,
        panics,
        env,
        round_bytes,
    };
    sound.then_some(role)
}

fn round_bytes(reader: &mut Reader, field: &Field<'_>) -> Option<u64> {
    let bytes = reader.size(field)?;
    if bytes == 0 {
        reader.wrong(
            field.node.span,
            &field.path,
            "a round that takes nothing is no measure",
            "write what one round takes on disk, or remove the key",
        );
        return None;
    }
    Some(bytes)
}

fn role_name(reader: &mut Reader, key: &raw::Key, path: &str) {
    if !reader.kebab("role", &key.text, at_key(key), path) {
        return;
    }
    let numbered = key
        .text
        .rsplit('-')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if matches!(key.text.as_str(), "all" | "any" | "every" | "of") || numbered {
        let why = format!(
            "`{}` cannot be the name of a role: selectors and node names use it",
            key.text
        );
        reader.wrong(
            at_key(key),
            path,
            why,
            "choose another name, not ending in a number",
        );
    }
}

/// The placeholders of one role.
struct Placeholders<'a> {
    ports: &'a BTreeMap<String, Port>,
    roles: &'a Declared,
}

impl Placeholders<'_> {
    fn check(&self, reader: &mut Reader, field: &Field<'_>, text: &str) {
        for piece in pieces(text) {
            let Piece::Placeholder(name) = piece else {
                continue;
            };
            let port = name
                .strip_suffix(".addr")
                .or_else(|| name.strip_suffix(".port"));
            let of_role = name
                .split_once(" of ")
                .and_then(|(what, role)| Some((what, self.roles.get(role)?)));
            let known = PLAIN.iter().any(|(plain, _)| *plain == name)
                || port.is_some_and(|port| self.ports.contains_key(port))
                || of_role.is_some_and(|(what, ports)| match what.strip_suffix(".addr") {
                    Some(port) => ports.contains(port),
                    None => what == "addr",
                });
            if !known {
                let why = format!("`{{{}}}` stands for nothing", shorten(name));
                reader.wrong(
                    field.node.span,
                    &field.path,
                    why,
                    reader.suggest(name, "placeholders", &self.names()),
                );
            } else if name == "settings" && text != "{settings}" {
                let hint = "write \"{settings}\" as an argument of its own";
                reader.wrong(
                    field.node.span,
                    &field.path,
                    "`{settings}` stands for several arguments",
                    hint,
                );
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let ports = self
            .ports
            .keys()
            .flat_map(|port| [format!("{port}.addr"), format!("{port}.port")]);
        PLAIN
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .chain(ports)
            .chain(["addr of ROLE".to_owned(), "PORT.addr of ROLE".to_owned()])
            .collect()
    }

    fn text(&self, reader: &mut Reader, field: &Field<'_>) -> Option<String> {
        let text = reader.text(field)?;
        self.check(reader, field, &text);
        Some(text)
    }
}

fn command(reader: &mut Reader, field: &Field<'_>, known: &Placeholders<'_>) -> Vec<String> {
    let Some(items) = reader.list(field) else {
        return Vec::new();
    };
    if items.is_empty() {
        reader.wrong(
            field.node.span,
            &field.path,
            "the command is empty",
            "write the program and its arguments: [\"{release.bin}\", ...]",
        );
    }
    let mut command = Vec::new();
    for item in &items {
        if let Some(text) = reader.lines(item) {
            known.check(reader, item, &text);
            command.push(text);
        }
    }
    command
}

fn settings(reader: &mut Reader, field: &Field<'_>) -> BTreeMap<String, SettingKind> {
    let mut settings = BTreeMap::new();
    for (key, kind) in reader.named(field).unwrap_or_default() {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if !key.text.starts_with(|c: char| c.is_ascii_alphabetic())
            || !key.text.chars().all(allowed)
        {
            let why = format!("`{}` cannot be the name of a setting", shorten(&key.text));
            reader.wrong(
                at_key(key),
                &kind.path,
                why,
                "it becomes `--NAME VALUE`: use letters, digits, `-`, `.` and `_`",
            );
        }
        let kind = match reader.word(&kind, keys::SETTING_KINDS) {
            Some("count") => SettingKind::Count,
            Some("duration") => SettingKind::Duration,
            Some("size") => SettingKind::Size,
            Some("flag") => SettingKind::Flag,
            Some(_) => SettingKind::Text,
            None => continue,
        };
        settings.insert(key.text.clone(), kind);
    }
    settings
}

fn names(reader: &mut Reader, field: &Field<'_>, what: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for item in reader.list(field).unwrap_or_default() {
        if let Some(name) = reader.text(&item)
            && reader.kebab(what, &name, item.node.span, &item.path)
            && !names.insert(name.clone())
        {
            reader.wrong(
                item.node.span,
                &item.path,
                format!("`{name}` is given twice"),
                "remove one of them",
            );
        }
    }
    names
}

/// What panics of a role may name; not what other crashes are called, which such a panic would be taken for.
fn components(reader: &mut Reader, field: &Field<'_>) -> BTreeSet<String> {
    let names = names(reader, field, "component");
    for name in &names {
        let id = findings::CRASH_COMPONENT.of(name);
        if findings::by_id(&id) != Some(&findings::CRASH_COMPONENT) {
            let why =
                format!("`{id}` is a crash of another kind, so no component is called `{name}`");
            let hint =
                "a panic that names it is reported as crash/panic; give the component another name";
            reader.wrong(field.node.span, &field.path, why, hint);
        }
    }
    names
}

/// Names of events are the node's own, so none is unknown; only their number is bounded, since each is recorded.
fn events(reader: &mut Reader, field: &Field<'_>) -> BTreeSet<String> {
    let events = names(reader, field, "log event");
    if events.len() > keys::EVENTS_MAX {
        let why = format!("a role reports at most {} events", keys::EVENTS_MAX);
        let hint = "every one is recorded: list what an oracle reads";
        reader.wrong(field.node.span, &field.path, why, hint);
    }
    events
}

/// When a node counts as ready, and how long after its start it must.
fn ready_and_bound(
    reader: &mut Reader,
    field: &Field<'_>,
    known: &Placeholders<'_>,
) -> Option<(Ready, u64)> {
    const WITHIN_NS: u64 = 2_000_000_000;
    let fields = reader.fields(field, &READY)?;
    let within = match fields.get("within") {
        Some(within) => reader.duration(&within),
        None => Some(WITHIN_NS),
    };
    Some((ready(reader, field, &fields, known)?, within?))
}

fn ready(
    reader: &mut Reader,
    field: &Field<'_>,
    fields: &Fields<'_>,
    known: &Placeholders<'_>,
) -> Option<Ready> {
    let status = fields.count(reader, "status");
    if fields.get("status").is_some() && fields.get("http").is_none() {
        reader.wrong(
            fields.key_span("status"),
            &field.path,
            "`status` only goes with `http`",
            "remove it",
        );
    }
    if let Some(http) = fields.get("http") {
        let url = known.text(reader, &http)?;
        return url_form(reader, &http, &url).then_some(Ready::Http {
            url,
            status: u16::try_from(status?).ok()?,
        });
    }
    if let Some(tcp) = fields.get("tcp") {
        return known.text(reader, &tcp).map(Ready::Tcp);
    }
    if let Some(log) = fields.get("log") {
        // A regular expression has braces of its own, so placeholders are not looked for.
        return reader.text(&log).map(Ready::Log);
    }
    let exec = fields.get("exec")?;
    Some(Ready::Exec(command(reader, &exec, known)))
}

fn url_form(reader: &mut Reader, field: &Field<'_>, url: &str) -> bool {
    let sound = url.starts_with("http://") && !url.contains(char::is_whitespace)
        || url.starts_with("http://{");
    if !sound {
        let why = format!("`{}` is not a URL that can be asked", shorten(url));
        reader.wrong(
            field.node.span,
            &field.path,
            why,
            "write \"http://{api.addr}/path\"; nodes are asked without TLS",
        );
    }
    sound
}

fn stop(reader: &mut Reader, field: Option<Field<'_>>) -> Option<Stop> {
    const GRACE_NS: u64 = 2_000_000_000;
    let Some(field) = field else {
        return Some(Stop {
            signal: StopSignal::Term,
            grace_ns: GRACE_NS,
        });
    };
    let fields = reader.fields(&field, &STOP)?;
    let signal = match fields.word(reader, "signal")? {
        "INT" => StopSignal::Int,
        _ => StopSignal::Term,
    };
    let grace_ns = match fields.get("grace") {
        Some(grace) => reader.duration(&grace)?,
        None => GRACE_NS,
    };
    Some(Stop { signal, grace_ns })
}

fn exit_codes(reader: &mut Reader, field: &Field<'_>) -> BTreeSet<i32> {
    let mut codes = BTreeSet::new();
    let items = reader.list(field).unwrap_or_default();
    for item in &items {
        if let Some(code) = reader.count(item, 0, 255)
            && !codes.insert(i32::try_from(code).unwrap_or_default())
        {
            reader.wrong(
                item.node.span,
                &item.path,
                format!("`{code}` is given twice"),
                "remove one of them",
            );
        }
    }
    codes
}

fn signals(
    reader: &mut Reader,
    field: &Field<'_>,
    known: &Placeholders<'_>,
    calendar: &Calendar,
) -> BTreeMap<String, Signal> {
    let mut signals = BTreeMap::new();
    for (key, value) in reader.named(field).unwrap_or_default() {
        reader.kebab("signal", &key.text, at_key(key), &value.path);
        let Some(fields) = reader.fields(&value, &SIGNAL) else {
            continue;
        };
        let source = source(reader, &fields, known);
        let period = fields
            .get("period")
            .and_then(|field| reader.span(&field, calendar));
        let any_only = fields
            .get("any-only")
            .map_or(Some(false), |field| reader.flag(&field));
        if let (Some(source), Some(period), Some(any_only)) = (source, period, any_only) {
            signals.insert(
                key.text.clone(),
                Signal {
                    source,
                    period,
                    any_only,
                },
            );
        }
    }
    signals
}

fn source(reader: &mut Reader, fields: &Fields<'_>, known: &Placeholders<'_>) -> Option<Source> {
    if let Some(log) = fields.get("log") {
        let value = partner(reader, fields, "log", "value", "from");
        let event = reader.text(&log);
        let value = value.and_then(|field| pointer(reader, &field));
        return Some(Source::Log {
            event: event?,
            value: value?,
        });
    }
    let kind = if fields.get("json").is_some() {
        "json"
    } else {
        "metric"
    };
    let what = fields.get(kind)?;
    let url = partner(reader, fields, kind, "from", "value").and_then(|field| {
        let url = known.text(reader, &field)?;
        url_form(reader, &field, &url).then_some(url)
    });
    if kind == "json" {
        let pointer = pointer(reader, &what);
        return Some(Source::Json {
            url: url?,
            pointer: pointer?,
        });
    }
    let name = metric(reader, &what);
    Some(Source::Metric {
        url: url?,
        name: name?,
    })
}

/// The key that a kind of source needs beside it, and not the other one.
fn partner<'n>(
    reader: &mut Reader,
    fields: &Fields<'n>,
    kind: &str,
    needed: &str,
    foreign: &str,
) -> Option<Field<'n>> {
    if fields.get(foreign).is_some() {
        let why = format!("`{foreign}` does not go with `{kind}`");
        reader.wrong(
            fields.key_span(foreign),
            &fields.path,
            why,
            format!("`{kind}` needs `{needed}`"),
        );
    }
    let found = fields.get(needed);
    if found.is_none() && !fields.slipped(&[needed]) {
        let hint = match needed {
            "from" => "add from: \"http://{api.addr}/path\"",
            _ => "add value: /path, a JSON pointer into the line",
        };
        reader.wrong(
            fields.span,
            &fields.path,
            format!("`{kind}` needs `{needed}`"),
            hint,
        );
    }
    found
}

fn metric(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let name = reader.text(field)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    if name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(allowed) {
        let why = format!(
            "`{}` is not the name of a Prometheus metric",
            shorten(&name)
        );
        let hint = "use the bare name, without labels: values are summed over labels";
        reader.wrong(field.node.span, &field.path, why, hint);
        return None;
    }
    Some(name)
}

fn pointer(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let text = reader.text(field)?;
    if !text.starts_with('/') {
        let why = format!("`{}` is not a JSON pointer", shorten(&text));
        reader.wrong(
            field.node.span,
            &field.path,
            why,
            format!("pointers start with a slash: /{}", shorten(&text)),
        );
        return None;
    }
    Some(text)
}

fn env(
    reader: &mut Reader,
    field: &Field<'_>,
    known: &Placeholders<'_>,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (key, value) in reader.named(field).unwrap_or_default() {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if key.text.is_empty()
            || key.text.starts_with(|c: char| c.is_ascii_digit())
            || !key.text.chars().all(allowed)
        {
            let why = format!(
                "`{}` cannot be the name of an environment variable",
                shorten(&key.text)
            );
            reader.wrong(
                at_key(key),
                &value.path,
                why,
                "use letters, digits and `_`, not starting with a digit",
            );
        }
        if let Some(text) = reader.lines(&value) {
            known.check(reader, &value, &text);
            env.insert(key.text.clone(), text);
        }
    }
    env
}
