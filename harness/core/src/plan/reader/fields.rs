//! The entries of one mapping, by their declared keys.

use super::super::SourceSpan;
use super::super::keys::{self, Mapping, Takes};
use super::super::raw::{Key, Node, join};
use super::super::suggest::did_you_mean;
use super::{Field, Reader};
use crate::params::Need;

/// The entries of a mapping whose keys are declared.
#[derive(Debug)]
pub(in crate::plan) struct Fields<'n> {
    pub(super) table: &'static Mapping,
    pub(super) entries: &'n [(Key, Node)],
    pub(in crate::plan) path: String,
    pub(in crate::plan) span: SourceSpan,
}

impl<'n> Fields<'n> {
    /// The value of a declared key.
    ///
    /// # Panics
    /// When the table does not declare it: then unknown-key errors and the schema would be wrong.
    pub(in crate::plan) fn get(&self, name: &str) -> Option<Field<'n>> {
        assert!(
            self.table.key(name).is_some(),
            "`{name}` is read but not declared in {}",
            self.table.name
        );
        self.find(name)
    }

    /// Where a declared key stands.
    pub(in crate::plan) fn key_span(&self, name: &str) -> SourceSpan {
        self.entries
            .iter()
            .find(|(key, _)| key.text == name)
            .map_or(self.span, |(key, _)| key.span)
    }

    /// The first key that comes from the registry, with its value.
    pub(in crate::plan) fn extra(&self) -> Option<(&'n Key, Field<'n>)> {
        let (key, node) = self
            .entries
            .iter()
            .find(|(key, _)| self.table.has_extra(&key.text))?;
        Some((
            key,
            Field {
                node,
                path: join(&self.path, &key.text),
            },
        ))
    }

    /// A count with the bounds its table declares, or its default.
    pub(in crate::plan) fn count(&self, reader: &mut Reader, name: &str) -> Option<u64> {
        let Some(Takes::Count { min, max }) = self.table.key(name).map(|key| &key.takes) else {
            panic!(
                "`{name}` is read as a count but not declared so in {}",
                self.table.name
            );
        };
        match (self.get(name), self.table.key(name).map(|key| key.need)) {
            (Some(field), _) => reader.count(&field, *min, *max),
            (None, Some(Need::Default(text))) => text.parse().ok(),
            (None, _) => None,
        }
    }

    /// A word of those its table declares, or its default.
    pub(in crate::plan) fn word(&self, reader: &mut Reader, name: &str) -> Option<&'static str> {
        let Some(Takes::Word(words)) = self.table.key(name).map(|key| &key.takes) else {
            panic!(
                "`{name}` is read as a word but not declared so in {}",
                self.table.name
            );
        };
        match (self.get(name), self.table.key(name).map(|key| key.need)) {
            (Some(field), _) => reader.word(&field, words),
            (None, Some(Need::Default(text))) => Some(text),
            (None, _) => None,
        }
    }

    /// Every key that may stand here.
    pub(super) fn known(&self) -> Vec<&'static str> {
        let declared = self.table.keys.iter().map(|key| key.name);
        declared.chain(self.table.extra_names()).collect()
    }

    pub(super) fn unknown(&self) -> impl Iterator<Item = &'n Key> {
        let table = self.table;
        self.entries
            .iter()
            .map(|(key, _)| key)
            .filter(move |key| !table.has(&key.text))
    }

    /// Required keys that are not there, nor anything that looks like them: that is a mistake of its own.
    pub(super) fn missing(&self) -> impl Iterator<Item = &'static keys::Key> {
        let keys = self.table.keys.iter();
        keys.filter(|key| {
            key.need == Need::Required
                && self.find(key.name).is_none()
                && !self.slipped(&[key.name])
        })
    }

    /// Whether some unknown key looks like one of these.
    pub(in crate::plan) fn slipped(&self, names: &[&str]) -> bool {
        self.unknown()
            .any(|key| did_you_mean(&key.text, names).is_some())
    }

    fn find(&self, name: &str) -> Option<Field<'n>> {
        let (_, node) = self.entries.iter().find(|(key, _)| key.text == name)?;
        Some(Field {
            node,
            path: join(&self.path, name),
        })
    }
}
