//! Whether faults last as long as the plan says.

use std::collections::BTreeMap;

use super::super::model::Deed;
use super::super::reader::Reader;
use super::Known;
use super::timeline::Line;
use crate::time::ProtocolTime;

/// A fault that says how long it lasts lasts that long: a heal before its end would make that untrue.
pub(super) fn check(reader: &mut Reader, lines: &[Line<'_>], known: &Known<'_>) {
    let mut all: Vec<(ProtocolTime, &str)> = Vec::new();
    let mut named: BTreeMap<&str, Vec<(ProtocolTime, &str)>> = BTreeMap::new();
    for Line { entry, .. } in lines {
        match &entry.what {
            Deed::Heal(None) => all.push((entry.at, &entry.name)),
            Deed::Heal(Some(names)) => {
                for name in names {
                    let heals = named.entry(name).or_default();
                    heals.push((entry.at, &entry.name));
                }
            }
            Deed::Fault(..) => {}
        }
    }
    all.sort_unstable();
    for heals in named.values_mut() {
        heals.sort_unstable();
    }
    let first_after = |heals: &[(ProtocolTime, &'_ str)], at: ProtocolTime| {
        let after = heals.partition_point(|(heal, _)| *heal <= at);
        heals.get(after).map(|(at, name)| (*at, (*name).to_owned()))
    };
    for line in lines {
        let entry = &line.entry;
        let own_end = line.fields.get("for");
        let itself = || line.fields.extra().map(|(_, field)| field);
        let (Some(field), Some(lasts)) = (own_end.clone().or_else(itself), entry.lasts) else {
            continue;
        };
        let own = named.get(entry.name.as_str());
        let own = own.and_then(|heals| first_after(heals, entry.at));
        let heal = [first_after(&all, entry.at), own]
            .into_iter()
            .flatten()
            .min();
        let end = entry.at.plus(lasts);
        if let Some((at, heal)) = heal.filter(|(at, _)| *at < end) {
            let [end, at] = [end, at].map(|time| known.calendar.describe(time));
            let name = &entry.name;
            let (why, hint) = if own_end.is_some() {
                (
                    format!("`{name}` would last until {end}, but `{heal}` ends it at {at}"),
                    "remove `for`, shorten it, or heal later",
                )
            } else {
                (
                    format!(
                        "`{name}` ends by itself at {end}, and `{heal}` at {at} does not end it"
                    ),
                    "shorten it, or heal later",
                )
            };
            reader.wrong(field.node.span, &field.path, why, hint);
        }
    }
}
