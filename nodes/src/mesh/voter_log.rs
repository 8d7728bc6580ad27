//! The voter's log: what it said, on disk before anybody hears it.
//!
//! One file, `voter.log`: a header, then frames, each appended by one write and one `fdatasync`. A
//! frame holds the records of one sync, so that whatever a crash leaves half written is the last
//! frame and was never sent:
//!
//! ```text
//! header  "TWVOTE1\n" generation u64                    checksum of both, 8 bytes
//! frame   length of the payload u32, its checksum 4 B   checksum of the payload, 8 bytes   payload
//! payload length of a record u32, record, ...
//! ```
//!
//! A frame that the file ends in is cut off. Anything else that does not add up (a flipped bit, a
//! hole, a file that is shorter than the mesh's database remembers it) is damage: the file is set
//! aside and the voter starts as one that lost its log, which stays out of every layer in which it
//! may have spoken. A last frame that is all there and wrong counts as damage, since it may have
//! been sent. After a write or sync that failed nothing more is appended until the file was cut
//! back and synced; after a failed sync never, since the kernel then knows less than it says. A log
//! whose place was taken by a rewrite that then failed is not appended to either: nobody would find it.
//!
//! What a record means is in `protocol/agreement/outgoing.rs`.

use crate::protocol::agreement::{LayerSet, Record, RecordError};
use fs_err as fs;
use sha2::{Digest as _, Sha256};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const NAME: &str = "voter.log";
const ASIDE: &str = "voter.log.new";
const MAGIC: &[u8; 8] = b"TWVOTE1\n";
const HEADER_LEN: usize = 24;
const FRAME_HEAD_LEN: usize = 16;
/// A log is rewritten without what is decided when it is at least this long: some minutes at four
/// layers a second, so that rewriting costs nothing that could be measured.
const REWRITE_FROM: u64 = 1 << 20;

/// The log of one voter, open for appending.
#[derive(Debug)]
pub(crate) struct VoterLog {
    dir: PathBuf,
    file: fs::File,
    generation: u64,
    /// Bytes that are whole frames.
    len: u64,
    /// Length at which to look again whether a rewrite is worth it.
    rewrite_at: u64,
    state: State,
}

/// How far the log can be trusted to take more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sound,
    /// A write came to nothing; what it left must be cut off first.
    Torn,
    /// A sync failed, or the file may have lost its name.
    Broken,
}

/// How far the log was when the mesh's database was last written: a file that is shorter, or of an
/// earlier generation, was rolled back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) generation: u64,
    pub(crate) len: u64,
}

/// Why the log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("the voter's log cannot be used: {0}")]
    Io(#[from] io::Error),
    #[error(
        "the voter's log failed to sync before, so nothing more is said until this node is restarted; look at the disk"
    )]
    Broken,
    #[error("records of the voter's log take {0} bytes, more than a frame can hold")]
    TooLong(usize),
}

/// What was found when the log was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) log: VoterLog,
    pub(crate) records: Vec<Record>,
    /// Bytes of a frame that a crash left half written, now cut off.
    pub(crate) cut: u64,
    /// Why an earlier log counts as lost, and where it lies now.
    pub(crate) lost: Option<(Damage, PathBuf)>,
}

/// What makes a log count as lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("its header is not one of a voter's log")]
    Header,
    #[error("the frame at byte {0} does not match its checksum")]
    Frame(u64),
    #[error("a record in the frame at byte {at} cannot be read: {why}")]
    Record { at: u64, why: RecordError },
    #[error(
        "it ends at byte {have} of generation {generation}, and {need} were written; it was rolled back or cut"
    )]
    RolledBack {
        generation: u64,
        have: u64,
        need: u64,
    },
}

