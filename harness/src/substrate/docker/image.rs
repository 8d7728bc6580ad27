//! Images: our own, imported from the running executable, and the user's, which are only looked up.
//!
//! The own image holds the executable's loaded part, the shared objects that it names and their
//! loader, nothing else. It is tagged with the SHA-256 of its content, so it is imported once and
//! again only when it changes. Containers are made from the image's id, not from the tag.
//!
//! Old images of ours stay on the engine: another checkout may be using them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::body_full;
use bollard::query_parameters::{CreateImageOptions, TagImageOptions};
use fs_err as fs;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tweedledum_core::plan::model::Pull;

use super::elf::{self, Elf};
use super::engine::{Engine, said, status_of};
use super::tar::{Archive, TarError};

/// The repository name of our own images.
pub const REPOSITORY: &str = "tweedledum";
/// The label that carries the content's digest.
pub const CONTENT_LABEL: &str = "org.tweedledum.content";
/// Where the executable lies in the image.
pub const EXECUTABLE: &str = "/tweedledum";

/// Shared objects are found by following names; ours name five. More than this is no executable
/// of ours.
const OBJECTS_MAX: usize = 64;

/// How long an engine may say nothing while it gets an image.
const SILENCE: Duration = Duration::from_mins(2);

/// Why there is no image.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A file.
    #[error("cannot make an image of {}: {source}", path.display())]
    File {
        /// The executable or a shared object.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// The executable.
    #[error("cannot make an image of {}: {why}", path.display())]
    Executable {
        /// The executable or a shared object.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A shared object is not where loaders look.
    #[error(
        "cannot make an image: the shared object {name} that {} needs is in none of {searched}; a static \
         build (`-C target-feature=+crt-static`) needs none", by.display()
    )]
    Missing {
        /// Its name.
        name: String,
        /// Who needs it.
        by: PathBuf,
        /// Where it was looked for.
        searched: String,
    },
    /// The user's image is not on the engine.
    #[error(
        "the image `{image}` is not on the engine, and nothing is pulled unless the plan says so; \
         `docker pull {image}` or `docker build -t {image} …` first, or set `pull: missing`"
    )]
    Absent {
        /// The image.
        image: String,
    },
    /// The engine refused.
    #[error("the engine refused the image {image}: {why}")]
    Engine {
        /// The image.
        image: String,
        /// Its words.
        why: String,
    },
}

impl From<TarError> for ImageError {
    fn from(error: TarError) -> Self {
        Self::Executable {
            path: PathBuf::from(EXECUTABLE),
            why: error.to_string(),
        }
    }
}

/// An image on the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its id, `sha256:…`.
    pub id: String,
    /// The name it was found by.
    pub name: String,
    /// Whether this call has imported or pulled it.
    pub made: bool,
    /// Whether it holds our own executable.
    pub own: bool,
}

/// Makes sure that the image of an executable is on the engine. The executable may be given as
/// `/proc/self/fd/N`.
pub fn own_image<'a>(
    engine: &'a Engine,
    executable: &'a Path,
) -> BoxFuture<'a, Result<Image, ImageError>> {
    async move {
        let path = executable.to_owned();
        let packed = tokio::task::spawn_blocking(move || pack(&path)).await;
        let packed = packed.map_err(|error| ImageError::Executable {
            path: executable.to_owned(),
            why: error.to_string(),
        })??;
        let name = format!("{REPOSITORY}:{}", packed.digest);
        if let Some(id) = look_up(engine, &name, Some(&packed.digest)).await? {
            return Ok(Image {
                id,
                name,
                made: false,
                own: true,
            });
        }
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(REPOSITORY.to_owned()),
            tag: Some(packed.digest.clone()),
            changes: vec![
                format!("ENTRYPOINT [\"{EXECUTABLE}\"]"),
                format!("LABEL {CONTENT_LABEL}={}", packed.digest),
            ],
            ..CreateImageOptions::default()
        };
        tracing::debug!(name, bytes = packed.archive.len(), "importing");
        let body = body_full(packed.archive.into());
        finish(
            &name,
            engine
                .docker()
                .create_image(Some(options), Some(body), None),
        )
        .await?;
        match look_up(engine, &name, Some(&packed.digest)).await? {
            Some(id) => Ok(Image {
                id,
                name,
                made: true,
                own: true,
            }),
            None => Err(ImageError::Engine {
                image: name,
                why: "it was imported and cannot be found".to_owned(),
            }),
        }
    }
    .boxed()
}

