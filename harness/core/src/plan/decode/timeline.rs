//! `timeline:` and `expect:`: what is done when, and what must hold.

use std::collections::{BTreeMap, BTreeSet};

use super::super::SourceSpan;
use super::super::keys::{ENTRY, EXPECTATION};
use super::super::model::{Deed, Entry, Expectation, Role};
use super::super::raw::{Kind, shorten};
use super::super::reader::{Field, Fields, Reader};
use super::params::{self, Decoded, roles_of};
use super::{Known, at_key, cut_short};
use crate::faults::{self, Lasting};
use crate::oracles;
use crate::params::{Shape, Value};
use crate::time::{ProtocolTime, Span};

/// Two epochs of steady state before the first fault are every run's own control.
const STEADY_EPOCHS: i64 = 2;

/// Entries of the timeline with where they stand, until heals are resolved.
pub(super) struct Line<'n> {
    pub(super) entry: Entry,
    pub(super) fields: Fields<'n>,
    /// What a heal names, with places; empty for `all`.
    heals: Vec<(String, SourceSpan, String)>,
}

/// A heal and what expectations call it.
#[derive(Debug)]
pub(super) struct Heal {
    /// `heal all`, `heal NAME`.
    pub(super) called: String,
    /// The name of its entry.
    pub(super) entry: String,
}

/// The heals that expectations may refer to.
#[derive(Debug, Default)]
pub(super) struct Heals {
    pub(super) known: Vec<Heal>,
    /// Every entry of the timeline could be read.
    pub(super) complete: bool,
}

/// What `timeline:` gave.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// Entries in the order of the text.
    pub(super) entries: Vec<Entry>,
    /// Their key paths.
    paths: Vec<String>,
    /// Every entry could be read.
    complete: bool,
    /// Heals of all that find everything ended: the name of each, and where it stands.
    idle: Vec<(String, SourceSpan, String)>,
}

/// Faults and heals.
pub(super) fn timeline(
    reader: &mut Reader,
    field: Option<Field<'_>>,
    known: &Known<'_>,
) -> Timeline {
    let given = field.is_some();
    let items = field.and_then(|field| reader.list(&field));
    let unreadable = given && items.is_none();
    let items = items.unwrap_or_default();
    let mut lines: Vec<Line<'_>> = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for (place, item) in items.iter().enumerate() {
        if let Some(mut line) = line(reader, item, place, known) {
            if let Some(twin) = names.get(&line.entry.name) {
                rename(reader, &mut line, lines[*twin].entry.at_text.line, place);
            }
            names.entry(line.entry.name.clone()).or_insert(lines.len());
            lines.push(line);
        }
    }
    let complete = lines.len() == items.len() && !unreadable;
    let named = lines
        .iter()
        .filter(|line| line.fields.get("name").is_some());
    let healable = Healable {
        lines: &lines,
        by_name: &names,
        given: named.map(|line| line.entry.name.as_str()).collect(),
        complete,
    };
    let (mut known_heals, mut told) = (true, BTreeSet::new());
    for (place, line) in lines.iter().enumerate() {
        known_heals &= healed_entries(reader, line, &healable, known);
        if complete && known.timed && matches!(line.entry.what, Deed::Heal(None)) {
            let before = reader.wrong.len();
            heals_something(reader, &lines, place, known);
            if reader.wrong.len() > before {
                told.insert(line.entry.name.clone());
            }
        }
    }
    if complete && known.timed {
        cut_short::check(reader, &lines, known);
    }
    let mut idle = if complete && known.timed {
        idle(&lines)
    } else {
        Vec::new()
    };
    idle.retain(|(name, ..)| !told.contains(name));
    let paths = lines.iter().map(|line| line.fields.path.clone()).collect();
    Timeline {
        entries: lines.into_iter().map(|line| line.entry).collect(),
        paths,
        // What a heal was meant to be called by expectations is not known where it names nothing.
        complete: complete && known_heals,
        idle,
    }
}

