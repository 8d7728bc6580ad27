//! "Did you mean": the known word nearest to one that is not known.

/// A hint that names the nearest of `known`, when one is near enough to be a slip of the hand.
pub(super) fn did_you_mean<W: AsRef<str>>(word: &str, known: &[W]) -> Option<String> {
    nearest(word, known).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// The nearest of `known`, when one is near enough to be a slip of the hand.
pub(super) fn nearest<'w, W: AsRef<str>>(word: &str, known: &'w [W]) -> Option<&'w str> {
    // Signals are as often spelled with their prefix as without, in either case.
    let bare = match word.get(..3) {
        Some(prefix) if prefix.eq_ignore_ascii_case("sig") => &word[3..],
        _ => word,
    };
    let known_words = || known.iter().map(AsRef::as_ref);
    if let Some(same) = known_words().find(|it| *it != word && it.eq_ignore_ascii_case(bare)) {
        return Some(same);
    }
    // Nothing of ours is nearly as long, and the distance costs the product of both lengths.
    if word.len() > 64 {
        return None;
    }
    let reach = (word.chars().count() / 3).max(1);
    let slip = known_words()
        // The distance is at least the difference in length, which is far cheaper.
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= reach * 4)
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= reach && *candidate != word)
        .min()
        .map(|(_, candidate)| candidate);
    slip.or_else(|| begun(word, known))
}

/// The only one of `known` that begins so: words are cut short as often as misspelt.
fn begun<'w, W: AsRef<str>>(word: &str, known: &'w [W]) -> Option<&'w str> {
    const LEAST: usize = 3;
    let mut begun = known.iter().map(AsRef::as_ref);
    let begins = |it: &&str| word.len() >= LEAST && it.len() > word.len() && it.starts_with(word);
    begun
        .by_ref()
        .find(begins)
        .filter(|_| !begun.any(|it| begins(&it)))
}

/// The same, or else the list of what is known.
pub(super) fn suggest<W: AsRef<str>>(word: &str, what: &str, known: &[W]) -> String {
    did_you_mean(word, known).unwrap_or_else(|| {
        let names: Vec<String> = known
            .iter()
            .take(20)
            .map(|name| format!("`{}`", name.as_ref()))
            .collect();
        let more = if known.len() > 20 { ", …" } else { "" };
        if names.is_empty() {
            format!("there are no {what}")
        } else {
            format!("known {what}: {}{more}", names.join(", "))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = [
            "sources",
            "target",
            "over",
            "datagrams",
            "cap-memory",
            "cap-disk",
        ];
        for (word, meant) in [
            ("source", "sources"),
            ("tagret", "target"),
            ("ower", "over"),
            ("datagramms", "datagrams"),
            ("TARGET", "target"),
            ("SIGOVER", "over"),
            ("cap-mem", "cap-memory"),
            ("data", "datagrams"),
        ] {
            assert_eq!(
                did_you_mean(word, &known),
                Some(format!("did you mean `{meant}`?"))
            );
        }
        for word in ["banana", "x", "", "cap", "da"] {
            assert_eq!(did_you_mean(word, &known), None, "{word}");
        }
        assert_eq!(
            suggest("banana", "keys", &["a", "b"]),
            "known keys: `a`, `b`"
        );
    }
}
