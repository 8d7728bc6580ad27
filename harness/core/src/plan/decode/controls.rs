//! `tolerates:` and `controls:`: when liveness may be demanded, and what releases must show.

use super::super::SourceSpan;
use super::super::keys::{CONTROL, FINDING, TOLERANCE};
use super::super::model::{Amount, Control, FindingPattern, Plan, Relation, Tolerance};
use super::super::raw::{Kind, shorten};
use super::super::reader::{Field, Fields, Reader};
use super::{Known, at_key};
use crate::findings::{self, FindingKind, Open};
use crate::oracles::{self, Asked};

/// The least that `says` may be, in characters that are not blank.
const SAYS_MIN: usize = 4;

/// The conditions under which liveness is demanded.
pub(super) fn tolerates(
    reader: &mut Reader,
    field: Option<Field<'_>>,
    known: &Known<'_>,
) -> Vec<Tolerance> {
    let items = field
        .and_then(|field| reader.list(&field))
        .unwrap_or_default();
    items
        .iter()
        .filter_map(|item| tolerance(reader, item, known))
        .collect()
}

fn tolerance(reader: &mut Reader, item: &Field<'_>, known: &Known<'_>) -> Option<Tolerance> {
    let fields = reader.fields(item, &TOLERANCE)?;
    let amount = amount(reader, &fields);
    let of = fields.get("of").and_then(|field| {
        reader
            .selector(&field, known.network.as_ref())
            .map(|of| (of, field))
    });
    if let Some((selector, field)) = &of
        && selector.draws()
    {
        let why = format!("`{selector}` draws nodes, but a condition counts all of a group");
        reader.wrong(
            field.node.span,
            &field.path,
            why,
            "name the group: the number stands in `at-least`",
        );
    }
    if let (Some(network), Some(Amount::AtLeast(least)), Some((selector, _))) =
        (&known.network, amount, &of)
    {
        let members = selector.members(network.nodes).len();
        if least > members as u64 {
            let why =
                format!("at least {least} of `{selector}` can never hold: there are {members}");
            reader.wrong(
                fields.key_span("at-least"),
                &item.path,
                why,
                "ask for fewer, or add nodes",
            );
        }
    }
    let reachable = fields
        .get("reachable-from")
        .map(|field| reader.selector(&field, known.network.as_ref()));
    let connected = fields
        .get("connected")
        .map(|_| fields.word(reader, "connected"));
    let relation = match (reachable, connected) {
        (Some(_), Some(_)) => {
            let why = "`reachable-from` and `connected` cannot stand together";
            reader.wrong(
                fields.key_span("connected"),
                &item.path,
                why,
                "write two conditions",
            );
            return None;
        }
        (Some(from), None) => Relation::ReachableFrom(from?),
        (None, Some(word)) => {
            word?;
            Relation::Mutually
        }
        (None, None) => Relation::Unimpaired,
    };
    Some(Tolerance {
        amount: amount?,
        of: of?.0,
        relation,
    })
}

fn amount(reader: &mut Reader, fields: &Fields<'_>) -> Option<Amount> {
    if let Some(field) = fields.get("more-than") {
        let (numerator, denominator) = reader.fraction(&field)?;
        return Some(Amount::MoreThan {
            numerator,
            denominator,
        });
    }
    fields.count(reader, "at-least").map(Amount::AtLeast)
}

/// A finding that a control names, and where its id stands.
pub(super) struct Named {
    pattern: FindingPattern,
    at: SourceSpan,
    path: String,
}

