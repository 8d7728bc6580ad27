//! The file that names what an examination makes on an engine: while it lives it is locked, and it goes when everything has
//! gone. Where the examination is killed in between, the next one of the same user finds the file and removes what it names.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::substrate::docker::ledger::{Entry, Ledger, read_entries};
use crate::substrate::docker::remains;
use crate::substrate::process::Nonce;

/// How long removing may take.
pub(super) const REMOVAL_BOUND: Duration = Duration::from_secs(30);
/// What records are called, with the nonce between the two.
const RECORD: (&str, &str) = ("tweedledum-doctor-", ".jsonl");

/// The file that names what is made. While its examination lives, it is locked.
pub(super) struct Record {
    pub(super) path: PathBuf,
    pub(super) ledger: Ledger,
    _alive: std::fs::File,
}

impl Record {
    pub(super) fn make(nonce: &Nonce) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("{}{nonce}{}", RECORD.0, RECORD.1));
        let ledger = Ledger::in_file(&path)?;
        let (alive, _) = fs_err::File::open(&path)?.into_parts();
        alive.try_lock().map_err(io::Error::from)?;
        Ok(Self {
            path,
            ledger,
            _alive: alive,
        })
    }
}

/// Removes what examinations of this user have left that were killed. Says so, to be added to what a step saw.
pub(super) async fn clean_dead() -> String {
    let mut cleaned = 0;
    for path in records() {
        let Some(entries) = dead(&path) else { continue };
        // Its lock is given up, so its process is dead, whether its keeper runs on for a while or not.
        let removing = move || remains::remove_blocking(&entries, REMOVAL_BOUND);
        match tokio::task::spawn_blocking(removing).await {
            Ok(removal) if removal.left.is_empty() => {
                cleaned += 1;
                if let Err(error) = fs_err::remove_file(&path) {
                    tracing::warn!(%error, "a record of an examination is left");
                }
            }
            // Another engine's, or one that will be tried again.
            other => {
                tracing::warn!(path = %path.display(), ?other, "an earlier examination has left something");
            }
        }
    }
    match cleaned {
        0 => String::new(),
        _ => format!("; what {cleaned} killed examinations had left was removed first"),
    }
}

fn records() -> Vec<PathBuf> {
    let Ok(entries) = fs_err::read_dir(std::env::temp_dir()) else {
        return Vec::new();
    };
    let is_record = |path: &PathBuf| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        name.starts_with(RECORD.0) && name.ends_with(RECORD.1)
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(is_record).collect()
}

/// What a record names, if its examination is dead. In a directory of everybody's, only a file is believed that nobody but
/// this user could have written: a record names what is removed.
fn dead(path: &Path) -> Option<Vec<Entry>> {
    use std::os::unix::fs::MetadataExt as _;
    let about = fs_err::symlink_metadata(path).ok()?;
    let own = about.uid() == rustix::process::geteuid().as_raw() && about.mode() & 0o022 == 0;
    if !about.is_file() || !own {
        return None;
    }
    let (file, _) = fs_err::File::open(path).ok()?.into_parts();
    // Its owner holds the lock from before the first entry on.
    file.try_lock().ok()?;
    read_entries(path)
        .ok()
        .filter(|entries| !entries.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::substrate::docker::address::EngineAddress;

    #[test]
    fn a_record_is_believed_when_its_owner_is_dead_and_nobody_else_could_have_written_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.jsonl");
        let entry = Entry::Engine {
            address: EngineAddress {
                url: "unix:///x".to_owned(),
                from: "a test".to_owned(),
            },
            id: "E".to_owned(),
            nonce: Nonce::from_bytes([7; 16]),
        };
        std::fs::write(&path, serde_json::to_string(&entry).unwrap() + "\n").unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o644);
        assert_eq!(dead(&path), Some(vec![entry]));
        let alive = std::fs::File::open(&path).unwrap();
        alive.try_lock().unwrap();
        assert_eq!(dead(&path), None, "its examination lives");
        drop(alive);
        mode(0o666);
        assert_eq!(dead(&path), None, "anybody could have written it");
        mode(0o644);
        let link = directory.path().join("link.jsonl");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(dead(&link), None, "a link");
        std::fs::write(&path, "").unwrap();
        assert_eq!(dead(&path), None, "nothing was made yet");
    }
}
