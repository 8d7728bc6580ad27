//! The table of keys is sound, and none of its words is a trap of YAML 1.1.

use super::keys::{ALL, Takes, yaml_1_1_word};

fn words(takes: &Takes, out: &mut Vec<&'static str>) {
    match takes {
        Takes::Word(words) => out.extend(*words),
        Takes::Named(inner) | Takes::List(inner) => words(inner, out),
        Takes::Either(all) => all.iter().for_each(|takes| words(takes, out)),
        _ => {}
    }
}

#[test]
fn no_key_or_word_of_ours_is_a_trap_of_yaml_1_1() {
    let mut ours: Vec<&str> = Vec::new();
    for mapping in ALL {
        ours.extend(mapping.keys.iter().map(|key| key.name));
        ours.extend(mapping.extra_names());
        mapping
            .keys
            .iter()
            .for_each(|key| words(&key.takes, &mut ours));
    }
    let tables = crate::faults::ALL
        .iter()
        .map(|kind| kind.params())
        .chain(crate::oracles::ALL.iter().map(|kind| kind.params()));
    for param in tables.flatten() {
        ours.push(param.name);
        if let crate::params::Shape::OneOf(words) = param.shape {
            ours.extend(words);
        }
    }
    assert!(ours.len() > 50, "the tables were walked");
    for word in ours {
        assert!(!yaml_1_1_word(word), "{word} is a YAML 1.1 boolean");
        assert!(
            !word.contains(':') && !word.starts_with(|c: char| c.is_ascii_digit()),
            "{word} may be read as a number"
        );
    }
}

#[test]
fn tables_are_sound() {
    for mapping in ALL {
        assert!(
            mapping.doc.ends_with('.'),
            "{}: the doc is a sentence",
            mapping.name
        );
        let mut seen = std::collections::BTreeSet::new();
        for key in mapping.keys {
            assert!(
                seen.insert(key.name),
                "{}.{} is declared twice",
                mapping.name,
                key.name
            );
            assert!(
                key.doc.ends_with('.'),
                "{}.{}: the doc is a sentence",
                mapping.name,
                key.name
            );
        }
        for name in mapping.one_of.iter().flat_map(|set| set.iter()) {
            assert!(
                mapping.key(name).is_some(),
                "{}: {name} is in a set but not declared",
                mapping.name
            );
        }
        for name in mapping.extra_names() {
            assert!(
                mapping.key(name).is_none(),
                "{}: the kind {name} has the name of a key",
                mapping.name
            );
        }
    }
}
