//! The writer of a history: JSON lines, one write each, with a bound.
//!
//! A line reaches the operating system whole in one write before the next record is taken, so a
//! killed controller loses nothing and a reader sees whole lines. A crash of the machine may lose
//! what was not synced; staged intents are therefore synced. When the bound is reached, one last
//! line says so, and every further record is refused, the end too: such a run can never pass.
//!
//! Nodes run as the user who runs the harness and could write into the file. So the writer keeps the digest of what it
//! wrote: the end carries it for later readers, and the judge of the live run compares the whole file with it.

use std::fmt;
use std::io::{self, BufRead, Read as _, Seek as _, Write as _};
use std::path::Path;

use fs_err as fs;
use serde::Serialize;
use thiserror::Error;
use tweedledum_core::history::read::{Extent, Line, Lines, ReadError, Running, rewritten};

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
    written: Running,
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
            written: Running::default(),
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

    /// Everything written so far: not what the file holds, but what it must hold.
    pub fn written(&self) -> Extent {
        self.written.extent()
    }

    /// Returns when everything written so far is on the disk.
    pub fn sync(&mut self) -> Result<(), HistoryError> {
        Ok(self.file.sync_data()?)
    }

    fn write(&mut self, mut line: Vec<u8>) -> Result<(), HistoryError> {
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.written.take(&line);
        self.records += 1;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// Reads a history line by line, as it may be larger than memory should be; `file` is to be buffered. What cannot be read
/// is the last item.
pub fn read_lines(file: impl BufRead) -> impl Iterator<Item = Result<Line, ReadError>> {
    Reader::of(file)
}

/// Reads a history that was just written, for its verdict. When the file does not hold what its writer wrote, the last item
/// says so, and so does a last line in the file from then on: whoever judges it later believes it no more.
pub fn read_written(
    path: &Path,
    written: Extent,
) -> io::Result<impl Iterator<Item = Result<Line, ReadError>>> {
    // Opening a named pipe in its place would wait for ever.
    if !fs::symlink_metadata(path)?.is_file() {
        let text = format!(
            "{} is no file any more, somebody replaced it",
            path.display()
        );
        return Err(io::Error::other(text));
    }
    let mut reader = Reader::of(io::BufReader::new(fs::File::open(path)?));
    let path = path.to_owned();
    let mut written = Some(written);
    Ok(std::iter::from_fn(move || {
        // Once the mark is made it would be read as a line of its own.
        written.as_ref()?;
        if let Some(line) = reader.next() {
            return Some(line);
        }
        let written = written.take()?;
        let found = reader.lines.extent();
        (found != written).then(|| Err(disown(&path, written, found)))
    }))
}

/// Marks a history as one that the harness did not write so.
fn disown(path: &Path, written: Extent, found: Extent) -> ReadError {
    let mark = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().read(true).append(true).open(path)?;
        let mut last = [b'\n'];
        if file.seek(io::SeekFrom::End(-1)).is_ok() {
            file.read_exact(&mut last)?;
        }
        let mut line = Vec::new();
        // Behind a line that breaks off it must not be taken for the rest of that.
        line.extend((last != [b'\n']).then_some(b'\n'));
        serde_json::to_writer(&mut line, &rewritten(written.clone(), found.clone()))?;
        line.push(b'\n');
        file.write_all(&line)?;
        file.sync_data()
    };
    if let Err(error) = mark() {
        tracing::warn!(%error, "a history that was changed is not marked so");
    }
    ReadError::Rewritten { written, found }
}

struct Reader<F> {
    file: F,
    lines: Lines,
    bytes: Vec<u8>,
    /// What the line before has revealed.
    doubt: Option<ReadError>,
    over: bool,
}

impl<F> Reader<F> {
    fn of(file: F) -> Self {
        Self {
            file,
            lines: Lines::default(),
            bytes: Vec::new(),
            doubt: None,
            over: false,
        }
    }
}

