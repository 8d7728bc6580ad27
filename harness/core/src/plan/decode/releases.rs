//! `releases:`: versions of the software under test, bundled and the plan's own.

use std::collections::{BTreeMap, BTreeSet};

use super::super::keys::RELEASE;
use super::super::model::Release;
use super::super::raw::shorten;
use super::super::reader::{Field, Reader};
use super::{Catalogue, at_key};

/// Every release that the plan may name.
pub(super) fn all(
    reader: &mut Reader,
    field: Option<Field<'_>>,
    catalogue: &Catalogue,
) -> BTreeMap<String, Release> {
    let bundled: BTreeMap<String, Release> = catalogue
        .releases
        .iter()
        .map(|release| (release.name.clone(), release.clone()))
        .collect();
    let mut all = bundled.clone();
    let Some(own) = field.and_then(|field| reader.named(&field)) else {
        return all;
    };
    for (key, field) in own {
        if bundled.contains_key(&key.text) {
            let why = format!("a bundled release is called `{}`", key.text);
            reader.wrong(
                at_key(key),
                &field.path,
                why,
                "give yours another name, so that reports say which one ran",
            );
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if key.text.is_empty()
            || key.text.len() > 80
            || key.text.starts_with(['.', '-'])
            || !key.text.chars().all(allowed)
        {
            let why = format!("`{}` cannot be the name of a release", shorten(&key.text));
            reader.wrong(at_key(key), &field.path, why, "use letters, digits, `-`, `.` and `_`, at most 80, starting with a letter or digit");
        }
        // A release with a mistake is still one that may be named.
        let release = release(reader, &key.text, &field, &bundled, catalogue);
        all.entry(key.text.clone()).or_insert(release);
    }
    all
}

fn release(
    reader: &mut Reader,
    name: &str,
    field: &Field<'_>,
    bundled: &BTreeMap<String, Release>,
    catalogue: &Catalogue,
) -> Release {
    let mut release = Release {
        name: name.to_owned(),
        base: None,
        without: BTreeSet::new(),
        bin: None,
    };
    let Some(fields) = reader.fields(field, &RELEASE) else {
        return release;
    };
    release.bin = fields.get("bin").and_then(|field| reader.text(&field));
    if let Some(field) = fields.get("base")
        && let Some(base) = base(reader, &field, bundled)
    {
        release.base = Some(base.base.clone().unwrap_or_else(|| base.name.clone()));
        release.without.clone_from(&base.without);
    }
    if let Some(field) = fields.get("without") {
        if fields.get("base").is_none() && !fields.slipped(&["base"]) {
            let why = "`without` needs a `base` whose fixes it switches off";
            reader.wrong(
                fields.key_span("without"),
                &field.path,
                why,
                "add `base: RELEASE`",
            );
        }
        without(reader, &field, catalogue, &mut release.without);
    }
    let given = fields.get("bin").is_some() || fields.get("base").is_some();
    if !given && !fields.slipped(&["bin", "base"]) {
        let hint = "write `bin: ./my-node`, or `base: RELEASE` with `without: [...]`";
        reader.wrong(
            fields.span,
            &field.path,
            "a release needs `bin` or `base`",
            hint,
        );
    }
    release
}

fn base<'b>(
    reader: &mut Reader,
    field: &Field<'_>,
    bundled: &'b BTreeMap<String, Release>,
) -> Option<&'b Release> {
    let name = reader.text(field)?;
    let found = bundled.get(&name);
    if found.is_none() {
        let known: Vec<&String> = bundled.keys().collect();
        let why = format!("no bundled release is called `{}`", shorten(&name));
        reader.wrong(
            field.node.span,
            &field.path,
            why,
            reader.suggest(&name, "releases", &known),
        );
    }
    found
}

fn without(
    reader: &mut Reader,
    field: &Field<'_>,
    catalogue: &Catalogue,
    off: &mut BTreeSet<String>,
) {
    for item in reader.list(field).unwrap_or_default() {
        let Some(switch) = reader.text(&item) else {
            continue;
        };
        if !catalogue.switches.contains(&switch) {
            let why = format!("no fix is called `{}`", shorten(&switch));
            reader.wrong(
                item.node.span,
                &item.path,
                why,
                reader.suggest(&switch, "fixes", &catalogue.switches),
            );
        } else if !off.insert(switch.clone()) {
            reader.wrong(
                item.node.span,
                &item.path,
                format!("`{switch}` is switched off already"),
                "remove it",
            );
        }
    }
}