/// Looks up the user's image; pulls it only where `pull` says so.
pub async fn users_image(engine: &Engine, image: &str, pull: Pull) -> Result<Image, ImageError> {
    let found = |id, made| Image {
        id,
        name: image.to_owned(),
        made,
        own: false,
    };
    if pull != Pull::Always
        && let Some(id) = look_up(engine, image, None).await?
    {
        return Ok(found(id, false));
    }
    let absent = || ImageError::Absent {
        image: image.to_owned(),
    };
    if pull == Pull::Never {
        return Err(absent());
    }
    let options = CreateImageOptions {
        from_image: Some(image.to_owned()),
        // Without a tag the engine would pull every tag of the repository.
        tag: (!names_a_version(image)).then(|| "latest".to_owned()),
        ..CreateImageOptions::default()
    };
    finish(
        image,
        engine.docker().create_image(Some(options), None, None),
    )
    .await?;
    Ok(found(
        look_up(engine, image, None).await?.ok_or_else(absent)?,
        true,
    ))
}

/// Names an image of ours as the newest one, for those who ask for it by a name that stays the same.
pub fn name_latest<'a>(
    engine: &'a Engine,
    image: &'a Image,
) -> BoxFuture<'a, Result<String, ImageError>> {
    async move {
        let latest = format!("{REPOSITORY}:latest");
        let options = TagImageOptions {
            repo: Some(REPOSITORY.to_owned()),
            tag: Some("latest".to_owned()),
        };
        let tagged = engine.docker().tag_image(&image.id, Some(options)).await;
        tagged.map_err(|error| ImageError::Engine {
            image: latest.clone(),
            why: said(&error),
        })?;
        Ok(latest)
    }
    .boxed()
}

/// Whether an image's name ends with a tag or digest; a colon before a slash is of a port.
fn names_a_version(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    image.contains('@') || last.contains(':')
}

/// The id of an image, if it is there and, for our own, holds what its tag says.
async fn look_up(
    engine: &Engine,
    name: &str,
    content: Option<&str>,
) -> Result<Option<String>, ImageError> {
    match engine.docker().inspect_image(name).await {
        Ok(image) => {
            let labels = image
                .config
                .and_then(|config| config.labels)
                .unwrap_or_default();
            let holds = content.is_none_or(|content| {
                labels
                    .get(CONTENT_LABEL)
                    .is_some_and(|label| label == content)
            });
            Ok(image.id.filter(|_| holds))
        }
        Err(error) if status_of(&error) == Some(404) => Ok(None),
        Err(error) => Err(ImageError::Engine {
            image: name.to_owned(),
            why: said(&error),
        }),
    }
}

/// Reads the engine's progress to its end. A pull may take any time, as long as it goes on.
async fn finish<T>(
    name: &str,
    progress: impl futures_util::Stream<Item = Result<T, bollard::errors::Error>>,
) -> Result<(), ImageError> {
    let failed = |why| ImageError::Engine {
        image: name.to_owned(),
        why,
    };
    let mut progress = std::pin::pin!(progress);
    loop {
        match tokio::time::timeout(SILENCE, progress.next()).await {
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(error))) => return Err(failed(said(&error))),
            Ok(None) => return Ok(()),
            Err(_) => {
                return Err(failed(format!("it has said nothing for {SILENCE:?}")));
            }
        }
    }
}

