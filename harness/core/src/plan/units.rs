//! Numbers with units as plans spell them: `3 epochs`, `0.5 layers`, `500ms`, `64KiB`, `2/3`, `5%`.
//!
//! Arithmetic is exact (decimals are kept as integers), so that a plan gives the same micro-layers everywhere. A number
//! without a unit is refused. To add a unit: a line in [`TIME`] or [`SIZE`].

use crate::time::{Calendar, MICRO, ProtocolTime, Span};

use super::model::Capacity;
use super::suggest::nearest;

/// A value that cannot be read: why, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) why: String,
    pub(super) hint: Option<String>,
}

impl Unreadable {
    fn new(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            hint: Some(hint.into()),
        }
    }
}

/// The longest protocol time: a thousand million layers are eight years of 250 ms layers.
const LAYERS_MAX: i64 = 1_000_000_000;

/// Length of one unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Epochs,
    Layers,
    Nanoseconds(u64),
}

const TIME: &[(&str, Unit)] = &[
    ("epoch", Unit::Epochs),
    ("epochs", Unit::Epochs),
    ("layer", Unit::Layers),
    ("layers", Unit::Layers),
    ("ns", Unit::Nanoseconds(1)),
    ("us", Unit::Nanoseconds(1_000)),
    ("ms", Unit::Nanoseconds(1_000_000)),
    ("s", Unit::Nanoseconds(1_000_000_000)),
    ("min", Unit::Nanoseconds(60_000_000_000)),
    ("h", Unit::Nanoseconds(3_600_000_000_000)),
    ("d", Unit::Nanoseconds(86_400_000_000_000)),
];

const SIZE: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Regular expressions of the spellings below, for the schema.
pub(super) mod pattern {
    pub(in super::super) const SPAN: &str =
        r"^[0-9]+(\.[0-9]+)? ?(epochs?|layers?|ns|us|ms|s|min|h|d)$";
    pub(in super::super) const DURATION: &str = r"^[0-9]+(\.[0-9]+)? ?(ns|us|ms|s|min|h|d)$";
    pub(in super::super) const INSTANT: &str =
        r"^((epoch|layer) [0-9]+(\.[0-9]+)?|[0-9]+(\.[0-9]+)? ?(ns|us|ms|s|min|h|d))$";
    pub(in super::super) const SIZE: &str = r"^[0-9]+(\.[0-9]+)? ?([KMG]i?)?B$";
    pub(in super::super) const CAPACITY: &str = r"^[0-9]+(\.[0-9]+)? ?(([KMG]i?)?B|rounds?)$";
    pub(in super::super) const FRACTION: &str = r"^([0-9]+/[0-9]+|[0-9]+%)$";
}

/// A length of protocol time above zero.
pub(super) fn span(text: &str, calendar: &Calendar) -> Result<Span, Unreadable> {
    let (number, unit) = number_and_unit(text, "3 epochs`, `0.5 layers` or `500ms")?;
    let span = Span(micro_layers(
        text,
        number,
        time_unit(text, unit)?,
        calendar,
    )?);
    above_zero(text, span.0 > 0)?;
    Ok(span)
}

/// A length of wall time above zero, in nanoseconds.
pub(super) fn duration(text: &str) -> Result<u64, Unreadable> {
    let (number, unit) = number_and_unit(text, "500ms` or `2s")?;
    let Unit::Nanoseconds(each) = time_unit(text, unit)? else {
        return Err(Unreadable::new(
            format!("`{text}` is protocol time, but this does not scale with the layer"),
            "write wall time: `500ms`, `2s`",
        ));
    };
    let ns = number
        .times(u128::from(each))
        .and_then(|ns| u64::try_from(ns).ok())
        .ok_or_else(|| too_large(text))?;
    above_zero(text, ns > 0)?;
    Ok(ns)
}