fn line<'n>(
    reader: &mut Reader,
    item: &Field<'n>,
    place: usize,
    known: &Known<'_>,
) -> Option<Line<'n>> {
    let fields = reader.fields(item, &ENTRY)?;
    let at = fields
        .get("at")
        .and_then(|field| reader.instant(&field, &known.calendar));
    let lasts = fields
        .get("for")
        .map(|field| reader.span(&field, &known.calendar));
    let name = fields
        .get("name")
        .and_then(|field| entry_name(reader, &field));
    let must_be_felt = fields
        .get("must-be-felt")
        .map_or(Some(false), |field| reader.flag(&field));
    let (what, default_name, heals, lasts) = if let Some((key, field)) = fields.extra() {
        let (what, itself) = fault(reader, &key.text, &field, at_key(key), &fields, known)?;
        let default_name = format!("{}#{place}", key.text);
        (what, default_name, Vec::new(), itself.or(lasts.flatten()))
    } else {
        let (what, called, names) = heal(reader, &fields)?;
        (what, called, names, None)
    };
    let at = at?;
    if known.timed
        && matches!(what, Deed::Fault(..))
        && at < ProtocolTime::GENESIS.plus(epochs(STEADY_EPOCHS, known))
    {
        let field = fields.get("at")?;
        let why = format!(
            "no fault may begin before epoch 2, and this is {}",
            known.calendar.describe(at)
        );
        reader.wrong(
            field.node.span,
            &field.path,
            why,
            "two epochs of steady state are the run's own control: write `epoch 2` or later",
        );
    }
    let name = name.unwrap_or(default_name);
    let entry = Entry {
        name,
        at,
        lasts,
        must_be_felt: must_be_felt?,
        what,
        at_text: fields.span,
    };
    Some(Line {
        entry,
        fields,
        heals,
    })
}

fn epochs(count: i64, known: &Known<'_>) -> Span {
    Span(known.calendar.epoch().0.saturating_mul(count))
}

fn entry_name(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let name = reader.text(field)?;
    if name == "all" {
        reader.wrong(
            field.node.span,
            &field.path,
            "`all` cannot be the name of an entry: `heal: all` means every fault",
            "choose another name",
        );
        return None;
    }
    reader
        .kebab("timeline entry", &name, field.node.span, &field.path)
        .then_some(name)
}

/// A fault with its parameters, and how long it lasts by itself.
fn fault(
    reader: &mut Reader,
    kind: &str,
    field: &Field<'_>,
    at: SourceSpan,
    entry: &Fields<'_>,
    known: &Known<'_>,
) -> Option<(Deed, Option<Span>)> {
    let kind = faults::by_name(kind)?;
    let decoded = params::decode(reader, field, at, kind.params(), &Heals::default(), known)?;
    if known.timed {
        for (key, why) in kind.check(&decoded.params, &known.calendar) {
            let (at, path) = decoded.place(key);
            reader.wrong(at, &path, why, format!("change `{key}`"));
        }
    }
    targets(reader, kind, &decoded, entry, known);
    params::rounds(reader, &decoded, kind.params(), known);
    let itself = match kind.lasting(&decoded.params) {
        Lasting::UntilHealed => None,
        Lasting::Itself(span) => {
            if let Some(field) = entry.get("for") {
                let why = format!(
                    "`{}` ends by itself after {span}, so `for` means nothing",
                    kind.name()
                );
                reader.wrong(
                    entry.key_span("for"),
                    &field.path,
                    why,
                    "remove `for`; the fault's own parameters say how long it lasts",
                );
            }
            Some(span)
        }
        Lasting::ForGood => {
            if let Some(field) = entry.get("for") {
                let why = format!(
                    "`{}` is done and stays done, so `for` means nothing",
                    kind.name()
                );
                let hint = "remove `for`; to have something else from then on, add another entry";
                reader.wrong(entry.key_span("for"), &field.path, why, hint);
            }
            None
        }
    };
    Some((Deed::Fault(kind.name(), decoded.params), itself))
}

fn targets(
    reader: &mut Reader,
    kind: &'static dyn faults::FaultKind,
    decoded: &Decoded,
    entry: &Fields<'_>,
    known: &Known<'_>,
) {
    for (param, selector) in decoded.selectors(kind.params()) {
        let (at, path) = decoded.place(param);
        if selector.draws() && entry.get("name").is_none() {
            let why = format!(
                "`{selector}` draws nodes, and draws are keyed by the entry's name, which is missing"
            );
            reader.wrong(at, &path, why, "add a `name` to the entry, so that other changes of the plan do not change the draw");
        }
        let Some(network) = &known.network else {
            continue;
        };
        let roles: Vec<&Role> = roles_of(selector, network)
            .into_iter()
            .filter_map(|role| known.roles.get(role))
            .collect();
        let ports = kind.ports().iter().filter(|(of, _)| *of == param);
        for ((_, port), role) in ports.flat_map(|port| roles.iter().map(move |role| (port, role))) {
            if !role.ports.contains_key(*port) {
                let why = format!(
                    "`{}` reaches nodes at their port `{port}`, which role `{}` does not have",
                    kind.name(),
                    role.name
                );
                let hint =
                    format!("choose other nodes, or add `{port}: tcp` to the role's `ports`");
                reader.wrong(at, &path, why, hint);
            }
        }
        let Some(protocol) = kind.requires().filter(|_| param == "target") else {
            continue;
        };
        for role in roles {
            if !role.speaks.contains(protocol) {
                let why = format!(
                    "`{}` needs targets that speak `{protocol}`, which role `{}` does not",
                    kind.name(),
                    role.name
                );
                reader.wrong(at, &path, why, format!("choose other targets, or add `{protocol}` to the role's `speaks` if it does"));
            }
        }
    }
}