/// What each named release must show, and the findings that they name.
pub(super) fn controls(
    reader: &mut Reader,
    field: Option<Field<'_>>,
    known: &Known<'_>,
) -> (Vec<Control>, Vec<Named>) {
    let mut controls = Vec::new();
    let mut named = Vec::new();
    for (key, field) in field
        .and_then(|field| reader.named(&field))
        .unwrap_or_default()
    {
        if !known.releases.contains_key(&key.text) {
            let names: Vec<&String> = known.releases.keys().collect();
            let why = format!("no release is called `{}`", shorten(&key.text));
            reader.wrong(
                at_key(key),
                &field.path,
                why,
                reader.suggest(&key.text, "releases", &names),
            );
        }
        let Some(fields) = reader.fields(&field, &CONTROL) else {
            continue;
        };
        let verdict = fields.word(reader, "verdict");
        let mut patterns = |reader: &mut Reader, name: &str| {
            let found = fields.get(name);
            let found = found.map(|field| findings(reader, &field, known));
            let found = found.unwrap_or_default();
            let patterns = found.iter().map(|it| it.pattern.clone()).collect();
            named.extend(found);
            patterns
        };
        let findings = patterns(reader, "findings");
        let also_allowed = patterns(reader, "also-allowed");
        reasons(reader, &fields, verdict);
        if let Some(verdict) = verdict {
            controls.push(Control {
                release: key.text.clone(),
                must_pass: verdict == "pass",
                findings,
                also_allowed,
            });
        }
    }
    (controls, named)
}

/// A finding that no oracle of the plan can give would have the release blamed for not giving it.
pub(super) fn can_be_given(reader: &mut Reader, named: &[Named], plan: &Plan) {
    for Named { pattern, at, path } in named {
        let id = &pattern.id;
        let Some(kind) = findings::by_id(id) else {
            continue;
        };
        let asked = Asked {
            plan,
            role: pattern.role.as_deref(),
            what: kind.about(id).unwrap_or_default(),
        };
        if let Err(never) = oracles::can_give(kind, &asked) {
            let why = format!("nothing can give `{}`: {}", shorten(id), never.why);
            reader.wrong(*at, path, why, never.hint);
        }
    }
}

/// A control that fails for just any reason proves nothing, and one that passes has no findings.
fn reasons(reader: &mut Reader, fields: &Fields<'_>, verdict: Option<&str>) {
    let given = fields
        .get("findings")
        .is_some_and(|field| !matches!(&field.node.kind, Kind::List(items) if items.is_empty()));
    match verdict {
        Some("fail") if !given => {
            let why = "a control that must fail names no findings, so any failure would do";
            reader.wrong(
                fields.key_span("verdict"),
                &fields.path,
                why,
                "add `findings: [area/what, ...]`",
            );
        }
        Some("pass") => {
            for name in ["findings", "also-allowed"] {
                if fields.get(name).is_some() {
                    let why = format!("a control that must pass cannot have `{name}`");
                    reader.wrong(
                        fields.key_span(name),
                        &fields.path,
                        why,
                        "remove it, or write `verdict: fail`",
                    );
                }
            }
        }
        _ => {}
    }
}

fn findings(reader: &mut Reader, field: &Field<'_>, known: &Known<'_>) -> Vec<Named> {
    let mut found: Vec<Named> = Vec::new();
    for item in reader.list(field).unwrap_or_default() {
        let Some(named) = finding(reader, &item, known) else {
            continue;
        };
        if found.iter().any(|other| other.pattern == named.pattern) {
            let why = format!("`{}` is listed twice", named.pattern.id);
            reader.wrong(item.node.span, &item.path, why, "remove one of them");
        } else {
            found.push(named);
        }
    }
    found
}

fn finding(reader: &mut Reader, item: &Field<'_>, known: &Known<'_>) -> Option<Named> {
    let named = |pattern: FindingPattern, field: &Field<'_>| Named {
        pattern,
        at: field.node.span,
        path: field.path.clone(),
    };
    let Kind::Map(_) = item.node.kind else {
        let id = finding_id(reader, item, None, known)?;
        let pattern = FindingPattern {
            id,
            role: None,
            says: None,
        };
        return Some(named(pattern, item));
    };
    let fields = reader.fields(item, &FINDING)?;
    let role = fields.get("role").map(|field| role(reader, &field, known));
    let of = role.as_ref().and_then(Option::as_deref);
    let place = fields.get("id");
    let id = place
        .as_ref()
        .and_then(|field| finding_id(reader, field, of, known));
    let says = fields.get("says").map(|field| said(reader, &field));
    let pattern = FindingPattern {
        id: id?,
        role: role.map_or(Some(None), |role| role.map(Some))?,
        says: says.map_or(Some(None), |says| says.map(Some))?,
    };
    Some(named(pattern, &place?))
}

