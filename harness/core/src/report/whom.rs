//! Nodes in a few words.

/// Names of nodes that are told one by one.
const NAMES_MAX: usize = 6;

/// `gateway-0 to gateway-4 (5 nodes)` for nodes with no other between them, else their names.
pub(super) fn whom(nodes: &[&str]) -> String {
    let mut numbered: Vec<(&str, Option<u64>)> = nodes.iter().map(|node| number(node)).collect();
    numbered.sort_unstable();
    let in_a_row = numbered.windows(2).all(|pair| {
        let [(role, before), (other, after)] = [pair[0], pair[1]];
        role == other && before.is_some_and(|before| after == Some(before + 1))
    });
    let name = |(role, number): &(&str, Option<u64>)| match number {
        Some(number) => format!("{role}-{number}"),
        None => (*role).to_owned(),
    };
    let (Some(first), Some(last)) = (numbered.first().map(name), numbered.last().map(name)) else {
        return String::new();
    };
    if nodes.len() > 1 && in_a_row {
        return format!("{first} to {last} ({} nodes)", nodes.len());
    }
    let told: Vec<String> = numbered.iter().take(NAMES_MAX).map(name).collect();
    match (told.as_slice(), nodes.len().saturating_sub(NAMES_MAX)) {
        ([only], _) => only.clone(),
        ([all @ .., last], 0) => format!("{} and {last}", all.join(", ")),
        (some, more) => format!("{} and {more} more", some.join(", ")),
    }
}

/// A node's role and its number, as far as its name says so and can be put together from them again.
fn number(node: &str) -> (&str, Option<u64>) {
    let parts = node.rsplit_once('-');
    let parts = parts.and_then(|(role, digits)| {
        let number = digits.parse::<u64>().ok()?;
        (number < u64::MAX && number.to_string() == digits).then_some((role, Some(number)))
    });
    parts.unwrap_or((node, None))
}

#[cfg(test)]
mod tests {
    use super::whom;

    #[test]
    fn only_nodes_in_a_row_are_told_as_a_range() {
        for (nodes, told) in [
            (vec!["gateway-0"], "gateway-0"),
            (vec!["gateway-0", "gateway-4"], "gateway-0 and gateway-4"),
            (
                vec!["gateway-0", "gateway-1"],
                "gateway-0 to gateway-1 (2 nodes)",
            ),
            (
                vec!["gateway-10", "gateway-9"],
                "gateway-9 to gateway-10 (2 nodes)",
            ),
            (vec!["gateway-1", "miner-2"], "gateway-1 and miner-2"),
            (vec!["a-0", "a-2", "a-4"], "a-0, a-2 and a-4"),
            (
                vec!["a-0", "a-2", "a-4", "a-6", "a-8", "a-10", "a-12", "a-14"],
                "a-0, a-2, a-4, a-6, a-8, a-10 and 2 more",
            ),
            (vec!["a-00", "a-1"], "a-1 and a-00"),
        ] {
            assert_eq!(whom(&nodes), told);
        }
    }
}