/// A heal, what it is called when unnamed, and what it names.
type HealParts = (Deed, String, Vec<(String, SourceSpan, String)>);

fn heal(reader: &mut Reader, fields: &Fields<'_>) -> Option<HealParts> {
    let field = fields.get("heal")?;
    for key in ["for", "must-be-felt"] {
        if let Some(given) = fields.get(key) {
            reader.wrong(
                fields.key_span(key),
                &given.path,
                format!("a heal takes no `{key}`"),
                "remove it, or move it to the fault",
            );
        }
    }
    let items = match &field.node.kind {
        Kind::List(items) if items.is_empty() => {
            reader.wrong(
                field.node.span,
                &field.path,
                "an empty list heals nothing",
                "write `all` or the names of entries",
            );
            return None;
        }
        Kind::List(_) => reader.list(&field)?,
        _ => vec![field.clone()],
    };
    let mut names = Vec::new();
    for item in &items {
        names.push((reader.text(item)?, item.node.span, item.path.clone()));
    }
    if let [(all, ..)] = names.as_slice()
        && all == "all"
    {
        return Some((Deed::Heal(None), "heal all".to_owned(), Vec::new()));
    }
    let plain: Vec<String> = names.iter().map(|(name, ..)| name.clone()).collect();
    let called = format!("heal {}", plain.join(", "));
    Some((Deed::Heal(Some(plain)), called, names))
}

/// Names are unique: repeated names of the plan are mistakes, repeated unnamed heals get their place added.
fn rename(reader: &mut Reader, line: &mut Line<'_>, twin: usize, place: usize) {
    if let Some(field) = line.fields.get("name") {
        let why = format!(
            "`{}` is the name of the entry in line {twin} already",
            line.entry.name
        );
        reader.wrong(
            field.node.span,
            &field.path,
            why,
            "give every entry a name of its own",
        );
    } else {
        line.entry.name = format!("{}#{place}", line.entry.name);
    }
}

/// What heals may name.
struct Healable<'a> {
    lines: &'a [Line<'a>],
    by_name: &'a BTreeMap<String, usize>,
    /// Names of the plan's own, for suggestions.
    given: Vec<&'a str>,
    /// Every entry of the timeline could be read.
    complete: bool,
}

/// A heal names faults that begin before it. Whether it names only entries that there are.
fn healed_entries(
    reader: &mut Reader,
    line: &Line<'_>,
    healable: &Healable<'_>,
    known: &Known<'_>,
) -> bool {
    let mut all_known = true;
    for (name, at, path) in &line.heals {
        if name == "all" {
            reader.wrong(
                *at,
                path,
                "`all` stands alone: it means every fault",
                "write `heal: all`",
            );
            continue;
        }
        let found = healable.by_name.get(name);
        let own_end = found.is_some_and(|found| healable.lines[*found].fields.get("for").is_some());
        let Some(meant) = found.map(|found| &healable.lines[*found].entry) else {
            // An entry with a mistake of its own is not among the lines; its name may be the one meant.
            all_known = false;
            if healable.complete {
                let why = format!("no entry of the timeline is called `{}`", shorten(name));
                reader.wrong(
                    *at,
                    path,
                    why,
                    reader.suggest(name, "names", &healable.given),
                );
            }
            continue;
        };
        if matches!(meant.what, Deed::Heal(_)) {
            reader.wrong(
                *at,
                path,
                format!("`{name}` is a heal, not a fault"),
                "name the fault",
            );
        } else if let Some(why) = stays(&meant.what, name) {
            let hint = "remove it here; `heal: all` leaves it as it is";
            reader.wrong(*at, path, why, hint);
        } else if known.timed && meant.at >= line.entry.at {
            let why = format!(
                "`{name}` begins at {}, not before this heal at {}",
                known.calendar.describe(meant.at),
                known.calendar.describe(line.entry.at)
            );
            reader.wrong(*at, path, why, "move the heal behind the fault");
        } else if let Some(end) = meant
            .lasts
            .map(|lasts| meant.at.plus(lasts))
            .filter(|end| known.timed && own_end && *end < line.entry.at)
        {
            let end = known.calendar.describe(end);
            let why = format!(
                "`{name}` has ended at {end} by its `for`, so this heal at {} heals nothing of it",
                known.calendar.describe(line.entry.at)
            );
            reader.wrong(
                *at,
                path,
                why,
                format!("heal it at {end}, or drop its `for`"),
            );
        }
    }
    all_known
}