/// An instant of protocol time: `epoch 2.75`, `layer 11`, or wall time after genesis.
pub(super) fn instant(text: &str, calendar: &Calendar) -> Result<ProtocolTime, Unreadable> {
    let forms = "write `epoch 2.75`, `layer 11` or, after genesis, `3s`";
    let (number, unit) = match text.split_once(' ') {
        Some(("epoch", number)) => (bare_number(number.trim(), text)?, Unit::Epochs),
        Some(("layer", number)) => (bare_number(number.trim(), text)?, Unit::Layers),
        _ => {
            let (number, unit) = number_and_unit(text, "epoch 2.75`, `layer 11` or `3s")?;
            match time_unit(text, unit)? {
                Unit::Epochs | Unit::Layers => {
                    return Err(Unreadable::new(
                        format!("`{text}` is a length of time, not an instant"),
                        forms,
                    ));
                }
                unit @ Unit::Nanoseconds(_) => (number, unit),
            }
        }
    };
    Ok(ProtocolTime(micro_layers(text, number, unit, calendar)?))
}

/// A size in bytes.
pub(super) fn size(text: &str) -> Result<u64, Unreadable> {
    let (number, unit) = number_and_unit(text, "64KiB")?;
    let Some((_, each)) = SIZE.iter().find(|(name, _)| *name == unit) else {
        let names: Vec<&str> = SIZE.iter().map(|(name, _)| *name).collect();
        return Err(Unreadable::new(
            format!("`{unit}` in `{text}` is not a unit of size"),
            meant(near_size(unit), &names),
        ));
    };
    number
        .times(u128::from(*each))
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(|| too_large(text))
}

/// Room on a disk: a size, or rounds of the role.
pub(super) fn capacity(text: &str) -> Result<Capacity, Unreadable> {
    let (number, unit) = number_and_unit(text, "64KiB` or `1.5 rounds")?;
    if matches!(unit, "round" | "rounds") {
        return number
            .times(1_000_000)
            .and_then(|micro| u64::try_from(micro).ok())
            .map(Capacity::MicroRounds)
            .ok_or_else(|| too_large(text));
    }
    if SIZE.iter().all(|(name, _)| *name != unit) {
        let names: Vec<&str> = SIZE
            .iter()
            .map(|(name, _)| *name)
            .chain(["rounds"])
            .collect();
        let near = near_size(unit).or_else(|| near_unit(unit, &["rounds"]));
        return Err(Unreadable::new(
            format!("`{unit}` in `{text}` is not a unit of disk room"),
            meant(near, &names),
        ));
    }
    size(text).map(Capacity::Bytes)
}

/// The fewest and the most thousandths of a processor that make sense: under the kernel's least quota of a millisecond in a
/// tenth of a second nothing runs, and no engine has more than this.
pub(super) const MILLI_CPUS: (u64, u64) = (10, 1_024_000);

/// Processors, also parts of one, in thousandths.
pub(super) fn cpus(text: &str) -> Result<u64, Unreadable> {
    let forms = "write a number such as `0.5`";
    if not_finite(text) {
        return Err(Unreadable::new(format!("`{text}` is not finite"), forms));
    }
    let number = decimal(text, text).map_err(|wrong| Unreadable::new(wrong.why, forms))?;
    let (least, most) = MILLI_CPUS;
    if number.scale > 3 {
        let why = format!("`{text}` is finer than a thousandth of a processor");
        return Err(Unreadable::new(why, "round it"));
    }
    let milli = number
        .times(1000)
        .and_then(|milli| u64::try_from(milli).ok());
    milli
        .filter(|milli| (least..=most).contains(milli))
        .ok_or_else(|| {
            Unreadable::new(
                format!("`{text}` is not between 0.01 and 1024 processors"),
                forms,
            )
        })
}

/// A whole number between bounds.
pub(super) fn count(text: &str, min: u64, max: u64) -> Result<u64, Unreadable> {
    let range = || match max {
        u64::MAX => format!("of at least {min}"),
        _ => format!("between {min} and {max}"),
    };
    if not_finite(text) {
        return Err(Unreadable::new(
            format!("`{text}` is not a finite number"),
            format!("write a whole number {}", range()),
        ));
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Unreadable::new(
            format!("`{text}` is not a whole number"),
            format!("write digits only, {}", range()),
        ));
    }
    if text.starts_with('-') {
        return Err(Unreadable {
            why: format!("`{text}` is negative"),
            hint: Some(format!("write a whole number {}", range())),
        });
    }
    match text.parse::<u64>() {
        Ok(count) if (min..=max).contains(&count) => Ok(count),
        _ if max == u64::MAX => Err(Unreadable {
            why: format!("`{text}` is outside 64 bits"),
            hint: None,
        }),
        _ => Err(Unreadable {
            why: format!("`{text}` is not {}", range()),
            hint: None,
        }),
    }
}

