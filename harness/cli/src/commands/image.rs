//! `image`: this executable as an image on the engine, for whoever starts containers of it, such as docker-compose.

use std::path::Path;

use tweedledum_harness::substrate::docker::engine::Engine;
use tweedledum_harness::substrate::docker::image::{name_latest, own_image};

use super::Failure;
use crate::printer::Printer;

/// Imports the image that runs in containers use themselves, gives it the name that `docker-compose.yml` asks for, and
/// prints the one that stands for its content.
pub(crate) fn run(printer: &Printer) -> Result<u8, Failure> {
    let refused = |error: &dyn std::fmt::Display| Failure::Substrate(error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let engine = Engine::find().await.map_err(|error| refused(&error))?;
        let image = own_image(&engine, Path::new("/proc/self/exe")).await;
        let image = image.map_err(|error| refused(&error))?;
        let latest = name_latest(&engine, &image).await;
        let latest = latest.map_err(|error| refused(&error))?;
        let how = if image.made {
            "imported"
        } else {
            "there already"
        };
        printer.note(&format!("{how}; {latest} is this image now"));
        printer.text(&format!("{}\n", image.name));
        Ok(0)
    })
}