/// A `heal: all` ends what began before it. One without any such fault is no heal at all, and a fault that is written
/// above it for the same instant and that nothing else ends was meant to be ended by it.
fn heals_something(reader: &mut Reader, lines: &[Line<'_>], place: usize, known: &Known<'_>) {
    let heal = &lines[place];
    let at = heal.entry.at;
    let fault = |line: &&Line<'_>| {
        let what = &line.entry.what;
        matches!(what, Deed::Fault(..)) && stays(what, &line.entry.name).is_none()
    };
    let when = known.calendar.describe(at);
    let missed = lines[..place].iter().filter(fault).find(|line| {
        line.entry.at == at && line.entry.lasts.is_none() && !ended_later(lines, line)
    });
    let why = if let Some(missed) = missed {
        format!(
            "it heals nothing of `{}`, which begins at the same instant, {when}",
            missed.entry.name
        )
    } else if lines.iter().filter(fault).any(|line| line.entry.at < at) {
        return;
    } else {
        format!("it heals nothing: no fault begins before {when}")
    };
    let path = format!("{}.heal", heal.fields.path);
    let span = heal
        .fields
        .get("heal")
        .map_or(heal.fields.span, |field| field.node.span);
    reader.wrong(span, &path, why, "move the heal behind the fault");
}