/// A fraction of a group under one: `2/3` or `66%`.
pub(super) fn fraction(text: &str) -> Result<(u64, u64), Unreadable> {
    let forms = "write a fraction such as `2/3` or `50%`";
    let parts = match (text.split_once('/'), text.strip_suffix('%')) {
        (Some((upper, lower)), _) => Some((upper, lower)),
        (None, Some(percent)) => Some((percent, "100")),
        (None, None) => None,
    };
    let Some((upper, lower)) = parts else {
        return Err(Unreadable::new(
            format!("`{text}` is not a fraction"),
            forms,
        ));
    };
    let whole = |part: &str| {
        count(part.trim(), 0, 1_000_000).map_err(|wrong| Unreadable::new(wrong.why, forms))
    };
    let (upper, lower) = (whole(upper)?, whole(lower)?);
    if lower == 0 {
        return Err(Unreadable::new(format!("`{text}` divides by zero"), forms));
    }
    if upper >= lower {
        return Err(Unreadable::new(
            format!("more than `{text}` of a group can never be reached"),
            forms,
        ));
    }
    Ok((upper, lower))
}

/// A decimal kept exactly: `digits / 10^scale`.
#[derive(Debug, Clone, Copy)]
struct Decimal {
    digits: u128,
    scale: u32,
}

impl Decimal {
    /// This many times `factor`, rounded to the nearest whole; `None` when it does not fit.
    fn times(self, factor: u128) -> Option<u128> {
        let divisor = 10_u128.checked_pow(self.scale)?;
        Some((self.digits.checked_mul(factor)? + divisor / 2) / divisor)
    }
}

/// No number in a plan needs more; 18 digits times the largest unit fit 128 bits.
const DIGITS_MAX: usize = 18;

fn micro_layers(
    text: &str,
    number: Decimal,
    unit: Unit,
    calendar: &Calendar,
) -> Result<i64, Unreadable> {
    let micro = match unit {
        Unit::Epochs => number.times(u128::from(calendar.epoch().0.unsigned_abs())),
        Unit::Layers => number.times(u128::from(MICRO.unsigned_abs())),
        Unit::Nanoseconds(each) => number
            .times(u128::from(each))
            .and_then(|ns| u64::try_from(ns).ok())
            .and_then(|ns| u128::try_from(calendar.span_of_ns(ns).0).ok()),
    };
    micro
        .and_then(|micro| i64::try_from(micro).ok())
        .filter(|micro| *micro <= LAYERS_MAX * MICRO)
        .ok_or_else(|| too_large(text))
}

/// Splits `12.5 units`. `example` is what a number with a unit looks like here, between backticks.
fn number_and_unit<'t>(text: &'t str, example: &str) -> Result<(Decimal, &'t str), Unreadable> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+')))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim();
    if not_finite(text.split_whitespace().next().unwrap_or_default()) {
        return Err(Unreadable::new(
            format!("`{text}` is not finite"),
            format!("write `{example}`"),
        ));
    }
    if number.is_empty() {
        return Err(Unreadable::new(
            format!("`{text}` does not start with a number"),
            format!("write `{example}`"),
        ));
    }
    if unit.starts_with(':') {
        let why = format!("`{text}` is read as a base-60 number by older YAML");
        return Err(Unreadable::new(why, format!("write `{example}`")));
    }
    if unit.starts_with(['e', 'E'])
        && unit[1..].starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+'))
    {
        return Err(Unreadable::new(
            format!("`{text}` has an exponent"),
            "write the number out",
        ));
    }
    let number = decimal(number, text)?;
    if unit.is_empty() {
        return Err(Unreadable::new(
            format!("`{text}` has no unit"),
            format!("write `{example}`"),
        ));
    }
    Ok((number, unit))
}

