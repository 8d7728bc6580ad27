//! What a plan means: the raw tree becomes the model, and every rule is checked.
//!
//! All mistakes of a plan are collected. A value that cannot be read is left out, and rules that would need it stay
//! quiet, so that one slip gives one message. One file per part of a plan; keys are declared in [`super::keys`].

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::keys::{self, PLAN};
use super::model::{Plan, Release, Role};
use super::raw::{self, Kind, Node, shorten};
use super::reader::{Field, Fields, Network, Reader};
use super::{Diagnostic, SourceSpan};
use crate::substrate::SubstrateKind;
use crate::time::Calendar;

mod controls;
mod cut_short;
mod demand;
mod image;
mod network;
mod params;
mod ports;
mod releases;
mod roles;
mod timeline;

/// What is bundled: given by the caller, since core knows no software under test.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// The bundled roles, as the value of `roles:` or with that key, in exactly the form a user writes.
    pub roles: String,
    /// The bundled releases.
    pub releases: Vec<Release>,
    /// The fixes that a release built on a bundled one may switch off.
    pub switches: Vec<String>,
}

/// More mistakes than this are counted, not shown.
pub const DIAGNOSTICS_MAX: usize = 100;

/// Stands in while `network` cannot be read, so that the rest of a plan is still checked.
const FALLBACK: Calendar = Calendar {
    layer_ns: 250_000_000,
    layers_per_epoch: 4,
};

/// Reads a plan. The caller reads at most [`super::PLAN_BYTES_MAX`] + 1 bytes of the file: more are refused anyway.
///
/// # Errors
/// All mistakes in the order of the text, at most [`DIAGNOSTICS_MAX`] and one that counts the rest.
pub fn parse(bytes: &[u8], catalogue: &Catalogue) -> Result<Plan, Vec<Diagnostic>> {
    let mut reader = Reader { wrong: Vec::new() };
    let root = match raw::read(bytes, &mut reader.wrong) {
        Ok(root) => root,
        Err(stop) => {
            reader.wrong.push(stop);
            return Err(in_order(reader.wrong));
        }
    };
    if let Some(foreign) = foreign_format(&root) {
        return Err(vec![foreign]);
    }
    let plan = plan(&mut reader, &root, bytes, catalogue);
    match plan {
        Some(plan) if reader.wrong.is_empty() => Ok(plan),
        _ => Err(in_order(reader.wrong)),
    }
}

/// The bundled roles by name.
///
/// # Errors
/// The first mistake in the catalogue, as text.
pub fn bundled_roles(
    catalogue: &Catalogue,
    calendar: &Calendar,
) -> Result<BTreeMap<String, Role>, String> {
    roles::bundled(catalogue, calendar)
}

/// Sorts, removes repetitions and bounds.
fn in_order(mut wrong: Vec<Diagnostic>) -> Vec<Diagnostic> {
    wrong.sort_by_key(|diagnostic| diagnostic.at.start);
    let mut seen = BTreeSet::new();
    wrong.retain(|diagnostic| {
        seen.insert((
            diagnostic.at.start,
            diagnostic.path.clone(),
            diagnostic.message.clone(),
        ))
    });
    let more = wrong.len().saturating_sub(DIAGNOSTICS_MAX);
    if more > 0 {
        let at = wrong[DIAGNOSTICS_MAX].at;
        wrong.truncate(DIAGNOSTICS_MAX);
        wrong.push(
            Diagnostic::new(at, "", format!("and {more} more mistakes from here on"))
                .hint("repair the first ones and check again"),
        );
    }
    wrong
}

/// A plan of another format is not judged by the rules of this one.
fn foreign_format(root: &Node) -> Option<Diagnostic> {
    let Kind::Map(entries) = &root.kind else {
        return None;
    };
    let (_, node) = entries.iter().find(|(key, _)| key.text == "format")?;
    let Kind::Scalar { text, .. } = &node.kind else {
        return None;
    };
    let format: u64 = text.parse().ok()?;
    let why = format!(
        "this tweedledum reads format {}, and the plan was written for format {format}",
        keys::FORMAT
    );
    let hint = match format.cmp(&keys::FORMAT) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Greater => "update tweedledum, or rewrite the plan for `format: 1`",
        std::cmp::Ordering::Less => "there never was such a format: write `format: 1`",
    };
    Some(Diagnostic::new(node.span, "format", why).hint(hint))
}

/// What the parts of a plan are checked against.
struct Known<'a> {
    calendar: Calendar,
    /// The network's times can be trusted.
    timed: bool,
    /// `None` when the network cannot be read.
    network: Option<Network<'a>>,
    roles: &'a BTreeMap<String, Role>,
    releases: &'a BTreeMap<String, Release>,
}

impl Known<'_> {
    /// The signals of this role, or of all roles that have nodes; `None` when the network or one of its roles cannot be
    /// read.
    fn signals(&self, role: Option<&str>) -> Option<BTreeSet<&str>> {
        let signals = self
            .used(role)?
            .into_iter()
            .flat_map(|role| role.signals.keys());
        Some(signals.map(String::as_str).collect())
    }

    /// The components that panics of these roles may name; `None` where one of them may name any.
    fn components(&self, role: Option<&str>) -> Option<BTreeSet<&str>> {
        let panics: Option<Vec<_>> = self
            .used(role)?
            .into_iter()
            .map(|role| role.panics.as_ref())
            .collect();
        Some(panics?.into_iter().flatten().map(String::as_str).collect())
    }

    fn used(&self, only: Option<&str>) -> Option<Vec<&Role>> {
        let used = self.network.as_ref()?.roles().into_iter();
        let used = used.filter(|role| only.is_none_or(|only| only == *role));
        used.map(|role| self.roles.get(role)).collect()
    }
}

