//! Reads of an executable what is needed to run it elsewhere: its loader, the objects it names,
//! and where its loaded part ends.
//!
//! Only 64-bit little-endian ELF, which is all that the harness is built for. Every length and
//! offset comes from the file, so everything is looked up with bounds: any bytes give an error.

use thiserror::Error;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// Executables have about ten of these; more is no executable.
const HEADERS_MAX: usize = 256;
/// A dynamic section has some thirty entries.
const DYNAMIC_MAX: usize = 4096;
/// Where the file header says where sections are: not needed to run, and to be cleared when the
/// sections are left out.
const SECTION_OFFSET: std::ops::Range<usize> = 0x28..0x30;
const SECTION_COUNTS: std::ops::Range<usize> = 0x3c..0x40;

/// Why a file cannot be read as an executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an executable of this kind: {0}")]
pub(super) struct ElfError(&'static str);

/// What an executable or shared object needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elf {
    /// The path of its loader; `None` for a static executable and for most shared objects.
    pub(super) interpreter: Option<String>,
    /// Names of the shared objects that it needs itself.
    pub(super) needed: Vec<String>,
    /// Directories that it wants searched, separated by colons.
    pub(super) run_path: Option<String>,
    /// The processor.
    pub(super) machine: u16,
    /// Where the part ends that is loaded to run it; behind are debugging symbols.
    pub(super) loaded_end: usize,
}

/// One program header.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// Reads an executable or shared object.
pub(super) fn parse(bytes: &[u8]) -> Result<Elf, ElfError> {
    let head = bytes.get(..64).ok_or(ElfError("shorter than a header"))?;
    if head[..4] != *b"\x7fELF" {
        return Err(ElfError("no ELF file"));
    }
    if head[4] != 2 || head[5] != 1 {
        return Err(ElfError("not 64-bit little-endian"));
    }
    let segments = segments(bytes)?;
    let mut elf = Elf {
        machine: number(bytes, 0x12, 2)
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or(0),
        loaded_end: loaded_end(bytes, &segments)?,
        ..Elf::default()
    };
    for segment in &segments {
        match segment.kind {
            PT_INTERP => elf.interpreter = Some(text_at(bytes, segment.offset)?),
            PT_DYNAMIC => read_dynamic(bytes, &segments, *segment, &mut elf)?,
            _ => {}
        }
    }
    Ok(elf)
}

/// The file without what is behind its loaded part. It runs as before; only debuggers miss
/// something.
pub(super) fn loaded_part(bytes: &[u8], elf: &Elf) -> Vec<u8> {
    let mut part = bytes.get(..elf.loaded_end).unwrap_or(bytes).to_vec();
    for range in [SECTION_OFFSET, SECTION_COUNTS] {
        if let Some(field) = part.get_mut(range) {
            field.fill(0);
        }
    }
    part
}

fn segments(bytes: &[u8]) -> Result<Vec<Segment>, ElfError> {
    let short = ElfError("its program headers are cut off");
    let offset = number(bytes, 0x20, 8).ok_or(short)?;
    let size = number(bytes, 0x36, 2).ok_or(short)?;
    let count = number(bytes, 0x38, 2).ok_or(short)?;
    if size < 56 || count > HEADERS_MAX as u64 {
        return Err(ElfError("its program headers have an unknown form"));
    }
    let read = |index: u64| {
        let at = usize::try_from(offset.checked_add(index * size)?).ok()?;
        Some(Segment {
            kind: u32::try_from(number(bytes, at, 4)?).ok()?,
            offset: number(bytes, at.checked_add(8)?, 8)?,
            address: number(bytes, at.checked_add(16)?, 8)?,
            size: number(bytes, at.checked_add(32)?, 8)?,
        })
    };
    (0..count).map(|index| read(index).ok_or(short)).collect()
}

fn loaded_end(bytes: &[u8], segments: &[Segment]) -> Result<usize, ElfError> {
    let ends = segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .map(|segment| segment.offset.checked_add(segment.size));
    let end = ends
        .map(|end| end.and_then(|end| usize::try_from(end).ok()))
        .collect::<Option<Vec<usize>>>()
        .and_then(|ends| ends.into_iter().max());
    match end {
        Some(end) if end >= 64 && end <= bytes.len() => Ok(end),
        _ => Err(ElfError("the part to be loaded is not there")),
    }
}

