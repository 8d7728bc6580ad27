//! One panic hook for every thread and task: a `panic` event, the text on stderr, then abort.
//!
//! In the Go of 2020 a panic in any goroutine ends the process, so a panic here must not end with
//! the task it is in. The component of the event is the file the panic happened in, so a defect is
//! known by where it lives. To make a component, name a file; nothing is registered here.

use super::events;
use serde_json::json;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::time::Duration;

/// The panic record is the evidence of a run, so a slow reader is given this long.
const PATIENCE: Duration = Duration::from_millis(200);
/// A panic message is cut to this many characters, so that the event fits into one line.
const MESSAGE_MAX: usize = 600;

/// Installs the hook; call it once, first of all.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|info| {
        report(info);
        std::process::abort();
    }));
}

fn report(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let message: String = info
        .payload_as_str()
        .unwrap_or("a panic without text")
        .chars()
        .take(MESSAGE_MAX)
        .collect();
    let (file, line) = info
        .location()
        .map_or(("unknown", 0), |at| (at.file(), at.line()));
    let fields = json!({
        "component": component(file),
        "message": message,
        "file": file,
        "line": line,
        "thread": thread,
    });
    events::emit_within("panic", fields, PATIENCE);
    events::say(&format!(
        "thread '{thread}' panicked at {file}:{line}: {message}"
    ));
}

/// `p2p/session_table.rs` is the component `session-table`; a `mod.rs` is named by its directory.
fn component(file: &str) -> String {
    let path = Path::new(file);
    let stem = match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod") => path
            .parent()
            .and_then(Path::file_name)
            .and_then(|name| name.to_str()),
        stem => stem,
    };
    stem.unwrap_or("unknown").replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::component;
    use std::path::{Path, PathBuf};

    /// What plans may name must be able to happen.
    #[test]
    fn components_of_the_declared_roles_are_files() {
        fn files(directory: &Path) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(directory).unwrap();
            let all = entries.map(|entry| entry.unwrap().path());
            all.flat_map(|path| {
                if path.is_dir() {
                    files(&path)
                } else {
                    vec![path]
                }
            })
            .collect()
        }
        let files = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        let known: Vec<String> = files
            .iter()
            .map(|file| component(&file.display().to_string()))
            .collect();
        let declared = crate::ROLES
            .lines()
            .filter_map(|line| line.trim().strip_prefix("panics: ["));
        let declared: Vec<&str> = declared
            .flat_map(|names| names.trim_end_matches(']').split(", "))
            .collect();
        assert_eq!(declared.len(), 3);
        for name in declared {
            assert!(known.iter().any(|file| file == name), "{name} is no file");
        }
    }

    #[test]
    fn a_component_is_the_file_of_the_panic() {
        let table = [
            ("nodes/src/p2p/session_table.rs", "session-table"),
            ("/a/b/new_round.rs", "new-round"),
            ("nodes/src/runtime/mod.rs", "runtime"),
            ("", "unknown"),
        ];
        for (file, expected) in table {
            assert_eq!(component(file), expected, "{file}");
        }
    }
}
