//! Where a node's output goes, and how much of it may.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The rate is judged over windows of this length.
pub(super) const WINDOW: Duration = Duration::from_millis(100);

/// A log file that stops growing at a limit and tells how much it left out.
#[derive(Debug)]
pub(super) struct LogFile {
    file: fs_err::File,
    room: u64,
    /// Bytes that were left out.
    pub(super) unwritten: u64,
    /// What kept it from being written.
    pub(super) error: Option<String>,
}

impl LogFile {
    pub(super) fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)?;
        let room = limit.saturating_sub(file.metadata()?.len());
        Ok(Self {
            file,
            room,
            unwritten: 0,
            error: None,
        })
    }

    /// Writes what still fits. After an error nothing more is tried: a hole would mislead.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let fits = usize::try_from(self.room)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        self.unwritten += (bytes.len() - fits) as u64;
        if fits == 0 {
            return;
        }
        if let Err(error) = self.file.write_all(&bytes[..fits]) {
            tracing::warn!(%error, "a node's log is no longer written");
            self.error = Some(error.to_string());
            self.unwritten += fits as u64;
            self.room = 0;
        } else {
            self.room -= fits as u64;
        }
    }
}

/// Bytes that a node may still print in the current window.
#[derive(Debug)]
pub(super) struct Budget {
    per_window: u64,
    left: u64,
    window_began: Instant,
}

impl Budget {
    pub(super) fn new(bytes_per_s: u64, now: Instant) -> Self {
        let windows_per_s = u64::try_from(1000 / WINDOW.as_millis()).unwrap_or(1);
        let per_window = (bytes_per_s / windows_per_s).max(1);
        Self {
            per_window,
            left: per_window,
            window_began: now,
        }
    }

    pub(super) fn is_spent(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.window_began) >= WINDOW {
            self.window_began = now;
            self.left = self.per_window;
        }
        self.left == 0
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }
}