impl VoterLog {
    /// Opens the log in `dir`, or begins one.
    pub(crate) fn open(dir: &Path, mark: Mark) -> Result<Opened, LogError> {
        let path = dir.join(NAME);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            bytes => Some(bytes?),
        };
        // A header that is not whole never had a frame behind it.
        let Some(bytes) = bytes.filter(|bytes| bytes.len() >= HEADER_LEN || mark.len > 0) else {
            let log = Self::begin(dir, mark.generation + 1, &[])?;
            return Ok(Opened {
                log,
                records: Vec::new(),
                cut: 0,
                lost: None,
            });
        };
        match scan(&bytes, mark) {
            Ok(Scan {
                generation,
                len,
                records,
            }) => {
                let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
                let cut = bytes.len() as u64 - len;
                if cut > 0 {
                    file.set_len(len)?;
                    file.sync_all()?;
                }
                let log = Self {
                    dir: dir.to_owned(),
                    file,
                    generation,
                    len,
                    rewrite_at: REWRITE_FROM.max(len),
                    state: State::Sound,
                };
                Ok(Opened {
                    log,
                    records,
                    cut,
                    lost: None,
                })
            }
            Err(damage) => {
                let aside = free_name(dir)?;
                fs::rename(&path, &aside)?;
                let log = Self::begin(dir, mark.generation + 1, &[])?;
                Ok(Opened {
                    log,
                    records: Vec::new(),
                    cut: 0,
                    lost: Some((damage, aside)),
                })
            }
        }
    }

    /// Appends records under one sync. On an error none of them may be sent.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        match self.state {
            State::Sound => {}
            State::Torn => self.cut_back()?,
            State::Broken => return Err(LogError::Broken),
        }
        let frame = frame(records)?;
        self.state = State::Torn;
        self.file.file().write_all_at(&frame, self.len)?;
        self.sync()?;
        self.len += frame.len() as u64;
        Ok(())
    }

    /// How far the log is, for the mesh's database.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            generation: self.generation,
            len: self.len,
        }
    }

    /// Whether it is time to leave out what is decided.
    pub(crate) fn is_long(&self) -> bool {
        self.len >= self.rewrite_at && self.state == State::Sound
    }

    /// Writes the log anew without the records of layers whose decision is durable. The first
    /// record stays.
    pub(crate) fn rewrite(&mut self, decided: &LayerSet) -> Result<(), LogError> {
        let bytes = fs::read(self.dir.join(NAME))?;
        let Ok(Scan { records, .. }) = scan(&bytes, Mark::default()) else {
            // It was whole when it was opened; whoever opens it next will find what is wrong.
            self.state = State::Broken;
            return Err(LogError::Broken);
        };
        let open: Vec<Record> = records
            .into_iter()
            .filter(|record| !record.layer().is_some_and(|layer| decided.contains(layer)))
            .collect();
        // Opened before anything is replaced: without it the rename could not be made durable.
        let directory = fs::File::open(&self.dir)?;
        let anew = Self::aside(&self.dir, self.generation + 1, &open)?;
        fs::rename(self.dir.join(ASIDE), self.dir.join(NAME))?;
        // What is appended to the old file is gone from now on, whatever happens.
        self.state = State::Broken;
        directory.sync_all()?;
        *self = anew;
        Ok(())
    }

    /// A new file with these records takes the place of whatever is there.
    fn begin(dir: &Path, generation: u64, records: &[Record]) -> Result<Self, LogError> {
        let log = Self::aside(dir, generation, records)?;
        fs::rename(dir.join(ASIDE), dir.join(NAME))?;
        // Until the directory is synced, a power cut could bring the old file back.
        fs::File::open(dir)?.sync_all()?;
        Ok(log)
    }

    /// A new file with these records, synced, which has no place yet.
    fn aside(dir: &Path, generation: u64, records: &[Record]) -> Result<Self, LogError> {
        let aside = dir.join(ASIDE);
        let mut bytes = header(generation).to_vec();
        // One frame each: together they could be longer than a frame.
        for record in records {
            bytes.extend_from_slice(&frame(std::slice::from_ref(record))?);
        }
        let mut file = fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&aside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        let len = bytes.len() as u64;
        Ok(Self {
            dir: dir.to_owned(),
            file,
            generation,
            len,
            rewrite_at: REWRITE_FROM.max(2 * len),
            state: State::Sound,
        })
    }

    fn cut_back(&mut self) -> Result<(), LogError> {
        self.file.set_len(self.len)?;
        self.sync()
    }

    fn sync(&mut self) -> Result<(), LogError> {
        match self.file.sync_data() {
            Ok(()) => {
                self.state = State::Sound;
                Ok(())
            }
            Err(error) => {
                self.state = State::Broken;
                Err(error.into())
            }
        }
    }
}