impl<F: BufRead> Iterator for Reader<F> {
    type Item = Result<Line, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(doubt) = self.doubt.take() {
            return Some(Err(doubt));
        }
        if self.over {
            return None;
        }
        self.bytes.clear();
        match self.file.read_until(b'\n', &mut self.bytes) {
            Ok(0) => None,
            Ok(_) => {
                let (line, doubt) = self.lines.next(&self.bytes);
                self.doubt = doubt;
                Some(line)
            }
            Err(error) => {
                self.over = true;
                let line = self.lines.number() + 1;
                let why = error.to_string();
                Some(Err(ReadError::Io { line, why }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tweedledum_core::history::{Body, End, Ending, Interrupt, Record};

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

    /// A history whose end carries the digest of what is before it, as the controller writes it; and what was written.
    fn ended(path: &Path) -> Extent {
        let mut writer =
            HistoryWriter::create(path, 1 << 20, |note| json!({"full": note.records})).unwrap();
        for seq in 0..3 {
            let body = Body::Interrupt(Interrupt { signal: 2 });
            writer
                .append(&Record {
                    seq,
                    t_ns: seq,
                    body,
                })
                .unwrap();
        }
        let body = Body::End(End {
            count: 4,
            why: Ending::Scheduled,
            digest: Some(writer.written().sha256),
        });
        writer
            .append(&Record {
                seq: 3,
                t_ns: 3,
                body,
            })
            .unwrap();
        writer.written()
    }

    /// What reading says that is not a line.
    fn errors(lines: impl Iterator<Item = Result<Line, ReadError>>) -> Vec<ReadError> {
        lines.filter_map(Result::err).collect()
    }

    #[test]
    fn what_was_written_is_found_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("h.jsonl");
        let written = ended(&path);
        let before = fs::read(&path).unwrap();
        assert_eq!(errors(read_written(&path, written).unwrap()), []);
        assert_eq!(errors(read_lines(before.as_slice())), []);
        assert_eq!(fs::read(&path).unwrap(), before);
        // As they were before ends had digests.
        let text = String::from_utf8(before).unwrap();
        let (old, _) = text.split_once(",\"digest\"").unwrap();
        assert_eq!(errors(read_lines(format!("{old}}}\n").as_bytes())), []);
    }

    #[test]
    fn what_was_changed_is_told_at_once_and_for_ever() {
        type Harm = fn(&str) -> String;
        let harms: [(&str, Harm); 4] = [
            ("a value", |text| text.replacen(":2}", ":9}", 1)),
            ("more lines", |text| text.to_owned() + "{}\n"),
            ("less lines", |_| String::new()),
            ("half a line", |text| text[..text.len() / 2].to_owned()),
        ];
        for (what, harm) in harms {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("h.jsonl");
            let written = ended(&path);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, harm(&text)).unwrap();
            let told = errors(read_written(&path, written).unwrap());
            let last = told.last().unwrap();
            assert!(
                matches!(last, ReadError::Rewritten { .. }),
                "{what}: {told:?}"
            );
            let later = fs::File::open(&path).unwrap();
            let later = errors(read_lines(io::BufReader::new(later)));
            assert_eq!(later.last(), Some(last), "{what}");
        }
    }

    #[test]
    fn a_digest_that_was_made_to_fit_is_found_out_by_the_writer() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("h.jsonl"), directory.path().join("o"));
        let written = ended(&path);
        ended(&other);
        let text = fs::read_to_string(&other).unwrap();
        let (before, end) = text.split_at(text.rfind("{\"seq\":3").unwrap_or_default());
        let forged = before.replacen(":2}", ":9}", 1);
        let mut seen = Running::default();
        seen.take(forged.as_bytes());
        let mut end: serde_json::Value = serde_json::from_str(end).unwrap();
        end["digest"] = seen.extent().sha256.into();
        let forged = format!("{forged}{end}\n");
        assert_eq!(errors(read_lines(forged.as_bytes())), [], "it must fit");
        fs::write(&path, forged).unwrap();
        let told = errors(read_written(&path, written).unwrap());
        assert!(
            matches!(told.as_slice(), [ReadError::Rewritten { .. }]),
            "{told:?}"
        );
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        assert!(read_written(&path, seen.extent()).is_err());
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