/// What the text of a finding must hold. A letter or two stand in any text, and would make a control of nothing.
fn said(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let text = reader.text(field)?;
    let letters = text.chars().filter(|c| !c.is_whitespace()).count();
    if letters >= SAYS_MIN {
        return Some(text);
    }
    let why = format!("`{text}` is so short that nearly any finding says it");
    let hint = format!("write at least {SAYS_MIN} characters of what only the meant finding says");
    reader.wrong(field.node.span, &field.path, why, hint);
    None
}

/// The id of a finding about nodes of this role, or of any.
fn finding_id(
    reader: &mut Reader,
    field: &Field<'_>,
    role: Option<&str>,
    known: &Known<'_>,
) -> Option<String> {
    let id = reader.text(field)?;
    let kebab = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    let sound = id
        .split_once('/')
        .is_some_and(|(area, what)| kebab(area) && kebab(what));
    if !sound {
        let why = format!("`{}` is not the id of a finding", shorten(&id));
        reader.wrong(
            field.node.span,
            &field.path,
            why,
            "ids are `area/what` in lower case, as stalled/atx or crash/session-table",
        );
        return None;
    }
    let Some(kind) = findings::by_id(&id) else {
        let why = format!("nothing can give `{}`", shorten(&id));
        let hint = reader.suggest(&id, "findings", &possible(role, known));
        reader.wrong(field.node.span, &field.path, why, hint);
        return None;
    };
    let Some((open, what)) = kind.open.zip(kind.about(&id)) else {
        return Some(id);
    };
    let (there, who, several) = match open {
        Open::Signal => (
            known.signals(role),
            match role {
                Some(_) => "the role has no signal",
                None => "no role of the network has the signal",
            },
            "signals",
        ),
        Open::Component => (
            known.components(role),
            match role {
                Some(_) => "the role does not list under `panics` the component",
                None => "no role of the network lists under `panics` the component",
            },
            "components",
        ),
    };
    let Some(there) = there.filter(|there| !there.contains(what)) else {
        return Some(id);
    };
    let why = format!(
        "nothing can give `{}`: {who} `{}`",
        shorten(&id),
        shorten(what)
    );
    // A kind whose id is fixed may be what was meant.
    let near = reader.suggest(&id, "findings", &possible(role, known));
    let hint = match open {
        Open::Component if near.starts_with("did you mean") => near,
        _ => {
            let names: Vec<&str> = there.into_iter().collect();
            reader.suggest(what, several, &names)
        }
    };
    reader.wrong(field.node.span, &field.path, why, hint);
    None
}

/// Ids of findings that a plan may name, for suggestions.
fn possible(role: Option<&str>, known: &Known<'_>) -> Vec<String> {
    let of = |kind: &FindingKind| {
        let there = match kind.open {
            Some(Open::Signal) => known.signals(role),
            Some(Open::Component) => known.components(role),
            None => None,
        };
        match there {
            Some(there) => there.iter().map(|what| kind.of(what)).collect(),
            None => vec![kind.written()],
        }
    };
    findings::ALL.iter().flat_map(of).collect()
}

fn role(reader: &mut Reader, field: &Field<'_>, known: &Known<'_>) -> Option<String> {
    let role = reader.text(field)?;
    let roles = known.network.as_ref()?.roles();
    if roles.contains(role.as_str()) {
        return Some(role);
    }
    let names: Vec<&str> = roles.into_iter().collect();
    let why = format!("no node of the network has the role `{}`", shorten(&role));
    reader.wrong(
        field.node.span,
        &field.path,
        why,
        reader.suggest(&role, "roles", &names),
    );
    None
}
