//! Writes the archives that the engine takes files in: POSIX ustar, the same bytes for the same
//! content.
//!
//! Nothing here reads archives, and names longer than 100 bytes are refused: ours are short.

use thiserror::Error;

/// A name that does not fit into a header.
#[derive(Debug, Error)]
#[error("`{0}` does not fit into an archive: at most 100 bytes, and a file at most 8 GiB")]
pub(super) struct TarError(String);

/// An archive that is being written.
#[derive(Debug, Default)]
pub(super) struct Archive(Vec<u8>);

impl Archive {
    /// A directory. Parents are to be written first.
    pub(super) fn directory(&mut self, path: &str, mode: u32) -> Result<(), TarError> {
        self.header(&format!("{path}/"), mode, 0, b'5', "")
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<(), TarError> {
        self.header(path, 0o777, 0, b'2', target)
    }

    /// A file.
    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<(), TarError> {
        self.header(path, mode, bytes.len() as u64, b'0', "")?;
        self.0.extend_from_slice(bytes);
        self.pad();
        Ok(())
    }

    /// The archive's bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn header(
        &mut self,
        path: &str,
        mode: u32,
        size: u64,
        kind: u8,
        target: &str,
    ) -> Result<(), TarError> {
        let path = path.trim_start_matches('/');
        if path.is_empty() || path.len() > 100 || target.len() > 100 || size >= 1 << 33 {
            return Err(TarError(path.to_owned()));
        }
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        // Owner and group are root, and every time is the epoch: equal content, equal bytes.
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{size:011o}").as_bytes());
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_their_fields_where_posix_wants_them() {
        let mut archive = Archive::default();
        archive.directory("lib", 0o755).unwrap();
        archive.link("lib64", "lib").unwrap();
        archive.file("/lib/x", 0o644, b"hello").unwrap();
        let bytes = archive.finish();
        assert_eq!(bytes.len(), 3 * 512 + 512 + 1024);
        let text =
            |at: usize, length| String::from_utf8_lossy(&bytes[at..at + length]).into_owned();
        assert_eq!(
            (text(0, 5), text(156, 1)),
            ("lib/\0".to_owned(), "5".to_owned())
        );
        assert_eq!(
            (text(512 + 156, 4), text(512, 6)),
            ("2lib".to_owned(), "lib64\0".to_owned())
        );
        assert_eq!(
            (text(1024, 6), text(1024 + 124, 11)),
            ("lib/x\0".to_owned(), "00000000005".to_owned())
        );
        assert_eq!(text(1536, 6), "hello\0");
        for header in [0, 512, 1024] {
            let mut block = bytes[header..header + 512].to_vec();
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            assert_eq!(text(header + 148, 6), format!("{sum:06o}"));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut archive = Archive::default();
        for path in ["", "/", &"x".repeat(101)] {
            assert!(archive.file(path, 0o644, b"").is_err(), "{path}");
        }
        archive.file(&"x".repeat(100), 0o644, b"").unwrap();
    }
}