/// An image's content.
#[derive(Debug)]
struct Packed {
    archive: Vec<u8>,
    digest: String,
}

/// Packs an executable with everything that it needs to be loaded.
fn pack(executable: &Path) -> Result<Packed, ImageError> {
    let (bytes, main) = read(executable)?;
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    files.insert("tweedledum".to_owned(), elf::loaded_part(&bytes, &main));
    if let Some(loader) = &main.interpreter {
        let (bytes, object) = read(Path::new(loader))?;
        files.insert(place_of_loader(loader), elf::loaded_part(&bytes, &object));
    }
    for (name, path) in objects(executable, &main)? {
        let (bytes, object) = read(&path)?;
        files.insert(format!("lib/{name}"), elf::loaded_part(&bytes, &object));
    }
    let mut archive = Archive::default();
    // Loaders look in /lib, those of some distributions in /lib64 only.
    for directory in ["lib", "pod"] {
        archive.directory(directory, 0o755)?;
    }
    archive.directory("tmp", 0o1777)?;
    archive.link("lib64", "lib")?;
    let mut made = BTreeSet::from(["lib".to_owned()]);
    for (path, bytes) in &files {
        let parents: Vec<&str> = path.split('/').collect();
        for depth in 1..parents.len() {
            let parent = parents[..depth].join("/");
            if made.insert(parent.clone()) {
                archive.directory(&parent, 0o755)?;
            }
        }
        archive.file(path, 0o755, bytes)?;
    }
    let archive = archive.finish();
    let digest = hex::encode(Sha256::digest(&archive));
    Ok(Packed { archive, digest })
}

