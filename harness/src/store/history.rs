//! The writer of a history: JSON lines, one write each, with a bound.
//!
//! A line reaches the operating system whole in one write before the next record is taken, so a
//! killed controller loses nothing and a reader sees whole lines. A crash of the machine may lose
//! what was not synced; staged intents are therefore synced. When the bound is reached, one last
//! line says so, and every further record is refused, the end too: such a run can never pass.

use std::fmt;
use std::io::{self, BufRead, Write as _};
use std::path::Path;

use fs_err as fs;
use serde::Serialize;
use thiserror::Error;
use tweedledum_core::history::read::{Line, ReadError, raw_line};

/// Room that is kept for the line about the bound.
const RESERVE: u64 = 4 * 1024;

/// What is known when the bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullNote {
    /// How many records were written before.
    pub records: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// The bound, in bytes.
    pub limit: u64,
}

/// Why a record was not written.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The bound is reached. The history says so; the run can never pass.
    #[error(
        "the history is full: {} records reached its bound of {} bytes; shorten the run, ask for \
         fewer samples, or raise the bound", .0.records, .0.limit
    )]
    Full(FullNote),
    /// The record cannot be written as JSON.
    #[error("a record cannot be written as JSON: {0}")]
    Record(#[from] serde_json::Error),
    /// The file system refused the write. The history may end in a cut line.
    #[error("cannot write the history: {0}")]
    Io(#[from] io::Error),
}

/// Makes the record that says that the bound was reached.
type OnFull = Box<dyn FnOnce(FullNote) -> Result<Vec<u8>, serde_json::Error> + Send>;

/// Writes one history.
pub struct HistoryWriter {
    file: fs::File,
    records: u64,
    bytes: u64,
    limit: u64,
    full: Option<FullNote>,
    on_full: Option<OnFull>,
}

impl fmt::Debug for HistoryWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.file.path();
        f.debug_struct("HistoryWriter")
            .field("path", &path)
            .field("records", &self.records)
            .field("bytes", &self.bytes)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl HistoryWriter {
    /// Begins a history in a new file; an existing one is an error. `limit` is in bytes. `on_full`
    /// makes the record about the bound, should it be reached.
    pub fn create<R: Serialize>(
        path: &Path,
        limit: u64,
        on_full: impl FnOnce(FullNote) -> R + Send + 'static,
    ) -> Result<Self, HistoryError> {
        let file = fs::OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)?;
        let on_full: OnFull = Box::new(move |note| serde_json::to_vec(&on_full(note)));
        Ok(Self {
            file,
            records: 0,
            bytes: 0,
            limit,
            full: None,
            on_full: Some(on_full),
        })
    }

    /// Writes one record.
    pub fn append<R: Serialize>(&mut self, record: &R) -> Result<(), HistoryError> {
        if let Some(note) = self.full {
            return Err(HistoryError::Full(note));
        }
        let line = serde_json::to_vec(record)?;
        if self.bytes + line.len() as u64 + 1 + RESERVE > self.limit {
            let note = FullNote {
                records: self.records,
                bytes: self.bytes,
                limit: self.limit,
            };
            self.full = Some(note);
            if let Some(on_full) = self.on_full.take() {
                self.write(on_full(note)?)?;
            }
            return Err(HistoryError::Full(note));
        }
        self.write(line)
    }

    /// Returns when everything written so far is on the disk.
    pub fn sync(&mut self) -> Result<(), HistoryError> {
        Ok(self.file.sync_data()?)
    }

    fn write(&mut self, mut line: Vec<u8>) -> Result<(), HistoryError> {
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.records += 1;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// Reads a history line by line, as it may be larger than memory should be; `file` is to be buffered. What cannot be read
/// is the last item.
pub fn read_lines(mut file: impl BufRead) -> impl Iterator<Item = Result<Line, ReadError>> {
    let (mut number, mut over) = (0, false);
    let mut bytes = Vec::new();
    std::iter::from_fn(move || {
        if over {
            return None;
        }
        number += 1;
        bytes.clear();
        match file.read_until(b'\n', &mut bytes) {
            Ok(0) => None,
            Ok(_) => Some(raw_line(&bytes, number)),
            Err(error) => {
                over = true;
                let why = error.to_string();
                Some(Err(ReadError::Io { line: number, why }))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn each_record_is_there_at_once_and_no_history_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("h.jsonl");
        let create = || HistoryWriter::create(&path, 1 << 20, |note| json!({"full": note.records}));
        let mut writer = create().unwrap();
        for seq in 0..3 {
            writer.append(&json!({"seq": seq, "text": "a\nb"})).unwrap();
            assert_eq!(lines(&path).len(), seq + 1);
        }
        assert!(matches!(create(), Err(HistoryError::Io(_))));
    }

    #[test]
    fn the_bound_is_said_once_and_refuses_what_follows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("h.jsonl");
        let limit = RESERVE + 40;
        let mut writer =
            HistoryWriter::create(&path, limit, |note| json!({"full-at": note.records})).unwrap();
        writer.append(&json!({"seq": 0})).unwrap();
        writer.append(&json!({"seq": 1})).unwrap();
        for _ in 0..2 {
            let refused = writer.append(&json!({"text": "x".repeat(40)}));
            assert!(matches!(refused, Err(HistoryError::Full(note)) if note.records == 2));
        }
        // Also what would fit: a history with holes would mislead.
        assert!(writer.append(&json!({})).is_err());
        let all = lines(&path);
        assert_eq!((all.len(), &all[2]), (3, &json!({"full-at": 2})));
        assert!(fs::metadata(&path).unwrap().len() <= limit);
    }

    /// As if the disk failed in the middle of the second line.
    struct Fails<'a>(&'a [u8]);

    impl io::Read for Fails<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::other("no such sector")),
                length => Ok(length),
            }
        }
    }

    #[test]
    fn what_is_streamed_is_what_would_be_read_at_once() {
        let text =
            b"{\"seq\":0,\"t_ns\":1,\"kind\":\"interrupt\",\"signal\":2}\ngarbage\n{\"seq\":1";
        let at_once: Vec<_> = tweedledum_core::history::read::lines(text).collect();
        for room in [1, 7, 4096] {
            let file = io::BufReader::with_capacity(room, &text[..]);
            assert_eq!(read_lines(file).collect::<Vec<_>>(), at_once);
        }
        let broken: Vec<_> = read_lines(io::BufReader::new(Fails(&text[..55]))).collect();
        assert_eq!(broken.len(), 2);
        assert!(
            matches!(&broken[1], Err(ReadError::Io { line: 2, why }) if why == "no such sector")
        );
    }
}
