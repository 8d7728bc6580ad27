//! Files of records, a line of JSON each, which are on the disk before what they tell is done.
//!
//! A line may be cut short: by a crash, or by a disk that is full for a moment, and then what it tells was not done. So each
//! begins on a line of its own also after one that was cut, and those are passed over when the file is read. Several
//! processes may append to one file.

use std::io::{self, Write as _};
use std::path::Path;

use fs_err as fs;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Appends a record to a file that was opened for that, and returns when it is on the disk.
pub(crate) fn append(file: &mut fs::File, record: &impl Serialize) -> io::Result<()> {
    let mut line = vec![b'\n'];
    serde_json::to_writer(&mut line, record)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()
}

/// Reads all records. The first must be whole; of the others those that were cut are left out, and the last whatever it is.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let bytes = fs::read(path)?;
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty()).collect();
    let mut records = Vec::new();
    for (place, (index, line)) in lines.iter().enumerate() {
        match serde_json::from_slice(line) {
            Ok(record) => records.push(record),
            Err(error) if place > 0 && (error.is_eof() || place + 1 == lines.len()) => {}
            Err(error) => {
                let (path, line) = (path.display(), index + 1);
                let text = format!("{path}: line {line} is no record: {error}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        file
    }

    /// The disk was full for a moment, and what came after that counts.
    #[test]
    fn a_line_that_was_cut_takes_no_other_with_it() {
        let whole = b"{\"run\": \"n\xC3\xA4me\"}\n";
        for cut in 0..whole.len() {
            let file = file_of(b"{\"first\": 1}\n");
            let mut appended = fs::OpenOptions::new()
                .append(true)
                .open(file.path())
                .unwrap();
            appended.write_all(b"\n").unwrap();
            appended.write_all(&whole[..cut]).unwrap();
            append(&mut appended, &serde_json::json!({ "next": 2 })).unwrap();
            append(&mut appended, &serde_json::json!({ "last": 3 })).unwrap();
            let read: Vec<serde_json::Value> = read(file.path()).unwrap();
            // All but its newline is a whole record.
            let want = if cut + 1 == whole.len() { 4 } else { 3 };
            assert_eq!(read.len(), want, "{cut}: {read:?}");
            assert_eq!(read.last(), Some(&serde_json::json!({ "last": 3 })));
        }
    }

    #[test]
    fn what_is_no_record_is_told_by_its_line() {
        let read = |content: &[u8]| {
            let read: io::Result<Vec<serde_json::Value>> = read(file_of(content).path());
            read.map(|records| records.len())
                .map_err(|error| error.to_string())
        };
        assert_eq!(read(b""), Ok(0));
        assert_eq!(read(b"{}\n\n{}\n"), Ok(2));
        // A file system may leave zeros where a crash was.
        assert_eq!(read(b"{}\n\0\0\0"), Ok(1));
        for (content, line) in [(&b"{"[..], "line 1"), (b"{}\n\nx\n{}\n", "line 3")] {
            let told = read(content).unwrap_err();
            assert!(told.contains(line), "{told}");
        }
    }
}