struct Scan {
    generation: u64,
    len: u64,
    records: Vec<Record>,
}

/// Reads all whole frames; what is left at the end is a torn frame and is not counted.
fn scan(bytes: &[u8], mark: Mark) -> Result<Scan, Damage> {
    let (head, mut rest) = bytes
        .split_first_chunk::<HEADER_LEN>()
        .ok_or(Damage::Header)?;
    let (fields, sum) = head.split_at(16);
    if &fields[..8] != MAGIC || sum != checksum(fields) {
        return Err(Damage::Header);
    }
    let generation = fields[8..]
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    let (mut len, mut records) = (HEADER_LEN as u64, Vec::new());
    while let Some((head, after)) = rest.split_first_chunk::<FRAME_HEAD_LEN>() {
        if head[4..8] != checksum(&head[..4])[..4] {
            return Err(Damage::Frame(len));
        }
        let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((payload, after)) = after.split_at_checked(size) else {
            break;
        };
        if head[8..] != checksum(payload) {
            return Err(Damage::Frame(len));
        }
        read_records(payload, &mut records).map_err(|why| Damage::Record { at: len, why })?;
        len += (FRAME_HEAD_LEN + size) as u64;
        rest = after;
    }
    if (Mark { generation, len }) < mark {
        return Err(Damage::RolledBack {
            generation,
            have: len,
            need: mark.len,
        });
    }
    Ok(Scan {
        generation,
        len,
        records,
    })
}

fn read_records(mut payload: &[u8], records: &mut Vec<Record>) -> Result<(), RecordError> {
    let whole = payload.len();
    while !payload.is_empty() {
        let shape = || RecordError::Shape(whole);
        let (size, after) = payload.split_first_chunk::<4>().ok_or_else(shape)?;
        let size = u32::from_be_bytes(*size) as usize;
        let (record, after) = after.split_at_checked(size).ok_or_else(shape)?;
        records.push(Record::decode(record)?);
        payload = after;
    }
    Ok(())
}

fn header(generation: u64) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&generation.to_be_bytes());
    let sum = checksum(&header[..16]);
    header[16..].copy_from_slice(&sum);
    header
}

fn frame(records: &[Record]) -> Result<Vec<u8>, LogError> {
    let mut out = vec![0; FRAME_HEAD_LEN];
    for record in records {
        let bytes = record.encode();
        let size = u32::try_from(bytes.len()).map_err(|_| LogError::TooLong(bytes.len()))?;
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    let size = out.len() - FRAME_HEAD_LEN;
    let size = u32::try_from(size).map_err(|_| LogError::TooLong(size))?;
    let sum = checksum(&out[FRAME_HEAD_LEN..]);
    out[..4].copy_from_slice(&size.to_be_bytes());
    let size_sum = checksum(&size.to_be_bytes());
    out[4..8].copy_from_slice(&size_sum[..4]);
    out[8..FRAME_HEAD_LEN].copy_from_slice(&sum);
    Ok(out)
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&Sha256::digest(bytes)[..8]);
    sum
}

/// A name for a damaged log that none has yet.
fn free_name(dir: &Path) -> io::Result<PathBuf> {
    for n in 0..u32::MAX {
        let path = dir.join(format!("{NAME}.damaged-{n}"));
        if !fs::exists(&path)? {
            return Ok(path);
        }
    }
    Err(io::Error::other(
        "too many damaged logs of this voter are kept; remove some",
    ))
}

#[cfg(test)]
#[path = "voter_log_tests.rs"]
mod tests;
