//! Protocol time: instants and spans counted in layers, independent of how long a layer lasts.
//!
//! Plans and schedules hold protocol time only, so the same plan scales with its layer; [`Calendar`] turns it into
//! nanoseconds for one run. Wall durations in plans (`500ms`) become spans when the layer length is known.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Micro-layers in one layer: fine enough that a 5 min layer still resolves 0.3 ms.
pub const MICRO: i64 = 1_000_000;

/// An instant in micro-layers since genesis; negative before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ProtocolTime(pub i64);

/// A length of protocol time in micro-layers, never negative.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Span(pub i64);

impl Span {
    /// A whole number of layers.
    pub const fn layers(layers: i64) -> Self {
        Self(layers * MICRO)
    }

    /// This span in layers, for messages.
    #[expect(
        clippy::cast_precision_loss,
        reason = "for people; a span of 2^52 micro-layers is 142 years of 1 s layers"
    )]
    pub fn in_layers(self) -> f64 {
        self.0 as f64 / MICRO as f64
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = trimmed(self.0);
        write!(
            f,
            "{layers} {}",
            if layers == "1" { "layer" } else { "layers" }
        )
    }
}

/// `1 layer`, `2 layers`: a count for people.
pub(crate) fn layers(count: u64) -> String {
    format!("{count} {}", if count == 1 { "layer" } else { "layers" })
}

impl fmt::Display for ProtocolTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {}", trimmed(self.0))
    }
}

impl ProtocolTime {
    /// Genesis, the start of layer 0 and epoch 0.
    pub const GENESIS: Self = Self(0);

    /// The instant one span later; saturates, so that a hostile plan cannot overflow.
    #[must_use]
    pub const fn plus(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The span from `earlier` until now, zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Span {
        let span = self.0.saturating_sub(earlier.0);
        Span(if span < 0 { 0 } else { span })
    }

    /// The layer this instant lies in.
    pub const fn layer(self) -> i64 {
        self.0.div_euclid(MICRO)
    }
}

/// How long protocol time takes in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calendar {
    /// Length of a layer in nanoseconds, at least one millisecond.
    pub layer_ns: u64,
    /// Layers in an epoch, at least one.
    pub layers_per_epoch: u32,
}

impl Calendar {
    /// An epoch as a span.
    pub const fn epoch(&self) -> Span {
        Span(self.layers_per_epoch as i64 * MICRO)
    }

    /// The span that a wall duration takes, rounded to the nearest micro-layer.
    pub fn span_of_ns(&self, ns: u64) -> Span {
        let micro = (u128::from(ns) * MICRO as u128 + u128::from(self.layer_ns) / 2)
            / u128::from(self.layer_ns);
        Span(i64::try_from(micro).unwrap_or(i64::MAX))
    }

    /// Nanoseconds that a span takes; saturates.
    pub fn ns_of(&self, span: Span) -> u64 {
        let ns =
            u128::try_from(span.0.max(0)).unwrap_or(0) * u128::from(self.layer_ns) / MICRO as u128;
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// Monotonic nanoseconds of an instant in a run whose genesis was at `genesis_ns`; saturates at both ends.
    pub fn at_ns(&self, genesis_ns: u64, at: ProtocolTime) -> u64 {
        let offset = self.ns_of(Span(at.0.saturating_abs()));
        if at.0 < 0 {
            genesis_ns.saturating_sub(offset)
        } else {
            genesis_ns.saturating_add(offset)
        }
    }

    /// The instant that monotonic nanoseconds fall on.
    pub fn instant(&self, genesis_ns: u64, t_ns: u64) -> ProtocolTime {
        let before = t_ns < genesis_ns;
        let distance = t_ns.abs_diff(genesis_ns);
        let micro = u128::from(distance) * MICRO as u128 / u128::from(self.layer_ns);
        let micro = i64::try_from(micro).unwrap_or(i64::MAX);
        ProtocolTime(if before { -micro } else { micro })
    }

    /// "epoch 2.75", for people.
    pub fn describe(&self, at: ProtocolTime) -> String {
        let micro = i128::from(at.0) * i128::from(MICRO) / i128::from(self.epoch().0);
        format!(
            "epoch {}",
            trimmed(i64::try_from(micro).unwrap_or(i64::MAX))
        )
    }
}

/// Micro-units as a decimal without trailing zeros, at most three places.
fn trimmed(micro: i64) -> String {
    let sign = if micro < 0 { "-" } else { "" };
    let milli = (micro.unsigned_abs() + 500) / 1000;
    let text = format!("{sign}{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALENDAR: Calendar = Calendar {
        layer_ns: 250_000_000,
        layers_per_epoch: 4,
    };

    #[test]
    fn spans_and_wall_time_agree() {
        assert_eq!(CALENDAR.span_of_ns(500_000_000), Span::layers(2));
        assert_eq!(CALENDAR.ns_of(Span(2_750_000)), 687_500_000);
        assert_eq!(
            CALENDAR.instant(1_000, 1_000 + 687_500_000),
            ProtocolTime(2_750_000)
        );
        assert_eq!(
            CALENDAR.at_ns(1_000_000_000, ProtocolTime(-MICRO)),
            750_000_000
        );
    }

    #[test]
    fn instants_read_well() {
        assert_eq!(CALENDAR.describe(ProtocolTime(11 * MICRO)), "epoch 2.75");
        assert_eq!(Span(500_000).to_string(), "0.5 layers");
        assert_eq!(Span::layers(1).to_string(), "1 layer");
        assert_eq!(ProtocolTime(-1_250_000).to_string(), "layer -1.25");
    }

    #[test]
    fn nothing_overflows() {
        let far = ProtocolTime(i64::MAX).plus(Span(i64::MAX));
        assert_eq!(CALENDAR.at_ns(u64::MAX, far), u64::MAX);
        assert_eq!(ProtocolTime(i64::MIN).since(far), Span(0));
        let _ = CALENDAR.describe(ProtocolTime(i64::MIN));
    }
}