fn bare_number(number: &str, text: &str) -> Result<Decimal, Unreadable> {
    if not_finite(number) {
        return Err(Unreadable::new(
            format!("`{text}` is not finite"),
            "write `epoch 2.75` or `layer 11`",
        ));
    }
    decimal(number, text)
}

fn decimal(number: &str, text: &str) -> Result<Decimal, Unreadable> {
    if let Some(positive) = number.strip_prefix('-') {
        decimal(positive, text)?;
        return Err(Unreadable {
            why: format!("`{text}` is negative"),
            hint: Some("times and sizes start at zero".to_owned()),
        });
    }
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits_only =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits_only(whole) || !digits_only(part) {
        return Err(Unreadable::new(
            format!("`{text}` does not start with a number"),
            "write digits, as in `2` or `2.75`",
        ));
    }
    let part = part.trim_end_matches('0');
    let whole = whole.trim_start_matches('0');
    if whole.len() + part.len() > DIGITS_MAX {
        return Err(Unreadable::new(
            format!("`{text}` has more than {DIGITS_MAX} digits"),
            "round it",
        ));
    }
    let digits = format!("0{whole}{part}")
        .parse::<u128>()
        .map_err(|_| too_large(text))?;
    Ok(Decimal {
        digits,
        scale: u32::try_from(part.len()).unwrap_or(u32::MAX),
    })
}

fn time_unit(text: &str, unit: &str) -> Result<Unit, Unreadable> {
    if let Some((_, found)) = TIME.iter().find(|(name, _)| *name == unit) {
        return Ok(*found);
    }
    let names: Vec<&str> = TIME.iter().map(|(name, _)| *name).collect();
    let several = names
        .iter()
        .filter(|name| !["epoch", "layer"].contains(name));
    let several: Vec<&str> = several.copied().collect();
    Err(Unreadable::new(
        format!("`{unit}` in `{text}` is not a unit of time"),
        meant(near_unit(unit, &names), &several),
    ))
}

/// The unit that was probably meant, or else those there are.
fn meant(near: Option<&str>, names: &[&str]) -> String {
    match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("units are {}", names.join(", ")),
    }
}

/// A slip of the hand among units. They are so short that nearly all are a letter apart, and whoever takes up a wrong one
/// is off by a thousand: so the first letter must be the same, and a single one is not guessed at.
fn near_unit<'u>(unit: &str, names: &[&'u str]) -> Option<&'u str> {
    let mut known = names.iter().copied();
    if let Some(same) = known.find(|name| name.eq_ignore_ascii_case(unit)) {
        return Some(same);
    }
    let first = unit.chars().next().filter(|_| unit.len() > 1)?;
    let alike = names.iter().copied().filter(|name| name.starts_with(first));
    let alike: Vec<&'u str> = alike.collect();
    let near = nearest(unit, &alike)?;
    alike.iter().copied().find(|name| *name == near)
}

/// `M`, `Mb` and `Mi` are short for mebibytes, as memory and disks are counted.
fn near_size(unit: &str) -> Option<&'static str> {
    let mut known = SIZE.iter().map(|(name, _)| *name);
    if let Some(same) = known.clone().find(|name| name.eq_ignore_ascii_case(unit)) {
        return Some(same);
    }
    let first = unit.get(..1).filter(|_| unit.len() <= 3)?;
    known.find(|name| name.ends_with("iB") && name[..1].eq_ignore_ascii_case(first))
}

fn not_finite(text: &str) -> bool {
    let bare = text
        .trim_start_matches(['-', '+', '.'])
        .to_ascii_lowercase();
    matches!(bare.as_str(), "nan" | "inf" | "infinity")
}

fn too_large(text: &str) -> Unreadable {
    Unreadable {
        why: format!("`{text}` is too large"),
        hint: Some("protocol time ends at 1,000,000,000 layers".to_owned()),
    }
}