fn plan(reader: &mut Reader, root: &Node, bytes: &[u8], catalogue: &Catalogue) -> Option<Plan> {
    let whole = Field {
        node: root,
        path: String::new(),
    };
    let fields = reader.fields(&whole, &PLAN)?;
    format_comes_first(reader, root, &fields);
    fields.count(reader, "format");
    let name = fields
        .get("plan")
        .and_then(|field| plan_name(reader, &field));
    let seed = fields.count(reader, "seed");
    let substrate = fields.word(reader, "substrate").map(|word| {
        let named = SubstrateKind::named(word);
        named.expect("the table of keys takes the words of substrates and no others")
    });

    let network = fields
        .get("network")
        .and_then(|field| reader.fields(&field, &keys::NETWORK));
    let calendar = network
        .as_ref()
        .and_then(|network| network::calendar(reader, network));
    let (timed, calendar) = (calendar.is_some(), calendar.unwrap_or(FALLBACK));
    let (mut roles, declared) = roles::all(reader, fields.get("roles"), catalogue, &calendar)?;
    let limits_text = network.as_ref().and_then(|network| {
        network.get("limits")?;
        Some(network.key_span("limits"))
    });
    let nodes = network.and_then(|network| network::nodes(reader, &network, &roles, &declared));
    let releases = releases::all(reader, fields.get("releases"), catalogue);

    let known = Known {
        calendar,
        timed,
        network: nodes.as_deref().map(Network::new),
        roles: &roles,
        releases: &releases,
    };
    let tolerates = controls::tolerates(reader, fields.get("tolerates"), &known);
    let (controls, named) = controls::controls(reader, fields.get("controls"), &known);
    let timeline = timeline::timeline(reader, fields.get("timeline"), &known);
    let until = fields.get("until").and_then(|field| {
        reader
            .instant(&field, &known.calendar)
            .map(|at| (at, field))
    });
    if let Some((until, field)) = &until {
        timeline::nothing_after(reader, &timeline, *until, field, &known);
    }
    let asked = fields
        .get("expect")
        .map_or(0, |field| match &field.node.kind {
            Kind::List(items) => items.len(),
            _ => 0,
        });
    let expect = timeline::expectations(reader, fields.get("expect"), &timeline, &known);
    let roles_read = known.used(None).is_some();
    let used: BTreeSet<&str> = nodes
        .iter()
        .flatten()
        .map(|node| node.role.as_str())
        .collect();
    roles.retain(|name, _| used.contains(name.as_str()));
    let plan = Plan {
        name: name.unwrap_or_default(),
        digest: hex::encode(Sha256::digest(bytes)),
        seed: seed.unwrap_or_default(),
        substrate: substrate.unwrap_or_default(),
        calendar,
        roles,
        nodes: nodes.unwrap_or_default(),
        limits_text,
        releases,
        tolerates,
        controls,
        timeline: timeline.entries,
        expect: expect
            .iter()
            .map(|(expectation, _)| expectation.clone())
            .collect(),
        until: until.map(|(at, _)| at),
    };
    // An expectation that could not be read may be the one that another rests on.
    let all_read = expect.len() == asked;
    if roles_read && all_read && asked > 0 {
        controls::can_be_given(reader, &named, &plan);
    }
    // What is demanded when rests on all of these, and one slip gives one message.
    let rests_on = ["network", "roles", "tolerates", "timeline", "until"];
    let mut wrong = reader.wrong.iter();
    let sound = !wrong.any(|it| rests_on.iter().any(|part| it.path.starts_with(part)));
    let longest = OnceCell::new();
    for (expectation, field) in &expect {
        if timed {
            demand::check(reader, &plan, expectation, field, all_read, sound, &longest);
        }
    }
    Some(plan)
}

fn format_comes_first(reader: &mut Reader, root: &Node, fields: &Fields<'_>) {
    let Kind::Map(entries) = &root.kind else {
        return;
    };
    let first = entries.first().map(|(key, _)| key.text.as_str());
    if fields.get("format").is_some() && first != Some("format") {
        let at = fields.key_span("format");
        reader.wrong(
            at,
            "format",
            "`format` is not the first key",
            "move it to the top, so that other versions find it",
        );
    }
}

/// Plans name their run directories, so a name never leads anywhere else.
fn plan_name(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let name = reader.text(field)?;
    let hint =
        "use lower-case letters, digits, `-`, `.` and `_`, at most 80, not starting with `.`";
    if name.contains(['/', '\\']) {
        reader.wrong(
            field.node.span,
            &field.path,
            format!("`{}` is a path, not a name", shorten(&name)),
            hint,
        );
        return None;
    }
    let allowed =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
    if name.starts_with('.') || name.len() > 80 || !name.chars().all(allowed) {
        reader.wrong(
            field.node.span,
            &field.path,
            format!("`{}` cannot be a plan's name", shorten(&name)),
            hint,
        );
        return None;
    }
    Some(name)
}

/// A place to report at: the key of an entry.
fn at_key(key: &raw::Key) -> SourceSpan {
    key.span
}