fn read_dynamic(
    bytes: &[u8],
    segments: &[Segment],
    dynamic: Segment,
    elf: &mut Elf,
) -> Result<(), ElfError> {
    let short = ElfError("its dynamic section is cut off");
    let count = usize::try_from(dynamic.size / 16)
        .map_err(|_| short)?
        .min(DYNAMIC_MAX);
    let start = usize::try_from(dynamic.offset).map_err(|_| short)?;
    let mut entries = Vec::new();
    for index in 0..count {
        let at = start.checked_add(index * 16).ok_or(short)?;
        let tag = number(bytes, at, 8).ok_or(short)?;
        let value = number(bytes, at + 8, 8).ok_or(short)?;
        if tag == 0 {
            break;
        }
        entries.push((tag, value));
    }
    let Some((_, strings)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else {
        return Ok(());
    };
    // Addresses are those of the loaded image; in the file the table lies elsewhere.
    let strings = segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find_map(|segment| {
            let inside = strings.checked_sub(segment.address)?;
            (inside < segment.size).then(|| segment.offset.checked_add(inside))?
        })
        .ok_or(ElfError("its names are not in the loaded part"))?;
    let name = |value: u64| text_at(bytes, strings.checked_add(value).ok_or(short)?);
    for (tag, value) in entries {
        match tag {
            DT_NEEDED => elf.needed.push(name(value)?),
            DT_RPATH | DT_RUNPATH => elf.run_path = Some(name(value)?),
            _ => {}
        }
    }
    Ok(())
}

/// A little-endian number of `size` bytes, if it is there.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

/// A text that ends with NUL, not longer than a path may be.
fn text_at(bytes: &[u8], at: u64) -> Result<String, ElfError> {
    let bad = ElfError("a name in it is cut off or no text");
    let at = usize::try_from(at).map_err(|_| bad)?;
    let rest = bytes.get(at..).ok_or(bad)?;
    let rest = &rest[..rest.len().min(4096)];
    let end = rest.iter().position(|byte| *byte == 0).ok_or(bad)?;
    String::from_utf8(rest[..end].to_vec()).map_err(|_| bad)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static OWN: std::sync::LazyLock<Vec<u8>> =
        std::sync::LazyLock::new(|| std::fs::read("/proc/self/exe").unwrap());

    #[test]
    fn this_test_names_its_loader_and_its_libraries() {
        let bytes = &*OWN;
        let elf = parse(bytes).unwrap();
        assert!(
            elf.needed.iter().any(|name| name.starts_with("libc.so")),
            "{elf:?}"
        );
        let loader = elf.interpreter.clone().unwrap();
        assert!(
            parse(&std::fs::read(loader).unwrap())
                .unwrap()
                .needed
                .is_empty()
        );
        let part = loaded_part(bytes, &elf);
        assert_eq!(
            parse(&part).unwrap(),
            elf,
            "nothing that matters is behind the loaded part"
        );
        assert!(part.len() < bytes.len());
    }

    #[test]
    fn other_files_are_refused() {
        for (bytes, want) in [
            (Vec::new(), "shorter than a header"),
            (vec![b'#'; 100], "no ELF file"),
            (
                [b"\x7fELF\x01\x01".as_slice(), &[0; 100]].concat(),
                "not 64-bit",
            ),
            (
                [b"\x7fELF\x02\x01".as_slice(), &[0; 100]].concat(),
                "unknown form",
            ),
        ] {
            assert!(
                parse(&bytes).unwrap_err().to_string().contains(want),
                "{want}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn no_change_of_a_header_makes_it_panic(
            changes in prop::collection::vec((0..4096usize, any::<u8>()), 1..40),
            length in 0..8192usize,
        ) {
            let mut bytes = OWN[..64 << 10].to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let _ = parse(&bytes).map(|elf| loaded_part(&bytes, &elf));
            bytes.truncate(length);
            let _ = parse(&bytes).map(|elf| loaded_part(&bytes, &elf));
        }
    }
}