/// Every `heal: all` with faults before it that have all ended by themselves or by other heals.
fn idle(lines: &[Line<'_>]) -> Vec<(String, SourceSpan, String)> {
    let mut all: Vec<ProtocolTime> = Vec::new();
    let mut named: BTreeMap<&str, Vec<ProtocolTime>> = BTreeMap::new();
    for Line { entry, .. } in lines {
        match &entry.what {
            Deed::Heal(None) => all.push(entry.at),
            Deed::Heal(Some(names)) => {
                for name in names {
                    named.entry(name).or_default().push(entry.at);
                }
            }
            Deed::Fault(..) => {}
        }
    }
    all.sort_unstable();
    let (mut faults, mut useful) = (Vec::new(), BTreeSet::new());
    for Line { entry, .. } in lines {
        if !matches!(entry.what, Deed::Fault(..)) || stays(&entry.what, &entry.name).is_some() {
            continue;
        }
        faults.push(entry.at);
        let Some(heal) = all.get(all.partition_point(|heal| *heal <= entry.at)) else {
            continue;
        };
        let own = entry.lasts.map(|lasts| entry.at.plus(lasts));
        let heals = named.get(entry.name.as_str()).into_iter().flatten();
        let mut ends = heals.filter(|at| **at > entry.at).copied().chain(own);
        if ends.all(|end| end >= *heal) {
            useful.insert(*heal);
        }
    }
    let first = faults.iter().min();
    let lines = lines.iter().filter(|Line { entry, .. }| {
        matches!(entry.what, Deed::Heal(None))
            && first.is_some_and(|first| *first < entry.at)
            && !useful.contains(&entry.at)
    });
    let idle = lines.filter_map(|line| {
        let field = line.fields.get("heal")?;
        Some((line.entry.name.clone(), field.node.span, field.path))
    });
    idle.collect()
}

/// A heal that takes nothing back is still the moment from which a `recover` counts; without one it is nothing.
fn idle_heals(reader: &mut Reader, timeline: &Timeline, expectations: &[(Expectation, Decoded)]) {
    for (name, at, path) in &timeline.idle {
        let counts_from = |(expectation, _): &(Expectation, Decoded)| {
            let kind = oracles::by_name(expectation.kind);
            let mut params = kind.into_iter().flat_map(oracles::OracleKind::params);
            params.any(|param| {
                let given = expectation.params.get(param.name);
                param.shape == Shape::Heal && given == Some(&Value::Text(name.clone()))
            })
        };
        if !expectations.iter().any(counts_from) {
            let why = "it heals nothing: all faults before it have ended, and no `recover` counts from it";
            reader.wrong(*at, path, why, "heal earlier, or remove it");
        }
    }
}

/// Whether a heal after the beginning of a fault means it.
fn ended_later(lines: &[Line<'_>], fault: &Line<'_>) -> bool {
    lines.iter().any(|line| {
        line.entry.at > fault.entry.at
            && match &line.entry.what {
                Deed::Heal(None) => true,
                Deed::Heal(Some(names)) => names.contains(&fault.entry.name),
                Deed::Fault(..) => false,
            }
    })
}

/// Why a fault cannot be taken back, if it cannot.
fn stays(what: &Deed, name: &str) -> Option<String> {
    let Deed::Fault(kind, params) = what else {
        return None;
    };
    let kind = faults::by_name(kind)?;
    (kind.lasting(params) == Lasting::ForGood)
        .then(|| format!("`{name}` is a `{}`, which stays done", kind.name()))
}

/// Nothing may begin or last beyond the end that the plan fixes.
pub(super) fn nothing_after(
    reader: &mut Reader,
    timeline: &Timeline,
    until: ProtocolTime,
    field: &Field<'_>,
    known: &Known<'_>,
) {
    if !known.timed {
        return;
    }
    let end = known.calendar.describe(until);
    for (entry, path) in timeline.entries.iter().zip(&timeline.paths) {
        if entry.at >= until {
            let why = format!(
                "`{}` begins at {}, but the run ends at {end}",
                entry.name,
                known.calendar.describe(entry.at)
            );
            reader.wrong(
                entry.at_text,
                path,
                why,
                "move it, or let the run last longer: see `until`",
            );
        } else if entry
            .lasts
            .is_some_and(|lasts| entry.at.plus(lasts) > until)
        {
            let ends = entry.at.plus(entry.lasts.unwrap_or_default());
            let why = format!(
                "`{}` lasts until {}, but the run ends at {end}",
                entry.name,
                known.calendar.describe(ends)
            );
            reader.wrong(
                entry.at_text,
                path,
                why,
                "shorten it, or let the run last longer: see `until`",
            );
        }
    }
    if until < ProtocolTime::GENESIS.plus(epochs(STEADY_EPOCHS, known)) {
        let why = format!("the run ends at {end}, before two epochs of steady state are over");
        reader.wrong(
            field.node.span,
            &field.path,
            why,
            "write `epoch 2` or later",
        );
    }
}

/// What must hold, each with the field to report about it.
pub(super) fn expectations(
    reader: &mut Reader,
    field: Option<Field<'_>>,
    timeline: &Timeline,
    known: &Known<'_>,
) -> Vec<(Expectation, Decoded)> {
    let heals = Heals {
        known: heals(&timeline.entries),
        complete: timeline.complete,
    };
    let Some(field) = field else {
        return Vec::new();
    };
    let Some(items) = reader.list(&field) else {
        return Vec::new();
    };
    if items.is_empty() {
        reader.wrong(
            field.node.span,
            &field.path,
            "the plan expects nothing, so it could only pass",
            "add at least one expectation, as - advance: { signal: ..., of: ..., within: ... }",
        );
    }
    let mut expectations = Vec::new();
    for item in &items {
        let Some(fields) = reader.fields(item, &EXPECTATION) else {
            continue;
        };
        let Some((key, field)) = fields.extra() else {
            continue;
        };
        let Some(kind) = oracles::by_name(&key.text) else {
            continue;
        };
        let Some(decoded) =
            params::decode(reader, &field, at_key(key), kind.params(), &heals, known)
        else {
            continue;
        };
        params::signals(reader, &decoded, kind.params(), known);
        let expectation = Expectation {
            kind: kind.name(),
            params: decoded.params.clone(),
            at_text: fields.span,
        };
        expectations.push((expectation, decoded));
    }
    if expectations.len() == items.len() {
        idle_heals(reader, timeline, &expectations);
    }
    expectations
}

/// Heals by what expectations call them.
fn heals(timeline: &[Entry]) -> Vec<Heal> {
    let heals = timeline
        .iter()
        .filter(|entry| matches!(entry.what, Deed::Heal(_)));
    heals
        .map(|entry| {
            let unnamed = entry.name.starts_with("heal ");
            let called = if unnamed {
                entry.name.split('#').next().unwrap_or_default().to_owned()
            } else {
                format!("heal {}", entry.name)
            };
            Heal {
                called,
                entry: entry.name.clone(),
            }
        })
        .collect()
}