fn read(path: &Path) -> Result<(Vec<u8>, Elf), ImageError> {
    let bytes = fs::read(path).map_err(|source| ImageError::File {
        path: path.to_owned(),
        source,
    })?;
    let elf = elf::parse(&bytes).map_err(|error| ImageError::Executable {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    Ok((bytes, elf))
}

/// Where the loader goes: `/lib64` is a link to `/lib` in the image.
fn place_of_loader(loader: &str) -> String {
    let path = loader.trim_start_matches('/');
    path.strip_prefix("lib64/")
        .map_or_else(|| path.to_owned(), |name| format!("lib/{name}"))
}

/// Every shared object that is needed, directly or by another, and where it lies here.
fn objects(executable: &Path, main: &Elf) -> Result<BTreeMap<String, PathBuf>, ImageError> {
    let loader = main
        .interpreter
        .as_deref()
        .and_then(|path| path.rsplit('/').next());
    let system = system_directories();
    let mut found = BTreeMap::new();
    let mut open = vec![(executable.to_owned(), main.clone())];
    while let Some((by, object)) = open.pop() {
        for name in &object.needed {
            if found.contains_key(name) || Some(name.as_str()) == loader {
                continue;
            }
            let own = object
                .run_path
                .iter()
                .flat_map(|paths| paths.split(':'))
                .map(|path| {
                    let origin = by.parent().unwrap_or(Path::new("/"));
                    PathBuf::from(path.replace("$ORIGIN", &origin.to_string_lossy()))
                });
            let directories: Vec<PathBuf> = own.chain(system.iter().cloned()).collect();
            let fits = directories
                .iter()
                .map(|directory| directory.join(name))
                .find_map(|path| {
                    // Directories for other processors are searched too, as loaders do.
                    let (_, candidate) = read(&path).ok()?;
                    (candidate.machine == main.machine).then_some((path, candidate))
                });
            let Some((path, candidate)) = fits else {
                let searched: Vec<String> = directories
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                return Err(ImageError::Missing {
                    name: name.clone(),
                    by,
                    searched: searched.join(", "),
                });
            };
            found.insert(name.clone(), path.clone());
            if found.len() > OBJECTS_MAX || name.contains('/') {
                return Err(ImageError::Executable {
                    path: by,
                    why: format!(
                        "it needs `{name}` and more than {OBJECTS_MAX} shared objects, or one by its path"
                    ),
                });
            }
            open.push((path, candidate));
        }
    }
    Ok(found)
}

/// The directories in which this system's loader looks, in its order.
fn system_directories() -> Vec<PathBuf> {
    let arch = std::env::consts::ARCH;
    let mut all: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
        .map(|paths| {
            std::env::split_paths(&paths)
                .filter(|path| path.is_absolute())
                .collect()
        })
        .unwrap_or_default();
    read_loader_config(Path::new("/etc/ld.so.conf"), 0, &mut all);
    for path in [
        format!("/lib/{arch}-linux-gnu"),
        format!("/usr/lib/{arch}-linux-gnu"),
        "/lib64".to_owned(),
        "/usr/lib64".to_owned(),
        "/lib".to_owned(),
        "/usr/lib".to_owned(),
    ] {
        all.push(PathBuf::from(path));
    }
    all
}

/// Reads `ld.so.conf` and what it includes; only patterns of the form `DIR/*.conf` are in use.
fn read_loader_config(path: &Path, depth: u8, into: &mut Vec<PathBuf>) {
    let Ok(text) = fs::read_to_string(path) else {
        return;
    };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.strip_prefix("include") {
            Some(pattern) if depth < 4 => {
                let Some((directory, "*.conf")) = pattern.trim().rsplit_once('/') else {
                    read_loader_config(Path::new(pattern.trim()), depth + 1, into);
                    continue;
                };
                let mut files: Vec<PathBuf> = fs::read_dir(directory)
                    .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
                    .unwrap_or_default();
                files.retain(|file| {
                    file.extension()
                        .is_some_and(|extension| extension == "conf")
                });
                files.sort();
                for file in files {
                    read_loader_config(&file, depth + 1, into);
                }
            }
            None if line.starts_with('/') => into.push(PathBuf::from(line)),
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_executable_gives_the_same_content() {
        let packed = pack(Path::new("/proc/self/exe")).unwrap();
        assert_eq!(
            packed.digest,
            pack(Path::new("/proc/self/exe")).unwrap().digest
        );
        assert!(packed.archive.len() > 1 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_that_stands_still_is_given_up() {
        use futures_util::stream::{iter, pending};
        let step = || Ok::<_, bollard::errors::Error>(());
        finish("x:1", iter([step(), step()])).await.unwrap();
        let stuck = iter([step()]).chain(pending());
        let text = finish("x:1", stuck).await.unwrap_err().to_string();
        assert!(
            text.contains("x:1") && text.contains("nothing for 120s"),
            "{text}"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let elf = Elf {
            needed: vec!["libnowhere.so.9".to_owned()],
            ..Elf::default()
        };
        let text = objects(Path::new("/bin/x"), &elf).unwrap_err().to_string();
        assert!(
            text.contains("libnowhere.so.9 that /bin/x needs is in none of"),
            "{text}"
        );
        let text = pack(Path::new("/etc/passwd")).unwrap_err().to_string();
        assert!(text.contains("/etc/passwd: not an executable"), "{text}");
    }

    #[test]
    fn loaders_go_where_the_executable_looks_for_them() {
        for (path, want) in [
            ("/lib64/ld-linux-x86-64.so.2", "lib/ld-linux-x86-64.so.2"),
            ("/lib/ld-linux-aarch64.so.1", "lib/ld-linux-aarch64.so.1"),
            ("/nix/store/x/ld.so", "nix/store/x/ld.so"),
        ] {
            assert_eq!(place_of_loader(path), want);
        }
    }

    #[test]
    fn versions_in_names() {
        for (image, want) in [
            ("a", false),
            ("host:5000/a", false),
            ("a:1", true),
            ("host:5000/a:1", true),
            ("a@sha256:00", true),
        ] {
            assert_eq!(names_a_version(image), want, "{image}");
        }
    }
}
