//! A set of layers that is mostly one long run.
//!
//! One layer that can never be decided must not make a node remember each later one singly, so the
//! set keeps runs. Layers are only ever added.

use std::collections::BTreeMap;

use super::message::Layer;

/// A set of layers, kept as runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerSet {
    /// First layer of each run, and the layer after its last. Runs neither touch nor overlap.
    runs: BTreeMap<Layer, u64>,
}

impl LayerSet {
    /// Adds a layer; false if it was there.
    pub fn insert(&mut self, layer: Layer) -> bool {
        if self.contains(layer) {
            return false;
        }
        let (mut start, mut end) = (layer, u64::from(layer) + 1);
        if let Some((before, _)) = self
            .run_before(layer)
            .filter(|(_, end)| *end == u64::from(layer))
        {
            start = before;
        }
        if let Some(after) = Layer::try_from(end)
            .ok()
            .and_then(|next| self.runs.remove(&next))
        {
            end = after;
        }
        self.runs.insert(start, end);
        true
    }

    /// Whether the layer is in the set.
    pub fn contains(&self, layer: Layer) -> bool {
        self.run_before(layer)
            .is_some_and(|(_, end)| u64::from(layer) < end)
    }

    /// The first layer at or after `from` that is not in the set, if numbers go that far.
    pub fn next_absent(&self, from: Layer) -> Option<Layer> {
        match self.run_before(from) {
            Some((_, end)) if u64::from(from) < end => Layer::try_from(end).ok(),
            _ => Some(from),
        }
    }

    /// Layers from `from` on that are not in the set.
    pub fn absent(&self, from: Layer) -> impl Iterator<Item = Layer> {
        std::iter::successors(self.next_absent(from), |layer| {
            layer.checked_add(1).and_then(|next| self.next_absent(next))
        })
    }

    fn run_before(&self, layer: Layer) -> Option<(Layer, u64)> {
        self.runs
            .range(..=layer)
            .next_back()
            .map(|(start, end)| (*start, *end))
    }
}

impl FromIterator<Layer> for LayerSet {
    fn from_iter<I: IntoIterator<Item = Layer>>(layers: I) -> Self {
        let mut set = Self::default();
        for layer in layers {
            set.insert(layer);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn runs_are_a_set(layers in proptest::collection::vec(0..40_u32, 0..60)) {
            let runs: LayerSet = layers.iter().copied().collect();
            let plain: BTreeSet<Layer> = layers.into_iter().collect();
            let absent: Vec<Layer> = runs.absent(0).take_while(|layer| *layer < 40).collect();
            prop_assert_eq!(absent, (0..40).filter(|layer| !plain.contains(layer)).collect::<Vec<_>>());
            prop_assert!(runs.runs.len() <= plain.len());
        }
    }

    #[test]
    fn a_run_is_one_entry_and_the_last_layer_fits() {
        let mut set: LayerSet = (5..1000).rev().collect();
        assert_eq!((set.runs.len(), set.next_absent(7)), (1, Some(1000)));
        assert!(set.insert(Layer::MAX) && set.contains(Layer::MAX));
        assert_eq!(
            (set.next_absent(Layer::MAX), set.absent(Layer::MAX).count()),
            (None, 0)
        );
    }
}