fn above_zero(text: &str, holds: bool) -> Result<(), Unreadable> {
    if holds {
        Ok(())
    } else {
        Err(Unreadable {
            why: format!("`{text}` is no time at all"),
            hint: Some("write a time above zero".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALENDAR: Calendar = Calendar {
        layer_ns: 250_000_000,
        layers_per_epoch: 4,
    };

    #[test]
    fn times_are_exact() {
        for (text, micro) in [
            ("1 layer", 1_000_000),
            ("3 epochs", 12_000_000),
            ("0.5 layers", 500_000),
            ("500ms", 2_000_000),
            ("500 ms", 2_000_000),
            ("1.5s", 6_000_000),
            ("0.1 epochs", 400_000),
            ("0.000001 layers", 1),
            ("2min", 480_000_000),
        ] {
            assert_eq!(span(text, &CALENDAR), Ok(Span(micro)), "{text}");
        }
        assert_eq!(
            instant("epoch 2.75", &CALENDAR),
            Ok(ProtocolTime(11_000_000))
        );
        assert_eq!(instant("layer 0", &CALENDAR), Ok(ProtocolTime(0)));
        assert_eq!(instant("3s", &CALENDAR), Ok(ProtocolTime(12_000_000)));
        assert_eq!(duration("1.5s"), Ok(1_500_000_000));
        assert_eq!(size("1.5KiB"), Ok(1536));
        assert_eq!(fraction("2/3"), Ok((2, 3)));
        assert_eq!(fraction("66%"), Ok((66, 100)));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (text, why) in [
            ("250", "no unit"),
            ("5 bananas", "not a unit"),
            ("-3s", "negative"),
            ("nan s", "not finite"),
            (".inf layers", "not finite"),
            ("1e400 layers", "exponent"),
            ("99999999999999999999 layers", "digits"),
            ("999999999999 epochs", "too large"),
            ("0 layers", "no time at all"),
            ("0.0000001 layers", "no time at all"),
            ("1.2.3 s", "number"),
            ("1:30", "base-60"),
            ("", "number"),
            ("s", "number"),
            ("é", "number"),
        ] {
            let wrong = span(text, &CALENDAR).unwrap_err();
            assert!(wrong.why.contains(why), "{text}: {}", wrong.why);
        }
        for text in [
            "3 epochs",
            "epoch -1",
            "epoch nan",
            "epoch",
            "layer x",
            "epoch 1e3",
            "epoch 99999999999",
        ] {
            assert!(instant(text, &CALENDAR).is_err(), "{text}");
        }
        for text in ["1 layer", "0s", "3000000d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in [
            "1",
            "-1",
            "1.0",
            "0x10",
            "1e3",
            "nan",
            "18446744073709551616",
            "",
        ] {
            assert!(count(text, 2, u64::MAX).is_err(), "{text}");
        }
        for text in ["1", "3/3", "1/0", "-1/3", "100%", "x%", "0.5"] {
            assert!(fraction(text).is_err(), "{text}");
        }
        for (unit, hint) in [
            ("M", "did you mean `MiB`?"),
            ("k", "did you mean `KiB`?"),
            ("Gi", "did you mean `GiB`?"),
            ("kib", "did you mean `KiB`?"),
            ("mb", "did you mean `MB`?"),
            ("XB", "units are B, KB, MB, GB, KiB, MiB, GiB"),
            ("T", "units are B, KB, MB, GB, KiB, MiB, GiB"),
            ("bytes", "units are B, KB, MB, GB, KiB, MiB, GiB"),
        ] {
            let wrong = size(&format!("32{unit}")).unwrap_err();
            assert_eq!(wrong.hint.as_deref(), Some(hint), "{unit}");
        }
        let units = "units are epochs, layers, ns, us, ms, s, min, h, d";
        for (unit, hint) in [
            ("m", units),
            ("x", units),
            ("sec", units),
            ("S", "did you mean `s`?"),
            ("hr", "did you mean `h`?"),
            ("mins", "did you mean `min`?"),
            ("lyaers", "did you mean `layers`?"),
        ] {
            let wrong = span(&format!("5 {unit}"), &CALENDAR).unwrap_err();
            assert_eq!(wrong.hint.as_deref(), Some(hint), "{unit}");
        }
        for text in ["64", "64 kib", "99999999999GiB", "-1B"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
